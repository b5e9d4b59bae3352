"""Judges by name, of one's own, and what is refused of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from steerable_llm.errors import InvalidInputError
from steerable_llm.pairs.judge import JUDGES, Claim, judge_named, judged, one_by_one

CLAIM = Claim("When?", ("It opens at ten.",), "At ten.")


def never(question: str, passages: Sequence[str], answer: str) -> float:
    return 0.0


def test_the_built_in_judge_needs_nothing() -> None:
    assert judged(judge_named("lexical"), [CLAIM]) == [1.0]
    assert set(JUDGES) == {"lexical", "nli"}


def test_any_function_can_be_named() -> None:
    assert judged(judge_named(f"{__name__}:never"), [CLAIM, CLAIM]) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("human", "is no judge: one of lexical, nli"),
        ("no_such_module:f", "cannot be imported"),
        (f"{__name__}:nothing", "cannot be imported"),
        (f"{__name__}:CLAIM", "is no function"),
    ],
)
def test_what_is_no_judge_is_refused(name: str, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        judge_named(name)


def test_the_built_in_judge_takes_no_model() -> None:
    with pytest.raises(InvalidInputError, match="takes no model"):
        judge_named("lexical", "some/model")


@pytest.mark.parametrize("score", [1.5, -0.1, float("nan"), "yes"])
def test_a_score_that_is_none_is_refused(score: Any) -> None:
    with pytest.raises(InvalidInputError, match="from 0 to 1"):
        judged(one_by_one(lambda *_: score), [CLAIM])


def test_a_judge_that_loses_answers_or_fails_is_named() -> None:
    with pytest.raises(InvalidInputError, match="1 scores for 2 answers"):
        judged(lambda _: [1.0], [CLAIM, CLAIM])
    with pytest.raises(InvalidInputError, match="failed with ZeroDivisionError"):
        judged(one_by_one(lambda *_: 1 / 0), [CLAIM])
