"""Strengths by divergence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_behaviour import planted_llm, planted_vector, questions

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.divergence import Effect, KlMeter, checked_divergences, effect_of
from steerable_llm.evaluation.measure import measure
from steerable_llm.vector.steering import Steering


@pytest.fixture(scope="module")
def llm(tiny_tokenizer: Any) -> SteerableHFLLM:
    return planted_llm(tiny_tokenizer)


@pytest.fixture(scope="module")
def meter(llm: SteerableHFLLM) -> KlMeter:
    return KlMeter(llm, list(questions(llm, 10)), max_new_tokens=4, batch_size=4)


def test_the_divergence_is_that_of_an_evaluation(llm: SteerableHFLLM, meter: KlMeter) -> None:
    steering = planted_vector(llm).steer(0.07)
    arms = [Arm("none", Steering.none()), Arm("steered", steering)]
    outcomes = measure(llm, arms, list(questions(llm, 10)), 4)[1]
    slow = sum(outcome.kl_per_token for outcome in outcomes) / 10
    assert meter(steering) == pytest.approx(slow, rel=1e-4)
    assert meter(Steering.none()) == 0


@pytest.mark.parametrize("kl", [0.001, 0.02, 0.3])
@pytest.mark.parametrize("scope", ["generated", "last_prompt"])
def test_the_strength_that_is_found_has_that_divergence(
    llm: SteerableHFLLM, meter: KlMeter, kl: float, scope: Any
) -> None:
    vector = planted_vector(llm)
    strength = effect_of(meter, vector, scope=scope).strength_for(kl)
    assert strength is not None
    assert strength > 0
    assert meter(vector.steer(strength, scope=scope)) == pytest.approx(kl, rel=0.06)


def test_a_total_strength_has_one_effect_whichever_blocks_share_it(
    llm: SteerableHFLLM, meter: KlMeter
) -> None:
    """In the planted model all that a block adds reaches the output as it is."""

    def effect(*layers: int) -> float:
        return meter(planted_vector(llm).steer(0.1, layers=layers, renormalise=False))

    assert effect(0, 1) > 1e-3
    assert effect(0) == pytest.approx(effect(0, 1), rel=1e-3)
    assert effect(1) == pytest.approx(effect(0, 1), rel=1e-3)


def test_a_shorter_vector_gets_more_absolute_strength(llm: SteerableHFLLM, meter: KlMeter) -> None:
    from dataclasses import replace

    vector = planted_vector(llm)
    half = replace(vector, directions={i: v / 2 for i, v in vector.directions.items()})
    whole, twice = (
        effect_of(meter, each, unit="absolute").strength_for(0.02) for each in (vector, half)
    )
    assert whole is not None
    assert twice == pytest.approx(2 * whole, rel=0.1)


@given(
    st.floats(-3, 1).map(lambda x: 10**x),
    st.floats(0.5, 4),
    st.floats(-1, 1).map(lambda x: 10**x),
    st.floats(0.1, 20),
)
def test_the_search_needs_few_measurements(
    kl: float, steepness: float, at_one: float, most: float
) -> None:
    """Whatever power of the strength the divergence grows with, and wherever it levels off."""
    asked: list[float] = []

    def measure(strength: float) -> float:
        asked.append(strength)
        return min(at_one * strength**steepness, most)

    effect = Effect(measure, 0.3)
    strength = effect.strength_for(kl)
    if strength is None:
        assert most < kl or at_one * (0.3 * 256) ** steepness < kl
        return
    assert measure(strength) == pytest.approx(kl, rel=0.05)
    assert len(asked) <= 14
    before = len(asked)
    assert effect.strength_for(kl) == strength
    assert len(asked) == before  # what was measured is remembered


def test_between_two_measured_strengths_others_are_read_off() -> None:
    asked: list[float] = []

    def measure(strength: float) -> float:
        asked.append(strength)
        return strength**2

    effect = Effect(measure, 1.0)
    assert effect.strength_for(0.04) == pytest.approx(0.2, rel=0.05)
    assert effect.strength_for(0.16) == pytest.approx(0.4, rel=0.05)
    before = len(asked)
    assert effect.strength_for(0.08, read=5.0) == pytest.approx(0.08**0.5, rel=0.05)
    assert len(asked) == before
    effect.strength_for(0.08)
    assert len(asked) > before


def test_a_jump_is_met_from_above() -> None:
    effect = Effect(lambda strength: 0.01 if strength < 0.7 else 5.0, 0.3)
    assert effect.strength_for(0.5) == pytest.approx(0.7, rel=0.02)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_where_scores_are_no_numbers_any_more_it_looks_below(broken: float) -> None:
    effect = Effect(lambda strength: broken if strength > 0.05 else strength**2, 0.3)
    assert effect.strength_for(0.0016) == pytest.approx(0.04, rel=0.05)


def test_a_divergence_that_cannot_be_had_is_refused(llm: SteerableHFLLM, meter: KlMeter) -> None:
    for kl in (0.0, -1.0, float("nan")):
        with pytest.raises(InvalidInputError, match="above 0 nats"):
            checked_divergences([0.1, kl])
    with pytest.raises(InvalidInputError, match="no divergence"):
        checked_divergences([])
    assert effect_of(meter, planted_vector(llm)).strength_for(1e5) is None
    with pytest.raises(InvalidInputError, match="at least one prompt"):
        KlMeter(llm, [])
