"""Estimates and their intervals, against slow and independent ways to get them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from steerable_llm.errors import InvalidInputError
from steerable_llm.metrics import (
    Estimate,
    difference,
    estimate,
    fixed,
    kl_per_token,
    regressed,
    standard_error,
)

shares = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60)
before_and_after = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1 / 3, 1.0])),
    min_size=1,
    max_size=40,
)


@given(shares)
def test_the_value_is_the_accuracy_and_lies_in_its_interval(successes: list[float]) -> None:
    found = estimate(successes)
    assert found.value == pytest.approx(accuracy_score([1.0] * len(successes), successes))
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.n == len(successes)
    assert found.low < found.high


def test_the_interval_agrees_with_scipys_bootstrap() -> None:
    values = np.random.default_rng(3).random(80) ** 2
    slow = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(0)
    ).confidence_interval
    found = estimate(values.tolist())
    # Two bootstraps of 4,000 and 20,000 resamples differ by their own noise: a few per cent of
    # the interval's width.
    width = slow.high - slow.low
    assert abs(found.low - slow.low) < 0.05 * width
    assert abs(found.high - slow.high) < 0.05 * width


def test_intervals_cover_the_truth_about_as_often_as_they_claim() -> None:
    random, truth = np.random.default_rng(0), 0.4
    samples = (random.random((400, 60)) < truth).astype(float)
    covered = [e.low <= truth <= e.high for e in (estimate(s.tolist()) for s in samples)]
    # The percentile bootstrap of a share of 60 prompts covers 93 to 95 %; the standard error of
    # this measurement is 1.1 points.
    assert 0.90 <= np.mean(covered) <= 0.985


def test_when_all_prompts_agree_the_interval_is_the_exact_binomial_one() -> None:
    exact = scipy.stats.binomtest(40, 40).proportion_ci(0.95, method="exact")
    always, never = estimate([1.0] * 40), estimate([0.0] * 40)
    assert (always.low, always.high) == (pytest.approx(exact.low), 1.0)
    assert (never.low, never.high) == (0.0, pytest.approx(1 - exact.low))
    unchanged = difference([1.0, 0.0], [1.0, 0.0])
    assert unchanged.low == -unchanged.high < 0


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert estimate(values, seed=4) == estimate(values, seed=4)


@given(before_and_after)
def test_differences_and_shares_made_worse_add_up(rows: list[tuple[float, float]]) -> None:
    before, after = [b for b, _ in rows], [a for _, a in rows]
    change = difference(after, before)
    assert change.value == pytest.approx(np.mean(after) - np.mean(before))
    assert -1 <= change.low <= change.value <= change.high <= 1
    assert change.value == pytest.approx(fixed(after, before) - regressed(after, before))


def test_made_worse_counts_prompts_that_succeeded_and_now_fail() -> None:
    before, after = [1, 1, 1, 0, 0], [1, 0, 0, 1, 0]
    assert regressed(after, before) == pytest.approx(2 / 5)
    assert fixed(after, before) == pytest.approx(1 / 5)
    # A control that ran three times and failed once on a prompt counts a third of it.
    assert regressed([2 / 3], [1]) == pytest.approx(1 / 3)


@given(st.integers(0, 10_000))
def test_the_paired_interval_is_tighter_than_two_separate_ones(seed: int) -> None:
    random = np.random.default_rng(seed)
    before = (random.random(100) < 0.5).astype(float)
    after = np.maximum(before, (random.random(100) < 0.2).astype(float))
    paired = difference(after.tolist(), before.tolist())
    separate = [estimate(x.tolist()) for x in (before, after)]
    assert paired.high - paired.low < sum(e.high - e.low for e in separate)


def test_divergence_agrees_with_a_sum_over_the_vocabulary() -> None:
    source = torch.Generator().manual_seed(0)
    p, q = torch.randn(5, 11, generator=source), torch.randn(5, 11, generator=source)
    slow = 0.0
    for row_p, row_q in zip(p.tolist(), q.tolist(), strict=True):
        total_p, total_q = (sum(math.exp(x) for x in row) for row in (row_p, row_q))
        for x, y in zip(row_p, row_q, strict=True):
            chance_p, chance_q = math.exp(x) / total_p, math.exp(y) / total_q
            slow += chance_p * math.log(chance_p / chance_q)
    assert kl_per_token(p, q) == pytest.approx(slow / 5, rel=1e-5)
    assert kl_per_token(p, p) == 0.0
    assert kl_per_token(p, q) != pytest.approx(kl_per_token(q, p), rel=1e-3)


def test_only_disjoint_intervals_count_as_above() -> None:
    low = Estimate(value=0.4, low=0.3, high=0.5, n=10)
    assert Estimate(value=0.7, low=0.51, high=0.9, n=10).above(low)
    assert not Estimate(value=0.7, low=0.5, high=0.9, n=10).above(low)


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "at least one value"), ([float("nan")], "finite"), ([0.5, 2.0], "do not lie within")],
)
def test_values_that_are_no_shares_are_refused(values: list[float], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        estimate(values)


def test_before_and_after_must_be_about_the_same_prompts() -> None:
    for function in (difference, regressed, fixed):
        with pytest.raises(InvalidInputError, match="same prompts"):
            function([1.0], [1.0, 0.0])
    with pytest.raises(InvalidInputError, match=r"two \[n, V\] tensors"):
        kl_per_token(torch.zeros(0, 4), torch.zeros(0, 4))


@given(before_and_after)
def test_the_standard_error_is_that_of_the_paired_change(pairs: list[tuple[float, float]]) -> None:
    before, after = zip(*pairs, strict=True)
    changes = [new - old for old, new in pairs]
    expected = scipy.stats.sem(changes, ddof=0) if len(pairs) > 1 else 0.0
    assert standard_error(after, before) == pytest.approx(expected, abs=1e-12)
