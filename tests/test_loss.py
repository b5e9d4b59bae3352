"""What of a capability may be gone, by the prompts that were asked, and how many it takes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.evaluation.loss import (
    fewest,
    fewest_to_beat,
    limit,
    most_lost,
    rule_of,
    what_a_proof_needs,
    within,
)
from steerable_llm.evaluation.rows import Row
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.metrics import Estimate, loss_interval, loss_score

sizes = st.integers(1, 600)
budgets = st.sampled_from([0.0, 0.005, 0.01, 0.02, 0.05, 0.1])


@given(st.integers(1, 300), st.data())
def test_without_gains_the_upper_end_is_wilsons(n: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, n))
    wilson = scipy.stats.binomtest(lost, n).proportion_ci(method="wilson").high
    assert loss_interval(lost, 0, n)[1] == pytest.approx(wilson, abs=1e-6)


@given(st.integers(1, 100), st.data())
def test_what_is_lost_for_one_order_of_the_two_is_gained_for_the_other(
    n: int, data: st.DataObject
) -> None:
    lost = data.draw(st.integers(0, n))
    gained = data.draw(st.integers(0, n - lost))
    low, high = loss_interval(lost, gained, n)
    assert low <= (lost - gained) / n <= high
    assert loss_interval(gained, lost, n) == pytest.approx((-high, -low), abs=1e-6)


@pytest.mark.parametrize(("lost", "gained", "n", "loss"), [(3, 1, 60, 0.05), (9, 4, 200, 0.01)])
def test_the_score_rests_on_the_likeliest_shares(
    lost: int, gained: int, n: int, loss: float
) -> None:
    """Against a search over all shares of gains that go with the loss."""
    gains = np.linspace(1e-6, (1 - loss) / 2, 400_001)[:-1]
    log_likelihood = (
        lost * np.log(gains + loss)
        + gained * np.log(gains)
        + (n - lost - gained) * np.log(1 - 2 * gains - loss)
    )
    likeliest = gains[log_likelihood.argmax()]
    error = ((2 * likeliest + loss - loss**2) / n) ** 0.5
    assert loss_score(lost, gained, n, loss) == pytest.approx(
        ((lost - gained) / n - loss) / error, abs=1e-3
    )


@given(sizes, budgets)
def test_harm_hardly_ever_passes(n: int, budget: float) -> None:
    """What reaches the limit passes once in forty, give or take what an approximation is off."""
    allowed = most_lost(n, budget)
    if allowed is not None:
        assert scipy.stats.binom.cdf(allowed, n, limit(budget)) < 0.03


@given(st.integers(200, 600), st.sampled_from([0.005, 0.01, 0.02, 0.05, 0.1]))
def test_what_costs_the_budget_passes_mostly(n: int, budget: float) -> None:
    allowed = most_lost(n, budget)
    assert allowed is not None
    assert scipy.stats.binom.cdf(allowed, n, budget) > 0.66


@given(budgets, st.sampled_from([0.0, 0.02, 0.05]))
def test_the_smallest_set_that_can_pass_does_and_one_smaller_does_not(
    budget: float, flipping: float
) -> None:
    n = fewest(budget, flipping)
    assert within(flipping * n, flipping * n, n, budget)
    assert not within(flipping * (n - 1), flipping * (n - 1), n - 1, budget)


def test_the_numbers_of_the_documentation() -> None:
    assert [fewest(budget) for budget in (0.005, 0.01, 0.02, 0.05)] == [82, 73, 61, 35]
    assert [most_lost(n, 0.01) for n in (50, 80, 120, 200, 324, 1000)] == [None, 0, 1, 3, 4, 12]
    assert [fewest_to_beat(share) for share in (0.5, 0.8, 0.9, 0.95)] == [14, 44, 93, 192]


def row(arm: str, right: int, n: int, lost: int = 0, kl: float = 0.1) -> Row:
    share = Estimate(value=right / n, low=0, high=1, n=n)
    return Row(
        arm=arm,
        category="closed_book",
        capability=True,
        n=n,
        success=share,
        regressed=lost / n,
        kl_per_token=Estimate(value=kl, low=kl, high=kl, n=n),
    )


def test_a_small_set_is_refused_for_what_it_cannot_show_and_the_size_is_named() -> None:
    holds, said = rule_of(row("steered", 40, 40), row("none", 40, 40), 0.01)
    assert not holds
    assert "on 40 prompts a loss of up to 8.8 points cannot be excluded" in said
    assert said.endswith("give 73 prompts or more")


def test_a_loss_that_chance_explains_is_no_breach() -> None:
    """Two of 150 are 1.3 points, and what costs one point loses two or more of them mostly."""
    assert rule_of(row("steered", 148, 150, 2), row("none", 150, 150), 0.01)[0]
    holds, said = rule_of(row("steered", 146, 150, 4), row("none", 150, 150), 0.01)
    assert not holds
    assert said.endswith("beyond the budget of 1.0 points")


def test_flips_in_both_directions_need_more_prompts_than_none() -> None:
    """As many gained as lost is no loss counted, but a lot of noise to hide one in."""
    assert rule_of(row("steered", 80, 100), row("none", 80, 100), 0.01)[0]
    assert not rule_of(row("steered", 80, 100, 8), row("none", 80, 100), 0.01)[0]


def test_what_steering_does_not_touch_cannot_be_lost() -> None:
    assert rule_of(row("steered", 16, 16, kl=0.0), row("none", 16, 16), 0.01)[0]


def asked(**categories: int) -> EvaluationSet:
    return EvaluationSet(
        "set",
        [
            EvaluationItem(id=f"{name}-{i}", category=name, messages=f"{name} {i}?", accept=["yes"])
            for name, n in categories.items()
            for i in range(n)
        ],
    )


def test_what_a_proof_needs_is_told_from_the_budget_and_the_base_rate() -> None:
    settings = EvaluationSettings(budget=0.01)
    told = list(
        what_a_proof_needs(asked(conflict=50), asked(a=80, b=20, c=5), settings, 0.9, alone=["c"])
    )
    assert told == [
        "conflict: the unsteered model was right on 90.0 % of dev, so 50 prompts cannot show that "
        "anything is better: give 93 or more",
        "a: of 80 prompts none may be lost under the budget of 1.0 points",
        "b: 20 prompts cannot show that the budget of 1.0 points is kept: give 73 or more",
    ]
    (without,) = what_a_proof_needs(asked(conflict=50), None, settings)
    assert "the verdict will be REFUSE" in without


def test_a_set_that_showed_too_little_is_told_to_be_larger() -> None:
    for right, n, regressed, budget in (
        (98, 100, 2, 0.02),
        (99, 100, 1, 0.01),
        (148, 150, 3, 0.01),
    ):
        holds, said = rule_of(row("steered", right, n, regressed), row("none", n, n), budget)
        assert not holds
        assert int(said.split("give ")[1].split()[0]) > n


def test_what_is_always_wrong_is_beaten_by_six_right_answers() -> None:
    """Of none right of two, 84 % cannot be excluded."""
    assert [fewest_to_beat(share) for share in (0.0, 0.1)] == [6, 6]
    assert most_lost(20, 1.0) == 20
