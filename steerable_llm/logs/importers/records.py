"""Reading the pieces of a record, and the account of those that cannot be taken."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from steerable_llm.chat.message import Message
from steerable_llm.errors import InvalidInputError
from steerable_llm.json_records import parsed
from steerable_llm.logs.answers import LoggedAnswer, Passage
from steerable_llm.logs.importers.judgement import Judgement

Record = Mapping[str, Any]
_LONGEST_NUMBER = 60
#: Longest text of a list that Python printed that is read.
_PRINTED = 10**6
# Python needs up to a kilobyte for every value of a text that it reads.
_OUTSIDE_TEXTS = 20_000
_TEXT = re.compile(r"""'(?:[^'\\]|\\.)*+(?:'|\Z)|"(?:[^"\\]|\\.)*+(?:"|\Z)""", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_OBJECT = re.compile(r"""\s*\[?\s*\{\s*['"]""")
_ARRAY = re.compile(r"\s*array\((\[.*\])\s*(?:,\s*dtype=[^()]*)?\)\s*", re.DOTALL)
_COMMA = re.compile(r"([+-]?\d+),(\d+)", re.ASCII)
_YES_NO = {"true": True, "false": False}


class UnusableRecord(InvalidInputError):
    """A record from which no answer can be taken; the message says why."""


@dataclass(frozen=True)
class ImportedAnswer:
    """An answer from another log, not judged yet, and what that log says of it."""

    answer: LoggedAnswer
    judgements: tuple[Judgement, ...] = ()


def content_id(kind: str, *parts: object) -> str:
    """Return an id made from content, for records that have none: the same again gives the same."""
    told = json.dumps(parts, sort_keys=True, default=str)
    return f"{kind}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def text(*values: object) -> str | None:
    """Return the first text that says something, else None."""
    return next((v for v in values if isinstance(v, str) and v.strip()), None)


def mapping(value: object) -> Mapping[str, Any]:
    """Return an object, also one that is kept as its JSON; an empty one for what is none."""
    value = decoded(value)
    return value if isinstance(value, Mapping) else {}


def decoded(value: object) -> Any:
    """Return the object or list whose JSON a text is, for logs that keep these as text.

    Also where the JSON was made a text once more, and what Python printed of objects; any other
    value comes back as it is.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "[", '"'):
        plain = unquoted(value)
        if plain.lstrip()[:1] in ("{", "["):
            try:
                return parsed(plain)
            except ValueError:
                return _printed_object(plain)
    return value


def _printed_object(value: str) -> Any:
    """The object that Python printed, or the list of such; else the text itself."""
    if not _OBJECT.match(value):
        return value
    try:
        inside = _printed(f"[{value}]", "text")
    except UnusableRecord:
        return value
    return inside[0] if len(inside) == 1 else value


def unquoted(value: str) -> str:
    """Return the text whose JSON a text is, as often as that was made; else the text itself."""
    for _ in range(3):
        if not (len(value) >= 2 and value.lstrip()[:1] == '"' and value.rstrip()[-1:] == '"'):
            break
        try:
            inside = parsed(value)
        except ValueError:
            break
        if not isinstance(inside, str):
            break
        value = inside
    return value


def listed(value: object, name: str) -> list[Any]:
    """Return a list, also one that is kept as text: its JSON, or what Python or numpy print of it.

    A plain text is a list of one.

    Raises:
        UnusableRecord: It is something else, or a list that cannot be read.
    """
    if value is None:
        return []
    if isinstance(value, str):
        start = value.lstrip()[:1]
        if not start:
            return []
        inside = decoded(value)
        if isinstance(inside, str) and (array := _ARRAY.fullmatch(inside)):
            inside = array[1]
        if isinstance(inside, str) and inside.strip()[:1] + inside.strip()[-1:] == "[]":
            inside = _printed(inside.strip(), name)
        value = inside
        if isinstance(value, str):
            return [value]
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, Sequence):
        raise UnusableRecord(f"its {name} is no list")
    return list(value)


def _printed(value: str, name: str) -> list[Any]:
    """What Python printed of a list: with commas, or as numpy does, without."""
    if len(value) <= _PRINTED and len(_TEXT.sub("", value)) <= _OUTSIDE_TEXTS:
        numpy_like = re.sub(r"""(?<=['"])\s*\n?\s+(?=['"])""", ", ", value)
        for told in (value, numpy_like):
            # Two texts side by side are one to Python, and were two to numpy.
            if told is value and re.search(r"""['"]\s+['"]""", value):
                continue
            try:
                found = ast.literal_eval(told)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
            if isinstance(found, list | tuple):
                return list(found)
    raise UnusableRecord(f"its {name} is the text of a list that cannot be read")


def needed(record: Record, name: str) -> str:
    """Return a text that a record must have."""
    found = text(record.get(name))
    if found is None:
        raise UnusableRecord(f"it has no {name}")
    return found


def number(value: object) -> float | None:
    """Return a score as a number, also out of a text; True is 1. None for what is not finite."""
    if isinstance(value, str):
        plain = value.strip()
        if (comma := _COMMA.fullmatch(plain)) and (comma[1] == "0" or len(comma[2]) != 3):
            plain = f"{comma[1]}.{comma[2]}"  # and not a thousand
        if len(plain) > _LONGEST_NUMBER or not _NUMBER.fullmatch(plain):
            return None
        value = float(plain)
    if not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # JSON knows no largest integer
        return None
    return found if math.isfinite(found) else None


def yes_or_no(value: object) -> bool | None:
    """Return whether something is so, also out of a text or 1 and 0; None for anything else."""
    if isinstance(value, str):
        value = _YES_NO.get(value.strip().lower(), number(value))
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def iso(*values: object) -> str | None:
    """Return the first time as ISO 8601 in UTC, which sorts as text; None if none is a time.

    A number counts seconds, milli-, micro- or nanoseconds since 1970, as its size tells.
    """
    for value in values:
        try:
            found = _time(value)
            # Exports that leave the zone out mean UTC.
            if found is not None:
                zoned = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
                return zoned.isoformat(timespec="microseconds")
        except (ValueError, OverflowError, OSError, TypeError):
            continue
    return None


def _time(value: object) -> datetime | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        plain = value.strip().removesuffix(" UTC")
        try:
            return datetime.fromisoformat(plain)
        except ValueError:
            return parsedate_to_datetime(plain)
    # Before it is a float, which has no room for nanoseconds.
    count = int(value) if isinstance(value, str) and value.strip().isdigit() else number(value)
    if count is None or count <= 0:
        return None
    for unit in (1, 10**3, 10**6, 10**9):
        if count < 10**11 * unit:  # seconds up to the year 5138
            whole = int(count * 10**6 // unit) if isinstance(count, int) else count * 1e6 / unit
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=whole)
    return None


def page(record: Record, *names: str) -> list[tuple[str, Any]]:
    """Return the records inside a page of some, each with its place in it; else the record itself.

    Args:
        record: What an API's answer or a download holds, perhaps; or a table by columns.
        names: Under which records may stand.
    """
    if (rows := _rows(record)) is not None:
        return rows
    found = []
    empty = False
    for name in names:
        inside = decoded(record.get(name))
        if isinstance(inside, list) and (not inside or any(isinstance(e, Mapping) for e in inside)):
            for place, entry in enumerate(inside, start=1):
                if isinstance(entry, Mapping) and isinstance(entry.get("row"), Mapping):
                    entry = entry["row"]  # as the Hub's viewer of data sets has them
                found.append((f"{name} {place}", entry))
            empty = empty or (not inside and len(record) <= _ENVELOPE)
        elif isinstance(inside, Mapping) and name not in ("data",):
            found += [(f"{name}, {where}" if where else name, one)
                      for where, one in page(inside, *names)]  # fmt: skip
    return found or ([] if empty else [("", record)])


#: Most that an empty page of an API has beside its empty list.
_ENVELOPE = 6


def _rows(record: Record) -> list[tuple[str, Any]] | None:
    """The rows of a table that pandas wrote: by columns, or columns and data apart."""
    columns, data = record.get("columns"), record.get("data")
    if isinstance(columns, list) and isinstance(data, list):
        names = [str(name) for name in columns]
        return [
            (f"row {n}", dict(zip(names, row, strict=False)) if isinstance(row, list) else row)
            for n, row in enumerate(data, start=1)
        ]
    cells = list(record.values())
    if len(cells) > 1 and all(isinstance(cell, list) and cell for cell in cells):
        # Messages side by side are conversations, and no columns.
        if any(isinstance(one, Mapping) for cell in cells for one in cell):
            return None
        texts = any(all(isinstance(one, str) for one in cell) for cell in cells)
        if not texts or len({len(cell) for cell in cells}) > 1:
            return None
        rows = zip(*cells, strict=True)
        return [(f"row {n}", dict(zip(record, row, strict=True))) for n, row in enumerate(rows, 1)]
    if len(cells) < 2 or not all(isinstance(cell, Mapping) and cell for cell in cells):
        return None
    keys = list(cells[0])
    if any(list(cell) != keys for cell in cells) or not keys[0].isdigit():
        return None
    return [
        (f"row {n}", {name: cell[key] for name, cell in record.items()})
        for n, key in enumerate(keys, start=1)
    ]


def passages(texts: object, ids: object = None) -> tuple[Passage, ...]:
    """Return retrieved texts as passages; without an id, equal texts share one made from them.

    So the parts of a split never share a document, whatever the log calls it.

    Args:
        texts: Texts, or objects that hold one; also as the text of a list, see `listed`.
        ids: Their ids; these count only if there are as many.
    """
    entries = listed(texts, "retrieved contexts")
    names = listed(ids, "retrieved context ids")
    found = []
    for place, entry in enumerate(entries):
        shown, named = entry, names[place] if len(names) == len(entries) else None
        if isinstance(entry, Mapping):
            shown = text(*(entry.get(k) for k in ("context", "page_content", "content", "text")))
            named = named or entry.get("source") or entry.get("id")
        if not isinstance(shown, str):
            raise UnusableRecord("a retrieved context is not text")
        if shown.strip():
            found.append(Passage(id=str(named or content_id("passage", shown)), text=shown))
    return tuple(found)


def rendered(question: str, found: Sequence[Passage]) -> tuple[Message, ...]:
    """Return a prompt for a question over passages, for logs that did not keep theirs."""
    if not found:
        return (Message(role="user", content=question),)
    numbered = "\n".join(f"[{i}] {passage.text}" for i, passage in enumerate(found, start=1))
    shown = f"Documents:\n{numbered}\n\nQuestion: {question}"
    return (Message(role="user", content=shown),)


#: Lines that a report names one by one; all of them are counted.
NAMED = 100
#: Kinds of reasons that are told apart: a file may have another one in each of a million lines.
KINDS = 50
OTHERS = "for other reasons"
_LONGEST_REASON = 200


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
        ignored: Numbers beside answers that gave no verdict, by why.
        waiting: Lines at the end of a file that are still being written, it seems.
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
    ignored: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    on_skip: Callable[[SkippedLine], None] | None = field(default=None, repr=False)

    @property
    def nothing(self) -> bool:
        """Whether nothing at all came of the files, now or before."""
        if self.added or self.known or self.judged:
            return False
        return self.lines > self.waiting or not self.lines_before

    def skip(self, place: str, why: str) -> None:
        """Note a line that was not taken; reasons are kept short, and of few kinds."""
        why = _short(why)
        kind = why if why in self.skipped or len(self.skipped) < KINDS else OTHERS
        line = SkippedLine(place, why)
        self.skipped[kind] += 1
        self.first.setdefault(kind, place)
        if len(self.examples) < NAMED:
            self.examples.append(line)
        if self.on_skip is not None:
            self.on_skip(line)

    def ignore(self, why: str) -> None:
        """Note a number that gave no verdict."""
        why = _short(why)
        self.ignored[why if why in self.ignored or len(self.ignored) < KINDS else OTHERS] += 1

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
            "ignored": dict(self.ignored.most_common()),
            "examples": [asdict(line) for line in self.examples],
        }


def _short(why: str) -> str:
    line = " ".join(why.split())
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 1] + "…"
