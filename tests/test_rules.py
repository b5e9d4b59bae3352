"""Rules that look at the state: checked number by number against their equations."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.errors import InvalidInputError
from steerable_llm.vector.fingerprint import ModelFingerprint
from steerable_llm.vector.steering import Application, Gates, gated_delta, icv_delta, steer_hidden
from steerable_llm.vector.vector import SteeringVector

numbers = st.floats(-4, 4, width=32).map(lambda x: 0.0 if abs(x) < 1e-2 else x)
states = st.lists(numbers, min_size=3, max_size=3).filter(any)
MODEL = ModelFingerprint(
    model_id="some/model", architecture="LlamaForCausalLM", hidden_size=3, num_layers=2,
    config_hash="c", weights_hash="w", tokenizer_hash="t", template_hash="p",
)  # fmt: skip


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def slow_icv(x: list[float], v: list[float], lam: float) -> list[float]:
    """x' = |x| normalise(x / |x| + lam s v / |v|), s = 1 + max(0, cos(x, -v))."""
    if lam < 0:
        v, lam = [-n for n in v], -lam
    length, width = math.sqrt(dot(x, x)), math.sqrt(dot(v, v))
    s = 1 + max(0.0, -dot(x, v) / (length * width))
    moved = [a / length + lam * s * b / width for a, b in zip(x, v, strict=True)]
    new = math.sqrt(dot(moved, moved))
    return [length * n / new for n in moved]


@given(states, states, st.sampled_from([0.1, 0.5, -0.3]))
def test_an_in_context_vector_is_applied_as_its_equation_says(x, v, lam) -> None:
    h = torch.tensor([[x]])
    steered = steer_hidden(h, icv_delta(h, torch.tensor(v), lam), True)
    expected = torch.tensor(slow_icv(x, v, lam))
    torch.testing.assert_close(steered[0, 0], expected, rtol=1e-4, atol=1e-4)


@given(states, st.lists(states, min_size=2, max_size=2), st.sampled_from([1.0, 0.5, -2.0]))
def test_gates_let_through_what_their_sigmoids_say(x, rows, factor) -> None:
    weights, biases = [[0.5, -1.0, 0.0], [2.0, 0.0, 1.0]], [0.3, -0.2]
    gates = Gates(torch.tensor(weights), torch.tensor(biases), torch.tensor(rows))
    expected = [0.0, 0.0, 0.0]
    for weight, bias, row in zip(weights, biases, rows, strict=True):
        opened = 1 / (1 + math.exp(-(dot(weight, x) + bias)))
        expected = [e + factor * opened * r for e, r in zip(expected, row, strict=True)]
    found = gated_delta(torch.tensor([[x]]), gates, factor)
    torch.testing.assert_close(found[0, 0], torch.tensor(expected), rtol=1e-4, atol=1e-4)


def gated(**changes) -> SteeringVector:
    gates = Gates(torch.ones(2, 3), torch.tensor([0.5, -0.5]), torch.arange(6.0).reshape(2, 3) + 1)
    fields = {
        "name": "gated",
        "directions": {1: gates.vectors.sum(0)},
        "scales": {1: 2.0},
        "fingerprint": MODEL,
        "application": Application(rule="gate", unit="absolute"),
        "gates": {1: gates},
    }
    return SteeringVector(**{**fields, **changes})


def test_a_gated_vector_comes_back_from_its_file(tmp_path) -> None:
    made = gated()
    loaded = SteeringVector.load(made.save(tmp_path / "v.safetensors"), MODEL)
    assert loaded.fingerprint_id == made.fingerprint_id
    assert loaded.application == made.application
    for part in ("weights", "biases", "vectors"):
        assert torch.equal(getattr(loaded.gates[1], part), getattr(made.gates[1], part))


def test_relative_strength_counts_what_all_open_gates_let_through() -> None:
    wide_open = Gates(torch.zeros(2, 3), torch.full((2,), 50.0), gated().gates[1].vectors)
    (term,) = gated(gates={1: wide_open}).steer(0.1, unit="relative").terms
    torch.testing.assert_close(term.delta_at(1, torch.ones(1, 3)).norm(), torch.tensor(0.2))


def test_the_controls_of_a_gated_vector_keep_its_gates_and_lengths() -> None:
    made = gated()
    assert torch.equal(made.negated().gates[1].vectors, -made.gates[1].vectors)
    random = made.randomised(3)
    assert torch.equal(random.gates[1].weights, made.gates[1].weights)
    torch.testing.assert_close(
        random.gates[1].vectors.norm(dim=1), made.gates[1].vectors.norm(dim=1)
    )
    assert random.fingerprint_id != made.fingerprint_id


def test_what_could_not_be_applied_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no gate of width 3 for layer 1"):
        gated(gates={})
    with pytest.raises(InvalidInputError, match="unknown site 'lungs'"):
        Application(site="lungs")
    with pytest.raises(InvalidInputError, match="relative to each state's own length"):
        gated(application=Application(rule="icv"), gates={}).steer(1.0, unit="absolute")


def test_gates_are_copied_to_another_device_once() -> None:
    gates = Gates(torch.ones(2, 3), torch.zeros(2), torch.ones(2, 3))
    assert gates.on(torch.device("cpu")) is gates
    there = gates.on(torch.device("meta"))
    assert {part.device.type for part in (there.weights, there.biases, there.vectors)} == {"meta"}
    assert gates.on(torch.device("meta")) is there
    assert gated_delta(torch.ones(1, 3, device="meta"), gates, 1.0).shape == (1, 3)
