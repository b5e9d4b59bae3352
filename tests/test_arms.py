"""What each name in `against` means."""

from __future__ import annotations

import pytest
import torch
from planted_behaviour import planted_vector

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.chat.phrases import STRICT_INSTRUCTIONS
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import (
    DEFAULT_AGAINST,
    Arm,
    Setting,
    arms,
    strict_instruction_for,
)
from steerable_llm.evaluation.set import EvaluationItem
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.steering import Steering
from steerable_llm.vector.vector import SteeringVector


@pytest.fixture
def vector(tiny_llm: SteerableHFLLM) -> SteeringVector:
    # The tiny model has one block more than the planted one; any vector of its width will do.
    return planted_vector(tiny_llm).with_calibration(Calibration(0.08, (1,), "all"))


def test_the_steered_and_the_unsteered_arm_always_come_first(vector: SteeringVector) -> None:
    runs = arms(Setting(vector, "Be strict."), ["sign_flipped", "random", "prompt"])
    assert [run.name for run in runs] == [
        "steered", "none", "sign_flipped", "random", "random", "random", "prompt",
    ]  # fmt: skip
    assert [run.name for run in arms(Setting(vector, ""), [])] == ["steered", "none"]


def test_controls_keep_strength_layers_scope_and_norms(vector: SteeringVector) -> None:
    runs = arms(Setting(vector, "Be strict.", seed=5), list(DEFAULT_AGAINST))
    steered = runs[0].steering.terms[0]
    controls = [run for run in runs if run.name in ("random", "sign_flipped")]
    assert len(controls) == 4
    for control in controls:
        term = control.steering.terms[0]
        assert (term.strength, term.layers, term.scope) == (0.08, (1,), "all")
        torch.testing.assert_close(term.delta(1).norm(), steered.delta(1).norm())
    flipped = next(run for run in runs if run.name == "sign_flipped").steering.terms[0]
    torch.testing.assert_close(flipped.delta(1), -steered.delta(1))
    random = [run.steering.terms[0].delta(1) for run in runs if run.name == "random"]
    assert not torch.equal(random[0], random[1])


def test_the_strict_instruction_takes_the_place_of_the_system_message() -> None:
    item = EvaluationItem(
        id="x",
        category="conflict",
        messages=[{"role": "system", "content": "Be nice."}, {"role": "user", "content": "Why?"}],
        accept=["because"],
    )
    strict = Arm("prompt", Steering.none(), "Be strict.")
    assert strict.messages(item) == [
        {"role": "system", "content": "Be strict."},
        {"role": "user", "content": "Why?"},
    ]
    assert Arm("none", Steering.none()).messages(item) == item.prompt


def test_each_behaviour_has_its_own_strict_instruction() -> None:
    assert "polite" in strict_instruction_for("civility")
    assert strict_instruction_for("conflict") == STRICT_INSTRUCTIONS["faithfulness"]


def test_an_unknown_name_lists_the_known_ones(vector: SteeringVector) -> None:
    with pytest.raises(InvalidInputError, match="'magic'; choose from none, prompt, random"):
        arms(Setting(vector, ""), ["magic"])
    with pytest.raises(InvalidInputError, match="at least 1"):
        arms(Setting(vector, "", random_vectors=0), [])
