"""What differs between two answers, word by word, for a terminal."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from rich.text import Text

_WORD = re.compile(r"\s+|\w+|[^\w\s]")
# What steers a terminal or reverses the direction of text, but for new lines and tabs.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
TAKEN, ADDED = "bold red underline", "bold green underline"


def visible(text: str) -> str:
    """Return text with every control character shown as a replacement mark.

    Logged answers come from anywhere, and a terminal would obey what they say.
    """
    return _UNSEEN.sub("\ufffd", text.replace("\r\n", "\n"))


def word_diff(bad: str, good: str) -> tuple[Text, Text]:
    """Return both answers, with the words marked that only one of them has."""
    words: list[list[str]] = [_WORD.findall(visible(text)) for text in (bad, good)]
    matcher = SequenceMatcher(a=words[0], b=words[1], autojunk=False)
    shown = Text(), Text()
    for kind, start, end, other_start, other_end in matcher.get_opcodes():
        for text, side, style, first, last in (
            (shown[0], words[0], TAKEN, start, end),
            (shown[1], words[1], ADDED, other_start, other_end),
        ):
            text.append("".join(side[first:last]), None if kind == "equal" else style)
    return shown
