"""Reading a file record by record, and going on where an earlier reading ended."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import zlib
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from steerable_llm.errors import from_extra
from steerable_llm.json_records import (
    DAMAGED,
    LONGEST,
    NOT_UTF8,
    form_of,
    json_records,
    open_utf8,
    parsed,
)

_BLOCK = 2**20
#: How the problem of a line ends that may still be being written.
WITHIN = " (the file ends within it)"
_TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Read:
    """One record of a file, or what is wrong with it.

    Attributes:
        number: Its line, or its place in the array, from 1.
        record: The JSON object; None if there is none.
        problem: What is wrong.
        position: Bytes of the file up to its end; -1 where no later reading can go on.
        digest: SHA-256 of these bytes, in hex; empty for what is always read whole: all but lines.
    """

    number: int
    record: dict[str, Any] | None
    problem: str
    position: int = -1
    digest: str = ""


def read_records(
    path: Path, *, position: int = 0, digest: str = "", lines: int = 0
) -> Iterator[Read]:
    """Yield the records of a file, one at a time.

    A file is JSON lines, an array, objects one after another, or a table (.csv or .tsv, whose
    cells are texts); packed by gzip or not, in UTF-8 or UTF-16. Or it is Parquet.

    Args:
        path: The file.
        position: Where an earlier reading ended. It goes on there if the bytes before are still
            the same, and else at the start. They are counted as UTF-8, once unpacked.
        digest: SHA-256 of the bytes before.
        lines: How many lines these are.
    """
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return _parquet(path)
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in _TABLES:
        return _table(path, _TABLES[suffixes[-1]])
    if form_of(path) == "values":
        return _values(path)
    return _lines(path, position, digest, lines)


def _values(path: Path) -> Iterator[Read]:
    with open_utf8(path) as file:
        for one in json_records(file, form="values"):
            yield Read(one.number, one.record, _told(one.problem))


def _told(problem: str) -> str:
    """A problem with what to do about it, which is the same in every line."""
    return f"{problem} (save the file as UTF-8)" if problem == NOT_UTF8 else problem


def _parquet(path: Path) -> Iterator[Read]:
    with from_extra("parquet", f"{path} is a Parquet file, which needs pyarrow"):
        import pyarrow
        from pyarrow.parquet import ParquetFile
    number = 0
    try:
        with ParquetFile(path) as table:
            for batch in table.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    # As the same row is in JSON, within the same bounds.
                    try:
                        yield Read(number, parsed(json.dumps(row, default=_plain)), "")
                    except ValueError as error:
                        yield Read(number, None, str(error))
    except (pyarrow.ArrowException, OSError):
        yield Read(number + 1, None, "the Parquet file is damaged or cut short")


#: Rows of a Parquet file that are in memory at once.
_ROWS = 64


def _plain(value: object) -> object:
    """A value that JSON lacks: a time, a decimal number, the bytes of an image."""
    return b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _table(path: Path, delimiter: str) -> Iterator[Read]:
    number = 1
    if delimiter == ",":  # in tables of much of Europe the comma belongs to numbers
        with open_utf8(path) as file:
            head = file.readline(LONGEST)
        delimiter = max((",", ";", "\t"), key=lambda mark: head.count(mark.encode()))
    with open_utf8(path) as file:
        text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
        rows = csv.DictReader(text, delimiter=delimiter)
        while True:
            number += 1
            usual = csv.field_size_limit(LONGEST)  # of the whole process
            try:
                try:
                    row = next(rows, None)
                finally:
                    csv.field_size_limit(usual)
            except csv.Error as error:
                yield Read(number, None, f"it is no row of a table ({error})")
                continue
            except (EOFError, zlib.error, OSError):
                yield Read(number, None, DAMAGED)
                return
            if row is None:
                return
            # What a row has beyond its head has no name; an empty cell says nothing.
            record = {name: cell for name, cell in row.items() if name and cell not in (None, "")}
            problem = _unread(record, rows.fieldnames or ())
            yield Read(number, None if problem else record, problem)


def _unread(record: dict[str, Any], names: Sequence[str]) -> str:
    """Return why a row of a table cannot be taken; nothing for one that can."""
    for text in (*record, *record.values()):
        if isinstance(text, str) and _ESCAPED.search(text):
            return _told(NOT_UTF8)
    # No table has all that an answer needs in one column.
    if len(names) == 1 and (mark := _SEPARATOR.search(names[0])):
        return (
            f"its columns are separated by {mark[1]!r}: separate them by commas, semicolons or tabs"
        )
    return ""


# Bytes that are no UTF-8, as surrogateescape has them.
_ESCAPED = re.compile("[\udc80-\udcff]")
_SEPARATOR = re.compile(r"\w\s*([|:^~#!])\s*\w")


def _lines(path: Path, position: int, digest: str, number: int) -> Iterator[Read]:
    if position:
        with open_utf8(path) as file:
            hashed = _HashedFile(file)
            hashed.skip(position)
            if (hashed.position, hashed.digest) == (position, digest):
                yield from _lines_of(hashed, number)
                return
    with open_utf8(path) as file:
        yield from _lines_of(_HashedFile(file), 0)


def _lines_of(hashed: _HashedFile, number: int) -> Iterator[Read]:
    for line in json_records(hashed, number):
        if line.record is None and not line.ended:
            # Still being written, it seems: the next import reads it again.
            within = "" if line.problem == DAMAGED else WITHIN
            yield Read(line.number, None, f"{line.problem}{within}")
            return
        yield Read(line.number, line.record, _told(line.problem), hashed.position, hashed.digest)


class _HashedFile:
    """A file that knows how far it was read, and the SHA-256 of what was."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.position = 0

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def skip(self, size: int) -> None:
        while self.position < size and self._note(
            self._file.read(min(_BLOCK, size - self.position))
        ):
            pass

    def read(self, size: int, /) -> bytes:
        return self._note(self._file.read(size))

    def readline(self, size: int, /) -> bytes:
        return self._note(self._file.readline(size))

    def _note(self, read: bytes) -> bytes:
        self._hash.update(read)
        self.position += len(read)
        return read
