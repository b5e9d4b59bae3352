"""The keys that let clients in, from files or the environment and never from a command line."""

from __future__ import annotations

import os
from pathlib import Path

from steerable_llm.errors import InvalidInputError
from steerable_llm.files import read_text

API_KEYS, ADMIN_KEYS = "STEERABLE_API_KEYS", "STEERABLE_ADMIN_KEYS"


def read_keys(file: Path | None, variable: str) -> tuple[str, ...]:
    """Return the keys of a file, or of an environment variable.

    Raises:
        InvalidInputError: The file cannot be read or has none, or one is no plain text.
    """
    try:
        text = os.environ.get(variable, "") if file is None else read_text(file)
    except OSError as error:
        raise InvalidInputError(f"cannot read the keys in {file} ({error.strerror})") from error
    found = tuple(text.split())
    if file is not None and not found:
        raise InvalidInputError(f"{file} holds no key: write one a line")
    if not all(key.isascii() and key.isprintable() for key in found):
        raise InvalidInputError(f"a key of {file or variable} is not ASCII: headers hold no other")
    return found
