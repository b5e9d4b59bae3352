"""What each name in `against` means."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from planted_behaviour import planted_vector

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.chat.phrases import STRICT_INSTRUCTIONS
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import (
    DEFAULT_AGAINST,
    Arm,
    arm_of,
    arms_of,
    strict_instruction_for,
)
from steerable_llm.evaluation.evaluate import for_sets
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.evaluation.settings import Changes, EvaluationSettings
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.steering import Steering
from steerable_llm.vector.vector import SteeringVector


@pytest.fixture
def vector(tiny_llm: SteerableHFLLM) -> SteeringVector:
    # The tiny model has one block more than the planted one; any vector of its width will do.
    return planted_vector(tiny_llm).with_calibration(Calibration(0.08, (1,), "all"))


def test_the_steered_and_the_unsteered_arm_always_come_first(vector: SteeringVector) -> None:
    runs = arms_of(vector, EvaluationSettings(against=["sign_flipped", "random", "prompt"]))
    assert [run.name for run in runs] == [
        "steered", "none", "sign_flipped", "random", "random", "random", "prompt",
    ]  # fmt: skip
    alone = arms_of(vector, EvaluationSettings(against=[]))
    assert [run.name for run in alone] == ["steered", "none"]


def test_controls_keep_strength_layers_scope_and_norms(vector: SteeringVector) -> None:
    runs = arms_of(vector, EvaluationSettings(against=DEFAULT_AGAINST, seed=5))
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
    assert [{**message} for message in strict.messages(item)] == [
        {"role": "system", "content": "Be strict."},
        {"role": "user", "content": "Why?"},
    ]
    assert Arm("none", Steering.none()).messages(item) == item.messages


def test_each_behaviour_has_its_own_strict_instruction() -> None:
    assert "polite" in strict_instruction_for("civility")
    assert strict_instruction_for("conflict") == STRICT_INSTRUCTIONS["faithfulness"]
    assert strict_instruction_for("civility", pictured=True) == STRICT_INSTRUCTIONS["civility"]


def test_questions_about_pictures_are_strictly_asked_about_what_they_show() -> None:
    image = {"type": "image", "image": "data:image/png;base64,aaaa"}
    text = {"type": "text", "text": "What colour is it?"}
    told = []
    for parts in ([image, text], [text]):
        asked = EvaluationItem(
            id="a",
            category="conflict",
            messages=[{"role": "user", "content": parts}],
            accept=("x",),
        )
        settings = for_sets(EvaluationSettings(), EvaluationSet("some", [asked]), None)
        told.append(settings.strict_instruction)
    assert told == [STRICT_INSTRUCTIONS["picture"], STRICT_INSTRUCTIONS["faithfulness"]]


def test_an_unknown_name_lists_the_known_ones(vector: SteeringVector) -> None:
    with pytest.raises(InvalidInputError, match="'magic'; choose from none, prompt, random"):
        arms_of(vector, EvaluationSettings(against=["magic"]))
    with pytest.raises(InvalidInputError, match="at least 1"):
        EvaluationSettings(random_vectors=0)


def test_whatever_can_be_run_is_an_arm(vector: SteeringVector) -> None:
    settings = EvaluationSettings(target="civility")
    assert arm_of(vector, settings).name == vector.name
    assert arm_of("cad=1.5", settings) == Arm("cad=1.5", contrast=Contrast("cad", 1.5))
    assert arm_of("cad", settings).contrast == Contrast("cad", 0.5)
    assert arm_of(Contrast("adacad"), settings).name == "adacad"
    assert "polite" in (arm_of("prompt", settings).instruction or "")
    with pytest.raises(InvalidInputError, match="no number after '='"):
        arm_of("cad=much", settings)
    with pytest.raises(InvalidInputError, match="without what it made"):
        arm_of("lora", settings)


def test_what_is_no_vector_is_compared_with_the_unsteered_model_and_the_instruction(
    vector: SteeringVector,
) -> None:
    runs = arms_of("cad=0.5", EvaluationSettings())
    assert [run.name for run in runs] == ["cad=0.5", "none", "prompt"]
    with pytest.raises(InvalidInputError, match="made from a vector"):
        arms_of("cad=0.5", EvaluationSettings(against=["random"]))
    with pytest.raises(InvalidInputError, match="always run"):
        arms_of("none", EvaluationSettings())
    other = replace(vector, name="prompt")
    with pytest.raises(InvalidInputError, match="two arms are called 'prompt'"):
        arms_of(vector, EvaluationSettings(against=["prompt", other]))


def test_every_setting_can_be_changed_by_keyword() -> None:
    assert list(Changes.__annotations__) == [each.name for each in fields(EvaluationSettings)]
    for budget in (-0.01, 1.5, float("nan")):
        with pytest.raises(InvalidInputError, match="a share from 0 to 1"):
            EvaluationSettings(budget=budget)
