"""How many tokens a text has at least, found out without encoding all of it."""

from __future__ import annotations

from collections.abc import Callable

CHARACTERS = 8
"""Characters per token that are looked at first: ordinary texts have fewer."""
_SLACK = 16
_BLANK = 200


def tokens_at_least(count: Callable[[str], int], text: str, most: int) -> int:
    """Return a number of tokens that a text surely has: a larger one than `most`, if it has more.

    Tokenizers go from left to right, and a text begins with the same tokens whatever follows, but
    for a few where it is cut. So its beginning is enough to know that it is too long. (A bound from
    the vocabulary's longest token is far too low, and none for tokenizers that join blanks.)

    Args:
        count: Returns how many tokens a text has.
        text: The text.
        most: So many are of interest.

    Returns:
        0 where the whole text has to be encoded to know.
    """
    length = CHARACTERS * (most + _SLACK)
    while length < len(text) // 2:
        blank = max(
            text.rfind(" ", length - _BLANK, length), text.rfind("\n", length - _BLANK, length)
        )
        found = count(text[: blank if blank > 0 else length]) - _SLACK - most // 64
        if found > most:
            return found
        length *= 2
    return 0
