"""Numbers of an answer: how they are meant, and what goes with them.

"At least 3 days", "3 to 4 days" and "3 days a week" say other things than "3 days". The rules are
those of English.
"""

from __future__ import annotations

import re

from steerable_llm.pairs.wording import Run, Word, word_before

_SCALES = frozenset("hundred thousand million billion trillion".split())
_ORDINAL = re.compile(r"\d(?:st|nd|rd|th)\b")
_CODE = re.compile(r"[A-Z]{2,4}")
# An exact number may stand behind these where the bad answer has them, and a date behind those.
_NEARLY = frozenset("about almost approximately around nearly roughly some".split())
_LOOSE = frozenset("by since till until".split())
# What makes a number another fact, before and behind it.
_BOUND_BEFORE = re.compile(
    r"\b((?:at|the) (?:least|most)|(?:\w+er|more|less) than|up to|as \w+ as"
    r"|(?:maxi|mini)mum(?: of)?|under|over|below|above|beyond|minus|negative|plus|before|after"
    r"|between|half|twice|early|late|mid|circa|ca?\.?"
    rf"|{'|'.join(sorted(_NEARLY | _LOOSE))})\s+(?:an?\s+|the\s+)?$",
    re.IGNORECASE,
)
_BOUND_BEHIND = re.compile(
    r"\s*(?:[^\W\d_]+\s+){0,2}?(or (?:more|less|so|\w+er)\b|at (?:least|most)\b|(?:maxi|mini)mum\b"
    r"|(?:below|above|under|over)\b|and a half\b|onwards?\b"
    r"|B\.?C\.?(?:E\b)?|C\.?E\b|A\.?D\b)",
)
_RATE = re.compile(r"\s*(?:[^\W\d_]+\s+){0,3}?(?:(?:an?|per|each|every)\s+|/\s*)([^\W\d_]+)")


def bounds(run: Run) -> tuple[str, str]:
    """Return what stands before and behind a number and says how it is meant: "at least", "BC"."""
    first, last = quantity(run)
    before = _BOUND_BEFORE.search(run.text[: run.words[first].start])
    behind = _BOUND_BEHIND.match(run.text[run.words[last - 1].end :])
    return before[1].casefold() if before else "", behind[1].casefold() if behind else ""


def means_the_same(value: Run, wrong: Run) -> bool:
    """Tell whether two numbers are meant in the same way; one for "about three" may be exact."""
    dates = value.is_date or wrong.is_date
    if not dates and bool(_ORDINAL.search(value.value)) != bool(_ORDINAL.search(wrong.value)):
        return False
    (before, behind), (stood, stands) = bounds(value), bounds(wrong)
    if behind != stands or (before != stood and (before or stood not in _NEARLY | _LOOSE)):
        return False
    rate, instead = _rate(value), _rate(wrong)
    return not rate or rate == instead or (not instead and " per " in value.value)


def _rate(run: Run) -> str:
    """Return per what a number is: the "day" of "3 times a day"."""
    found = _RATE.match(run.text, run.words[quantity(run)[1] - 1].end)
    return found[1].casefold() if found else ""


def has_scale(run: Run) -> bool:
    """Tell whether a number has words as "million" behind it."""
    return any(word.text.casefold() in _SCALES for word in run.words)


def code_of(run: Run) -> Word | None:
    """Return the letters right before a number that say of what it is: the "EUR" of "EUR 3"."""
    start = run.words[quantity(run)[0]].start
    word = word_before(run.text, start)
    if word is None or not _CODE.fullmatch(word.text) or not word.keys:
        return None
    return word if run.text[word.end : start] == " " else None


def series(run: Run) -> list[Word]:
    """Return the name that a number counts through: the "Apollo" of "Apollo 11"."""
    first, _ = quantity(run)
    return [word for word in run.words[:first] if word.large]


def quantity(run: Run) -> tuple[int, int]:
    """Return where the number of a run begins and ends among its words, the unit left out."""
    first = next(place for place, word in enumerate(run.words) if word.number)
    last = first
    while last + 1 < len(run.words) and (
        run.words[last + 1].number or run.words[last + 1].text.casefold() in _SCALES
    ):
        last += 1
    return first, last + 1
