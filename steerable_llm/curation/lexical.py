"""Groundedness by the words and numbers alone: quick, predictable, no model.

An answer claims what it says beyond the question and beyond phrases such as "according to the
text". A number or a name that it claims and that no passage has makes it ungrounded; otherwise its
score is the share of claimed words that the passages have. Words are compared by their stems, and
English number words are numbers. Paraphrases are beyond it, and so are languages without spaces
between words, and those that capitalise all nouns; an entailment model reads these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(r"\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
# What stands between two words of which the second is written large wherever it stands.
_OPENING = re.compile(r"[.!?:\n\"\u201c(\[]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_VALUES = {word: value for value, word in enumerate(_ONES)}
_VALUES |= {word: 10 * place for place, word in enumerate(_TENS, start=2)}
# "This one" is no number.
del _VALUES["one"]
# Words that carry no claim: the small ones, and those that only say where an answer comes from.
_FRAME = frozenset(
    "a about according actually all am an and answer any are as at based be because been being "
    "believe but by can cannot could context did do document documents does doesn doesn't don "
    "don't for from given gives had has have honestly how i if in information into is isn it its "
    "it's know let may me might mention mentioned mentions my no not of on one only or our "
    "passage passages please provided recall remember said say says sorry source sources stated "
    "states such tell tells text texts than that the their them then there these they think this "
    "those to unfortunately us was we were what when where which who will with would yes you "
    "your".split()
)


@dataclass(frozen=True)
class Term:
    """One word or number of a text.

    Attributes:
        key: What is compared: a stem, or a number in digits.
        strict: Whether it is a number or a name, which paraphrase does not change.
    """

    key: str
    strict: bool


def terms(text: str) -> Iterator[Term]:
    """Yield the words and numbers of a text that can carry a claim."""
    found = list(_TOKEN.finditer(_THOUSANDS.sub("", text)))
    texts = [match[0].replace("\u2019", "'") for match in found]
    place = end = 0
    while place < len(found):
        word, lower = texts[place], texts[place].casefold()
        opens = place == 0 or _OPENING.search(found[place].string, end, found[place].start())
        end = found[place].end()
        following = texts[place + 1].casefold() if place + 1 < len(texts) else ""
        place += 1
        if lower in _TENS and following in _ONES[1:10]:
            yield Term(str(_VALUES[lower] + _ONES.index(following)), True)
            end = found[place].end()
            place += 1
        elif lower in _VALUES:
            yield Term(str(_VALUES[lower]), True)
        elif lower[0].isdigit():
            yield Term(lower, True)
        elif lower not in _FRAME:
            yield Term(_stem(lower), strict=word[0].isupper() and not opens)


def support(question: str, passages: Sequence[str], answer: str) -> float | None:
    """Return how far the passages have what an answer claims.

    Args:
        question: What it claims only by repeating the question does not count.
        passages: Where the claims have to be.
        answer: The answer.

    Returns:
        0 to 1; None for an answer that claims nothing, such as a refusal.
    """
    asked = {term.key for term in terms(question)}
    known = {term.key for passage in passages for term in terms(passage)}
    claimed = {term for term in terms(answer) if term.key not in asked}
    if not claimed:
        return None
    if any(term.strict and term.key not in known for term in claimed):
        return 0.0
    words = {term.key for term in claimed}
    return len(words & known) / len(words)


def fixed_terms(text: str) -> frozenset[str]:
    """Return the numbers and names of a text: where they differ, the texts say different things."""
    return frozenset(term.key for term in terms(text) if term.strict)


def _stem(word: str) -> str:
    """Take off the commonest English endings, as long as four letters are left."""
    word = word.removesuffix("'s")
    for ending in ("ing", "ies", "es", "ed", "s", "y", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word.removesuffix(ending)
    return word
