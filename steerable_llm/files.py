"""Files that appear whole or not at all, text that people made, and JSON lines."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from steerable_llm.errors import InvalidInputError, first_problem
from steerable_llm.json_records import NOT_JSON, form_of, json_records, open_utf8

T = TypeVar("T")


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


def is_file(path: str | os.PathLike[str]) -> bool:
    """Tell whether there is such a file; a name that no file can have names none."""
    return os.path.isfile(path)  # noqa: PTH113 - Path raises for names too long, or with a zero


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


def check_output(
    path: str | os.PathLike[str],
    kind: str,
    inputs: Iterable[str | os.PathLike[str] | None] = (),
) -> None:
    """Make sure that a command may write a file, before the work is done that goes into it.

    Args:
        path: The file.
        kind: What will be written, as `kind_of` calls it.
        inputs: What the command reads; None and what is no file are passed over.

    Raises:
        InvalidInputError: It cannot be written, it is one of the inputs, or it holds something of
            another kind, which would be lost.
    """
    target = Path(path)
    if _is_device(target):
        return
    check_writable(target)
    for source in inputs:
        if source is not None and _same(target, Path(source)):
            raise InvalidInputError(
                f"{target} is what this command reads, and would be written over: name another file"
            )
    if not target.is_file():
        return
    if not os.access(target, os.W_OK):
        raise InvalidInputError(f"cannot write {target}: it may not be written; name another file")
    found = kind_of(target)
    if found not in (kind, EMPTY):
        raise InvalidInputError(
            f"{target} holds {found}, which {kind} would be written over: name another file, or "
            "remove that one first"
        )


EMPTY = "nothing"
#: Kinds of files with a beginning of their own, by it.
_KINDS = {
    b"SQLite format 3\x00": "a database",
    b"GGUF": "a GGUF file",
    b"\x89PNG": "a PNG picture",
    b"PK\x03\x04": "an archive (.pt or .zip)",
    b"\x1f\x8b": "a file packed by gzip",
}
REPORT = "a report"
#: What tells a page of ours from others: at the end of Markdown, and in the head of HTML.
OUR_MARK = "<!-- written by steerable-llm -->"
_OUR_PAGE = b'<meta name="generator" content="steerable-llm">'
# The same of JSON: names in it that another program's would hardly have together.
_DOCUMENTS = (
    ({"report_version", "sha256"}, REPORT),  # of `evaluate`, ...
    ({"benchmark", "data_digest", "rows"}, REPORT),  # ... of a benchmark, ...
    ({"arms", "test_digest", "rows"}, REPORT),  # ... of `compare`, ...
    ({"vectors", "sets", "rows"}, REPORT),  # ... of `transfer`, ...
    ({"failures", "pairs", "filters"}, REPORT),  # ... and of `pairs`
    ({"model_type", "directions"}, "a .svec file"),
)
SKIPPED_LINES = "lines that were not taken"
# JSON lines of this package, by the names that one of them has.
_RECORDS = (
    ({"proposals"}, "proposals"),
    ({"question", "messages", "answer"}, "logged answers"),
    ({"category", "messages"}, "an evaluation set"),
    ({"messages", "good"}, "pairs"),
    ({"prompt", "chosen", "rejected"}, "preferences"),
    ({"prompt", "completion", "label"}, "preferences"),
    ({"preferred_output", "non_preferred_output"}, "preferences"),
    ({"place", "why"}, SKIPPED_LINES),
)


def kind_of(path: str | os.PathLike[str]) -> str:
    """Tell what a file holds, by its content."""
    with Path(path).open("rb") as file:
        head = file.read(2**16)
    if not head.strip():
        return EMPTY
    for start, kind in _KINDS.items():
        if head.startswith(start):
            return kind
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**30:
        return "a safetensors file"
    try:
        text = head.decode("utf-8-sig", errors="ignore" if len(head) == 2**16 else "strict").strip()
    except UnicodeDecodeError:
        return "data of another kind"
    if "\x00" in text:
        return "data of another kind"
    if text.startswith(("{", "[")):
        return _kind_of_json(path)
    if _OUR_PAGE in head or _ends_with_our_mark(path):
        return REPORT
    return "a web page" if text.startswith("<") else "text"


def _ends_with_our_mark(path: str | os.PathLike[str]) -> bool:
    with Path(path).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2 * len(OUR_MARK)))
        return file.read().rstrip().endswith(OUR_MARK.encode())


def _kind_of_json(path: str | os.PathLike[str]) -> str:
    form = form_of(path)
    with open_utf8(path) as file:
        first = next(json_records(file, form=form), None)
    names = set((first and first.record) or ())
    if form == "values":
        if first is not None and first.problem == NOT_JSON:
            return "text"  # a table of TOML, say, opens with a bracket, too
        return next((kind for known, kind in _DOCUMENTS if known <= names), "JSON")
    if not names:
        return "text"
    return next((kind for known, kind in _RECORDS if known <= names), "other JSON lines")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _is_device(target: Path) -> bool:
    """Whether something is written to, and not put in the place of: a pipe, say, or /dev/stdout."""
    return (target.exists() and not target.is_file() and not target.is_dir()) or (
        target.is_absolute() and target.parts[1:2] in (("dev",), ("proc",)) and target.exists()
    )


def write_whole(
    path: str | os.PathLike[str], content: str | bytes | Iterable[str], *, private: bool = False
) -> Path:
    """Write a file in one step, so that no reader and no crash ever sees half of it.

    The content goes to a temporary file beside the target, which then takes its name.
    Missing folders are made. Where the name is a link, the file that it leads to is written; a
    pipe or a device is written to. A file that is there keeps its mode.

    Args:
        path: The file to write; an existing one is replaced.
        content: Text (written as UTF-8), pieces of text, or bytes. Pieces are written as they
            come, and need not fit into memory together.
        private: Let a new file be read by its owner alone, since it holds what people wrote.

    Returns:
        The path written.
    """
    target = Path(path)
    if _is_device(target):
        with target.open("wb") as file:
            file.writelines(_encoded(content))
        return target
    write_together({target: content}, private=private)
    return target


def write_together(
    contents: Mapping[Path, str | bytes | Iterable[str]], *, private: bool = False
) -> None:
    """Write files that belong together, each as `write_whole` does, but no device.

    None takes its name before all of them are made, so a full disk leaves those that were there.
    They take their names in the order given.

    Raises:
        OSError: With the name of the file that could not be written.
    """
    for target in contents:
        if target.is_dir():  # told by its own name, not by that of the temporary file
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    made: dict[Path, Path] = {}
    try:
        for target, content in contents.items():
            real = Path(os.path.realpath(target))
            made[real] = _made_beside(real, content, private)
        for real, temporary in made.items():
            temporary.replace(real)
    except BaseException:
        for temporary in made.values():
            temporary.unlink(missing_ok=True)
        raise


def _made_beside(real: Path, content: str | bytes | Iterable[str], private: bool) -> Path:
    """Write what a file is to hold into a temporary one beside it."""
    real.parent.mkdir(parents=True, exist_ok=True)
    temporary = real.with_name(f".{real.name[:100]}.{secrets.token_hex(6)}")
    # As open() does, this leaves to the user's umask who else may read a new file.
    mode = 0o600 if private or real.exists() else 0o666
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(_encoded(content))
        if real.exists():
            temporary.chmod(stat.S_IMODE(real.stat().st_mode))
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # of a full disk, say
            error.filename = str(real)
        raise
    return temporary


def _encoded(content: str | bytes | Iterable[str]) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    for piece in [content] if isinstance(content, str) else content:
        yield piece.encode()


def read_json_lines(
    path: str | os.PathLike[str],
    parse: Callable[[dict[str, Any]], T],
    kind: str,
    has: str,
    error: type[InvalidInputError] = InvalidInputError,
) -> Iterator[T]:
    """Yield what the lines of a file hold, as they are read; blank lines are skipped.

    An array, gzip and UTF-16 are read as well; see `json_records`.

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
    with open_utf8(source) as file:
        for line in json_records(file, form=form_of(source)):
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


def write_json_lines(
    path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]], *, private: bool = True
) -> int:
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

    write_whole(path, lines(), private=private)
    return written
