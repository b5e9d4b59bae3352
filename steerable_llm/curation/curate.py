"""From logged failures to pairs that are fit to build from, with an account of all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from steerable_llm.curation.gates import GateInput, GateSettings, run_gates
from steerable_llm.curation.judge import Judge
from steerable_llm.curation.proposals import acceptable
from steerable_llm.curation.proposed_pair import ProposedPair
from steerable_llm.curation.report import CurationReport, SetAside
from steerable_llm.curation.scrubbing import Scrubber
from steerable_llm.embedding import Embedder
from steerable_llm.errors import PairError
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.logs.pairing import NO_GOOD_ANSWER, WRONG_RETRIEVAL, Draft
from steerable_llm.pairs import Message, Pairs

#: Given failures without a good answer, proposes some; `propose` with its model bound.
Propose = Callable[[Sequence[Draft]], list[ProposedPair]]


@dataclass(frozen=True)
class Curation:
    """What became of a log's failures.

    Attributes:
        pairs: What passed every gate, in the order of the log.
        proposed: Failures with proposed answers that nobody accepted yet.
        wrong_retrieval: Answers that failed because retrieval did: work for the retriever.
        report: Counts and examples of all that was kept and dropped.
    """

    pairs: Pairs
    proposed: tuple[ProposedPair, ...]
    wrong_retrieval: tuple[LoggedAnswer, ...]
    report: CurationReport


@dataclass(frozen=True)
class CurationSettings:
    """How failures become pairs.

    Attributes:
        gates: Limits of the gates.
        judge: Says what is grounded; None leaves that gate open.
        embedder: Finds near duplicates; None finds exact ones only.
        scrubber: Takes out personal data first; None leaves everything as it is.
        propose: Proposes missing good answers; None leaves those failures out.
        accept_proposals: Take the best proposal, if the judge is content, without a review.
    """

    gates: GateSettings = field(default_factory=GateSettings)
    judge: Judge | None = None
    embedder: Embedder | None = None
    scrubber: Scrubber | None = None
    propose: Propose | None = None
    accept_proposals: bool = False


def curate(drafts: Iterable[Draft], settings: CurationSettings) -> Curation:
    """Turn failures into pairs: scrub, propose, and run the gates.

    ::

        with AnswerLog("sqlite:///answers.db") as log:
            found = curate(log.drafts(), CurationSettings(judge=judge_named("lexical")))
        found.pairs.to_jsonl("pairs.jsonl")

    Args:
        drafts: Failures, from `AnswerLog.drafts` or `draft_pairs`.
        settings: What to do with them.

    Raises:
        PairError: There are no failures at all.
        InvalidInputError: The judge failed.
    """
    scrubber = settings.scrubber
    every = [_still_two(scrubber.scrub(draft)) if scrubber else draft for draft in drafts]
    if not every:
        raise PairError("the log has no bad answers of this kind: review some answers first")
    paired = [draft for draft in every if draft.good is not None]
    missing = [draft for draft in every if draft.source == NO_GOOD_ANSWER]
    misled = [draft for draft in every if draft.source == WRONG_RETRIEVAL]
    left_out = Counter(d.source for d in every if d.good is None and d.source != WRONG_RETRIEVAL)
    proposed = settings.propose(missing) if settings.propose and missing else []
    accepted = 0
    if settings.accept_proposals:
        # By all that was seen, since a file of answers may use an id twice.
        offers = {(entry.id, entry.messages, entry.bad): entry for entry in proposed}
        taken: dict[object, Draft] = {}
        for draft in missing:
            offer = offers.get(_seen(draft))
            good = acceptable(draft, offer, settings.gates.grounded_at) if offer else None
            if good is not None:
                taken[_seen(draft)] = good
        accepted = len(taken)
        proposed = [entry for key, entry in offers.items() if key not in taken]
        # In the order of the log, where the gates take the first of two that are alike.
        every = [taken.get(_seen(d), d) if d.good is None else d for d in every]
        paired = [draft for draft in every if draft.good is not None]
    if missing and (answered := accepted + len(proposed)):
        left_out[NO_GOOD_ANSWER] -= answered
    given = GateInput(settings.gates, settings.judge, settings.embedder)
    kept, counts, dropped = run_gates(paired, given)
    report = CurationReport(
        failures=len(every),
        pairs=len(kept),
        by_source=dict(Counter(draft.source for draft in kept)),
        left_out={why: number for why, number in left_out.items() if number},
        gates=tuple(counts),
        examples=tuple(SetAside.of(entry.gate, entry.why, entry.draft) for entry in dropped),
        wrong_retrieval=tuple(
            SetAside.of("wrong retrieval", draft.source, draft) for draft in misled
        ),
        proposed=len(proposed),
        accepted=accepted,
        scrubbed=None if scrubber is None else dict(scrubber.found),
        near_duplicates=settings.embedder is not None,
        judged=settings.judge is not None,
    )
    return Curation(
        Pairs(draft.pair() for draft in kept),
        tuple(proposed),
        tuple(draft.answer for draft in misled),
        report,
    )


def _seen(draft: Draft) -> tuple[str, tuple[Message, ...], str]:
    return draft.answer.id, draft.answer.messages, draft.answer.answer


def _still_two(draft: Draft) -> Draft:
    """Leave out the good answer that differed from the bad one only in how a number is written."""
    if draft.good is None or draft.good.strip() != draft.answer.answer.strip():
        return draft
    return Draft(draft.answer, None, "without personal data both answers are the same")
