"""Areas, points and thresholds agree with scikit-learn and with what can be counted by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.gate_training import best_threshold, roc_auc, roc_points

scores = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(scores, scores)
def test_the_area_is_that_of_scikit_learn(bad: list[float], good: list[float]) -> None:
    expected = roc_auc_score([1] * len(bad) + [0] * len(good), [*bad, *good])
    found = roc_auc(bad, good)
    assert found.value == pytest.approx(expected)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_classes_that_are_wholly_apart_do_not_pass_for_certain() -> None:
    found = roc_auc([0.9] * 10, [0.1] * 20)
    assert found.value == found.high == 1.0
    assert found.low == pytest.approx(0.025 ** (1 / 10))


def test_scores_of_one_question_are_one_piece_of_evidence() -> None:
    source = np.random.default_rng(0)
    bad, good = source.normal(0.6, 0.2, 12).tolist(), source.normal(0.4, 0.2, 12).tolist()
    alone = roc_auc(bad, good)
    copied = roc_auc(bad * 5, good * 5, (list(range(12)) * 5, list(range(12, 24)) * 5))
    naive = roc_auc(bad * 5, good * 5)
    assert copied.value == pytest.approx(alone.value)
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, abs=0.01)
    assert naive.high - naive.low < (copied.high - copied.low) * 0.75


def test_points_count_what_lies_at_or_above_a_threshold() -> None:
    first, second = roc_points([0.5, 0.9], [0.1, 0.5, 0.2], [0.5, 0.6])
    assert (first.caught, first.false_alarms) == (1.0, pytest.approx(1 / 3))
    assert (second.caught, second.false_alarms) == (0.5, 0.0)


def test_the_best_threshold_lies_between_the_classes() -> None:
    assert best_threshold([0.8, 0.6, 0.3], [0.1, 0.2, 0.4]) == pytest.approx(0.25)
    assert best_threshold([0.8, 0.7], [0.1, 0.2]) == pytest.approx(0.45)


def test_an_empty_class_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="both classes"):
        roc_auc([], [0.1])
