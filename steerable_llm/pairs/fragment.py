"""Runs of words that were cut out of something else, and would say another thing alone.

The words of `wording` are letters and digits: of "3-4" they see a "3", of "Node.js" a "Node".
"""

from __future__ import annotations

import re

from steerable_llm.pairs.wording import CURRENCY, Run, Word, words_of

_DASHES = r"\-\u2010-\u2014\u2212"
_BEFORE = re.compile(rf"[\w.+^/\\&@#~<>=\u00b1\u2264\u2265\u2248\u2010-\u2013\u2212{CURRENCY}-]$")
_BEHIND = re.compile(
    # "5½", "C++"; a unit may touch its number
    r"(?<!\d)\w|[+#^\u00b2\u00b3\u00bc-\u00be]"
    # "3-4", "AT&T"
    r"|[\-\u2010-\u2013\u2212/\\&@=~\u00d7](?=\S)"
    # "Node.js", "12'000", "Ben's cook", "the Smiths' cook"
    r"|[.,:'\u2019](?=\w)|(?<=s)['\u2019](?=\s+[a-z])"
    # "3 - 4", "10 ^ 6"
    rf"|\s*[{_DASHES}\u00d7/*^]\s*\d"
)
_SIGN = re.compile(r"[-+\u2013\u2212\u00b1~<>=\u2264\u2265\u2248/]\s*$")
# "the 1800s", "£3m"
_GLUED = re.compile(rf"\ds\b|[{CURRENCY}]\s?[\d.,]*\d[^\W\d_]")
# In a list a lone "A" may be the article.
_LETTER_BEFORE = re.compile(r"\b[AI](?:,|,? (?:and|or|&))\s+$")
_LETTER_BEHIND = re.compile(r"(?:,|,? (?:and|or|&))\s+[AI](?=[.,;!?]|$)")
_PLACE = re.compile(r"\b(?:the|in|at|from|near|of|to)\s+$", re.IGNORECASE)
_INITIALS = re.compile(r"(?:[A-Z]\.){2,}")
_TO = frozenset("to until till through".split())


def is_fragment(run: Run) -> bool:
    """Tell whether a run is a piece of something else: no value, and nothing to replace."""
    text, before = run.text, run.text[: run.start]
    if _BEFORE.search(before) or _BEHIND.match(text, run.end):
        return True
    if _LETTER_BEFORE.search(before) or _LETTER_BEHIND.match(text, run.end):
        return True
    if run.kind == "number":
        return bool(
            _SIGN.search(before) or _GLUED.search(text[run.start : run.end + 1]) or _in_range(run)
        )
    if run.kind == "name" and _PLACE.search(before):
        # Of "in the U.S. Visitors" nobody knows where a sentence begins.
        for word, after in zip(run.words, run.words[1:], strict=False):
            if _INITIALS.fullmatch(word.text) and after.large:
                return True
    return run.kind == "name" and _in_range(run)


def _in_range(run: Run) -> bool:
    """Tell whether a run is an end of a range: "8 to 18", "Monday to Friday"."""
    words = words_of(run.text)
    place = words.index(run.words[0])
    behind = place + len(run.words)

    before, after = words[max(0, place - 2) : place], words[behind : behind + 2]

    def ends(middle: Word, other: Word, first: Word) -> bool:
        if middle.text.casefold() not in _TO:
            return False
        if run.kind == "number":
            return other.number
        return other.large and not first.opens  # "Visitors to Rome"

    if len(before) == 2 and ends(before[1], before[0], before[0]):
        return True
    return len(after) == 2 and ends(after[0], after[1], run.words[0])
