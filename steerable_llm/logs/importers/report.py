"""What an import took and left, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

#: Lines that a report names one by one; all of them are counted.
NAMED = 100


@dataclass(frozen=True)
class SkippedLine:
    """One line that was not taken.

    Attributes:
        place: File and line, as in ``runs.jsonl:12``.
        why: In words.
    """

    place: str
    why: str


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        lines: Lines read now.
        lines_before: Lines of the same files that an earlier import had read.
        added: Answers that are new in the log.
        known: Answers and judgements that the log already had.
        judged: Answers on which a judgement was put or changed.
        context: Lines that only told what was asked or retrieved.
        skipped: Lines that were not taken, by reason.
        examples: The first hundred of them, by file and line.
        first: The file and line that was the first one, by reason.
    """

    lines: int = 0
    lines_before: int = 0
    added: int = 0
    known: int = 0
    judged: int = 0
    context: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: list[SkippedLine] = field(default_factory=list)
    first: dict[str, str] = field(default_factory=dict)
    on_skip: Callable[[SkippedLine], None] | None = field(default=None, repr=False)

    def skip(self, place: str, why: str) -> None:
        """Note a line that was not taken."""
        line = SkippedLine(place, why)
        self.skipped[why] += 1
        self.first.setdefault(why, place)
        if len(self.examples) < NAMED:
            self.examples.append(line)
        if self.on_skip is not None:
            self.on_skip(line)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "lines": self.lines,
            "lines_before": self.lines_before,
            "added": self.added,
            "known": self.known,
            "judged": self.judged,
            "context": self.context,
            "skipped": dict(self.skipped.most_common()),
            "examples": [asdict(line) for line in self.examples],
        }
