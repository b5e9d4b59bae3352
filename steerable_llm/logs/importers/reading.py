"""Reading a file record by record, and going on where an earlier reading ended."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from steerable_llm.files import json_lines

_BLOCK = 2**20


@dataclass(frozen=True)
class Read:
    """One record of a file, or what is wrong with it.

    Attributes:
        number: Its line, or its place in the array, from 1.
        record: The JSON object; None if there is none.
        problem: What is wrong.
        position: Bytes of the file up to its end; -1 where no later reading can go on.
        digest: SHA-256 of these bytes, in hex; empty for an array, which is always read whole.
    """

    number: int
    record: dict[str, Any] | None
    problem: str
    position: int = -1
    digest: str = ""


def read_records(
    path: Path, *, position: int = 0, digest: str = "", lines: int = 0
) -> Iterator[Read]:
    """Yield the records of a JSONL file, or of an array in a .json file, one at a time.

    Args:
        path: The file.
        position: Where an earlier reading ended. It goes on there if the bytes before are still
            the same, and else at the start.
        digest: SHA-256 of the bytes before.
        lines: How many lines these are.
    """
    if path.suffix == ".json":
        with path.open("rb") as file:
            start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
        if start.startswith(b"["):
            return _array(path)
    return _lines(path, position, digest, lines)


def _lines(path: Path, position: int, digest: str, number: int) -> Iterator[Read]:
    with path.open("rb") as file:
        hashed = _HashedFile(file)
        hashed.skip(position)
        if position and (hashed.position, hashed.digest) != (position, digest):
            file.seek(0)
            hashed, number = _HashedFile(file), 0
        for line in json_lines(hashed, number):
            if line.record is None and not line.ended:
                # Still being written, it seems: the next import reads it again.
                yield Read(line.number, None, f"{line.problem} (the file ends within it)")
                return
            yield Read(line.number, line.record, line.problem, hashed.position, hashed.digest)


class _HashedFile:
    """A file that knows how far it was read, and the SHA-256 of what was."""

    def __init__(self, file: BinaryIO) -> None:
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

    def readline(self, size: int, /) -> bytes:
        return self._note(self._file.readline(size))

    def _note(self, read: bytes) -> bytes:
        self._hash.update(read)
        self.position += len(read)
        return read


def _array(path: Path) -> Iterator[Read]:
    number = 0
    with path.open("rb") as file:
        try:
            for record in ijson.items(file, "item", use_float=True):
                number += 1
                known = isinstance(record, dict)
                problem = "" if known else "it is not a JSON object"
                yield Read(number, record if known else None, problem)
        except ijson.JSONError:
            yield Read(number + 1, None, "the array is not JSON from here on")
