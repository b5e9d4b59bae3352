"""Records of JSON as files have them: lines, an array, single objects; packed and in any Unicode.

One reader for all of them. A record is in memory alone, is bounded in size, depth and number of
values, and costs no other record when it cannot be read.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import math
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

from steerable_llm.errors import InvalidInputError

#: Longest record, in bytes; a longer one is not read, so memory stays bounded.
LONGEST = 64 * 2**20
#: Deepest nesting of a record; what comes after a reader need not be safe for any depth.
DEEPEST = 100
#: Most values of a record: each may take some hundred bytes once it is read.
MOST_VALUES = 2_000_000
#: Most digits of a whole number: it can be a float, too.
_MOST_DIGITS = 300
_BLOCK = 2**20
# A whole text, or one that goes on behind the end of what was read, or what holds records together.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},"]', re.DOTALL)
_IN_TEXT = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_BLANK = b" \t\r\n,\x1e"
_TOO_DEEP = f"it is nested deeper than {DEEPEST} levels"
#: What is told of a record that is none.
NOT_JSON = "it is not JSON"
#: What is told of a record in another encoding.
NOT_UTF8 = "it is not UTF-8"
#: What is told of a file that cannot be unpacked to its end.
DAMAGED = "the file is damaged or cut short within its compression"
# What is no text, by how it begins.
_OTHER = {
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it first",
    b"\xfd7zXZ": "packed by xz: unpack it first",
    b"BZh": "packed by bzip2: unpack it first",
    b"PAR1": "a Parquet file: write it as JSON lines first",
    b"SQLite format 3\x00": "a database, and not a file of records",
}


@dataclass(frozen=True)
class JsonRecord:
    """One record of a file.

    Attributes:
        number: Its line, blank ones counted, or its place in an array; from 1.
        record: The JSON object; None if there is none.
        problem: What is wrong; empty for a record.
        detail: Where that is, or how much of it; empty if there is no more to say.
        ended: Whether anything follows; without it, it may still be being written.
    """

    number: int
    record: dict[str, Any] | None
    problem: str
    detail: str
    ended: bool


class Source(Protocol):
    """What the parts of one JSON text are read from: bytes of UTF-8."""

    def read(self, size: int, /) -> bytes:
        """Return up to so many bytes."""


class Readable(Source, Protocol):
    """What records are read from, by the line as well."""

    def readline(self, size: int, /) -> bytes:
        """Return a line, or so many bytes of it."""


def open_utf8(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file to read UTF-8, whether it is packed by gzip, in UTF-16 or -32, or has a mark.

    Raises:
        InvalidInputError: It is no text, but an archive, say.
        OSError: It cannot be read.
    """
    file: IO[bytes] = Path(path).open("rb")
    try:
        start = file.read(16)
        file.seek(0)
        if start.startswith(b"\x1f\x8b"):
            file.close()
            file = cast("IO[bytes]", gzip.open(path, "rb"))
            try:
                start = file.read(16)
            except (EOFError, zlib.error, OSError):
                raise InvalidInputError(f"{path}: {DAMAGED}") from None
            file.seek(0)
        for other, what in _OTHER.items():
            if start.startswith(other):
                raise InvalidInputError(f"{path} is {what}")
        encoding, skipped = _encoding(start)
        file.read(skipped)
        if encoding is not None:
            return io.BufferedReader(_Recoded(file, encoding), _BLOCK)
        return file
    except BaseException:
        file.close()
        raise


def json_records(file: Readable, number: int = 0, *, form: str = "lines") -> Iterator[JsonRecord]:
    """Yield the records of an open file, one in memory at a time; a bad one never ends the rest.

    Args:
        file: Opened by `open_utf8`.
        number: How many were read before.
        form: "lines", of which only a line feed ends one, so that a text keeps its U+2028 and its
            like; or "values" of JSON one after another, of which arrays give their items; see
            `form_of`.
    """
    source = _lines(file, number) if form == "lines" else _values(file)
    last = number
    try:
        for one in source:
            last = one.number
            yield one
    except (EOFError, zlib.error, gzip.BadGzipFile):
        yield JsonRecord(last + 1, None, DAMAGED, "", False)


def form_of(path: str | os.PathLike[str]) -> str:
    """Tell how the records of a file are written: "lines", or "values" that go over lines.

    It goes by what the file holds and not by its name: an array is "values", and so is an object
    that goes over several lines.
    """
    with open_utf8(path) as file:
        try:
            while line := file.readline(LONGEST):
                start = line.strip()
                if not start:
                    continue
                if start.startswith(b"["):
                    # Of arrays in lines of their own, each is a line that holds no object.
                    more = any(iter(lambda: file.readline(LONGEST).strip(), b""))
                    return "lines" if more and _read(start)[1] != NOT_JSON else "values"
                if not start.startswith(b"{") or _read(start)[1] != NOT_JSON:
                    return "lines"
                # The first object is not whole in its line: it goes on, or the line is broken.
                rest = _split(_Chained(line, file))
                first, problem, _ = next(rest, (b"", NOT_JSON, True))
                return "values" if not problem and _read(first)[0] is not None else "lines"
        except (EOFError, zlib.error, OSError):
            pass
    return "lines"


def parsed(text: str | bytes) -> Any:
    """Return what a JSON text holds, within the bounds of a record.

    Raises:
        ValueError: It is not JSON, or too deep, or has a number that is too large.
    """
    return _parsed(text)


def plainly_parsed(text: str | bytes) -> Any:
    """Return the same of a file that this package reads its own values from: only plain ones.

    Raises:
        ValueError: As for `parsed`; or it has NaN, a number that is none of a machine's, or half a
            character.
    """
    found = _parsed(text, parse_constant=_no_number, parse_float=_finite, parse_int=_short)
    json.dumps(found, ensure_ascii=False).encode()  # half a character cannot be written
    return found


def _parsed(text: str | bytes, **how: Any) -> Any:
    try:
        raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
        if len(raw) > LONGEST:
            raise ValueError(f"it is longer than {LONGEST} bytes")
        if raw.count(b"[") + raw.count(b"{") > DEEPEST and _too_deep(raw):
            raise ValueError(_TOO_DEEP)
        return json.loads(text, **how)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError("a number is too large")
    return number


def _short(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError("a number is too large")
    return int(text)


def _encoding(start: bytes) -> tuple[str | None, int]:
    """Return the encoding that is not UTF-8, and how many bytes of a mark come first."""
    for mark, name in (
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if start.startswith(mark):
            return name, len(mark)
    if start.startswith(codecs.BOM_UTF8):
        return None, len(codecs.BOM_UTF8)
    # Without a mark: JSON begins with two characters of ASCII, and JSON holds no zero bytes.
    if len(start) >= 4 and start[0] and not start[1]:
        return ("utf-16-le", 0) if start[2] else ("utf-32-le", 0)
    if len(start) >= 4 and not start[0] and start[1]:
        return "utf-16-be", 0
    return None, 0


class _Recoded(io.RawIOBase):
    """Bytes of another encoding of Unicode as UTF-8; what is none of it stays none of UTF-8."""

    def __init__(self, file: IO[bytes], encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            block = self._file.read(_BLOCK)
            try:
                text = self._decoder.decode(block, final=not block)
            except UnicodeDecodeError:
                self._decoder.reset()
                text = "\ud800"  # half a character, which the reader of its line refuses
            self._left = text.encode("utf-8", "surrogatepass")
            if not block:
                break
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


class _Chained:
    """What was read already, and then the rest of a file."""

    def __init__(self, first: bytes, file: IO[bytes]) -> None:
        self._first, self._file = first, file

    def read(self, size: int, /) -> bytes:
        first, self._first = self._first, b""
        return first or self._file.read(size)


def _lines(file: Readable, number: int) -> Iterator[JsonRecord]:
    while line := file.readline(LONGEST):
        number += 1
        rest = line
        while rest and not rest.endswith(b"\n") and len(rest) == LONGEST:
            rest = file.readline(LONGEST)
        if len(line) == LONGEST:
            record, problem, detail = None, "it is too long", f"over {LONGEST} bytes"
        else:
            record, problem, detail = _read(line)
        if record is not None or problem:
            yield JsonRecord(number, record, problem, detail, rest.endswith(b"\n"))


def _values(file: Source) -> Iterator[JsonRecord]:
    for number, (raw, problem, ended) in enumerate(_split(file), start=1):
        record, why, detail = (None, problem, "") if problem else _read(raw)
        if record is None and not ended:
            why, detail = "the array is not JSON from here on", "the file ends within it"
        yield JsonRecord(number, record, why, detail, ended)


def _split(file: Source) -> Iterator[tuple[bytes, str, bool]]:
    """Yield values one after another, and the items of arrays in their place.

    Yields:
        The bytes of a value; what is wrong with it, in which case the bytes are left out; and
        whether it ended before the file did.
    """
    depth, in_array, in_text = 0, False, False
    kept: list[bytes] = []  # of the value that is read
    size, values, problem = 0, 0, ""

    def keep(piece: bytes) -> None:
        nonlocal size, problem
        size += len(piece)
        if size > LONGEST:
            problem = problem or "it is too long"
        if problem:
            kept.clear()
        elif piece:
            kept.append(piece)

    def taken() -> Iterator[tuple[bytes, str, bool]]:
        nonlocal size, values, problem
        raw = b"".join(kept).strip(_BLANK)
        if raw or problem:
            yield raw, problem, True
        kept.clear()
        size, values, problem = 0, 0, ""

    left = b""
    while block := file.read(_BLOCK):
        block, left = left + block, b""
        at = done = 0
        while True:
            if in_text:
                at = _IN_TEXT.match(block, at).end()  # type: ignore[union-attr]
                if at >= len(block) - 1 and block[at : at + 1] != b'"':
                    left = block[at:]  # an escape may be cut in two
                    break
                at, in_text = at + 1, False
            token = _TOKEN.search(block, at)
            if token is None:
                at = len(block)
                break
            at, kind = token.end(), token[0]
            if kind == b'"':
                in_text = True
            elif kind in b"[{":
                if depth == 0 and kind == b"[" and not in_array:
                    keep(block[done : token.start()])
                    yield from taken()
                    done, in_array = at, True
                    continue
                depth += 1
                values += 1
                if depth > DEEPEST:
                    problem = problem or _TOO_DEEP
            elif kind in b"]}":
                if depth == 0 and kind == b"]" and in_array:
                    keep(block[done : token.start()])
                    yield from taken()
                    done, in_array = at, False
                    continue
                depth = max(0, depth - 1)
                if depth == 0:
                    keep(block[done:at])
                    yield from taken()
                    done = at
            elif kind == b",":
                values += 1
                if depth == 0:
                    keep(block[done : token.start()])
                    yield from taken()
                    done = at
                elif values > MOST_VALUES:
                    problem = problem or f"it has more than {MOST_VALUES} values"
        keep(block[done : len(block) - len(left)])
    keep(left)
    unfinished = in_text or depth > 0 or in_array
    raw = b"".join(kept).strip(_BLANK)
    if unfinished:
        yield raw, problem or "the array is not JSON from here on", False
    else:
        yield from taken()


def _read(line: bytes) -> tuple[dict[str, Any] | None, str, str]:
    """Return the object in a line, or what is wrong and the detail; nothing for a blank line."""
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        return None, NOT_UTF8, f"byte {error.start}: save the file as UTF-8"
    if not text:
        return None, "", ""
    if line.count(b"[") + line.count(b"{") > DEEPEST and _too_deep(line):
        return None, _TOO_DEEP, ""
    if line.count(b",") > MOST_VALUES:
        return None, f"it has more than {MOST_VALUES} values", ""
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        return None, NOT_JSON, f"{error.msg}, column {error.colno}"
    except (ValueError, RecursionError):
        return None, NOT_JSON, "a number or its nesting is too large"
    if not isinstance(record, dict):
        return None, "it is not a JSON object", ""
    return record, "", ""


def _too_deep(raw: bytes) -> bool:
    depth = 0
    for token in _TOKEN.finditer(raw):
        if token[0] in b"[{":
            depth += 1
            if depth > DEEPEST:
                return True
        elif token[0] in b"]}":
            depth -= 1
    return False
