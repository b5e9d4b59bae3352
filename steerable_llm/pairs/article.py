"""The indefinite article, which goes by how a word is spoken and not by its first letter."""

from __future__ import annotations

import re

# Spoken with a vowel first: "an hour", "an 8", "an 11", "an 1800".
_AN = re.compile(r"(?:hour|hono|honest|heir|8|1[18](?:,?000)?(?!\d|,\d)|1[18]\d\d(?!\d))")
# Spoken with a consonant first: "a unit", but "an uninvited"; "a European", "a one-way street".
_A = re.compile(
    r"(?:uni(?![nmd]|ss)|eu|ewe|on(?:e|ce)\b|us(?:[eu]|ab)|ut[eio]|ubi|ura|ukr|ugan|oui)"
)
# Spoken letter by letter: "an FBI agent", "a US state".
_LETTERS = re.compile(r"[A-Z](?:\b|\.)|(?:[A-Z]\.?){2,3}\b|[B-DF-HJ-NP-TV-Z]{2,}\b")


def indefinite(value: str) -> str:
    """Return "a" or "an", as far as letters tell how a value is spoken.

    Args:
        value: What is to stand behind it; not empty.
    """
    if _LETTERS.match(value):
        return "an" if value[0] in "AEFHILMNORSX" else "a"
    word = value.casefold()
    if _AN.match(word):
        return "an"
    return "an" if word[0] in "aeiou" and not _A.match(word) else "a"
