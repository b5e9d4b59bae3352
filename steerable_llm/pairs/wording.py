"""Where a text says something new: its words, and the runs of words that can be a value.

A value is what answers: a name, a number with its unit, a date, a list, or plain words. Nothing
here parses a language; words are told apart by their capitals and digits, by the small words of
`judge.terms`, and by what the question and the documents have said already.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from steerable_llm.pairs.judge import terms

Kind = Literal["number", "name", "words"]

#: Signs of currencies.
CURRENCY = "$€£¥₹₽₩₺₪₫₦฿"
_WORD = re.compile(
    r"(?:(?<![^\s(\[\"'\u201c*])[-\u2212])?"
    rf"(?:[{CURRENCY}]\s?)?\d+(?:[.,:/]\d+)*(?:(?:st|nd|rd|th)\b|\s?%|\s?°(?:\s?[CF]\b)?"
    rf"|\s?[{CURRENCY}](?!\s?\d)|\s?[ap]\.?m\b\.?)?"
    r"|(?<!\w)(?:(?:[A-Z]\.){2,}|[A-Z]\.(?=\s+[A-Z]))"  # initials
    r"|(?<!\w['\u2019])[^\W\d_]+(?:['\u2019](?!s\b)[^\W\d_]+|-[^\W\d_]+)*"
)
_ENDING = re.compile(r"(?<=\d)(?:(?:st|nd|rd|th)\b|\s?[ap]\.?m\b\.?)")
# What may stand inside a value: "Bay of Bengal", "red and white", "Rhine & Sons".
_INSIDE = frozenset("and or of de da di la le el von van den der per".split())
_VERB = re.compile(r"(?:\w{2}ed|ing|^made|^found|^known|^seen|^given)$", re.IGNORECASE)
_NAMING = frozenset(("called", "named", "titled"))
# Small words beside those of `terms`.
_SMALL = frozenset(
    "after also before between both during each every he her his just near now our over she since "
    "so some such then through too under until very while whose".split()
)
_LIST = re.compile(r"\w+(?: \w+)?(?:, \w+(?: \w+)?)*,? (?:and|or) \w")
_MONTHS = frozenset(
    "january february march april may june july august september october november december".split()
)
# After a name with a plain word behind it: that word was a noun ("the Japanese yen is") if one of
# these, a stop or nothing follows, and else a verb ("Leo Tolstoy wrote War and Peace").
_GOES_ON = frozenset("is are was were and or which who that has".split())
_TITLES = ("Dr", "Mr", "Mrs", "Ms", "St", "Mt", "Prof")
_SENTENCE_END = re.compile(
    "".join(rf"(?<!\b{title}\.)" for title in _TITLES)
    + r"(?<![A-Z]\.)(?<=[.!?])[\"\u201d\u2019)]*\s+(?![a-z])|\s*\n+\s*"
    # Behind initials only a word that is in no name opens a sentence: "the U.S. It is".
    + r"|(?<=[A-Z]\.)\s+(?=(?:An?|And|As|At|But|He|Her|His|However|I|If|In|It|Its|On|She|So|That"
    + r"|The|Their|There|These|They|This|Those|We|You)\b)|(?<=, [A-Z]\.[A-Z]\.)\s+(?=[A-Z])"
)
# Verbs of one, which tell a second clause from the second name of a list: "and Lyon is a port".
_ONE_IS = frozenset("is was has does isn't wasn't hasn't doesn't".split())
#: Small verbs.
VERBS = _ONE_IS | frozenset(
    "are were have had do did can could will would may might must shall should became began came "
    "got held lay led made stood took went won wrote".split()
)
_INFLECTED = re.compile(r"\w{2}(?:ed|s)$")
# Before the subject of a clause.
_CLAUSE = frozenset("and as because but how if or since so that when where which while".split())
_PRONOUNS = frozenset("he i it she that they we which who you".split())


@dataclass(frozen=True)
class Word:
    """A word or number of a text.

    Attributes:
        text: As it stands there.
        start: Where it begins in the text.
        end: Where it ends.
        keys: What is compared: stems, numbers in digits; empty for words that claim nothing.
        opens: Whether it is the first of a sentence.
    """

    text: str
    start: int
    end: int
    keys: frozenset[str]
    opens: bool

    @property
    def large(self) -> bool:
        """Whether it is written large and can be part of a name."""
        return self.text[0].isupper() and bool(self.keys or "." in self.text)

    @property
    def number(self) -> bool:
        """Whether it is a number, in digits or in words."""
        return any(key[0].isdigit() for key in self.keys)


@dataclass(frozen=True)
class Run:
    """Words of a text that stand together.

    Attributes:
        text: The whole text.
        words: Those of the run, in their order; at least one.
    """

    text: str
    words: tuple[Word, ...]

    @property
    def start(self) -> int:
        """Where it begins in the text."""
        return self.words[0].start

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.words[-1].end

    @property
    def value(self) -> str:
        """The run as it stands in the text."""
        return self.text[self.start : self.end]

    @property
    def keys(self) -> frozenset[str]:
        """What its words are compared by."""
        return frozenset().union(*(word.keys for word in self.words))

    @property
    def kind(self) -> Kind:
        """What sort of value it can be."""
        if any(word.number for word in self.words):
            return "number"
        return "name" if any(word.large for word in self.words) else "words"

    @property
    def is_verb(self) -> bool:
        """Whether its last word has the form of a verb, as far as endings tell."""
        return self.kind == "words" and bool(_VERB.search(self.words[-1].text))

    @property
    def is_date(self) -> bool:
        """Whether it names a month beside a number."""
        return any(word.text.casefold() in _MONTHS for word in self.words)


# Passages are long, and an answer's are those of few others: what is kept of them stays small.
@lru_cache(maxsize=256)
def keys_of(text: str) -> frozenset[str]:
    """Return what the words of a text are compared by."""
    return frozenset().union(*(word.keys for word in words_of(text)))


@lru_cache(maxsize=65_536)
def _keys_of_word(word: str) -> frozenset[str]:
    if word.casefold() in _SMALL:
        return frozenset()
    return frozenset(term.key for term in terms(_ENDING.sub("", word)))


@lru_cache(maxsize=256)
def words_of(text: str) -> tuple[Word, ...]:
    """Return the words and numbers of a text in their order."""
    starts = [0, *(found.end() for found in _SENTENCE_END.finditer(text))]
    found: list[Word] = []
    for match in _WORD.finditer(text):
        keys = _keys_of_word(match[0])
        if match[0] == "May":
            beside = text[: match.start()].rstrip()[-1:] + text[match.end() :].lstrip()[:1]
            if any(character.isdigit() for character in beside):
                keys = frozenset(("may",))  # the month
        start = starts[bisect_right(starts, match.start()) - 1]
        opens = not text[start : match.start()].strip(" *\"'“")
        found.append(Word(match[0], match.start(), match.end(), keys, opens))
    return tuple(found)


def sentence_ends(text: str) -> list[int]:
    """Return where the sentences of a text end, the blanks between them left out."""
    return [*(found.start() for found in _SENTENCE_END.finditer(text.rstrip())), len(text.rstrip())]


def sentence_at(text: str, place: int) -> tuple[int, int]:
    """Return where the sentence at a place of a text begins and ends."""
    start = 0
    for end in sentence_ends(text):
        if place < end:
            return start, end
        start = end
    return start, len(text)


def opens_sentence(text: str, place: int) -> bool:
    """Tell whether the word at a place is the first of a sentence."""
    return next((word.opens for word in words_of(text) if word.start >= place), False)


def word_before(text: str, place: int) -> Word | None:
    """Return the word that ends before a place of a text."""
    return next((word for word in reversed(words_of(text)) if word.end <= place), None)


def runs_of(text: str, known: Set[str]) -> list[Run]:
    """Return the runs of words that say what is not known yet, in their order.

    Args:
        text: The text.
        known: The keys of what the question, or another text, has said.
    """
    words = words_of(text)
    new = [bool(word.keys - known) for word in words]
    runs: list[list[int]] = []
    for place in (place for place, is_new in enumerate(new) if is_new):
        if runs and _together(text, words, runs[-1], place):
            runs[-1] += range(runs[-1][-1] + 1, place + 1)
        else:
            runs.append([place])
    found = []
    for places in runs:
        for part in _without_verb(text, words, _whole_name(text, words, places)):
            run = tuple(words[place] for place in part)
            if len(run) > 1 and run[0].text.islower() and any(word.large for word in run):
                # Of "it uses Python" the name.
                subject = word_before(text, run[0].start)
                if subject and subject.text.casefold() in _PRONOUNS:
                    run = run[1:]
            if not any(word.large or word.number for word in run):
                # Of "made of honey" the honey.
                while len(run) > 1 and _VERB.search(run[0].text):
                    run = run[2 if run[1].text.casefold() in _INSIDE else 1 :]
            found.append(Run(text, run))
    return found


def _together(text: str, words: Sequence[Word], run: Sequence[int], right: int) -> bool:
    """Tell whether a new word goes on with a value."""
    left, other = words[run[-1]], words[right]
    inside = words[run[-1] + 1 : right]
    between = [word.text.casefold() for word in inside]
    marks = _marks(text, words, run[-1], right)
    joins = _INSIDE | _MONTHS
    if left.large and other.large:  # "the United States of America"
        joins |= {word.text.casefold() for word in inside if word.text[0].isupper()}
    if any(word not in joins and word != "the" for word in between) or (
        "the" in between and between != ["of", "the"]
    ):
        return False
    if left.text in _TITLES and marks == ".":
        return True
    if any(word.opens for word in (*inside, other)):
        return False
    if set(marks) - set(", &") or _NAMING & {left.text.casefold(), other.text.casefold()}:
        return False
    if marks or set(between) & {"and", "or"}:
        if _opens_clause(text, words, run, right):
            return False
        if any(words[place].number for place in run):
            return other.number
        # What opens a sentence is written large, a name or not: only a list goes on behind it.
        if words[run[0]].opens and not other.large:
            return _LIST.match(text, words[run[0]].start) is not None
        return other.large == any(words[place].large for place in run)
    return True


def _opens_clause(text: str, words: Sequence[Word], run: Sequence[int], right: int) -> bool:
    """Tell whether a word behind a comma or "and" has a verb of its own, and is in no list."""
    last = right
    while last + 1 < len(words) and words[last].large and words[last + 1].large:
        if text[words[last].end : words[last + 1].start].strip():
            break
        last += 1
    if last + 1 == len(words) or text[words[last].end : words[last + 1].start].strip():
        return False
    verb = words[last + 1].text.casefold()
    start, _ = sentence_at(text, words[run[0]].start)
    earlier = {word.text.casefold() for word in words[: run[0]] if word.start >= start}
    after_clause = run[0] and words[run[0] - 1].text.casefold() in _CLAUSE
    if after_clause or not earlier & VERBS:
        # "Anna and Ben are", "Trinidad and Tobago is", but "Anna, and Ben is"
        marks = _marks(text, words, run[-1], right)
        return verb in _ONE_IS and marks == "," and right > run[-1] + 1
    # "London lies north", but "green hotels"
    inflected = words[last + 1].text.islower() and bool(_INFLECTED.search(verb))
    return verb in VERBS or (words[last].large and inflected)


def _marks(text: str, words: Sequence[Word], left: int, right: int) -> str:
    """Return what stands between two words that is no word itself."""
    gaps = (text[words[p].end : words[p + 1].start] for p in range(left, right))
    return "".join(gaps).replace(" ", "")


def _whole_name(text: str, words: Sequence[Word], places: list[int]) -> list[int]:
    """Extend a run over capitals beside it: of "Lake Michigan" also what the question said."""
    first, last = places[0], places[-1]

    def in_name(word: Word) -> bool:
        # "States" of the United States is a small word elsewhere.
        return word.large or (word.text[0].isupper() and not word.opens)

    while first > 0 and words[first].large and in_name(words[first - 1]):
        if words[first].opens:
            break
        if text[words[first - 1].end : words[first].start].strip():
            break
        first -= 1
    while last + 1 < len(words) and words[last].large and in_name(words[last + 1]):
        if words[last + 1].opens:
            break
        if text[words[last].end : words[last + 1].start].strip():
            break
        last += 1
    return list(range(first, last + 1))


def _without_verb(text: str, words: Sequence[Word], places: list[int]) -> list[list[int]]:
    """Part a name from a verb that follows it at once."""
    large = [index for index, place in enumerate(places) if words[place].large]
    last = places[-1]
    if not large or large[-1] + 1 == len(places) or any(words[place].number for place in places):
        return [places]
    if last + 1 == len(words) or _marks(text, words, last, last + 1):
        return [places]
    if words[last + 1].text.casefold() in _GOES_ON:
        return [places]
    return [places[: large[-1] + 1], places[large[-1] + 1 :]]
