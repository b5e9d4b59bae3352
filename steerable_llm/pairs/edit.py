"""The smallest edit: a bad answer with its wrong value replaced by the grounded one.

A good answer of another stem, length and style than the bad one teaches a vector just these. "The
capital of France is Thornhill." against "The capital of France is Paris." differ in what was wrong,
and both are the model's own words. What follows the value was said about the wrong one, so both
answers end with the clause in which it stands, unless the documents say the rest.

Nothing is guessed: where the value cannot be told, or the rest of the answer would not be true of
the new one, there is no edit. The rules are those of English.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

from steerable_llm.chat.phrases import abstains, normalise, occurs
from steerable_llm.pairs.amount import code_of, has_scale, quantity, series
from steerable_llm.pairs.diff import Opcode, differences
from steerable_llm.pairs.pair import Edit
from steerable_llm.pairs.value import SAYS_NOTHING, Asked, candidates, written
from steerable_llm.pairs.wording import (
    CURRENCY,
    VERBS,
    Run,
    Word,
    keys_of,
    opens_sentence,
    runs_of,
    sentence_at,
    sentence_ends,
    words_of,
)

# An answer that says to be from memory is wrong in its stem, too: no value mends that.
_FROM_MEMORY = re.compile(
    r"\b(?:as|if|from what) i (?:recall|remember)|\bfrom memory\b|\beveryone knows\b"
    r"|\bas far as i know\b|\bcommon knowledge\b|\bwell[- ]known\b",
    re.IGNORECASE,
)
# Where a clause can end that says more about the value than it has to.
_CLAUSE_END = re.compile(
    r"\s*[,;:(\[\u2013\u2014]|\s+-\s|\s+(?:and|but|or|which|who|whose|where|when|because|since|so|as"
    r"|while|with|for|to|in|on|at|by|after|before|during|from|under)\b",
    re.IGNORECASE,
)
_DETERMINER = re.compile(r"\b(a|an|the)\s+$", re.IGNORECASE)
_PREPOSITION = re.compile(
    r"\b(in|on|at|above|around|behind|below|beside|between|beyond|inside|near|off|opposite|outside"
    r"|under)\s+$",
    re.IGNORECASE,
)
# A value that brings what stands before it: "north of Lyon" is nothing to be "in".
_ADVERB = re.compile(
    r"(?:beyond|close to|inside|next to|outside|(?:north|south|east|west)\w* of)\b", re.IGNORECASE
)
_AFTER_BRACKET = re.compile(r"[^()\[\]]*[)\]]\s*(?:[.,;:!?]|$)")
_SYMBOL = re.compile(rf"[{CURRENCY}%°]")
# What a bare number takes over from what it replaces: "$5", "5 %".
_SIGNS = re.compile(
    rf"[-\u2212]?([{CURRENCY}]\s?)?[\d.,:/]*\d(\s?(?:[%{CURRENCY}]|°(?:\s?[CF])?))?"
)
# Written large wherever they stand: "a European hedgehog".
_PROPER = re.compile(
    r"(?:African|American|Arab|Asian|Australian|Austrian|Brazilian|British|Canadian|Chinese|Danish"
    r"|Dutch|Egyptian|English|Europe|Finnish|French|German|Greek|Hungarian|Indian|Irish|Italian"
    r"|Japanese|Korean|Latin|Mexican|Norwegian|Portuguese|Roman|Russian|Scottish|Spanish|Swedish"
    r"|Swiss|Turkish|Welsh)"
)
# Verbs that "Anna and Ben" has, and those that "Anna" has.
_PLURAL = re.compile(r"\W*\s(?:are|were|have|do)\b")
_SINGULAR = re.compile(r"\W*\s(?:is|was|has|does)\b")
_SEVERAL = re.compile(r"\s(?:and|&)\s")
_FOR_SYMBOLS = frozenset("dollar dollars euro euros pound pounds yen cents percent degrees".split())


@dataclass(frozen=True)
class Edited:
    """Both answers after an edit, and what was done.

    Attributes:
        good: The bad answer with the grounded value.
        bad: The bad answer, perhaps cut behind the clause of its value.
        edit: What was replaced by what, and the texts as they were.
    """

    good: str
    bad: str
    edit: Edit


def smallest_edit(
    question: str, passages: Sequence[str], bad: str, told: str | None = None
) -> Edited | None:
    """Make the good answer out of the bad one by replacing its wrong value.

    Args:
        question: What was asked; what it says is no value.
        passages: What the answer was to rest on.
        bad: The logged answer.
        told: Where the grounded value comes from: a correction or a reference, bare
            ("Thornhill.") or in a sentence. None takes it from the sentence of the passages that
            fits the question best.

    Returns:
        Both answers; None where no value can be told, where the answer declines or speaks from
        memory, or where the better answer already differs from it in one place only, or in several
        that one value does not mend.
    """
    if abstains(bad) or _FROM_MEMORY.search(bad) or (told is not None and abstains(told)):
        return None
    asked = Asked(question, tuple(passages), told)
    for value, wrong in candidates(asked, bad):
        edited = _replaced(value, wrong, asked)
        if edited is not None and not (told and _no_better(edited, told, bad)):
            return edited
    return None


def _no_better(edited: Edited, told: str, bad: str) -> bool:
    """Tell whether what was told is an edit already, and another than this one.

    So it is as well where it has other words in several places: an edit that does not come to the
    same would mend one of them alone.
    """
    if edited.good.strip() == told.strip():
        return True
    if _words(edited.good) == _words(told):
        return False
    changed, shared, mine = _changed(told, bad)
    exchanged = all(place[2] - place[1] == place[4] - place[3] for place in changed)
    several = exchanged and len(changed) > 1 and 2 * shared >= mine
    return several or in_its_words(told, bad)


def in_its_words(good: str, bad: str) -> bool:
    """Tell whether two answers differ in one place and have most words in common."""
    changed, shared, mine = _changed(good, bad)
    return len(changed) == 1 and 2 * shared >= max(mine, len(_words(bad)))


def _changed(one: str, other: str) -> tuple[list[Opcode], int, int]:
    """Return where two texts differ, how many words they share, and how many the first has."""
    words = _words(one)
    changed = [place for place in differences(words, _words(other)) if place[0] != "equal"]
    return changed, len(words) - sum(place[2] - place[1] for place in changed), len(words)


def _words(text: str) -> list[str]:
    return [word.text.casefold() for word in words_of(text)]


def _replaced(value: Run, wrong: Run, asked: Asked) -> Edited | None:
    """Put a value in the place of a wrong one; None if the rest of the answer is not true of it."""
    text = wrong.text
    matched = _matched(value, wrong, asked.passages)
    if matched is None:
        return None
    new, (start, end) = matched
    known = asked.known | keys_of(new)
    cut = _cut(text, end, known, asked.question)
    if cut is None or _misleads(text[:start], known | wrong.keys):
        return None
    kept = text
    if cut < len(text.rstrip()):
        kept = text[:cut].rstrip()
        kept += "" if kept[-1] in ".!?" else "."
    if kept.rstrip(" .").endswith(":"):
        return None  # the list that follows was the answer
    old = text[start:end]
    if not _agrees(new, value, wrong):
        return None
    again = re.compile(rf"(?<!\w){re.escape(old)}(?!\w)")
    if again.search(text[:start]):
        return None
    placed, begin = _in_grammar(new, value, wrong, start, asked)
    rest = again.sub(lambda _: new, kept[end:])
    # A stop behind initials ends the sentence, too: "in the U.S."
    if placed.endswith("."):
        rest = rest.removeprefix(".")
    elif old.endswith(".") and (not rest.strip() or opens_sentence(kept, end)):
        rest = f".{rest}"
    good = kept[:begin] + placed + rest
    if normalise(good) == normalise(kept):
        return None
    edit = Edit(
        wrong=text[begin:end],
        value=placed,
        good=asked.told,
        bad=None if kept == text else text,
    )
    return Edited(good, kept, edit)


def _agrees(new: str, value: Run, wrong: Run) -> bool:
    """Tell whether the words around the wrong value can have the new one between them."""
    text = wrong.text
    verb = _SINGULAR if _SEVERAL.search(new) else _PLURAL
    several = bool(_SEVERAL.search(new)) == bool(_SEVERAL.search(wrong.value))
    if not several and verb.match(text, wrong.end):
        return False  # "Anna and Ben are"
    if value.kind == "number":
        return True
    stands = _PREPOSITION.search(_DETERMINER.sub("", text[: wrong.start]))
    stood = _PREPOSITION.search(_DETERMINER.sub("", value.text[: value.start]))
    if stands and _ADVERB.match(new):
        return False
    # "Near Lyon" is not "Lyon".
    return bool(stands) or stood is None or stood[1].casefold() in ("in", "on", "at")


def _in_grammar(new: str, value: Run, wrong: Run, start: int, asked: Asked) -> tuple[str, int]:
    """Return a value with its article, preposition and first letter, and where it begins.

    These are as the documents have them, or the correction, and else as the bad answer does.
    """
    text = wrong.text
    # A name stays large.
    lower = text[start].islower() and wrong.kind == "words" and not _PROPER.match(new)
    source, at = written(value, new, asked.passages)
    if at is not None:
        new = source[at : at + len(new)]
    elif lower and value.words[0].opens and new[:1].isupper() and not new[:2].isupper():
        new = new[0].lower() + new[1:]
    theirs = _DETERMINER.search(text, 0, start)
    own = _DETERMINER.search(source, 0, at) if at else None
    article = ""
    bare = at is None and len(value.words) > 1
    if theirs and (own or bare or value.kind != "name" or wrong.kind == "number"):
        article = (own or theirs)[1].casefold()
    elif own and value.kind != "number":
        article = own[1].casefold()
    if article in ("a", "an") and not own:
        article = _indefinite(new)
    new = f"{article} {new}" if article else new
    start = theirs.start() if theirs else start
    at = own.start() if own else at
    stands = _PREPOSITION.search(text, 0, start)
    stood = _PREPOSITION.search(source, 0, at) if at else None
    if stands and stood and stands[1].casefold() != stood[1].casefold():
        start, new = stands.start(), f"{stood[1].casefold()} {new}"
    return (new[0].upper() + new[1:] if opens_sentence(text, start) else new), start


def _matched(value: Run, wrong: Run, passages: Sequence[str]) -> tuple[str, tuple[int, int]] | None:
    """Return what of a value replaces what stretch of the bad answer: units go with numbers.

    None if either has several numbers, of which one would be lost.
    """
    if not value.kind == wrong.kind == "number" or value.is_date or wrong.is_date:
        return value.value, (wrong.start, wrong.end)
    first, last = quantity(wrong)
    if any(word.number for run in (value, wrong) for word in run.words[quantity(run)[1] :]):
        return None
    begin, end = wrong.words[first].start, wrong.words[last - 1].end
    codes = code_of(value), code_of(wrong)
    theirs = _unit(wrong, last - 1)
    if len(words_of(value.text)) == 1:
        value = _with_unit(value, theirs, passages)
    mine, past = quantity(value)
    number = value.text[value.words[mine].start : value.words[past - 1].end]
    unit = _unit(value, past - 1)
    names = [frozenset(word.keys for word in series(run)) for run in (value, wrong)]
    if not any(codes) and names[0] != names[1] and names[0]:
        # "Gemini 4" for "Apollo 11"
        return (value.value, (wrong.start, wrong.end)) if names[1] else None
    if theirs and not unit and set(number) & set("/:") - set(wrong.text[begin:end]):
        return None  # "24/7" is no number of days
    if has_scale(wrong) and not (has_scale(value) or unit or _SYMBOL.search(number)):
        return None  # of "3" for "5 million" nobody knows
    if codes[0] or (codes[1] and (unit or _SYMBOL.search(number))):
        # "EUR 3" for "CHF 5", "5 francs" and "$5"
        begin = codes[1].start if codes[1] else begin
        if theirs and theirs[0].text.casefold() in _FOR_SYMBOLS:
            end = theirs[0].end
        number = f"{codes[0].text} {number}" if codes[0] else number
        return " ".join((number, *(word.text for word in unit))), (begin, end)
    same = [word for word in theirs if unit and word.keys & unit[0].keys]
    if same:
        # "30 business days" and "19 days": up to the unit, which both have.
        return value.text[value.words[mine].start : unit[0].end], (begin, same[0].end)
    if unit:
        whole = value.text[value.words[mine].start : max(value.end, unit[-1].end)]
        return whole, (begin, max(wrong.end, theirs[0].end) if theirs else end)
    if _SYMBOL.search(number) and theirs and theirs[0].text.casefold() in _FOR_SYMBOLS:
        end = theirs[0].end
    if not _SYMBOL.search(number):
        signs = _SIGNS.fullmatch(wrong.text[begin:end])
        if signs:
            number = f"{signs[1] or ''}{number}{signs[2] or ''}"
    return number, (begin, end)


def _with_unit(number: Run, unit: Sequence[Word], passages: Sequence[str]) -> Run:
    """Return a bare number as the documents have it with this unit: "1 day", not "1 days"."""
    known = frozenset().union(*(word.keys for word in unit))
    for passage in passages:
        for word in words_of(passage):
            behind = _unit(Run(passage, (word,)), 0) if word.keys == number.keys else []
            if behind and behind[0].keys & known:
                return Run(passage, (word, behind[0]))
    return number


def _unit(run: Run, place: int) -> list[Word]:
    """Return up to three words right behind a word of a run that say of what its number is."""
    unit: list[Word] = []
    end = run.words[place].end
    for word in words_of(run.text):
        if word.start < end:
            continue
        if len(unit) == 3 or not word.keys or run.text[end : word.start].strip():
            break
        unit.append(word)
        end = word.end
    return unit


def _cut(text: str, end: int, known: Set[str], question: str) -> int | None:
    """Return where both answers end; None if more is claimed in the value's own clause."""
    stop = next((stop for stop in sentence_ends(text) if stop >= end), len(text))
    if not runs_of(text[end:stop], known):
        return stop
    words = words_of(text)
    for match in _CLAUSE_END.finditer(text, end, stop):
        before = [word for word in words if end <= word.start and word.end <= match.start()]
        after = [word for word in words if word.start >= match.end()]
        # "Romeo and Juliet" stays whole.
        if before and after and occurs(text[before[-1].start : after[0].end], question):
            continue
        if match[0][-1] in "([" and not _AFTER_BRACKET.match(text[match.end() : stop]):
            return None  # the sentence goes on behind the brackets
        if not runs_of(text[end : match.start()], known):
            start, _ = sentence_at(text, end - 1)
            said = {word.text.casefold() for word in words if start <= word.start < end}
            if after and after[0].text.casefold() in VERBS and not said & VERBS:
                return None  # "The house, in Paris, is"
            return match.start()
    # "of purchase", but not "was drawn there" may stay.
    behind = runs_of(text[end:stop], known)
    plain = len(behind) == len(behind[0].words) == 1 and behind[0].kind == "words"
    return stop if plain else None


def _misleads(text: str, known: Set[str]) -> bool:
    """Tell whether a text has names, numbers, or more than two words that nobody stated."""
    runs = runs_of(text, known | SAYS_NOTHING)
    return any(run.kind != "words" for run in runs) or sum(len(run.words) for run in runs) > 2


# The indefinite article goes by how a word is spoken and not by its first letter.

# Spoken with a vowel first: "an hour", "an 8", "an 11", "an 1800".
_AN = re.compile(r"(?:hour|hono|honest|heir|8|1[18](?:,?000)?(?!\d|,\d)|1[18]\d\d(?!\d))")
# Spoken with a consonant first: "a unit", but "an uninvited"; "a European", "a one-way street".
_A = re.compile(
    r"(?:uni(?![nmd]|ss)|eu|ewe|on(?:e|ce)\b|us(?:[eu]|ab)|ut[eio]|ubi|ura|ukr|ugan|oui)"
)
# Spoken letter by letter: "an FBI agent", "a US state".
_LETTERS = re.compile(r"[A-Z](?:\b|\.)|(?:[A-Z]\.?){2,3}\b|[B-DF-HJ-NP-TV-Z]{2,}\b")


def _indefinite(value: str) -> str:
    """Return "a" or "an" before a value, as far as letters tell how it is spoken."""
    if _LETTERS.match(value):
        return "an" if value[0] in "AEFHILMNORSX" else "a"
    word = value.casefold()
    if _AN.match(word):
        return "an"
    return "an" if word[0] in "aeiou" and not _A.match(word) else "a"
