"""Good answers that the model itself proposes for failures that nobody corrected.

A proposal is no more than that: the judge says how far it is grounded, not whether it answers the
question, so a person accepts it in the review, or whoever asks for it by `--accept-proposals`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from steerable_llm.chat.message import Message, instructed, written_beside
from steerable_llm.chat.phrases import STRICT_INSTRUCTIONS, abstains, normalise
from steerable_llm.errors import InvalidInputError
from steerable_llm.files import write_json_lines
from steerable_llm.pairs.edit import Edited, smallest_edit
from steerable_llm.pairs.filters import about_passages, claim_of
from steerable_llm.pairs.judge import Judge, judged, sentences, terms
from steerable_llm.pairs.pair import SMALLEST_EDIT, Edit, PreferencePair
from steerable_llm.pairs.pairing import Draft

# A review reads proposals, and need not wait two seconds for torch.
if TYPE_CHECKING:
    from steerable_llm.embedding import Embedder
    from steerable_llm.vector.steering import Steering
    from steerable_llm.vector.vector import SteeringVector


class Proposal(BaseModel, frozen=True, extra="forbid"):
    """One proposed answer.

    Attributes:
        kind: How it was made: a key of `PROPOSERS`.
        text: The answer.
        score: How far the judge finds it grounded; None when that tells nothing.
        bad: The bad answer that it goes with, if that was cut; else the logged one.
        edit: How it was made out of the bad answer, if it was.
    """

    kind: str
    text: str
    score: float | None = None
    bad: str | None = None
    edit: Edit | None = None


class ProposedPair(BaseModel, frozen=True, extra="forbid"):
    """A failure with good answers that were proposed for it, the likeliest first.

    Attributes:
        id: Of the logged answer.
        messages: The prompt.
        bad: The logged answer.
        source: What became a pair's source, without where the good answer is from.
        document_ids: The documents that the prompt quotes.
        proposals: At least one.
    """

    id: str
    messages: tuple[Message, ...]
    bad: str
    source: str
    document_ids: tuple[str, ...] = ()
    proposals: tuple[Proposal, ...] = Field(min_length=1)

    def pair(self, number: int = 0) -> PreferencePair:
        """Return the pair with one of the proposals; its source says that it was proposed."""
        chosen = self.proposals[number]
        return PreferencePair(
            messages=self.messages,
            good=chosen.text,
            bad=chosen.bad or self.bad,
            source=f"{self.source}/proposal/{chosen.kind}",
            document_ids=self.document_ids,
            id=self.id,
            edit=chosen.edit,
        )


def write_proposals(path: str | os.PathLike[str], proposed: Sequence[ProposedPair]) -> Path:
    """Write proposals one per line; the file appears whole or not at all."""
    write_json_lines(path, written_beside(path, proposed, mode="json"))
    return Path(path)


#: What a refusal says unless the log has one of its own.
REFUSAL = "The documents do not say."
#: The failures that a refusal mends; of the others the documents have the answer.
MENDED_BY_REFUSAL = frozenset({None, "not in documents", "should have refused"})
_BEHAVIOURS = {"rude": "civility", "untrue": "myth"}


@dataclass(frozen=True)
class Ask:
    """What the model is asked for one proposal.

    Attributes:
        messages: The prompt.
        steering: What it is steered with.
        context_aware: Whether what the context adds is counted more (context-aware decoding).
        max_new_tokens: Length of the answer, in tokens.
    """

    messages: tuple[Message, ...]
    steering: Steering
    context_aware: bool
    max_new_tokens: int


#: Answers all asks at once; None for a prompt that does not fit the model's context window.
Answerer = Callable[[Sequence[Ask]], Sequence[str | None]]


@dataclass(frozen=True)
class ProposalSettings:
    """How answers are proposed.

    Attributes:
        steering: A steering that should mend the failure, stronger than usual; None goes without.
        refusal: What a refusal says; the log's own most usual one when None.
        max_new_tokens: Length of a proposed answer, in tokens.
        embedder: Finds the sentence that fits the question; None counts common words.
    """

    steering: Steering | None = None
    refusal: str | None = None
    max_new_tokens: int = 128
    embedder: Embedder | None = None


#: What a proposer has for a failure: something to ask the model, an answer, or nothing.
Proposer = Callable[[Draft, ProposalSettings], Ask | Edited | str | None]


def _ask(
    draft: Draft,
    given: ProposalSettings,
    *,
    instruction: str | None = None,
    steering: Steering | None = None,
    context_aware: bool = False,
) -> Ask:
    from steerable_llm.vector.steering import Steering

    messages = draft.answer.messages
    if instruction is not None:
        messages = instructed(messages, instruction)
    return Ask(messages, steering or Steering.none(), context_aware, given.max_new_tokens)


def _edited(draft: Draft, _: ProposalSettings) -> Edited | None:
    answer = draft.answer
    if not about_passages(draft) or answer.reason == "should have refused":
        return None
    passages = [passage.text for passage in answer.passages]
    return smallest_edit(answer.question, passages, answer.answer)


def _strict(draft: Draft, given: ProposalSettings) -> Ask:
    behaviour = _BEHAVIOURS.get(draft.answer.reason or "", "faithfulness")
    return _ask(draft, given, instruction=STRICT_INSTRUCTIONS[behaviour])


def _contrast(draft: Draft, given: ProposalSettings) -> Ask | None:
    return _ask(draft, given, context_aware=True) if about_passages(draft) else None


def _steered(draft: Draft, given: ProposalSettings) -> Ask | None:
    return _ask(draft, given, steering=given.steering) if given.steering else None


def _extracted(draft: Draft, given: ProposalSettings) -> str | None:
    if not about_passages(draft) or draft.answer.reason == "should have refused":
        return None
    found = [part for passage in draft.answer.passages for part in sentences(passage.text)]
    question = draft.answer.question
    if given.embedder is not None:
        asked, *rows = given.embedder.embed([question, *found])
        return found[max(range(len(found)), key=lambda i: float(asked @ rows[i]))]
    keys = {term.key for term in terms(question)}
    common = [len(keys & {term.key for term in terms(part)}) for part in found]
    return found[common.index(max(common))] if max(common) else None


def _refusal(draft: Draft, given: ProposalSettings) -> str | None:
    mends = draft.answer.reason in MENDED_BY_REFUSAL and about_passages(draft)
    return (given.refusal or REFUSAL) if mends else None


#: What these propose is grounded whatever it says.
FROM_PASSAGES = frozenset((SMALLEST_EDIT, "extracted sentence"))
#: The proposers, the most fluent first: among equal scores the first is preferred.
PROPOSERS: Mapping[str, Proposer] = {
    SMALLEST_EDIT: _edited,
    "strict prompt": _strict,
    "context-aware decoding": _contrast,
    "higher strength": _steered,
    "extracted sentence": _extracted,
    "refusal": _refusal,
}


def propose(
    answerer: Answerer,
    drafts: Sequence[Draft],
    *,
    judge: Judge | None = None,
    settings: ProposalSettings | None = None,
) -> list[ProposedPair]:
    """Propose good answers for failures that have none.

    Each of `PROPOSERS` is tried on the failure's own prompt. What repeats the bad answer or an
    earlier proposal is left out.

    Args:
        answerer: Asks the model that proposes.
        drafts: Failures without a good answer.
        judge: Scores the proposals; None leaves them without scores.
        settings: How to propose.

    Returns:
        Those failures for which there is a proposal, each with its proposals: refusals first where
        one should have refused, last elsewhere, and the others by score.
    """
    given = settings or ProposalSettings()
    made: dict[tuple[int, str], Edited | str | None] = {}
    asked: list[tuple[tuple[int, str], Ask]] = []
    for place, draft in enumerate(drafts):
        for kind, proposer in PROPOSERS.items():
            found = proposer(draft, given)
            if isinstance(found, Ask):
                asked.append(((place, kind), found))
            else:
                made[place, kind] = found
    answers = answerer([ask for _, ask in asked])
    made.update({key: answer for (key, _), answer in zip(asked, answers, strict=True)})
    claims, options = [], []
    for place, draft in enumerate(drafts):
        known = {normalise(draft.answer.answer), ""}
        for kind in PROPOSERS:
            option = _option(kind, made[place, kind], draft)
            if normalise(option.text) in known:
                continue
            known.add(normalise(option.text))
            options.append((place, option))
            # What a passage says is grounded whatever it is, so its score would tell nothing.
            told = about_passages(draft) and kind not in FROM_PASSAGES
            claims.append(claim_of(draft, option.text) if told else None)
    scored = iter(judged(judge, [claim for claim in claims if claim]) if judge else ())
    proposals: list[list[Proposal]] = [[] for _ in drafts]
    for (place, option), claim in zip(options, claims, strict=True):
        score = next(scored) if judge and claim else None
        proposals[place].append(option.model_copy(update={"score": score}))
    return [
        _proposed(draft, options)
        for draft, options in zip(drafts, proposals, strict=True)
        if options
    ]


def _option(kind: str, made: Edited | str | None, draft: Draft) -> Proposal:
    if not isinstance(made, Edited):
        return Proposal(kind=kind, text=(made or "").strip())
    cut = None if made.bad == draft.answer.answer else made.bad
    return Proposal(kind=kind, text=made.good, bad=cut, edit=made.edit)


def acceptable(draft: Draft, proposed: ProposedPair, grounded_at: float) -> Draft | None:
    """Return a draft with the best proposal, if that is good enough without a person's look.

    Its score has to be `grounded_at` or more; where the model should have refused, a refusal will
    do. What no judge could tell is left to a person, and so are edits: whether a value of the
    passages answers the question.
    """
    best = next((option for option in proposed.proposals if option.edit is None), None)
    if best is None:
        return None
    should_refuse = draft.answer.reason == "should have refused"
    # A refusal that goes on to claim something has a score.
    refuses = should_refuse and abstains(best.text)
    if not (refuses if best.score is None else best.score >= grounded_at):
        return None
    return replace(draft, good=best.text, source=f"proposal/{best.kind}")


def usual_refusal(drafts: Sequence[Draft]) -> str | None:
    """Return the refusal that good answers of a log use most, in its own words."""
    refusals = Counter(draft.good for draft in drafts if draft.good and abstains(draft.good))
    return refusals.most_common(1)[0][0] if refusals else None


def stronger(vector: SteeringVector, factor: float = 1.5) -> Steering:
    """Return a vector's steering as calibrated, but so many times as strong.

    Raises:
        InvalidInputError: The vector is not calibrated, or the factor is not above 0.
    """
    if not factor > 0:
        raise InvalidInputError(f"the factor is {factor!r}: give a number above 0, such as 1.5")
    if vector.calibration is None:
        return vector.steer()  # which says what is missing
    return vector.steer(factor * vector.calibration.strength)


def _proposed(draft: Draft, proposals: Sequence[Proposal]) -> ProposedPair:
    should_refuse = draft.answer.reason == "should have refused"

    def order(option: Proposal) -> tuple[bool, float]:
        # A refusal is safe wherever it is wrong, so its place is not left to the judge.
        misplaced = abstains(option.text) != should_refuse
        if option.edit is not None:
            return misplaced, -2.0  # the least to read, and the best pair if it is right
        return misplaced, 1.0 if option.score is None else -option.score

    return ProposedPair(
        id=draft.answer.id,
        messages=draft.answer.messages,
        bad=draft.answer.answer,
        source=f"log/{draft.answer.reason or 'unspecified'}",
        document_ids=tuple(passage.id for passage in draft.answer.passages),
        # Sorting is stable, so equal scores stay in the order of PROPOSERS.
        proposals=tuple(sorted(proposals, key=order)),
    )
