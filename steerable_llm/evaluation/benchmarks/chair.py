"""CHAIR (Rohrbach et al. 2018): which objects a caption names, and which of them are not there.

Words are compared by their stems, the longest phrase first, so that a hot dog is no dog. The
authors' script has a lemmatiser of its own; figures of the two are close and not equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import snowballstemmer


def objects_in(caption: str, synonyms: str) -> list[str]:
    """Return the objects that a caption names, each as often as it does.

    Args:
        caption: Any text.
        synonyms: A line for each object: its name, then other words for it, with commas between.
    """
    known, longest = _by_stems(synonyms)
    words = _stems(caption)
    found: list[str] = []
    place = 0
    while place < len(words):
        for length in range(longest, 0, -1):
            name = known.get(tuple(words[place : place + length]))
            if name is not None:
                found.append(name)
                place += length
                break
        else:
            place += 1
    return found


def chair(row: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Say which objects a caption names: whether all of them are there, and how many are not."""
    there, named = set(row["objects"]), objects_in(results[0], row["synonyms"])
    made_up = [name for name in named if name not in there]
    return {
        "acc": float(not made_up),
        "named": float(len(named)),
        "made_up": float(len(made_up)),
        "any_made_up": float(bool(made_up)),
        "found": float(len(there & set(named))),
        "there": float(len(there)),
    }


@lru_cache(4)
def _by_stems(synonyms: str) -> tuple[dict[tuple[str, ...], str], int]:
    lines = [[word.strip() for word in line.split(",")] for line in synonyms.splitlines()]
    known = {tuple(_stems(word)): words[0] for words in lines for word in words if word}
    return known, max(map(len, known), default=0)


def _stems(text: str) -> list[str]:
    words: list[str] = snowballstemmer.stemmer("english").stemWords(
        re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())
    )
    return words
