"""What holds for every method that makes a vector."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from slow_states import PAIRS

from steerable_llm.answer.request import GenerationRequest
from steerable_llm.errors import CalibrationError, InvalidInputError
from steerable_llm.evaluation.calibration import calibrate
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.methods import METHODS
from steerable_llm.methods.build import build_vector
from steerable_llm.methods.method import Grid
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.vector import SteeringVector

pytestmark = pytest.mark.filterwarnings("ignore:the token scores miss")
PROMPT = PAIRS[0].messages
TEXT_METHODS = [name for name, method in METHODS.items() if not method.images]


@pytest.fixture(scope="module")
def built(tiny_llm: Any) -> dict[str, SteeringVector]:
    return {
        name: build_vector(tiny_llm, PAIRS, method=name, progress=False) for name in TEXT_METHODS
    }


def strong(vector: SteeringVector) -> float:
    """A strength of the method's own grid that surely shows."""
    return {"total": 2.0, "absolute": 30.0}[vector.application.unit]


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_a_vector_comes_back_from_its_file_and_steers_the_same(
    tiny_llm: Any, built: dict[str, SteeringVector], method: str, tmp_path: Any
) -> None:
    vector = built[method]
    loaded = SteeringVector.load(vector.save(tmp_path / "v.safetensors"), tiny_llm)
    assert loaded.fingerprint_id == vector.fingerprint_id
    assert loaded.application == vector.application == METHODS[method].application
    assert loaded.provenance.method == method
    logits = [
        tiny_llm.answer_logits(PROMPT, "At nine.", v.steer(strong(v))) for v in (vector, loaded)
    ]
    assert torch.equal(*logits)


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_it_steers_one_way_and_the_other_and_strength_zero_not_at_all(
    tiny_llm: Any, built: dict[str, SteeringVector], method: str
) -> None:
    vector = built[method]
    plain, zero, plus, minus, random = (
        tiny_llm.answer_logits(PROMPT, "At nine.", steering)
        for steering in (
            None,
            vector.steer(0.0),
            vector.steer(strong(vector)),
            vector.steer(-strong(vector)),
            vector.randomised(1).steer(strong(vector)),
        )
    )
    assert torch.equal(plain, zero)
    assert not torch.allclose(plain, plus, atol=1e-4)
    assert not torch.allclose(plus, minus, atol=1e-4)
    assert not torch.allclose(plus, random, atol=1e-4)
    flipped = tiny_llm.answer_logits(PROMPT, "At nine.", vector.negated().steer(strong(vector)))
    torch.testing.assert_close(flipped, minus, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_the_same_pairs_give_the_same_vector(
    tiny_llm: Any, built: dict[str, SteeringVector], method: str
) -> None:
    again = build_vector(tiny_llm, PAIRS, method=method, progress=False)
    assert again.fingerprint_id == built[method].fingerprint_id


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_without_calibration_a_method_of_one_layer_steers_the_middle_one(
    tiny_llm: Any, built: dict[str, SteeringVector], method: str, tmp_path: Any
) -> None:
    one_layer = method in ("caa", "contextfocus", "mat_steer")
    vector = SteeringVector.load(built[method].save(tmp_path / "v.safetensors"))
    expected = (1,) if one_layer else vector.layers
    (term,) = vector.steer(strong(vector)).terms
    assert term.steered_layers == expected
    assert vector.steer(strong(vector), layers=(0,)).layers == (0,)
    # What is chosen later goes before it, and a calibration without layers says which they are.
    assert vector.with_calibration(Calibration(1.0, layers=(2,))).steer().layers == (2,)
    calibrated = vector.with_calibration(Calibration(1.0))
    assert calibrated.calibration.layers == (expected if one_layer else None)
    assert calibrated.steer().layers == expected
    answer = tiny_llm.generate(PROMPT, steering=vector.steer(strong(vector)), max_new_tokens=2)
    (applied,) = answer.steered
    assert (applied.site, applied.layers) == (METHODS[method].application.site, expected)
    assert applied.to_dict()["site"] == applied.site


def test_of_chosen_layers_the_one_nearest_to_the_middle_is_steered(tiny_llm: Any) -> None:
    only = build_vector(tiny_llm, PAIRS, method="caa", layers=(0, 2), progress=False)
    assert only.steer(1.0).layers == (0,)
    last = build_vector(tiny_llm, PAIRS, method="caa", layers=(2,), progress=False)
    assert last.steer(1.0).layers == (2,)
    assert METHODS["caa"].grid.usual_layers(tuple(range(32)), 32) == (15,)
    with pytest.raises(InvalidInputError, match=r"to steer layers \(1,\), but has only \(2,\)"):
        replace(last, usual_layers=(1,))


def test_all_methods_in_one_batch_equal_one_by_one(
    tiny_llm: Any, built: dict[str, SteeringVector]
) -> None:
    prompts = [pair.messages for pair in PAIRS]
    requests = [
        GenerationRequest(prompts[i % len(prompts)], v.steer(strong(v)), max_new_tokens=6)
        for i, v in enumerate(built.values())
    ]
    requests.append(GenerationRequest(PROMPT, max_new_tokens=6))
    together = tiny_llm.generate_batch(requests)
    for request, answer in zip(requests, together, strict=True):
        alone = tiny_llm.generate_batch([request])[0]
        assert (alone.token_ids, alone.steered) == (answer.token_ids, answer.steered)


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_every_method_has_settings_with_one_line_for_a_wrong_one(
    tiny_llm: Any, method: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"setting of method '{method}'.*colour"):
        build_vector(tiny_llm, PAIRS, method=method, colour=1, progress=False)
    with pytest.raises(InvalidInputError, match="blocks 0 to 2"):
        build_vector(tiny_llm, PAIRS, method=method, layers=(7,), progress=False)


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_every_vector_can_be_calibrated_as_its_method_is_meant(
    tiny_llm: Any, built: dict[str, SteeringVector], method: str
) -> None:
    # Anything else than what the random model says counts as right, so any real push wins.
    items = []
    for number, pair in enumerate(PAIRS[:3]):
        asked = pair.messages[-1].content.replace("opens", "closes")
        said = tiny_llm.generate(asked, max_new_tokens=4).text
        items.append(EvaluationItem(id=str(number), category="x", messages=asked, reject=(said,)))
    dev = EvaluationSet("dev", items)
    vector = built[method]
    try:
        found = calibrate(tiny_llm, vector, dev, max_new_tokens=4, progress=False)
    except CalibrationError:
        pytest.fail(f"no setting of the grid of {method} changes anything")
    chosen = found.calibration
    assert chosen is not None
    assert (chosen.unit, chosen.renormalise) == (
        vector.application.unit,
        vector.application.renormalise,
    )
    one_layer = METHODS[method].grid.subsets == "single"
    assert (chosen.layers is not None and len(chosen.layers) == 1) == one_layer
    assert found.steer().is_active


def test_what_was_trained_together_is_tried_as_a_whole() -> None:
    layers = tuple(range(12))
    assert Grid(subsets="whole").layers(layers) == (None,)
    assert METHODS["bipo"].grid.layers(layers) == (None,)
    assert Grid().layers(layers) == (None, layers[:4], layers[4:8], layers[8:])
    assert Grid(subsets="single").layers(layers) == tuple((i,) for i in (1, 3, 5, 7, 9, 11))
