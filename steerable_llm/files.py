"""Files that appear whole or not at all, and text that people made."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from steerable_llm.errors import InvalidInputError


def read_text(path: str | os.PathLike[str]) -> str:
    """Reads a text file that people made: UTF-8, with or without the mark that Windows puts first.

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
    """Makes sure that a file can be written, before the work is done that goes into it.

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
    """Writes a file in one step, so that no reader and no crash ever sees half of it.

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
