"""CHAIR (Rohrbach et al. 2018): which objects a caption names, and which of them are not there.

A phrase counts as it stands or in its plural, the longest first, so that a hot dog is no dog and
somebody who is training is no train. The authors' script has a lemmatiser of its own, and figures
of the two are close and not equal; what it sets apart by hand (a baby elephant is no person, a
train track no train) is set apart here too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

# As in the authors' script: these say what an animal or a vehicle is like, and name nobody.
_LIKE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub".split(),
        ("baby", "adult"),
    ),
    **dict.fromkeys(("jet", "train"), ("passenger",)),
}
# And these are no object, or another one than their words.
_APART: dict[str, str | None] = {"train track": None, "home plate": None, "toilet seat": "toilet"}
_IRREGULAR = {
    "calf": "calves",
    "child": "children",
    "foot": "feet",
    "goose": "geese",
    "half": "halves",
    "knife": "knives",
    "leaf": "leaves",
    "loaf": "loaves",
    "mouse": "mice",
    "ox": "oxen",
    "person": "people",
    "scarf": "scarves",
    "shelf": "shelves",
    "tooth": "teeth",
    "wolf": "wolves",
}


def objects_in(caption: str, synonyms: str) -> list[str]:
    """Return the objects that a caption names, each as often as it does.

    Args:
        caption: Any text.
        synonyms: A line for each object: its name, then other words for it, with commas between.
    """
    known, longest = _phrases(synonyms)
    words = _words(caption)
    if {"toilet", "seat"} <= {*words}:  # "the seat of the toilet" is no chair
        words = [word for word in words if word != "seat"]
    found: list[str] = []
    place = 0
    while place < len(words):
        for length in range(longest, 0, -1):
            phrase = tuple(words[place : place + length])
            if phrase in known:
                name = known[phrase]
                found += [] if name is None else [name]
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
def _phrases(synonyms: str) -> tuple[dict[tuple[str, ...], str | None], int]:
    """Return what each phrase names, and how many words the longest has."""
    lines = [[word.strip() for word in line.split(",")] for line in synonyms.splitlines()]
    names: dict[str, str | None] = {
        " ".join(_words(word)): words[0] for words in lines for word in words if word
    }
    for thing, likes in _LIKE.items():
        if thing in names:
            names |= {f"{like} {thing}": names[thing] for like in likes}
    for phrase, other in _APART.items():
        names.setdefault(phrase, None if other is None else names.get(other))
    known: dict[tuple[str, ...], str | None] = {
        (*before, form): name
        for phrase, name in names.items()
        for *before, last in [phrase.split()]
        for form in (last, *_plurals(last))
    }
    # What a line says itself is not taken for the plural of something else.
    known |= {tuple(phrase.split()): name for phrase, name in names.items()}
    return known, max(map(len, known), default=0)


def _plurals(noun: str) -> list[str]:
    """Return how a noun may be written where it is several."""
    if noun in _IRREGULAR:
        return [_IRREGULAR[noun], f"{noun}s"]
    if noun.endswith("man"):
        return [f"{noun[:-3]}men"]
    if re.search("(s|x|z|ch|sh)$", noun):
        return [f"{noun}es", f"{noun}ses"]  # buses, busses
    if re.search("[^aeiou]y$", noun):
        return [f"{noun[:-1]}ies"]
    return [f"{noun}s", f"{noun}es"] if noun.endswith("o") else [f"{noun}s"]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())
