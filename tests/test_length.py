"""What of a preference is length: the parts add up, and only unequal lengths make any."""

from __future__ import annotations

from typing import Any

import pytest
from failures import draft
from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError
from steerable_llm.methods.preference import measured_by
from steerable_llm.pairs.filters import FilterSettings, run_filters
from steerable_llm.pairs.length import Preference, preference_of
from steerable_llm.policy.policy import Policy

answers = st.lists(st.floats(-20, 0), min_size=1, max_size=30)


@given(answers, answers)
def test_the_parts_add_up_to_the_preference_and_change_sides_with_the_answers(
    good: list[float], bad: list[float]
) -> None:
    found, swapped = preference_of(good, bad), preference_of(bad, good)
    assert found.total == pytest.approx(sum(good) - sum(bad), abs=1e-9)
    assert (swapped.words, swapped.length) == pytest.approx((-found.words, -found.length))


@given(st.lists(st.tuples(st.floats(-20, 0), st.floats(-20, 0)), min_size=1))
def test_answers_of_one_length_prefer_by_their_words_alone(each: list[tuple[float, float]]) -> None:
    good, bad = map(list, zip(*each, strict=True))
    assert preference_of(good, bad).length == 0


@given(st.floats(-20, -0.1), st.integers(1, 30), st.integers(1, 30))
def test_tokens_that_cost_the_same_prefer_by_their_number_alone(
    cost: float, good: int, bad: int
) -> None:
    found = preference_of([cost] * good, [cost] * bad)
    assert found.words == pytest.approx(0, abs=1e-9)
    assert found.length == pytest.approx(cost * (good - bad))


def test_a_short_answer_is_preferred_whatever_it_says_and_the_reason_says_so_in_one_line() -> None:
    short = preference_of([-3.0] * 5, [-1.0] * 50)
    assert short.total == 35
    assert short.too_long(0.4) == (
        "its preference of +35.0 nats is mostly length: 5 against 50 tokens make +90.0, the words "
        "-55.0"
    )
    assert short.too_long(0.7) is None
    # The same answers of one or two tokens more are no matter of length.
    assert preference_of([-3.0] * 5, [-1.0] * 8).too_long(0.0) is None


def test_an_answer_without_a_token_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no token of its own"):
        preference_of([], [-1.0])


def test_the_filter_drops_what_is_mostly_length_and_counts_what_it_could_not_measure() -> None:
    lengthy, fair = Preference(-20, 30, 3, 30), Preference(-20, 5, 3, 5)
    three = [draft(name=name, question=name) for name in ("lengthy", "fair", "too long a prompt")]
    given = FilterSettings(measure=lambda drafts: [lengthy, fair, None][: len(drafts)])
    kept, counts, dropped = run_filters(three, given)
    assert [entry.answer.id for entry in kept] == ["fair", "too long a prompt"]
    assert counts[-1].dropped == {"its preference is mostly length": 1}
    assert counts[-1].not_judged == 1
    assert dropped[0].why == lengthy.too_long(0.4)


def test_on_a_model_the_parts_are_those_of_the_objective_behind_the_common_stem(
    tiny_llm: Any,
) -> None:
    pair = draft("The shop opens at ten.", "The shop opens at nine, they say.")
    long = draft(messages=[{"role": "user", "content": "word " * 300}])
    found, none = measured_by(tiny_llm)([pair, long])
    good, bad = tiny_llm.score(
        pair.answer.messages, [pair.good or "", pair.answer.answer], reduction="none"
    )
    assert none is None
    assert found is not None
    assert found.total == pytest.approx(sum(good) - sum(bad), abs=1e-3)
    ids = [tiny_llm.encode_answer(text) for text in (pair.good or "", pair.answer.answer)]
    stem = 0
    while ids[0][stem] == ids[1][stem]:
        stem += 1
    assert stem > 0
    assert (found.good, found.bad) == (len(good) - stem, len(bad) - stem)


def test_a_policy_does_not_change_what_is_measured(tiny_llm: Any, make_vector: Any) -> None:
    pair = draft("at nine.", "at two.")
    policy = Policy.from_dict(
        {"default_step": "any", "steps": {"any": {"vectors": [{"name": "v", "strength": 0.5}]}}},
        {"v": make_vector(tiny_llm)},
    )
    steered = SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, policy=policy)
    assert measured_by(steered)([pair]) == measured_by(tiny_llm)([pair])
