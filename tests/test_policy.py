"""A policy file decides which step is steered by what, and says clearly what is wrong with it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from policy_models import word_gate

from steerable_llm.errors import (
    ModelMismatchError,
    NotAVectorError,
    PolicyError,
    UnknownGateError,
    UnknownStepError,
    UnknownVectorError,
)
from steerable_llm.policy.policy import Policy
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.fingerprint import ModelFingerprint
from steerable_llm.vector.steering import Steering
from steerable_llm.vector.vector import SteeringVector

MODEL = ModelFingerprint(
    model_id="tiny",
    architecture="LlamaForCausalLM",
    hidden_size=4,
    num_layers=3,
    config_hash="c",
    weights_hash="w",
    tokenizer_hash="t",
    template_hash="p",
)


def vector(name: str, strength: float | None = 0.05) -> SteeringVector:
    return SteeringVector(
        name=name,
        directions={i: torch.arange(4.0) + i + len(name) for i in (0, 2)},
        scales={0: 1.0, 2: 2.0},
        fingerprint=MODEL,
        calibration=None if strength is None else Calibration(strength=strength, layers=(2,)),
    )


VECTORS = {name: vector(name) for name in ("faithful", "polite")}
TWO_STEPS = """
default_step = "reply"

[steps.answer]
vectors = [{ name = "faithful" }, { name = "polite", strength = -0.1, layers = [0], scope = "all" }]

[steps.reply]
vectors = [{ name = "polite" }]

[steps.condense]
"""


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    """A policy beside a folder with the vectors that it names."""
    for each in VECTORS.values():
        each.save(tmp_path / "vectors" / f"{each.name}.safetensors")
    path = tmp_path / "policy.toml"
    path.write_text('vectors_dir = "vectors"\n' + TWO_STEPS)
    return path


def test_a_step_gets_the_vectors_it_names_in_order(policy_file: Path) -> None:
    first, second = Policy.load(policy_file).steering_for("answer").terms
    assert (first.vector.name, second.vector.name) == ("faithful", "polite")
    assert first.vector.fingerprint_id == VECTORS["faithful"].fingerprint_id


def test_what_a_use_leaves_out_comes_from_the_calibration(policy_file: Path) -> None:
    calibrated, stated = Policy.load(policy_file).steering_for("answer").terms
    assert (calibrated.strength, calibrated.layers, calibrated.scope) == (0.05, (2,), "generated")
    assert (stated.strength, stated.layers, stated.scope) == (-0.1, (0,), "all")


def test_a_request_without_a_step_gets_the_default_one(policy_file: Path) -> None:
    policy = Policy.load(policy_file)
    assert policy.steering_for(None) == policy.steering_for("reply") != Steering.none()


def test_without_a_default_step_such_a_request_is_not_steered() -> None:
    policy = Policy.from_dict({"steps": {"answer": {"vectors": [{"name": "faithful"}]}}}, VECTORS)
    assert policy.steering_for(None) == Steering.none()
    assert policy.steering_for("answer").is_active


def test_a_step_without_vectors_is_known_and_never_steered(policy_file: Path) -> None:
    assert Policy.load(policy_file).steering_for("condense") == Steering.none()


def test_a_disabled_policy_steers_nothing_and_still_knows_its_steps(policy_file: Path) -> None:
    policy_file.write_text("enabled = false\n" + policy_file.read_text())
    policy = Policy.load(policy_file)
    assert policy.steering_for("answer") == policy.steering_for() == Steering.none()
    with pytest.raises(UnknownStepError):
        policy.steering_for("anwser")


def test_an_unknown_step_is_named_with_the_nearest_and_all_known_ones(policy_file: Path) -> None:
    with pytest.raises(UnknownStepError) as caught:
        Policy.load(policy_file).steering_for("anwser")
    assert str(caught.value) == (
        "'anwser' is not a known step; did you mean 'answer'? known: answer, condense, reply"
    )


def test_an_unknown_vector_is_named_with_the_nearest_one(policy_file: Path) -> None:
    policy_file.write_text(policy_file.read_text().replace('"faithful"', '"faithfull"'))
    with pytest.raises(UnknownVectorError, match="did you mean 'faithful'") as caught:
        Policy.load(policy_file)
    assert "known: faithful, polite" in str(caught.value)


def test_an_unknown_gate_is_looked_for_among_gates_alone(policy_file: Path) -> None:
    folder = policy_file.parent / "vectors"
    word_gate("rudeness").save(folder / "rudeness.safetensors")
    (folder / "broken.safetensors").write_bytes(b"?")
    step = '[steps.kind]\nvectors = []\nwhen = { gate = { name = "faithfull" } }\n'
    policy_file.write_text(f'vectors_dir = "{folder.as_posix()}"\n{step}')
    with pytest.raises(UnknownGateError, match="known: rudeness in"):
        Policy.load(policy_file)


def test_a_vector_name_is_no_way_out_of_the_folder(policy_file: Path) -> None:
    vector("secret").save(policy_file.parent / "secret.safetensors")
    policy_file.write_text(policy_file.read_text().replace('"faithful"', '"../secret"'))
    with pytest.raises(UnknownVectorError):
        Policy.load(policy_file)


def test_given_vectors_take_the_place_of_the_folder(policy_file: Path) -> None:
    other = {**VECTORS, "faithful": replace(vector("other"), name="faithful")}
    steering = Policy.load(policy_file, vectors=other).steering_for("answer")
    assert steering.terms[0].vector is other["faithful"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("defualt_step = 'a'", "'defualt_step' is not a known key; did you mean 'default_step'"),
        ("[steps.answer]\nvector = []", "did you mean 'vectors'"),
        ("[steps.answer]\nvectors = [{name = 'polite', strenght = 1}]", "did you mean 'strength'"),
        ("[steps.answer]\nvectors = [{name = 'polite', scope = 'some'}]", "scope"),
        ("[steps.answer]\nvectors = [{name = 'polite', strength = nan}]", "finite"),
        ("[steps.answer]\nvectors = [{name = 'polite', layers = [1]}]", "choose from [0, 2]"),
        ("[steps.answer]\nvectors = [{name = 'polite', strength = true}]", "valid number"),
        ("[steps.answer]\nvectors = [{name = 'polite', layers = [false]}]", "valid integer"),
        ("[steps.answer]\nwhen = {conflict = {from = 0, to = true}}", "valid number"),
        ("enabled = 'perhaps'", "enabled"),
        ("steps = 3", "steps"),
        ("default_step = 'answer'", "default_step 'answer' is not a known step; known: none"),
        ("steps = [", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(PolicyError) as caught:
        Policy.load(path, vectors=VECTORS)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_broken_vector_are_told_apart(policy_file: Path) -> None:
    with pytest.raises(PolicyError, match="check the path"):
        Policy.load(policy_file.with_name("none.toml"))
    broken = policy_file.parent / "vectors" / "polite.safetensors"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(NotAVectorError):
        Policy.load(policy_file)


def test_an_uncalibrated_vector_needs_a_strength() -> None:
    bare = {"bare": vector("bare", strength=None)}
    uses = [{"name": "bare"}]
    with pytest.raises(PolicyError, match=r"step 'answer'.*not calibrated"):
        Policy.from_dict({"steps": {"answer": {"vectors": uses}}}, bare)
    uses[0]["strength"] = 0.2  # type: ignore[assignment]
    policy = Policy.from_dict({"steps": {"answer": {"vectors": uses}}}, bare)
    assert policy.steering_for("answer").terms[0].strength == 0.2


def test_a_policy_made_without_its_vectors_does_not_pass_for_unsteered() -> None:
    policy = Policy.model_validate({"steps": {"answer": {"vectors": [{"name": "faithful"}]}}})
    with pytest.raises(PolicyError, match=r"Policy\.load"):
        policy.steering_for("answer")


def test_a_policy_with_vectors_of_another_model_is_refused(policy_file: Path) -> None:
    policy = Policy.load(policy_file)
    policy.check(MODEL)
    with pytest.raises(ModelMismatchError):
        policy.check(MODEL.model_copy(update={"weights_hash": "x"}))


def test_the_digest_does_not_depend_on_where_the_files_lie(policy_file: Path) -> None:
    assert Policy.load(policy_file).digest == Policy.load(policy_file, vectors=VECTORS).digest


@given(
    strength=st.floats(-1, 1).filter(lambda s: s != 0.05),
    other=st.sampled_from(["strength", "name", "calibration", "enabled", "default", "step"]),
)
def test_any_change_of_what_is_applied_changes_the_digest(strength: float, other: str) -> None:
    def digest(use: dict[str, object], vectors: dict[str, SteeringVector], **top: object) -> str:
        step = top.pop("step", "answer")
        steps = {step: {"vectors": [use]}, "none": {}}
        return Policy.from_dict({"steps": steps, **top}, vectors).digest

    changed = {
        "strength": lambda: digest({"name": "polite", "strength": strength}, VECTORS),
        "name": lambda: digest({"name": "faithful"}, VECTORS),
        "calibration": lambda: digest(
            {"name": "polite"}, {"polite": vector("polite", strength=strength)}
        ),
        "enabled": lambda: digest({"name": "polite"}, VECTORS, enabled=False),
        "default": lambda: digest({"name": "polite"}, VECTORS, default_step="none"),
        "step": lambda: digest({"name": "polite"}, VECTORS, step="reply"),
    }
    assert changed[other]() != digest({"name": "polite"}, VECTORS)
