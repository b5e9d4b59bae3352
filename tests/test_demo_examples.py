"""The lessons of the bundled model: honest odds, values that tell answers apart, nothing leaked."""

import inspect
import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exhibit import names
from exhibit.curriculum import LESSONS, training_example
from exhibit.examples import Example, conflict
from exhibit.facts import FACTS, RELATIONS
from exhibit.myths import MYTHS
from exhibit.prompts import HELD_OUT_VOICES, LAYOUTS, STRICT_SYSTEMS
from steerable_llm.chat.phrases import occurs

seeds = st.integers(0, 2**32)


@given(seeds, st.integers(0, 1))
def test_the_odds_of_the_answers_add_up(seed: int, phase: int) -> None:
    example = training_example(Random(seed), phase)
    assert math.isclose(sum(share for _, share in example.answers), 1.0)


@given(seeds)
def test_an_answer_is_judged_by_its_value_and_every_wording_of_it_gets_the_same_verdict(
    seed: int,
) -> None:
    example = training_example(Random(seed))
    if example.bad is None:
        return

    def good(text: str) -> bool:
        return any(occurs(v, text) for v in example.accept) and not any(
            occurs(v, text) for v in example.reject
        )

    assert good(example.good)
    assert not good(example.bad)
    assert sum(good(text) for text, _ in example.answers) * 2 == len(example.answers)


@given(seeds)
def test_training_never_sees_a_held_out_name_or_wording(seed: int) -> None:
    example = training_example(Random(seed))
    text = " ".join(message["content"] for message in example.messages)
    assert STRICT_SYSTEMS[-1] not in text
    assert not text.startswith(LAYOUTS[-1][0][:5])
    assert not any(voice in text for voice, _ in HELD_OUT_VOICES if voice)
    assert not any(names.is_held_out(word.strip(".?,:")) for word in _made_up(text))


def _made_up(text: str) -> list[str]:
    starts = tuple(names._STARTS)
    ends = tuple(names._TOWN_ENDS)
    words = [word.strip(".?,:\n[]") for word in text.replace("\n", " ").split()]
    return [w for w in words if w.startswith(starts) and w.endswith(ends) and _splits(w)]


def _splits(word: str) -> bool:
    return any(
        word.startswith(start) and word[len(start) :] in names._TOWN_ENDS for start in names._STARTS
    )


@given(seeds)
def test_held_out_facts_never_meet_a_contradicting_document_in_training(seed: int) -> None:
    example = conflict(Random(seed))
    held_out = {f"{fact.relation.name}-{fact.entity}" for fact in FACTS if fact.held_out}
    assert example.subject not in held_out


@given(seeds)
def test_the_odds_of_a_conflict_depend_only_on_what_the_prompt_says(seed: int) -> None:
    def odds(example: Example) -> float:
        return round(example.answers[0][1], 12)

    assert odds(conflict(Random(seed))) == odds(conflict(Random(seed)))
    many = {odds(conflict(Random(seed + step))) for step in range(200)}
    assert len(many) > 50  # graded, no coin toss


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_lesson_has_a_form_that_is_held_out(lesson: str) -> None:
    maker, _ = LESSONS[lesson]
    known = inspect.signature(maker).parameters
    held = {name: True for name in ("held_out", "reworded") if name in known}
    assert held
    seen = {repr(maker(Random(seed)).messages) for seed in range(300)}
    assert not seen & {repr(maker(Random(seed), **held).messages) for seed in range(300)}


def test_what_is_remembered_is_told_apart_by_its_words() -> None:
    for relation in RELATIONS:
        assert len(set(relation.questions)) == len(relation.questions)
        assert relation.questions[-1] not in relation.questions[:-1]
    for myth in MYTHS:
        assert not occurs(myth.myth, myth.truth)
        assert not occurs(myth.truth, myth.myth)


def test_the_shares_of_the_lessons_add_up_in_every_phase() -> None:
    for phase in range(2):
        assert math.isclose(sum(shares[phase] for _, shares in LESSONS.values()), 1.0)
