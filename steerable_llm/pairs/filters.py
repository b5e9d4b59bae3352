"""Filters: which pairs are fit to build from, and why the others are not.

Each filter reads all pairs that passed those before it and says for each why it is dropped, or
None. They run in the order of `FILTERS`: a share of refusals means something only for what is left.
Near duplicates are told by `originals`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import floor
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from steerable_llm.chat.phrases import abstains, normalise
from steerable_llm.errors import InvalidInputError
from steerable_llm.pairs.draft_file import DraftFile
from steerable_llm.pairs.judge import Claim, Judge, fixed_terms, judged
from steerable_llm.pairs.length import Measure
from steerable_llm.pairs.pairing import Draft
from steerable_llm.progress import Advance

if TYPE_CHECKING:
    from steerable_llm.embedding import Embedder

# What of a reason is about the one pair.
_REASON = re.compile(
    r"(?<=says the same) as .*|(?<=says the opposite) of .*| of [^ ]+ nats"
    r"|(?<=mostly length): .*",
    re.DOTALL,
)
Rows = NDArray[np.float32]
#: Rows compared at once, so that the matrix of similarities stays small.
_ROWS = 256
#: Claims that a judge is asked about at once, so that their passages need not all be in memory.
_CLAIMS = 1024
#: More pairs than these are compared exactly: embedding 200,000 takes half an hour.
MOST_BY_MEANING = 5_000


def originals(
    texts: Iterable[str | tuple[str, str]], embedder: Embedder | None, at: float
) -> list[int]:
    """Return for each text the place of the first one that it repeats: its own for an original.

    Two texts that belong together repeat two others if each repeats its own counterpart, and is not
    nearer to the other one: else "it is" over "it is not" would be the same as the reverse.

    Texts repeat each other when they are the same but for case and spacing. With an embedder also
    when their cosine is `at` or more and both have the same numbers and names: embeddings hardly
    tell "opens at nine" from "opens at ten". A text is compared with originals only, so that a
    chain of small changes is not followed to its end.

    Args:
        texts: What is compared, all of them single or all of them two.
        embedder: Makes unit vectors `[n, d]`; None compares exactly, one text in memory at a time.
        at: Cosine from which texts are near duplicates.
    """
    held = [] if embedder is None else list(map(_parts, texts))
    first: dict[bytes, int] = {}
    found = [
        first.setdefault(_digest(*parts), place)
        for place, parts in enumerate(held or map(_parts, texts))
    ]
    left = [place for place, original in enumerate(found) if place == original]
    if embedder is None or len(left) < 2:
        return found
    rows = [
        embedder.embed(column) for column in map(list, zip(*(held[n] for n in left), strict=True))
    ]
    fixed = [tuple(map(fixed_terms, held[place])) for place in left]
    is_original = np.zeros(len(left), dtype=bool)
    for start in range(0, len(left), _ROWS):
        end = min(start + _ROWS, len(left))
        # Only what stands before a text can be its original.
        near = _near([part[start:end] for part in rows], [part[:end] for part in rows], at)
        for row in range(end - start):
            place = start + row
            before = np.flatnonzero(near[row, :place] & is_original[:place])
            match = next((other for other in before if fixed[other] == fixed[place]), None)
            is_original[place] = match is None
            if match is not None:
                found[left[place]] = left[int(match)]
    # A repetition of what turned out to be a near duplicate follows it to the original.
    return [found[original] for original in found]


def _near(some: Sequence[Rows], others: Sequence[Rows], at: float) -> NDArray[np.bool_]:
    """Tell which texts are near which others `[n, m]`, part by part and not crosswise."""
    straight = [one @ other.T for one, other in zip(some, others, strict=True)]
    near: NDArray[np.bool_] = np.logical_and.reduce([each >= at for each in straight])
    if len(some) == 2:
        near &= sum(straight) >= some[0] @ others[1].T + some[1] @ others[0].T
    return near


def _parts(text: str | tuple[str, str]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def _digest(*texts: str) -> bytes:
    told = "\0".join(map(normalise, texts)).encode(errors="surrogatepass")
    return blake2b(told, digest_size=16).digest()


#: Failures that are about what the passages say; manners and myths are not judged by passages.
ABOUT_PASSAGES = frozenset(
    {None, "not in documents", "contradicts", "missed the answer", "should have refused"}
)
#: Answers below so many words count as so long: "Ten." and "At ten o'clock, sir." are no mismatch.
SHORT = 5


@dataclass(frozen=True)
class FilterSettings:
    """What the filters let through, and what they decide with.

    Attributes:
        grounded_at: A score of so much or more is a grounded answer.
        length_ratio: The longer answer has at most so many times the words of the shorter.
        refusal_share: At most this share of the pairs has a good answer that declines to answer.
        duplicate_at: Cosine from which two pairs say the same.
        judge: Says what is grounded; None leaves that filter open.
        embedder: Finds near duplicates; None finds exact ones only.
        measure: Measures the preference between the answers on a model; None leaves open whether
            it is mostly length.
        length_share: From this share on a preference is mostly length; see `length`.
    """

    grounded_at: float = 0.5
    length_ratio: float = 3.0
    refusal_share: float = 0.5
    duplicate_at: float = 0.95
    judge: Judge | None = None
    embedder: Embedder | None = None
    measure: Measure | None = None
    length_share: float = 0.4

    def __post_init__(self) -> None:
        """Refuse what could let nothing through, or everything."""
        for name in ("grounded_at", "refusal_share", "duplicate_at", "length_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InvalidInputError(f"{name} is {value!r}: give a number from 0 to 1")
        if not self.length_ratio >= 1:
            raise InvalidInputError(
                f"length_ratio is {self.length_ratio!r}: give 1 (equally long) or more"
            )


@dataclass(frozen=True)
class SetAside:
    """A failure that gave no pair.

    Attributes:
        by: What set it aside: a filter's name, or "wrong retrieval".
        why: In words.
        id: Of the logged answer.
        question: What was asked.
        good: The good answer, if there was one.
        bad: The logged answer.
    """

    by: str
    why: str
    id: str
    question: str
    good: str | None
    bad: str

    @classmethod
    def of(cls, by: str, why: str, draft: Draft) -> Self:
        """Return what a report keeps of a draft."""
        answer = draft.answer
        return cls(by, why, answer.id, answer.question, draft.good, answer.answer)


@dataclass(frozen=True)
class FilterCount:
    """What one filter did.

    Attributes:
        name: Of the filter.
        seen: Pairs that came to it.
        dropped: Pairs that it dropped, by reason.
        not_judged: Pairs that passed because it could tell nothing about them.
    """

    name: str
    seen: int
    dropped: dict[str, int]
    not_judged: int = 0


#: Why each pair is dropped, None for one that passes, and how many could not be judged.
FilterAnswer = tuple[list[str | None], int]
Filter = Callable[[Sequence[Draft], FilterSettings], FilterAnswer]


def _length_match(drafts: Sequence[Draft], given: FilterSettings) -> FilterAnswer:
    # A vector from pairs whose good answers are all long learns to talk.
    def reason(draft: Draft) -> str | None:
        good, bad = (max(SHORT, len(text.split())) for text in (_good(draft), draft.answer.answer))
        if max(good, bad) <= given.length_ratio * min(good, bad):
            return None
        return f"the good answer is much {'longer' if good > bad else 'shorter'} than the bad one"

    return [reason(draft) for draft in drafts], 0


def _not_length(drafts: Sequence[Draft], given: FilterSettings) -> FilterAnswer:
    if given.measure is None or not drafts:
        return [None] * len(drafts), len(drafts)
    found = given.measure(drafts)
    reasons = [None if each is None else each.too_long(given.length_share) for each in found]
    return reasons, found.count(None)


def _grounded(drafts: Sequence[Draft], given: FilterSettings) -> FilterAnswer:
    reasons: list[str | None] = [None] * len(drafts)
    if given.judge is None:
        return reasons, len(drafts)
    places = [place for place, draft in enumerate(drafts) if about_passages(draft)]
    good, bad = [], []
    for start in range(0, len(places), _CLAIMS):
        chosen = [drafts[place] for place in places[start : start + _CLAIMS]]
        claims = [
            claim_of(draft, answer)
            for draft in chosen
            for answer in (_good(draft), draft.answer.answer)
        ]
        scores = judged(given.judge, claims)
        good += scores[::2]
        bad += scores[1::2]
    limit, told = given.grounded_at, 0
    for place, of_good, of_bad in zip(places, good, bad, strict=True):
        told += not (of_good is None and of_bad is None)
        if of_good is not None and of_good < limit:
            reasons[place] = "the good answer is not in the passages"
        elif of_bad is not None and of_bad >= limit:
            reasons[place] = "the bad answer is in the passages, too"
    return reasons, len(drafts) - told


def _duplicates(drafts: Sequence[Draft], given: FilterSettings) -> FilterAnswer:
    embedder = given.embedder if len(drafts) <= MOST_BY_MEANING else None
    texts = (
        (
            f"{draft.answer.question}\n{_good(draft)}",
            f"{draft.answer.question}\n{draft.answer.answer}",
        )
        for draft in drafts
    )
    first = originals(texts, embedder, given.duplicate_at)
    reasons = [
        None if original == place else f"says the same as {drafts[original].answer.id}"
        for place, original in enumerate(first)
    ]
    for place, other in _opposites(drafts):
        reasons[place] = f"says the opposite of {drafts[other].answer.id} over the same prompt"
    return reasons, 0


def _opposites(drafts: Sequence[Draft]) -> Iterator[tuple[int, int]]:
    """Yield pairs with the first one whose good answer is their bad one, and the reverse.

    Nobody can tell which of the two is right, so both are yielded.
    """
    first: dict[bytes, int] = {}
    swapped: list[bytes | None] = []
    for place, draft in enumerate(drafts):
        prompt, good, bad = draft.answer.prompt_key, _good(draft), draft.answer.answer
        said, reverse = _digest(prompt, good, bad), _digest(prompt, bad, good)
        first.setdefault(said, place)
        swapped.append(reverse if reverse != said else None)
    yield from ((place, first[key]) for place, key in enumerate(swapped) if key in first)


def _refusals(drafts: Sequence[Draft], given: FilterSettings) -> FilterAnswer:
    refusing = [abstains(_good(draft)) for draft in drafts]
    others, share = refusing.count(False), given.refusal_share
    # r refusals beside n others are the share r / (r + n).
    allowed = len(drafts) if share == 1 else floor(share * others / (1 - share) + 1e-9)
    reasons: list[str | None] = []
    for refuses in refusing:
        allowed -= refuses
        reasons.append("too many good answers refuse" if refuses and allowed < 0 else None)
    return reasons, 0


#: Dropped pairs of a filter that a report holds at most, so that those of any log fit in memory.
EXAMPLES = 1_000

FILTERS: Mapping[str, Filter] = {
    "length match": _length_match,
    "good grounded, bad not": _grounded,
    "duplicates": _duplicates,
    "refusals": _refusals,
    "preference, not length": _not_length,
}


def run_filters(
    drafts: Iterable[Draft], given: FilterSettings, advance: Advance | None = None
) -> tuple[DraftFile, list[FilterCount], list[SetAside]]:
    """Run all filters.

    Args:
        drafts: Pairs, each with a good answer.
        given: What they decide with.
        advance: Told of each filter that has run.

    Returns:
        The pairs that passed, in their old order; what each filter did; and the pairs that it
        dropped, `EXAMPLES` of each filter at most.
    """
    kept = drafts if isinstance(drafts, DraftFile) else DraftFile(drafts)
    counts: list[FilterCount] = []
    dropped: list[SetAside] = []
    for name, reasons_to_drop in FILTERS.items():
        reasons, not_judged = reasons_to_drop(kept, given)
        out = [(place, why) for place, why in enumerate(reasons) if why]
        # Each duplicate names its own original, and each preference its figures; as a reason they
        # are one.
        by_reason = Counter(_REASON.sub("", why) for _, why in out)
        counts.append(FilterCount(name, len(kept), dict(by_reason), not_judged))
        dropped += [SetAside.of(name, why, kept[place]) for place, why in out[:EXAMPLES]]
        kept = kept.chosen(place for place, why in enumerate(reasons) if why is None)
        if advance is not None:
            advance(1)
    return kept, counts, dropped


def about_passages(draft: Draft) -> bool:
    """Whether passages tell right from wrong in a failure, and there are some."""
    return draft.answer.reason in ABOUT_PASSAGES and any(_passages(draft))


def claim_of(draft: Draft, answer: str) -> Claim:
    """Return what a judge is asked about an answer to a draft's question."""
    return Claim(draft.answer.question, tuple(_passages(draft)), answer)


def _passages(draft: Draft) -> Iterator[str]:
    return (passage.text for passage in draft.answer.passages if passage.text.strip())


def _good(draft: Draft) -> str:
    if draft.good is None:
        raise InvalidInputError(f"the answer {draft.answer.id!r} has no good twin to check")
    return draft.good
