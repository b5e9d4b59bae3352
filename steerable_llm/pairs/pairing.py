"""From logged answers to preference pairs, and an account of what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from steerable_llm.errors import EmptyLogError, PairError
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.pairs.edit import smallest_edit
from steerable_llm.pairs.pair import SMALLEST_EDIT, Edit, Pairs, PreferencePair

#: The `label_source` of an answer that came with its better twin, as its correction.
PREFERENCE_PAIR = "preference pair"
WRONG_RETRIEVAL = "wrong retrieval: steering cannot mend it"
NO_GOOD_ANSWER = "no correction and no good answer to the same prompt"


@dataclass(frozen=True)
class Draft:
    """A bad answer, and what is known of its better twin.

    Attributes:
        answer: The bad answer, with its prompt and passages; cut where an edit cut it.
        good: The good answer to the same prompt over the same passages; None without one.
        source: Where the good answer comes from; without one, why there is none.
        edit: How the good answer was made out of the bad one; None if it is as written.
    """

    answer: LoggedAnswer
    good: str | None
    source: str
    edit: Edit | None = None

    def in_own_words(self) -> Draft:
        """Return the draft with its good answer as the smallest edit of the bad one.

        A pair that was logged as one, a correction of manners, and what `smallest_edit` leaves
        stay as they are.
        """
        answer = self.answer
        if self.good is None or self.source == PREFERENCE_PAIR or answer.reason == "rude":
            return self
        # Who logged no passages has them in the prompt, if there are any.
        passages = [passage.text for passage in answer.passages] or [
            message.content for message in answer.messages
        ]
        found = smallest_edit(answer.question, passages, answer.answer, self.good)
        if found is None:
            return self
        shown = answer.model_copy(update={"answer": found.bad})
        return replace(self, answer=shown, good=found.good, edit=found.edit)

    def pair(self) -> PreferencePair:
        """Return the pair.

        Raises:
            PairError: There is no good answer.
        """
        if self.good is None:
            raise PairError(f"the answer {self.answer.id!r} has no good twin: {self.source}")
        return PreferencePair(
            messages=self.answer.messages,
            good=self.good,
            bad=self.answer.answer,
            source=f"log/{self.answer.reason or 'unspecified'}/{self.source}"
            + (f"/{SMALLEST_EDIT}" if self.edit else ""),
            document_ids=[passage.id for passage in self.answer.passages],
            id=self.answer.id,
            edit=self.edit,
        )


@dataclass(frozen=True)
class PairingReport:
    """What pairing found.

    Attributes:
        pairs: The pairs, in the order of the log.
        by_source: How many pairs came from where.
        left_out: How many bad answers gave no pair, by reason.
    """

    pairs: Pairs
    by_source: dict[str, int]
    left_out: dict[str, int]


def pair_answers(
    answers: Sequence[LoggedAnswer],
    *,
    reasons: Iterable[str] | None = None,
    own_words: bool = True,
) -> PairingReport:
    """Pair every bad answer with a good one to the same prompt, and never invent one.

    In this order: the better twin that the answer came with, a correction by a person, the
    answer that a test set expects, and another answer to the same question over the same passages
    that was judged good; what is blank, or the bad answer once more, is passed over. Answers that
    failed because retrieval did ("wrong retrieval") are left out: no steering mends them.

    Args:
        answers: The log.
        reasons: Only bad answers with one of these reasons; None takes every reason.
        own_words: Make the good answer by the smallest edit of the bad one where that can be told
            (`smallest_edit`); False takes every good answer as it was written.

    Returns:
        The pairs with counts of sources and of what was left out.

    Raises:
        EmptyLogError: The log is empty.
        PairError: No bad answer can be paired.
    """
    if not answers:
        raise EmptyLogError("the answer log is empty: log some answers first")
    wanted = None if reasons is None else set(reasons)
    drafts = draft_pairs(bad_answers(answers, wanted), own_words=own_words)
    return pair_drafts(drafts, reasons=wanted)


def bad_answers(
    answers: Iterable[LoggedAnswer], reasons: Collection[str | None] | None = None
) -> Iterator[tuple[LoggedAnswer, str | None]]:
    """Yield each bad answer with the first praised one to the same prompt that can mend it.

    Where none can, it is the first one; None where nobody praised any.

    Args:
        answers: The log, which is gone through twice.
        reasons: Only bad answers with one of these reasons; None takes every reason.
    """
    praised: dict[str, list[str]] = {}
    for entry in answers:
        if entry.verdict == "good":
            texts = praised.setdefault(entry.prompt_key, [])
            # Of three that differ one is neither blank nor the bad answer.
            if len(texts) < 3 and entry.answer.strip() not in map(str.strip, texts):
                texts.append(entry.answer)
    for entry in answers:
        if entry.verdict == "bad" and (reasons is None or entry.reason in reasons):
            texts = praised.get(entry.prompt_key, [])
            yield entry, next((t for t in texts if _mends(t, entry)), next(iter(texts), None))


def draft_pairs(
    bad: Iterable[tuple[LoggedAnswer, str | None]], *, own_words: bool = True
) -> Iterator[Draft]:
    """Yield a draft for each bad answer, those without a good twin included.

    Args:
        bad: Bad answers, each with the text of a good answer to the same question over the
            same passages, or None.
        own_words: As in `pair_answers`.
    """
    for entry, praised in bad:
        if entry.reason == "wrong retrieval":
            yield Draft(entry, None, WRONG_RETRIEVAL)
            continue
        good, source = _good_answer(entry, praised)
        if good is None:
            source = NO_GOOD_ANSWER
        elif good.strip() == entry.answer.strip():
            good, source = None, f"the {source} repeats the bad answer"
        elif not (good.strip() and entry.answer.strip()):
            good, source = None, "one of the two answers is empty"
        draft = Draft(entry, good, source)
        yield draft.in_own_words() if own_words else draft


def pair_drafts(drafts: Iterable[Draft], *, reasons: Iterable[str] | None = None) -> PairingReport:
    """Return the pairs among drafts, and an account of the others.

    Args:
        drafts: From `draft_pairs`.
        reasons: What they were chosen by; only for the message of an error.

    Raises:
        PairError: None of them is a pair.
    """
    pairs: list[PreferencePair] = []
    sources: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for draft in drafts:
        if draft.good is None:
            left_out[draft.source] += 1
            continue
        sources[draft.source] += 1
        pairs.append(draft.pair())
    if not pairs:
        raise PairError(
            f"none of the {sum(left_out.values())} bad answers"
            + (f" for the reasons {sorted(reasons)}" if reasons else "")
            + " can be paired: add corrections, or good answers to the same prompts"
        )
    return PairingReport(Pairs(pairs), dict(sources), dict(left_out))


def _good_answer(entry: LoggedAnswer, praised: str | None) -> tuple[str | None, str]:
    explicit = entry.label_source == PREFERENCE_PAIR
    told = (
        (entry.correction, PREFERENCE_PAIR if explicit else "correction"),
        (entry.reference, "reference"),
        (praised, "good answer"),
    )
    # What a form left blank is no correction, and what repeats the bad answer mends nothing:
    # neither must hide the better answer behind it.
    found = [(text, source) for text, source in told if text is not None and text.strip()]
    found = [one for one in found if _mends(one[0], entry)] or found
    return found[0] if found else (praised, "good answer" if praised is not None else "")


def _mends(text: str, bad: LoggedAnswer) -> bool:
    return text.strip() not in ("", bad.answer.strip())
