"""Steering vectors: checks, controls, the file and who may load it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from steerable_llm.errors import (
    InvalidInputError,
    ModelMismatchError,
    TamperedVectorError,
    VectorFileError,
)
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.fingerprint import ModelFingerprint
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.steering import Application
from steerable_llm.vector.vector import SteeringVector

MODEL = ModelFingerprint(
    model_id="some/model",
    revision=None,
    architecture="LlamaForCausalLM",
    hidden_size=4,
    num_layers=3,
    config_hash="c",
    weights_hash="w",
    tokenizer_hash="t",
    template_hash="p",
)
OTHER = MODEL.model_copy(update={"model_id": "other/model", "weights_hash": "x"})
WIDER = MODEL.model_copy(update={"hidden_size": 8})


def vector(**changes):
    fields = {
        "name": "faithful",
        "directions": {2: torch.tensor([0.0, 3.0, 0.0, 4.0]), 0: torch.ones(4)},
        "scales": {0: 2.0, 2: 7.5},
        "fingerprint": MODEL,
        "provenance": Provenance(method="grains", pairs=50, facts={"note": "Köln ✓"}),
    }
    return SteeringVector(**{**fields, **changes})


CALIBRATED = Calibration(-0.06, layers=(2,), scope="all", remark="minus: towards the context")


def test_directions_are_float32_on_the_cpu_in_layer_order():
    made = vector(directions={2: torch.ones(4, dtype=torch.float64), 0: torch.ones(4).half()})
    assert made.layers == (0, 2)
    assert {direction.dtype for direction in made.directions.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"directions": {}}, "no layers"),
        ({"directions": {3: torch.ones(4)}}, "blocks 0 to 2"),
        ({"directions": {0: torch.ones(5)}}, "hidden size"),
        ({"directions": {0: torch.tensor([1.0, math.nan, 0, 0])}}, "not finite"),
        ({"scales": {0: 1.0}}, "layer 2"),
        ({"scales": {0: 1.0, 2: 0.0}}, "layer 2"),
    ],
)
def test_vectors_that_could_not_steer_are_refused(changes, problem):
    with pytest.raises(InvalidInputError, match=problem):
        vector(**changes)


def test_steering_takes_what_is_left_out_from_the_calibration():
    calibrated = vector(calibration=CALIBRATED)
    (term,) = calibrated.steer().terms
    assert (term.strength, term.layers, term.scope, term.unit) == (-0.06, (2,), "all", "total")
    (term,) = calibrated.steer(0.1, layers=(0,), scope="prompt", renormalise=False).terms
    assert (term.strength, term.layers, term.scope) == (0.1, (0,), "prompt")
    assert not term.renormalise


def test_an_explicit_zero_is_not_replaced_by_the_calibration():
    assert not vector(calibration=CALIBRATED).steer(0.0).is_active


def test_steering_without_strength_needs_a_calibration():
    with pytest.raises(InvalidInputError, match="not calibrated"):
        vector().steer()
    assert vector().steer(0.05).is_active


def test_the_sign_flipped_control_points_the_other_way():
    flipped = vector().negated()
    for layer, direction in vector().directions.items():
        assert torch.equal(flipped.directions[layer], -direction)
    assert flipped.fingerprint_id != vector().fingerprint_id


@given(st.integers(0, 1000))
def test_the_random_control_keeps_the_norm_of_every_layer(seed):
    random = vector().randomised(seed)
    for layer, direction in vector().directions.items():
        torch.testing.assert_close(random.directions[layer].norm(), direction.norm())
        assert not torch.allclose(random.directions[layer], direction)
    again = vector().randomised(seed)
    assert again.fingerprint_id == random.fingerprint_id


def test_a_file_keeps_everything(tmp_path):
    made = vector(calibration=CALIBRATED, usual_layers=(2,), decision_tokens=4).with_evaluation(
        {"conflict": [0.8, 0.7, 0.9]}
    )
    path = made.save(tmp_path / "folder" / "faithful.safetensors")
    loaded = SteeringVector.load(path, MODEL)
    assert loaded.fingerprint_id == made.fingerprint_id
    for layer, direction in made.directions.items():
        assert torch.equal(loaded.directions[layer], direction)
    for field in (
        "name", "scales", "fingerprint", "provenance", "calibration", "evaluation",
        "usual_layers", "decision_tokens",
    ):  # fmt: skip
        assert getattr(loaded, field) == getattr(made, field)
    assert [file.name for file in path.parent.iterdir()] == ["faithful.safetensors"]


def test_a_calibration_for_all_layers_survives_the_file(tmp_path):
    path = vector(calibration=Calibration(0.05)).save(tmp_path / "v.safetensors")
    assert SteeringVector.load(path).calibration == Calibration(0.05)


def test_another_model_is_refused_and_both_are_named(tmp_path):
    path = vector().save(tmp_path / "v.safetensors")
    with pytest.raises(ModelMismatchError) as caught:
        SteeringVector.load(path, OTHER)
    assert MODEL.short in str(caught.value)
    assert OTHER.short in str(caught.value)
    assert "weights_hash" in str(caught.value)


def test_force_accepts_another_model_of_the_same_shape_only(tmp_path):
    path = vector().save(tmp_path / "v.safetensors")
    assert SteeringVector.load(path, OTHER, force=True).name == "faithful"
    with pytest.raises(ModelMismatchError, match="force does not help"):
        SteeringVector.load(path, WIDER, force=True)


def test_what_is_written_into_a_direction_is_seen_in_what_an_answer_records():
    made = vector()
    before = made.fingerprint_id
    made.directions[min(made.directions)][0] += 1
    assert made.fingerprint_id != before
    made.directions[min(made.directions)][0] -= 1
    assert made.fingerprint_id == before


def test_a_vector_that_was_made_in_inference_mode_has_the_same_fingerprint():
    with torch.inference_mode():
        made = vector(directions={i: t.clone() for i, t in vector().directions.items()})
        assert all(direction.is_inference() for direction in made.directions.values())
    assert made.fingerprint_id == vector().fingerprint_id
    with torch.inference_mode():
        made.directions[min(made.directions)][0] += 1
    assert made.fingerprint_id != vector().fingerprint_id


def test_anything_with_a_fingerprint_can_be_checked(tiny_llm):
    with pytest.raises(ModelMismatchError, match="tiny-llama"):
        vector().check(tiny_llm)


def test_a_provenance_that_is_not_json_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(VectorFileError, match="provenance"):
        vector(provenance=Provenance(facts={"tensor": torch.ones(2)})).save(
            tmp_path / "v.safetensors"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_old_file(tmp_path):
    path = vector().save(tmp_path / "v.safetensors")
    with pytest.raises(VectorFileError):
        vector(evaluation={"loss": math.nan}).save(path)
    assert SteeringVector.load(path).fingerprint_id == vector().fingerprint_id


HEADS = Application(site="heads", unit="absolute", renormalise=False)
WIDE = {0: torch.arange(6.0), 2: torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 3.0])}


def header(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()["format_version"], sorted(file.keys())


def test_what_older_releases_can_read_is_still_written_for_them(tmp_path):
    assert header(vector().save(tmp_path / "v")) == ("1", ["layer.0", "layer.2"])
    there = vector(directions=WIDE, application=HEADS)
    assert header(there.save(tmp_path / "h")) == ("2", ["heads.0", "heads.2"])


def test_a_vector_of_heads_keeps_its_width_and_its_application(tmp_path):
    made = vector(directions=WIDE, application=HEADS, calibration=CALIBRATED)
    loaded = SteeringVector.load(made.save(tmp_path / "v"), MODEL)
    assert loaded.application == HEADS
    assert loaded.fingerprint_id == made.fingerprint_id
    assert all(torch.equal(loaded.directions[i], WIDE[i]) for i in WIDE)
    (term,) = vector(directions=WIDE, application=HEADS).steer(15.0).terms
    assert (term.site, term.unit, term.renormalise) == ("heads", "absolute", False)


def test_the_same_numbers_at_another_site_are_another_vector():
    outputs, mlps = vector(), vector(application=Application(site="mlp"))
    assert outputs.fingerprint_id != mlps.fingerprint_id


def test_heads_that_are_left_alone_stay_so_in_the_random_control():
    random = vector(directions=WIDE, application=HEADS).randomised(1)
    assert not random.directions[2][:3].any()
    torch.testing.assert_close(random.directions[2].norm(), WIDE[2].norm())


def test_directions_of_unequal_width_are_refused():
    with pytest.raises(InvalidInputError, match="times its heads"):
        vector(directions={0: torch.ones(6), 2: torch.ones(4)}, application=HEADS)
    with pytest.raises(InvalidInputError, match="hidden size"):
        vector(directions=WIDE, application=Application(site="mlp"))


def test_a_changed_application_is_told(tmp_path):
    path = vector(application=Application(site="mlp")).save(tmp_path / "v.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    metadata["application"] = metadata["application"].replace('"add"', '"icv"')
    save_file(tensors, path, metadata)
    with pytest.raises(TamperedVectorError, match="changed"):
        SteeringVector.load(path)
