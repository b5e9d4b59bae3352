"""From logged failures to pairs that are fit to build from, with an account of all others."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from steerable_llm.chat.message import Message, written_beside
from steerable_llm.errors import PairError
from steerable_llm.files import write_json_lines
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.pairs.draft_file import DraftFile
from steerable_llm.pairs.filters import (
    EXAMPLES,
    FILTERS,
    MOST_BY_MEANING,
    FilterCount,
    FilterSettings,
    SetAside,
    run_filters,
)
from steerable_llm.pairs.pair import Pairs
from steerable_llm.pairs.pairing import NO_GOOD_ANSWER, WRONG_RETRIEVAL, Draft
from steerable_llm.pairs.proposals import ProposedPair, acceptable
from steerable_llm.pairs.review import ENOUGH
from steerable_llm.pairs.scrub import Scrubber
from steerable_llm.progress import progress_bar
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Heading, Part, Strong, Table, Text, numeric

#: Examples of each filter on the page; the data has all of them.
SHOWN = 5
#: From so many failures on the work is worth a progress bar.
LONG = 1_000


@dataclass(frozen=True)
class CurationReport:
    """An account of one run of `curate`.

    Attributes:
        failures: Bad answers that were looked at.
        pairs: Pairs that passed every filter.
        by_source: How many of them have their good answer from where.
        left_out: How many failures gave no pair before the filters, by reason.
        filters: What each filter did, in their order.
        examples: Pairs that filters dropped, at most 1,000 of each.
        wrong_retrieval: Failures of retrieval, which steering cannot mend; at most 1,000.
        misled: How many of them there are.
        proposed: Failures with proposals that wait for a person.
        accepted: Proposals that were accepted without one, before the filters.
        scrubbed: Personal values that were replaced, by kind; None when none were looked for.
        near_duplicates: Whether duplicates were also found by meaning.
        judged: Whether there was a judge.
        edited: How many of the pairs have the bad answer with another value for a good one.
        reasons: How many of the pairs are about which fault.
    """

    failures: int
    pairs: int
    by_source: dict[str, int]
    left_out: dict[str, int]
    filters: tuple[FilterCount, ...]
    examples: tuple[SetAside, ...]
    wrong_retrieval: tuple[SetAside, ...]
    misled: int = 0
    proposed: int = 0
    accepted: int = 0
    scrubbed: dict[str, int] | None = None
    near_duplicates: bool = False
    judged: bool = False
    edited: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def proposed_pairs(self) -> int:
        """How many of the pairs have a good answer that was proposed and not written or praised."""
        return sum(n for source, n in self.by_source.items() if source.startswith("proposal/"))

    def lines(self) -> list[str]:
        """Return the report in a few lines for a terminal."""
        sources = ", ".join(f"{number} by {source}" for source, number in self.by_source.items())
        said = [f"{self.pairs} pairs" + (f" ({sources})" if sources else "")]
        if self.edited:
            said.append(f"{self.edited} good answers are the bad one with another value")
        said += [f"left out {number}: {why}" for why, number in self.left_out.items()]
        for count in self.filters:
            said += [f"dropped {n} ({count.name}): {why}" for why, n in count.dropped.items()]
        if self.misled:
            said.append(f"wrong retrieval: {self.misled}, which steering cannot mend")
        if self.scrubbed is not None:
            kinds = ", ".join(f"{n} {kind}" for kind, n in self.scrubbed.items())
            said.append(f"personal data replaced: {kinds or 'none found'}")
        if self.accepted:
            said.append(f"{self.accepted} proposals accepted unseen, before the filters")
        if self.proposed:
            said.append(f"{self.proposed} failures have proposals that wait for a review")
        if len(self.reasons) > 1:
            kinds = ", ".join(f"{n} {reason}" for reason, n in self.reasons.items())
            said.append(f"{kinds}: give different faults a vector each (--reason)")
        if not self.near_duplicates:
            said.append("duplicates were compared exactly, not by meaning")
        if 0 < self.pairs < ENOUGH:
            said.append(f"{ENOUGH - self.pairs} more pairs would make {ENOUGH}, a good start")
        return said

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**asdict(self), "proposed_pairs": self.proposed_pairs}

    def page(self) -> Page:
        """Return the report as a page."""
        proposed = f", {self.proposed_pairs} of them proposed" if self.proposed_pairs else ""
        counted = [
            [f.name, str(f.seen), str(sum(f.dropped.values())), str(f.not_judged or "")]
            for f in self.filters
        ]
        parts: list[Part] = [
            Text((Strong(f"{self.failures} failures, {self.pairs} pairs"), proposed)),
            _counts("good answer from", "pairs", self.by_source),
            *_edits(self.edited),
            Heading("Filters"),
            Table(["filter", *numeric("came", "dropped", "could not be judged")], counted),
            Text(
                (
                    "There was a judge of groundedness. "
                    if self.judged
                    else "There was no judge, so groundedness was not checked. ",
                    "Duplicates were compared by meaning."
                    if self.near_duplicates
                    else "Duplicates were compared exactly, since there was no embedding model.",
                )
            ),
        ]
        if self.scrubbed is not None:
            said = (
                "Each value was replaced by the same placeholder everywhere; names of people are "
                "not looked for."
            )
            parts += [Heading("Personal data"), Text(said)]
            parts.append(_counts("kind", "different values", self.scrubbed))
        for count in self.filters:
            if count.dropped:
                dropped = [entry for entry in self.examples if entry.by == count.name]
                parts += [
                    Heading(f"Dropped: {count.name}", 3),
                    *_examples(dropped, sum(count.dropped.values())),
                ]
        if self.misled:
            parts.append(Heading("Wrong retrieval"))
            parts.append(Text("Steering cannot mend these; they are work for the retriever."))
            parts += _examples(self.wrong_retrieval, self.misled)
        left = dict(self.left_out)
        if self.proposed:
            left["proposals wait for a review"] = self.proposed
        if self.accepted:
            left["proposals accepted unseen"] = self.accepted
        if left:
            parts += [Heading("Without a good answer"), _counts("why", "failures", left)]
        return Page("Pairs from the log", parts)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as `.md`, `.html` or `.json`, whole or not at all.

        Raises:
            InvalidInputError: Another suffix.
        """
        return self.page().save(
            path,
            lambda: json.dumps(self.to_dict(), ensure_ascii=False, indent=2) + "\n",
            "a report on pairs",
            private=True,  # its examples are from the log
        )


def _counts(what: str, number: str, counts: Mapping[str, int]) -> Table:
    return Table([what, *numeric(number)], [[name, str(n)] for name, n in counts.items()])


def _edits(number: int) -> list[Part]:
    said = (
        f"{number} good answers are the bad one with its wrong value replaced; the review shows "
        "them beside what was written."
    )
    return [Text(said)] if number else []


def _examples(entries: Sequence[SetAside], number: int) -> list[Part]:
    rows = [(e.id, e.why, e.question, e.good or "", e.bad) for e in entries[:SHOWN]]
    table = Table(["answer", "why", "question", "good", "bad"], rows)
    more = number - SHOWN
    return [table, Text(f"and {more} more.")] if more > 0 else [table]


#: Given failures without a good answer, proposes some; `propose` with its model bound.
Propose = Callable[[Sequence[Draft]], list[ProposedPair]]


@dataclass(frozen=True)
class Curation:
    """What became of a log's failures.

    Attributes:
        kept: What passed every filter, in the order of the log.
        proposed: Failures with proposed answers that nobody accepted yet.
        misled: Failures because retrieval failed.
        report: Counts and examples of all that was kept and dropped.
    """

    kept: DraftFile
    proposed: tuple[ProposedPair, ...]
    misled: DraftFile
    report: CurationReport

    @cached_property
    def pairs(self) -> Pairs:
        """What passed every filter, in the order of the log."""
        return Pairs(draft.pair() for draft in self.kept)

    @property
    def wrong_retrieval(self) -> Iterator[LoggedAnswer]:
        """Answers that failed because retrieval did: work for the retriever."""
        return (draft.answer for draft in self.misled)

    def write_pairs(self, path: str | os.PathLike[str]) -> Path:
        """Write the pairs as `Pairs.to_jsonl` does, one in memory at a time."""
        write_json_lines(path, written_beside(path, (draft.pair() for draft in self.kept)))
        return Path(path)


@dataclass(frozen=True)
class CurationSettings:
    """How failures become pairs.

    Attributes:
        filters: What the filters let through, their judge and their embedder.
        scrubber: Takes out personal data first; None leaves everything as it is.
        propose: Proposes missing good answers; None leaves those failures out.
        accept_proposals: Take the best proposal, if the judge is content, without a review.
    """

    filters: FilterSettings = field(default_factory=FilterSettings)
    scrubber: Scrubber | None = None
    propose: Propose | None = None
    accept_proposals: bool = False


def curate(
    drafts: Iterable[Draft], settings: CurationSettings, *, progress: bool = False
) -> Curation:
    """Turn failures into pairs: scrub, propose, and run the filters.

    ::

        with AnswerLog("sqlite:///answers.db") as log:
            filters = FilterSettings(judge=judge_named("lexical"))
            found = curate(log.drafts(), CurationSettings(filters))
        found.pairs.to_jsonl("pairs.jsonl")

    Raises:
        PairError: There are no failures at all.
        InvalidInputError: The judge failed.
    """
    scrubber = settings.scrubber
    if scrubber is not None:
        every = DraftFile(_still_two(scrubber.scrub(draft)) for draft in drafts)
    else:
        every = drafts if isinstance(drafts, DraftFile) else DraftFile(drafts)
    if not len(every):
        raise PairError("the log has no bad answers of this kind: review some answers first")
    missing = every.chosen(n for n, why in enumerate(every.sources) if why == NO_GOOD_ANSWER)
    misled = every.chosen(n for n, why in enumerate(every.sources) if why == WRONG_RETRIEVAL)
    left_out = Counter(
        why
        for why, paired in zip(every.sources, every.paired, strict=True)
        if not paired and why != WRONG_RETRIEVAL
    )
    proposed = settings.propose(missing) if settings.propose and len(missing) else []
    accepted = 0
    if settings.accept_proposals:
        # By all that was seen, since a file of answers may use an id twice.
        offers = {(entry.id, entry.messages, entry.bad): entry for entry in proposed}
        taken: dict[object, Draft] = {}
        for draft in missing:
            offer = offers.get(_seen(draft))
            good = acceptable(draft, offer, settings.filters.grounded_at) if offer else None
            if good is not None:
                taken[_seen(draft)] = good
        accepted = len(taken)
        proposed = [entry for key, entry in offers.items() if key not in taken]
        # In the order of the log, where the filters take the first of two that are alike.
        every = DraftFile(taken.get(_seen(d), d) if d.good is None else d for d in every)
    if len(missing) and (answered := accepted + len(proposed)):
        left_out[NO_GOOD_ANSWER] -= answered
    paired = every.chosen(place for place, good in enumerate(every.paired) if good)
    with progress_bar("pairs: filters", len(FILTERS), progress and len(every) >= LONG) as advance:
        kept, counts, dropped = run_filters(paired, settings.filters, advance)
    report = CurationReport(
        failures=len(every),
        pairs=len(kept),
        by_source=dict(Counter(kept.sources)),
        left_out={why: number for why, number in left_out.items() if number},
        filters=tuple(counts),
        examples=tuple(dropped),
        wrong_retrieval=tuple(
            SetAside.of("wrong retrieval", draft.source, draft) for draft in misled[:EXAMPLES]
        ),
        misled=len(misled),
        proposed=len(proposed),
        accepted=accepted,
        scrubbed=None if scrubber is None else dict(scrubber.found),
        near_duplicates=settings.filters.embedder is not None and len(paired) <= MOST_BY_MEANING,
        judged=settings.filters.judge is not None,
        edited=kept.edited,
        reasons=dict(Counter(reason for reason in kept.reasons if reason).most_common()),
    )
    return Curation(kept, tuple(proposed), misled, report)


def _seen(draft: Draft) -> tuple[str, tuple[Message, ...], str]:
    return draft.answer.id, draft.answer.messages, draft.answer.answer


def _still_two(draft: Draft) -> Draft:
    """Leave out the good answer that differed from the bad one only in how a number is written."""
    if draft.good is None or draft.good.strip() != draft.answer.answer.strip():
        return draft
    return Draft(draft.answer, None, "without personal data both answers are the same")
