"""Which words of an answer are its wrong value, and which of a correction or passage the right one.

Runs of words are compared by their kind, by where they stand, and by whether the documents have
them. The rules are those of English.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from steerable_llm.pairs.amount import means_the_same, quantity
from steerable_llm.pairs.fragment import is_fragment
from steerable_llm.pairs.wording import (
    Kind,
    Run,
    Word,
    keys_of,
    opens_sentence,
    runs_of,
    sentence_at,
    sentence_ends,
    word_before,
    words_of,
)

#: Words of an answer that are about the answer.
SAYS_NOTHING = keys_of("question following correct indeed likely simply course certainly sure only")
#: A longer stretch is no value, if it is no list.
MOST_WORDS = 5
_NOT = re.compile(r"\b(?:not|rather than|instead of|never)\b.*", re.IGNORECASE | re.DOTALL)
_NEGATED = re.compile(
    r"\b(?:not|never|no longer|rather than|instead of|unlike)\s+(?:(?:an?|at|by|in|on|the)\s+)*$",
    re.IGNORECASE,
)
_PLACE = re.compile(r"\b(?:in|on|at|from|near|with|to)\s+(?:(?:a|an|the)\s+)?$", re.IGNORECASE)
_BEFORE_NOUN = frozenset(
    "a an the is are was were be been in on at of by from called named for as it's uses use "
    "used speak into than with within after".split()
)
_NAME_OF = re.compile(r"\b[A-Z]\w+ of (?:the )?$")
_OF_NAME = re.compile(r" of (?:the )?[A-Z]")
_YEAR = re.compile(r"\b[12]\d{3}\b")
_COUNTED = re.compile(r"\b(?:how many|how much|(?:what|which) year)\b", re.IGNORECASE)
_IS = re.compile(r"\s+(?:is|are|was|were|has)\b")


@dataclass(frozen=True)
class Asked:
    """What an answer is compared with.

    Attributes:
        question: What was asked.
        passages: What the answer was to rest on.
        told: A correction or a reference; None where the passages have to say it.
    """

    question: str
    passages: tuple[str, ...]
    told: str | None = None

    @property
    def keys(self) -> frozenset[str]:
        """What the words of the question are compared by."""
        return keys_of(self.question)

    @property
    def known(self) -> frozenset[str]:
        """The same of the question and the passages together."""
        return frozenset().union(*map(keys_of, (self.question, *self.passages)))


def candidates(asked: Asked, bad: str) -> list[tuple[Run, Run]]:
    """Return values with the wrong ones that they may replace in a bad answer, the likeliest first.

    Args:
        asked: The question, the passages and the correction.
        bad: The bad answer.
    """
    said = asked.keys | SAYS_NOTHING
    if asked.told is None:
        values = _stated(asked, keys_of(bad))
    else:
        # What a correction says not to be so has no part in it.
        wanted = _NOT.sub("", asked.told)
        wanted = wanted if keys_of(wanted) else asked.told
        values = _told(wanted, asked.keys, keys_of(bad))
        said |= keys_of(wanted)
    found = []
    for value in values:
        for wrong in runs_of(bad, said):
            fit = _fit(value, wrong, asked) if _whole(value, wrong) else None
            if fit is not None:
                fit += 0.0 if asked.told else _fits_question(value, wrong, asked.keys)
                found.append((fit, value, wrong))
    found.sort(key=lambda each: each[0], reverse=True)
    return [(value, wrong) for _, value, wrong in found]


def _whole(value: Run, wrong: Run) -> bool:
    return not (is_fragment(value) or is_fragment(wrong))


def _told(text: str, asked: Set[str], in_bad: Set[str]) -> list[Run]:
    """Return the values that a correction may name; those of its first sentence that has any."""
    runs = runs_of(text, asked | in_bad)
    if not runs:
        return []
    end = next(end for end in sentence_ends(text) if end > runs[0].start)
    first = [run for run in runs if run.start < end]
    # Numbers and names of a correction that an edit with one value would lose.
    strict = [run for run in runs if run.kind == "number" or _is_name(run, end)]
    if len(strict) > 1:
        return []
    every = keys_of(text) - asked - in_bad
    numbers = {key for key in every if key[0].isdigit()}
    return [
        run
        for run in first
        # Of plain words none may be lost: "It only heats it." is not "heats".
        if (run.kind != "words" or every <= run.keys)
        # "7,200 metres" is what "7,200 meters" says already.
        and (numbers or not any(key[0].isdigit() for key in keys_of(text) - asked))
    ]


def _is_name(run: Run, end: int) -> bool:
    """Tell whether a run is a name, and not only large as it opens a sentence behind the first."""
    if run.kind != "name" or not run.words[0].opens or run.start < end:
        return run.kind == "name"
    bare = all(word.keys for word in words_of(run.text))  # "Ft. Worth"
    return bare or sum(word.large for word in run.words) > 1


def _stated(asked: Asked, in_bad: Set[str]) -> list[Run]:
    """Return what the documents say beside the question and the bad answer."""
    runs = [run for passage in asked.passages for run in runs_of(passage, asked.keys)]
    return [
        run
        for run in runs
        if run.keys - in_bad and not _NEGATED.search(run.text[: run.start]) and not _of_two(run)
    ]


def _of_two(run: Run) -> bool:
    """Tell whether a sentence has two numbers of a sort: "opens at 9 and closes at 17"."""
    if run.kind != "number":
        return False
    start, end = sentence_at(run.text, run.start)
    others = [word for word in words_of(run.text) if start <= word.start < end and word.number]
    sort = _sort(run.text, run.words[quantity(run)[0]])
    return any(_sort(run.text, word) == sort for word in others if word not in run.words)


def _sort(text: str, number: Word) -> tuple[frozenset[str], bool]:
    """Return what a number counts, if that stands behind it, and whether it is a year."""
    behind = next((word for word in words_of(text) if word.start >= number.end), None)
    counted = behind is not None and not text[number.end : behind.start].strip()
    return behind.keys if counted and behind else frozenset(), bool(_YEAR.fullmatch(number.text))


def _fits_question(value: Run, wrong: Run, asked: Set[str]) -> float:
    """Return how far a value of the documents answers the question, as a wrong one pretends to."""
    text = value.text
    start, end = sentence_at(text, value.start)
    fit = 4.0 * len(asked & keys_of(text[start:end])) / max(1, len(asked))
    # "Visitors to France" are written large only because they open the sentence.
    if value.words[0].opens and len(value.words) == 1 and not _IS.match(text, value.end):
        fit -= 4.5
    # Where the wrong one is no place, "in Leeds" is none either.
    places = [bool(_PLACE.search(run.text, 0, run.start)) for run in (value, wrong)]
    fit -= 2.0 * (places[0] and not places[1])
    # What answers is what the sentence comes to: "The capital of France is called Thornhill."
    fit += 0.5 * (text[value.end :].lstrip("\"'\u201d\u2019 ")[:1] in (".", "!", "", ","))
    return fit + bool(_keys_before(text, value.start) & _keys_before(wrong.text, wrong.start))


def _fit(value: Run, wrong: Run, asked: Asked) -> float | None:
    """Return how well a run of the bad answer answers what the value does; None for not at all."""
    passages = asked.passages
    grounds = keys_of("\n".join(passages))
    kind = _kind(value, passages)
    start, end = sentence_at(wrong.text, wrong.start)
    if _NOT.search(wrong.text, start, wrong.start):
        return None  # "not a physical object" is none
    if len(wrong.words) > MOST_WORDS and "," not in wrong.value:
        return None
    if kind != wrong.kind and ("number" in (kind, wrong.kind) or kind == "name"):
        return None
    if kind == "number" and not means_the_same(value, wrong):
        return None
    if kind != wrong.kind and wrong.words[0].opens and wrong.value != wrong.text.strip(" .!"):
        return None
    if "words" in (kind, wrong.kind):
        bare = len(words_of(value.text)) == len(value.words)
        verbs = asked.keys | _keys_before(*written(value, value.value, passages))
        if not (_stands_for_noun(wrong, verbs) and (bare or _stands_for_noun(value, verbs))):
            return None
    fit = 4.0 * (kind == wrong.kind)
    fit += 2.0 * (value.keys <= grounds) + 2.0 * (not wrong.keys <= grounds)
    near = keys_of(wrong.text[start:end])
    frame = near - wrong.keys - asked.keys - SAYS_NOTHING
    if frame and wrong.keys <= grounds:
        return None  # what the documents say, too, is hardly what was wrong
    if _in_year(wrong) and not (_YEAR.search(value.value) or value.is_date):
        return None
    if kind != "number" and _COUNTED.search(asked.question):
        return None
    if (
        wrong.text[: wrong.start].endswith("(")
        or _is_part(wrong)
        or _has_rival(wrong, asked, grounds)
    ):
        return None
    # A name that repeats words of the question names what was asked about.
    fit -= 2.0 * len(wrong.keys & asked.keys) / len(wrong.keys)
    fit += len(asked.keys & near) / max(1, len(asked.keys))
    # The first word of a sentence is written large whatever it is.
    fit -= 0.5 * (wrong.words[0].opens and len(wrong.words) == 1)
    # Of equals the first.
    return fit - wrong.start / (len(wrong.text) + 1)


def _in_year(run: Run) -> bool:
    """Tell whether a run is a year, as behind "in"."""
    return bool(_YEAR.search(run.value)) and run.text[: run.start].casefold().endswith("in ")


def _is_part(run: Run) -> bool:
    """Tell whether a name goes on beside the run, as that of the President of the Senate does."""
    if run.kind != "name":
        return False
    before, behind = run.text[: run.start], run.text[run.end :]
    return bool(_NAME_OF.search(before) or _OF_NAME.match(behind))


def _has_rival(run: Run, asked: Asked, grounds: Set[str]) -> bool:
    """Tell whether another value of its kind stands before a run in its sentence."""
    start, _ = sentence_at(run.text, run.start)
    known = asked.keys | SAYS_NOTHING | run.keys | keys_of(asked.told or "")
    # Of two years one is as good as the other; a name that the documents have is no rival.
    known |= grounds if run.kind == "name" else frozenset()
    others = runs_of(run.text[start : run.start], known)
    return run.kind != "words" and any(other.kind == run.kind for other in others)


def _kind(value: Run, passages: Sequence[str]) -> Kind:
    """Return the kind of a value; what opens a sentence is a name if the documents say so."""
    large = [word for word in value.words if word.large]
    if value.kind != "name" or not large[0].opens or len(large) > 1:
        return value.kind
    source, at = written(value, value.value, passages)
    if at is None:
        return "name" if len(value.words) == 1 else "words"
    return "words" if source[at].islower() else "name"


def _stands_for_noun(run: Run, verbs: Set[str]) -> bool:
    """Tell whether a run stands where a noun does: first, or behind small words or these verbs."""
    if run.is_verb:
        return False
    last = word_before(run.text, run.start)
    if last is None or run.words[0].opens or ":" in run.text[last.end : run.start]:
        return True
    return last.text.casefold() in _BEFORE_NOUN or bool(last.keys & verbs)


def _keys_before(text: str, place: int | None) -> frozenset[str]:
    before = word_before(text, place) if place else None
    return before.keys if before else frozenset()


def written(value: Run, new: str, passages: Iterable[str]) -> tuple[str, int | None]:
    """Return a text that has the value in a sentence, as it is written there, and where."""
    pattern = re.compile(rf"(?<!\w){re.escape(new)}(?!\w)", re.IGNORECASE)
    for passage in passages:
        found = list(pattern.finditer(passage))
        inner = [match for match in found if not opens_sentence(passage, match.start())]
        if found:
            return passage, (inner or found)[0].start()
    inside = value.text.find(new)
    if inside > 0 and not opens_sentence(value.text, inside):
        return value.text, inside
    return value.text, None
