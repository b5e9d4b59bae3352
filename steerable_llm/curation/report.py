"""What became of a log's failures on their way to pairs: counts, reasons and examples."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from steerable_llm.curation.gates import GateCount
from steerable_llm.curation.review import ENOUGH
from steerable_llm.curation.word_diff import visible
from steerable_llm.errors import InvalidInputError
from steerable_llm.files import write_whole
from steerable_llm.logs.pairing import Draft

#: Examples of each gate in Markdown; the data has all of them.
SHOWN = 5


@dataclass(frozen=True)
class SetAside:
    """A failure that gave no pair.

    Attributes:
        gate: What set it aside.
        why: In words.
        id: Of the logged answer.
        question: What was asked.
        good: The good answer, if there was one.
        bad: The logged answer.
    """

    gate: str
    why: str
    id: str
    question: str
    good: str | None
    bad: str

    @classmethod
    def of(cls, gate: str, why: str, draft: Draft) -> Self:
        """Return what a report keeps of a draft."""
        answer = draft.answer
        return cls(gate, why, answer.id, answer.question, draft.good, answer.answer)


@dataclass(frozen=True)
class CurationReport:
    """An account of one run of `curate`.

    Attributes:
        failures: Bad answers that were looked at.
        pairs: Pairs that passed every gate.
        by_source: How many of them have their good answer from where.
        left_out: How many failures gave no pair before the gates, by reason.
        gates: What each gate did, in their order.
        examples: Every pair that a gate dropped.
        wrong_retrieval: Failures of retrieval, which steering cannot mend.
        proposed: Failures with proposals that wait for a person.
        accepted: Proposals that were accepted without one, before the gates.
        scrubbed: Personal values that were replaced, by kind; None when none were looked for.
        near_duplicates: Whether duplicates were also found by meaning.
        judged: Whether there was a judge.
    """

    failures: int
    pairs: int
    by_source: dict[str, int]
    left_out: dict[str, int]
    gates: tuple[GateCount, ...]
    examples: tuple[SetAside, ...]
    wrong_retrieval: tuple[SetAside, ...]
    proposed: int = 0
    accepted: int = 0
    scrubbed: dict[str, int] | None = None
    near_duplicates: bool = False
    judged: bool = False

    @property
    def proposed_pairs(self) -> int:
        """How many of the pairs have a good answer that was proposed and not written or praised."""
        return sum(n for source, n in self.by_source.items() if source.startswith("proposal/"))

    def lines(self) -> list[str]:
        """Return the report in a few lines for a terminal."""
        sources = ", ".join(f"{number} by {source}" for source, number in self.by_source.items())
        said = [f"{self.pairs} pairs" + (f" ({sources})" if sources else "")]
        said += [f"left out {number}: {why}" for why, number in self.left_out.items()]
        for gate in self.gates:
            said += [f"dropped {n} ({gate.gate}): {why}" for why, n in gate.dropped.items()]
        if self.wrong_retrieval:
            said.append(f"wrong retrieval: {len(self.wrong_retrieval)}, which steering cannot mend")
        if self.scrubbed is not None:
            kinds = ", ".join(f"{n} {kind}" for kind, n in self.scrubbed.items())
            said.append(f"personal data replaced: {kinds or 'none found'}")
        if self.accepted:
            said.append(f"{self.accepted} proposals accepted unseen, before the gates")
        if self.proposed:
            said.append(f"{self.proposed} failures have proposals that wait for a review")
        if not self.near_duplicates:
            said.append("duplicates were compared exactly, not by meaning")
        if 0 < self.pairs < ENOUGH:
            said.append(f"{ENOUGH - self.pairs} more pairs would make {ENOUGH}, a good start")
        return said

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**asdict(self), "proposed_pairs": self.proposed_pairs}

    def to_markdown(self) -> str:
        """Return the report as a page."""
        parts = [
            "# Pairs from the log",
            "",
            f"**{self.failures} failures, {self.pairs} pairs**"
            + (f", {self.proposed_pairs} of them proposed" if self.proposed_pairs else ""),
            "",
            *_table(("good answer from", "pairs"), self.by_source.items()),
            "",
            "## Gates",
            "",
            *_table(
                ("gate", "came", "dropped", "could not be judged"),
                ((g.gate, g.seen, sum(g.dropped.values()), g.not_judged or "") for g in self.gates),
            ),
            "",
            "There was a judge of groundedness."
            if self.judged
            else "There was no judge, so groundedness was not checked.",
            "Duplicates were compared by meaning."
            if self.near_duplicates
            else "Duplicates were compared exactly, since there was no embedding model.",
        ]
        if self.scrubbed is not None:
            parts += ["", "## Personal data", ""]
            parts += [
                "Each value was replaced by the same placeholder everywhere; names of people are "
                "not looked for.",
                "",
                *_table(("kind", "different values"), self.scrubbed.items()),
            ]
        for gate in self.gates:
            if gate.dropped:
                dropped = [entry for entry in self.examples if entry.gate == gate.gate]
                parts += ["", f"### Dropped: {gate.gate}", "", *_examples(dropped)]
        if self.wrong_retrieval:
            parts += ["", "## Wrong retrieval", ""]
            parts += ["Steering cannot mend these; they are work for the retriever.", ""]
            parts += _examples(self.wrong_retrieval)
        if self.left_out or self.proposed or self.accepted:
            parts += ["", "## Without a good answer", ""]
            rows = [*self.left_out.items()]
            rows += [("proposals wait for a review", self.proposed)] if self.proposed else []
            rows += [("proposals accepted unseen", self.accepted)] if self.accepted else []
            parts += _table(("why", "failures"), rows)
        return "\n".join(parts) + "\n"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as ``.md`` or ``.json``, whole or not at all.

        Raises:
            InvalidInputError: Another suffix.
        """
        target = Path(path)
        writers: Mapping[str, Callable[[], str]] = {
            ".md": self.to_markdown,
            ".json": lambda: json.dumps(self.to_dict(), ensure_ascii=False, indent=2) + "\n",
        }
        if target.suffix not in writers:
            raise InvalidInputError(
                f"cannot save a report on pairs as {target.name!r}; use one of {', '.join(writers)}"
            )
        return write_whole(target, writers[target.suffix]())


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [[*head], ["---"] * len(head), *([cell(value) for value in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _examples(entries: Sequence[SetAside]) -> list[str]:
    rows = [(e.id, e.why, e.question, e.good or "", e.bad) for e in entries[:SHOWN]]
    lines = _table(("answer", "why", "question", "good", "bad"), rows)
    more = len(entries) - SHOWN
    return [*lines, "", f"and {more} more."] if more > 0 else lines


def cell(value: object) -> str:
    """Return text that people or models wrote, on one line and safe in a Markdown table."""
    flat = visible(" ".join(str(value).split()))
    for sign in "\\`*_[]<>|":
        flat = flat.replace(sign, "\\" + sign)
    return flat
