"""Ways without strengths choose on dev by the same rule as calibration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from planted_behaviour import planted_llm, planted_vector, questions

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.compare import Setup, _best
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.vector.steering import Steering


@pytest.fixture(scope="module")
def llm(tiny_tokenizer: Any) -> SteerableHFLLM:
    return planted_llm(tiny_tokenizer)


def setup_with(llm: SteerableHFLLM, want: str, target: str | None) -> Setup:
    dev = EvaluationSet("dev", [*questions(llm, 30), *questions(llm, 30, "gold", want=want)])
    pairs = questions(llm, 4, seed=2).pairs()
    return Setup(llm, pairs, dev, None, 0.01, "ab", 4, 64, 0, False, target)


def candidates(llm: SteerableHFLLM) -> dict[str, Arm]:
    strong = Steering.of(planted_vector(llm), 0.12)
    return {
        "strong": Arm("way", strong),
        "nothing": Arm("way", Steering.none()),
    }


def test_with_a_target_a_setting_that_harms_another_category_is_not_chosen(
    llm: SteerableHFLLM,
) -> None:
    assert _best(setup_with(llm, "good", "conflict"), candidates(llm)).setting == "strong"
    assert _best(setup_with(llm, "bad", "conflict"), candidates(llm)).setting == "nothing"


def test_success_counts_on_the_target_alone(llm: SteerableHFLLM) -> None:
    aimed = _best(setup_with(llm, "good", "conflict"), candidates(llm))
    assert aimed.dev == 1.0
    both = _best(setup_with(llm, "bad", None), candidates(llm))
    assert both.dev is not None
    assert 0.4 < both.dev < 0.65


def test_where_nothing_keeps_within_the_budget_the_least_loss_is_told(llm: SteerableHFLLM) -> None:
    setup = replace(setup_with(llm, "bad", "conflict"), budget=0.0)
    only = {"strong": candidates(llm)["strong"]}
    with pytest.raises(InvalidInputError, match="strong loses least"):
        _best(setup, only)
