"""Naming what is unknown, with the nearest name that is known."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, what the nearest known one is, and which are known."""
    names = sorted(known)
    nearest = get_close_matches(name, names, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ";"
    return f"{name!r} is not a known {kind}{hint} known: {', '.join(names) or 'none'}"
