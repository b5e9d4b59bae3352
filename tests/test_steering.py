"""The steering equation and its rules, checked number by number; what one request gets."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from steerable_llm.errors import InvalidInputError
from steerable_llm.vector.fingerprint import ModelFingerprint
from steerable_llm.vector.steering import (
    Application,
    Steering,
    SteeringTerm,
    WeighedVectors,
    icv_delta,
    just_short,
    steer_hidden,
    steer_states,
    weighed_delta,
)
from steerable_llm.vector.vector import SteeringVector


@dataclass(frozen=True)
class PlainVector:
    directions: dict[int, Tensor]
    scales: dict[int, float] = field(default_factory=dict)
    name: str = "plain"
    fingerprint_id: str = "abc"


def slow_steer(h, delta, renormalise):
    """Eq. 7 and 8 for one token, in Python's own double precision, number by number."""
    after = [x + y for x, y in zip(h, delta, strict=True)]
    length = math.sqrt(sum(x * x for x in h))
    new_length = math.sqrt(sum(x * x for x in after))
    if not renormalise or new_length == 0.0:
        return after
    return [x * length / new_length for x in after]


def slow_delta(vector, strength, layer, unit):
    direction = vector.directions[layer].tolist()
    if unit == "absolute":
        return [strength * x for x in direction]
    norm = math.sqrt(sum(x * x for x in direction))
    if unit == "total":
        strength = strength / len(vector.directions)
    return [strength * vector.scales[layer] * x / norm for x in direction]


numbers = st.floats(-8, 8, width=32).map(lambda x: 0.0 if abs(x) < 1e-3 else x)
tokens = st.lists(numbers, min_size=4, max_size=4)


@given(tokens, tokens, st.booleans())
def test_steering_a_token_is_equations_7_and_8(h, delta, renormalise):
    steered = steer_hidden(torch.tensor([[h]]), torch.tensor(delta), renormalise)
    expected = torch.tensor(slow_steer(h, delta, renormalise))
    # Cancellation of h and delta leaves float32 rounding of the inputs' size.
    torch.testing.assert_close(steered[0, 0], expected, rtol=1e-4, atol=1e-4)


@given(st.integers(0, 10_000), st.sampled_from([torch.float32, torch.bfloat16]))
def test_every_token_keeps_its_own_length(seed, dtype):
    source = torch.Generator().manual_seed(seed)
    h = (torch.randn(3, 5, 16, generator=source) * torch.rand(3, 5, 1, generator=source)).to(dtype)
    steered = steer_hidden(h, torch.randn(3, 16, generator=source), True)
    assert steered.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2  # bfloat16 has 8 bits of mantissa
    torch.testing.assert_close(
        steered.float().norm(dim=-1), h.float().norm(dim=-1), rtol=tolerance, atol=1e-7
    )


@given(st.integers(0, 10_000), st.booleans())
def test_tokens_outside_the_mask_and_zero_deltas_come_back_bit_for_bit(seed, renormalise):
    source = torch.Generator().manual_seed(seed)
    h = torch.randn(2, 6, 8, generator=source)
    mask = torch.rand(2, 6, generator=source) < 0.5
    steered = steer_hidden(h, torch.randn(8, generator=source), renormalise, mask)
    assert torch.equal(steered[~mask], h[~mask])
    assert not torch.equal(steered[mask], h[mask]) or not mask.any()
    assert torch.equal(steer_hidden(h, torch.zeros(8), renormalise), h)


def test_delta_may_be_shared_per_row_or_per_token():
    h, delta = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    for renormalise in (True, False):
        together = steer_hidden(h, delta, renormalise)
        for row in range(2):
            for token in range(3):
                alone = steer_hidden(h[row, token][None, None], delta[row, token], renormalise)
                torch.testing.assert_close(together[row, token], alone[0, 0])
    per_row = steer_hidden(h, delta[:, 0])
    torch.testing.assert_close(per_row[1], steer_hidden(h[1:], delta[1, 0])[0])


def test_eq_8_may_hold_for_some_tokens_only():
    h, delta = torch.randn(1, 2, 4), torch.randn(4)
    mixed = steer_hidden(h, delta, torch.tensor([[True, False]]))
    torch.testing.assert_close(mixed[:, :1], steer_hidden(h, delta, True)[:, :1])
    torch.testing.assert_close(mixed[:, 1:], steer_hidden(h, delta, False)[:, 1:])


@given(st.integers(0, 10_000), st.integers(1, 4), st.booleans(), st.floats(-6, 6))
def test_one_state_of_each_row_is_steered_as_many_are(seed, rows, alike, power):
    source = torch.Generator().manual_seed(seed)
    h = 10**power * torch.randn(rows, 1, 16, generator=source)
    delta = torch.randn(1 if alike else rows, 1, 16, generator=source)
    torch.testing.assert_close(
        steer_states(h, just_short(delta)), steer_hidden(h, delta), rtol=1e-4, atol=1e-5 * 10**power
    )


def test_gradients_pass_one_state_as_they_pass_many():
    h, delta = torch.randn(3, 1, 8), torch.randn(1, 1, 8)
    found = []
    for steer in (lambda x: steer_states(x, just_short(delta)), lambda x: steer_hidden(x, delta)):
        x = h.clone().requires_grad_()
        steer(x).pow(3).sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [1e-10, 1.0, 25.0, 1e15])
def test_one_state_that_cancels_stays_as_it_is(length):
    h = torch.tensor([[[length, -2 * length, 0.0, length / 3]]])
    torch.testing.assert_close(steer_states(h, just_short(-h)), h, rtol=0.1, atol=0.1 * length)


@pytest.mark.parametrize("length", [0.0, 1e-30, 1.0, 25.0, 1e15])
def test_a_state_that_cancels_becomes_zero_and_not_nan(length):
    h = torch.full((1, 1, 4), length)
    assert torch.equal(steer_hidden(h, -h[0, 0], True), torch.zeros(1, 1, 4))


@given(st.floats(-10, 10), st.floats(0.1, 100), st.sampled_from(["total", "relative", "absolute"]))
def test_what_a_term_adds(strength, scale, unit):
    others = dict.fromkeys((0, 1), torch.ones(3))
    vector = PlainVector({**others, 2: torch.tensor([3.0, 4.0, 0.0])}, {0: 1.0, 1: 1.0, 2: scale})
    term = SteeringTerm(vector, strength, unit=unit)
    expected = torch.tensor(slow_delta(vector, strength, 2, unit))
    torch.testing.assert_close(term.delta(2), expected, rtol=1e-5, atol=1e-6)
    if unit != "absolute":
        each = abs(strength) / (3 if unit == "total" else 1)
        assert float(term.delta(2).norm()) == pytest.approx(each * scale, rel=1e-4)


@given(
    st.floats(-3, 3),
    st.sets(st.integers(0, 29), min_size=1),
    st.lists(st.floats(0.1, 100), min_size=30, max_size=30),
)
def test_a_total_strength_is_the_sum_of_what_layers_add_however_many_there_are(
    strength, layers, lengths
):
    vector = PlainVector(dict.fromkeys(range(30), torch.ones(3)), dict(enumerate(lengths)))
    term = SteeringTerm(vector, strength, layers=tuple(layers))
    assert term.unit == "total"
    shares = [float(term.delta(x).norm()) / lengths[x] for x in layers]
    assert sum(shares) == pytest.approx(abs(strength), rel=1e-4, abs=1e-9)
    assert max(shares) == pytest.approx(min(shares), rel=1e-4, abs=1e-9)


def test_a_relative_strength_of_a_zero_direction_adds_nothing():
    term = SteeringTerm(PlainVector({0: torch.zeros(3)}, {0: 5.0}), 1.0)
    assert torch.equal(term.delta(0), torch.zeros(3))


def test_steerings_add_up_and_know_their_layers():
    first = PlainVector({0: torch.ones(2), 1: torch.ones(2)}, {0: 1.0, 1: 1.0}, "first")
    second = PlainVector({1: torch.ones(2), 4: torch.ones(2)}, {1: 1.0, 4: 1.0}, "second")
    both = Steering.of(first, 0.5, layers=(1,)) + Steering.of(second, -0.5)
    assert both.layers == (1, 4)
    assert [term.vector.name for term, _ in both.deltas(1)] == ["first", "second"]
    assert [term.vector.name for term, _ in both.deltas(4)] == ["second"]
    assert both.deltas(0) == []


def test_strength_zero_and_no_terms_are_inactive():
    vector = PlainVector({0: torch.ones(2)}, {0: 1.0})
    assert not Steering.none().is_active
    assert not Steering.of(vector, 0.0).is_active
    assert Steering.of(vector, 0.0).layers == ()
    assert (Steering.of(vector, 0.0) + Steering.of(vector, 0.1)).is_active


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strength": math.nan}, "give a finite number"),
        ({"strength": math.inf}, "give a finite number"),
        ({"scope": "everywhere"}, "choose one of all, prompt, generated, decision, last_prompt"),
        ({"unit": "metres"}, "choose one of total, relative, absolute"),
        ({"layers": (0, 7)}, r"no direction for layers \[7\]: choose from \[0, 1\]"),
        ({"layers": ()}, "choose from"),
        ({"layers": (1,)}, "no residual norm for layers"),
    ],
)
def test_what_cannot_steer_is_refused_at_once(change, message):
    vector = PlainVector({0: torch.ones(2), 1: torch.ones(2)}, {0: 1.0})
    with pytest.raises(InvalidInputError, match=message) as error:
        Steering.of(**{"vector": vector, "strength": 1.0, "layers": (0,), **change})
    assert "\n" not in str(error.value)


# Rules that look at the state.

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
    assume(new > 1e-2)  # a state that (nearly) cancels has no direction; another test has that
    return [length * n / new for n in moved]


@given(states, states, st.sampled_from([0.1, 0.5, -0.3]))
def test_an_in_context_vector_is_applied_as_its_equation_says(x, v, lam) -> None:
    h = torch.tensor([[x]])
    steered = steer_hidden(h, icv_delta(h, torch.tensor(v), lam), True)
    expected = torch.tensor(slow_icv(x, v, lam))
    torch.testing.assert_close(steered[0, 0], expected, rtol=1e-4, atol=1e-4)


@given(states, st.lists(states, min_size=2, max_size=2), st.sampled_from([1.0, 0.5, -2.0]))
def test_vectors_are_weighed_by_their_sigmoids(x, rows, factor) -> None:
    weights, biases = [[0.5, -1.0, 0.0], [2.0, 0.0, 1.0]], [0.3, -0.2]
    weighed = WeighedVectors(torch.tensor(weights), torch.tensor(biases), torch.tensor(rows))
    expected = [0.0, 0.0, 0.0]
    for weight, bias, row in zip(weights, biases, rows, strict=True):
        opened = 1 / (1 + math.exp(-(dot(weight, x) + bias)))
        expected = [e + factor * opened * r for e, r in zip(expected, row, strict=True)]
    found = weighed_delta(torch.tensor([[x]]), weighed, factor)
    torch.testing.assert_close(found[0, 0], torch.tensor(expected), rtol=1e-4, atol=1e-4)


def weighing(**changes) -> SteeringVector:
    weighed = WeighedVectors(
        torch.ones(2, 3), torch.tensor([0.5, -0.5]), torch.arange(6.0).reshape(2, 3) + 1
    )
    fields = {
        "name": "weighing",
        "directions": {1: weighed.vectors.sum(0)},
        "scales": {1: 2.0},
        "fingerprint": MODEL,
        "application": Application(rule="weigh", unit="absolute"),
        "weighed": {1: weighed},
    }
    return SteeringVector(**{**fields, **changes})


def test_a_weighed_vector_comes_back_from_its_file(tmp_path) -> None:
    made = weighing()
    loaded = SteeringVector.load(made.save(tmp_path / "v.safetensors"), MODEL)
    assert loaded.fingerprint_id == made.fingerprint_id
    assert loaded.application == made.application
    for part in ("weights", "biases", "vectors"):
        assert torch.equal(getattr(loaded.weighed[1], part), getattr(made.weighed[1], part))


def test_relative_strength_counts_what_all_vectors_add_together() -> None:
    wide_open = WeighedVectors(
        torch.zeros(2, 3), torch.full((2,), 50.0), weighing().weighed[1].vectors
    )
    (term,) = weighing(weighed={1: wide_open}).steer(0.1, unit="relative").terms
    torch.testing.assert_close(term.delta_at(1, torch.ones(1, 3)).norm(), torch.tensor(0.2))


def test_the_controls_of_a_weighed_vector_keep_its_weights_and_lengths() -> None:
    made = weighing()
    assert torch.equal(made.negated().weighed[1].vectors, -made.weighed[1].vectors)
    random = made.randomised(3)
    assert torch.equal(random.weighed[1].weights, made.weighed[1].weights)
    torch.testing.assert_close(
        random.weighed[1].vectors.norm(dim=1), made.weighed[1].vectors.norm(dim=1)
    )
    assert random.fingerprint_id != made.fingerprint_id


def test_what_could_not_be_applied_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no vectors of width 3 to weigh for layer 1"):
        weighing(weighed={})
    with pytest.raises(InvalidInputError, match="unknown site 'lungs'"):
        Application(site="lungs")
    with pytest.raises(InvalidInputError, match="relative to each state's own length"):
        weighing(application=Application(rule="icv"), weighed={}).steer(1.0, unit="absolute")


def test_weighed_vectors_are_copied_to_another_device_once() -> None:
    weighed = WeighedVectors(torch.ones(2, 3), torch.zeros(2), torch.ones(2, 3))
    assert weighed.on(torch.device("cpu")) is weighed
    there = weighed.on(torch.device("meta"))
    assert {part.device.type for part in (there.weights, there.biases, there.vectors)} == {"meta"}
    assert weighed.on(torch.device("meta")) is there
    assert weighed_delta(torch.ones(1, 3, device="meta"), weighed, 1.0).shape == (1, 3)


def test_a_file_of_the_first_release_is_read_and_keeps_its_fingerprint() -> None:
    # The same numbers, saved by 0.1, where the rule was called "gate".
    old = Path(__file__).parent / "files_of_0_1" / "weighed.safetensors"
    loaded = SteeringVector.load(old, MODEL)
    assert loaded.fingerprint_id == "3392b6f6ef9ef328"
    assert loaded.fingerprint_id == weighing(name="gated").fingerprint_id
    assert loaded.application.rule == "weigh"
    assert torch.equal(loaded.weighed[1].table, weighing().weighed[1].table)
