"""Reading a file record by record, and going on where an earlier reading ended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ijson

from steerable_llm.errors import InvalidInputError

#: Longest line, in bytes; a longer one is left out, so that memory stays bounded.
LONGEST = 64 * 2**20
_BLOCK = 2**20


@dataclass(frozen=True)
class Read:
    """One record of a file, or what is wrong with it.

    Attributes:
        number: Its line, or its place in the array, from 1.
        record: The JSON object; None if there is none.
        problem: What is wrong.
        position: Bytes of the file up to its end.
        digest: SHA-256 of these bytes, in hex; empty for an array, which is always read whole.
    """

    number: int
    record: dict[str, Any] | None
    problem: str
    position: int
    digest: str


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
        hashed = hashlib.sha256()
        left = position
        while left and (block := file.read(min(_BLOCK, left))):
            hashed.update(block)
            left -= len(block)
        if left or (position and hashed.hexdigest() != digest):
            file.seek(0)
            hashed, position, number = hashlib.sha256(), 0, 0
        while line := file.readline(LONGEST):
            number += 1
            too_long = len(line) == LONGEST
            whole = line.endswith(b"\n")
            size = len(line)
            hashed.update(line)
            while too_long and not whole and (more := file.readline(LONGEST)):
                hashed.update(more)
                size += len(more)
                whole = more.endswith(b"\n")
            record, problem = (None, "it is too long") if too_long else _parse(line)
            if not whole and record is None and not too_long:
                # Still being written, it seems: the next import reads it again.
                yield Read(number, None, f"{problem} (the file ends within it)", -1, "")
                return
            position += size
            if record is not None or problem:
                yield Read(number, record, problem, position, hashed.hexdigest())


def _parse(line: bytes) -> tuple[dict[str, Any] | None, str]:
    try:
        shown = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None, "it is not UTF-8"
    if not shown:
        return None, ""
    try:
        record = json.loads(shown)
    except (ValueError, RecursionError):
        return None, "it is not JSON"
    return (record, "") if isinstance(record, dict) else (None, "it is not a JSON object")


def _array(path: Path) -> Iterator[Read]:
    number = 0
    with path.open("rb") as file:
        try:
            for record in ijson.items(file, "item", use_float=True):
                number += 1
                if isinstance(record, dict):
                    yield Read(number, record, "", -1, "")
                else:
                    yield Read(number, None, "it is not a JSON object", -1, "")
        except ijson.JSONError:
            yield Read(number + 1, None, "the array is not JSON from here on", -1, "")


def check_file(path: Path) -> None:
    """Refuse a file that is not there.

    Raises:
        InvalidInputError: It is missing, or a folder.
    """
    if not path.is_file():
        raise InvalidInputError(f"there is no file {path} to import: give an export in JSON lines")
