import math
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from steerable_llm.errors import InvalidInputError
from steerable_llm.vector.steering import Steering, SteeringTerm, steer_hidden


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


@pytest.mark.parametrize("length", [0.0, 1e-30, 1.0, 25.0, 1e15])
def test_a_state_that_cancels_becomes_zero_and_not_nan(length):
    h = torch.full((1, 1, 4), length)
    assert torch.equal(steer_hidden(h, -h[0, 0], True), torch.zeros(1, 1, 4))


@given(st.floats(-10, 10), st.floats(0.1, 100), st.sampled_from(["relative", "absolute"]))
def test_what_a_term_adds(strength, scale, unit):
    vector = PlainVector({2: torch.tensor([3.0, 4.0, 0.0])}, {2: scale})
    term = SteeringTerm(vector, strength, unit=unit)
    expected = torch.tensor(slow_delta(vector, strength, 2, unit))
    torch.testing.assert_close(term.delta(2), expected, rtol=1e-5, atol=1e-6)
    if unit == "relative":
        assert float(term.delta(2).norm()) == pytest.approx(abs(strength) * scale, rel=1e-4)


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
        ({"scope": "everywhere"}, "choose one of all, prompt, generated, last_prompt"),
        ({"unit": "metres"}, "choose one of relative, absolute"),
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
