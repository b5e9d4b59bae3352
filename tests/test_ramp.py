"""A ramp turns a number into a share: monotone, clamped, and exact at its ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from steerable_llm.policy.file import Ramp

numbers = st.floats(allow_nan=False, allow_infinity=False)


def ramp(start: float, end: float) -> Ramp:
    return Ramp.model_validate({"from": start, "to": end})


@given(st.lists(numbers, min_size=2, max_size=2, unique=True), numbers, numbers)
def test_a_ramp_is_monotone_and_clamped(ends: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    shares = [ramp(*ends).share(value) for value in (low, high)]
    assert all(0 <= share <= 1 for share in shares)
    assert shares == sorted(shares, reverse=ends[0] > ends[1])


@given(st.lists(numbers, min_size=2, max_size=2, unique=True))
def test_the_ends_of_a_ramp_are_exact(ends: list[float]) -> None:
    assert ramp(*ends).share(ends[0]) == 0.0
    assert ramp(*ends).share(ends[1]) == 1.0


@given(numbers, numbers)
def test_a_threshold_is_all_or_nothing(threshold: float, value: float) -> None:
    assert Ramp(above=threshold).share(value) == (1.0 if value >= threshold else 0.0)


@pytest.mark.parametrize(
    ("start", "end", "value", "share"),
    [(0, 2, 0.5, 0.25), (2, 0, 0.5, 0.75), (-1, 1, 0, 0.5), (0, 2, -3, 0), (2, 0, -3, 1)],
)
def test_between_the_ends_a_ramp_is_a_straight_line(
    start: float, end: float, value: float, share: float
) -> None:
    assert ramp(start, end).share(value) == pytest.approx(share)


@pytest.mark.parametrize(
    "given_keys",
    [
        {},
        {"from": 1},
        {"to": 1},
        {"from": 1, "to": 1},
        {"from": 0, "to": 1, "above": 1},
        {"above": float("nan")},
    ],
)
def test_half_a_ramp_or_two_in_one_are_refused(given_keys: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Ramp.model_validate(given_keys)
