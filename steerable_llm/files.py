"""Files that appear whole or not at all, text that people made, and JSON lines."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from steerable_llm.errors import InvalidInputError, first_problem

T = TypeVar("T")
#: Longest line of a JSON-lines file, in bytes; a longer one is not read, so memory stays bounded.
LONGEST_LINE = 64 * 2**20
#: Deepest nesting of one line; what comes after a reader need not be safe for any depth.
DEEPEST = 100


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a text file that people made: UTF-8, with or without the mark that Windows puts first.

    Raises:
        InvalidInputError: It is in another encoding, or no text at all.
        OSError: It cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{path} is not UTF-8 text (byte {error.start}: {error.reason}): save it as UTF-8"
        ) from None


def check_writable(path: str | os.PathLike[str]) -> None:
    """Make sure that a file can be written, before the work is done that goes into it.

    Raises:
        InvalidInputError: A folder has that name, or there can be no such file.
    """
    target = Path(path)
    if target.is_dir():
        raise InvalidInputError(f"{target} is a folder: name the file to write")
    there = next((folder for folder in target.parents if folder.exists()), Path())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise InvalidInputError(
            f"cannot write {target}: {there} is no folder that you may write to; name another place"
        )


def write_whole(path: str | os.PathLike[str], content: str | bytes | Iterable[str]) -> Path:
    """Write a file in one step, so that no reader and no crash ever sees half of it.

    The content goes to a temporary file beside the target, which then takes its name.
    Missing folders are made.

    Args:
        path: The file to write; an existing one is replaced.
        content: Text (written as UTF-8), pieces of text, or bytes. Pieces are written as they
            come, and need not fit into memory together.

    Returns:
        The path written.
    """
    target = Path(path)
    if target.is_dir():  # told by its own name, not by that of the temporary file
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                for piece in [content] if isinstance(content, str) else content:
                    file.write(piece.encode())
        # mkstemp makes the file private; a report is as readable as any other new file.
        temporary.chmod(0o644)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return target


@dataclass(frozen=True)
class JsonLine:
    """One line of a JSON-lines file that is not blank.

    Attributes:
        number: Its place in the file, from 1; blank lines are counted.
        record: The JSON object; None if there is none.
        problem: What is wrong; empty for a record.
        detail: Where that is, or how much of it; empty if there is no more to say.
        ended: Whether a line end follows; without one it may still be being written.
    """

    number: int
    record: dict[str, Any] | None
    problem: str
    detail: str
    ended: bool


class _Readable(Protocol):
    def readline(self, size: int, /) -> bytes: ...


def json_lines(file: _Readable, number: int = 0) -> Iterator[JsonLine]:
    """Yield the lines of an open file, one in memory at a time; a bad one never ends the rest.

    Only a line feed ends a line, so that a text keeps its U+2028 and its like.

    Args:
        file: Opened to read bytes.
        number: How many lines were read before.
    """
    while line := file.readline(LONGEST_LINE):
        number += 1
        rest = line
        while rest and not rest.endswith(b"\n") and len(rest) == LONGEST_LINE:
            rest = file.readline(LONGEST_LINE)
        if len(line) == LONGEST_LINE:
            record, problem, detail = None, "it is too long", f"over {LONGEST_LINE} bytes"
        else:
            record, problem, detail = _json_object(line)
        if record is not None or problem:
            yield JsonLine(number, record, problem, detail, rest.endswith(b"\n"))


def read_json_lines(
    path: str | os.PathLike[str],
    parse: Callable[[dict[str, Any]], T],
    kind: str,
    has: str,
    error: type[InvalidInputError] = InvalidInputError,
) -> Iterator[T]:
    """Yield what the lines of a file hold, as they are read; blank lines are skipped.

    Args:
        path: A file of UTF-8 text with a JSON object in each line.
        parse: Makes one thing from one object; may raise `InvalidInputError` or pydantic's error.
        kind: What such a file is called, as in "answer log".
        has: What a line has, as in "a logged answer has id and question"; ends error messages.
        error: What is raised.

    Raises:
        InvalidInputError: There is no such file, or a line cannot be used; names file and line.
    """
    from pydantic import ValidationError  # not needed by a command's --help, which is to be quick

    source = Path(path)
    if not source.is_file():
        raise error(f"there is no {kind} {source}: give the path of a file of JSON lines")
    with source.open("rb") as file:
        for line in json_lines(file):
            problem = f"{line.problem} ({line.detail})" if line.detail else line.problem
            if line.record is not None:
                try:
                    yield parse(line.record)
                    continue
                except ValidationError as refused:
                    problem = first_problem(refused)
                except InvalidInputError as refused:
                    problem = str(refused)
            raise error(f"{source}, line {line.number}: {problem}; {has}")


def json_line(record: Mapping[str, Any]) -> str:
    """Return a record as one line of JSON, with its line end."""
    line = json.dumps(record, ensure_ascii=False) + "\n"
    try:
        line.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can hold
        return json.dumps(record) + "\n"
    return line


def write_json_lines(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> int:
    """Write records one per line, as they come; the file appears whole or not at all.

    Returns:
        How many there were.
    """
    written = 0

    def lines() -> Iterator[str]:
        nonlocal written
        for record in records:
            written += 1
            yield json_line(record)

    write_whole(path, lines())
    return written


def _json_object(line: bytes) -> tuple[dict[str, Any] | None, str, str]:
    """Return the object in a line, or what is wrong and the detail; nothing for a blank line."""
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        return None, "it is not UTF-8", f"byte {error.start}: save the file as UTF-8"
    if not text:
        return None, "", ""
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        return None, "it is not JSON", f"{error.msg}, column {error.colno}"
    except (ValueError, RecursionError):
        return None, "it is not JSON", "a number or its nesting is too large"
    if not isinstance(record, dict):
        return None, "it is not a JSON object", ""
    if line.count(b"[") + line.count(b"{") > DEEPEST and _too_deep(record):
        return None, f"it is nested deeper than {DEEPEST} levels", ""
    return record, "", ""


def _too_deep(value: object) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inside
            for holder in level
            if isinstance(holder, dict | list)
            for inside in (holder.values() if isinstance(holder, dict) else holder)
        ]
    return bool(level)
