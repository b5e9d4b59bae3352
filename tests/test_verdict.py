"""The rules that promote or refuse a vector."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.evaluation.rows import Row
from steerable_llm.evaluation.verdict import judge
from steerable_llm.metrics import Estimate


def row(arm: str, value: float, category: str = "conflict", half: float = 0.05) -> Row:
    interval = Estimate(value=value, low=max(value - half, 0.0), high=min(value + half, 1.0), n=150)
    return Row(
        arm=arm,
        category=category,
        capability=category in ("closed_book", "reading"),
        n=150,
        success=interval,
    )


def good_rows() -> list[Row]:
    return [
        row("steered", 0.8),
        row("none", 0.4),
        row("prompt", 0.6),
        row("random", 0.42),
        row("sign_flipped", 0.2),
        row("steered", 0.99, "closed_book"),
        row("none", 0.99, "closed_book"),
    ]


def changed(arm: str, category: str, value: float, half: float = 0.05) -> list[Row]:
    rest = [r for r in good_rows() if (r.arm, r.category) != (arm, category)]
    return [*rest, row(arm, value, category, half)]


def test_a_vector_that_beats_everything_and_costs_nothing_is_promoted() -> None:
    verdict = judge(good_rows(), "conflict", 0.01)
    assert verdict.promote
    assert verdict.line.startswith("PROMOTE: conflict: 80.0 % [75.0, 85.0] steered against 40.0 %")
    assert len(verdict.reasons) == 5


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (changed("none", "conflict", 0.72), "higher, but the intervals overlap"),
        (changed("none", "conflict", 0.9), "no better"),
        (changed("prompt", "conflict", 0.79), "the strict instruction: higher, but"),
        (changed("random", "conflict", 0.8), "random vectors of the same norms: no better"),
        (changed("sign_flipped", "conflict", 0.9), "sign-flipped vector: no better"),
        (changed("steered", "closed_book", 0.97), "beyond the budget of 1.0 points"),
        ([r for r in good_rows() if not r.capability], "capability was not measured"),
        ([r for r in good_rows() if r.arm != "prompt"], "instruction was not measured"),
    ],
)
def test_any_broken_rule_refuses_and_comes_first(rows: list[Row], reason: str) -> None:
    verdict = judge(rows, "conflict", 0.01)
    assert not verdict.promote
    assert reason in verdict.reasons[0]
    assert verdict.line.startswith("REFUSE: ")


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.0, 0.2))
def test_overlapping_intervals_never_promote(steered: float, none: float, half: float) -> None:
    rows = [r for r in changed("none", "conflict", none, half) if r.arm != "steered"]
    rows += [row("steered", steered, half=half), row("steered", 1.0, "closed_book")]
    apart = min(none + half, 1.0) < max(steered - half, 0.0)
    assert judge(rows, "conflict", 0.01).promote <= apart


@given(st.floats(0, 0.05), st.floats(0, 0.05))
def test_a_larger_budget_never_turns_a_promotion_down(loss: float, budget: float) -> None:
    rows = changed("steered", "closed_book", 0.99 - loss)
    if judge(rows, "conflict", budget).promote:
        assert judge(rows, "conflict", budget + 0.01).promote


def test_a_sure_loss_elsewhere_refuses_and_what_is_in_doubt_is_told() -> None:
    worse = row("steered", 0.8).model_copy(update={"regressed": 0.03})
    fall = Estimate(value=-0.2, low=-0.3, high=-0.1, n=100)
    gold = row("steered", 0.7, "gold").model_copy(update={"change": fall})
    kept = row("steered", 0.99, "closed_book")
    rest = [r for r in good_rows() if r.arm != "steered"]
    verdict = judge([worse, gold, kept, *rest], "conflict", 0.01)
    assert not verdict.promote
    assert verdict.line == (
        "REFUSE: gold: success falls by 20.0 points (the interval excludes no change)"
    )
    doubtful = gold.model_copy(update={"change": fall.model_copy(update={"high": 0.1})})
    verdict = judge([worse, doubtful, kept, *rest], "conflict", 0.01)
    assert verdict.promote
    assert "3.0 % of the prompts were made worse" in verdict.warnings[0]
    assert verdict.warnings[1].endswith("(the interval includes no change)")


def test_a_row_without_success_is_read_by_preference() -> None:
    preferred = Estimate(value=0.7, low=0.6, high=0.8, n=50)
    assert Row(arm="none", category="v", n=50, preference=preferred).main == preferred
    with pytest.raises(ValueError, match="no success and no preference"):
        _ = Row(arm="none", category="v", n=50).main
