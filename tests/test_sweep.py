"""The bench behind a sweep: nothing is run twice, and the ranking is a sensible order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_behaviour import planted_llm, planted_vector, questions

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.evaluation.measure import answers
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.evaluation.sweep import Bench, CalibrationRow, Candidate, rank

shares = st.floats(0, 1).map(lambda x: round(x, 3))


def row(success: float, loss: float, strength: float = 0.1) -> CalibrationRow:
    return CalibrationRow(
        vector="v",
        strength=strength,
        scope="all",
        layers=(0, 1, 2, 5),
        prompts=10,
        success=success,
        unsteered=0.4,
        capability={"closed_book": 1 - loss},
        loss={"closed_book": loss},
        complete=True,
    )


@given(shares, shares, shares, shares)
def test_within_the_budget_the_higher_success_ranks_first(
    one: float, other: float, kept: float, lost: float
) -> None:
    inside, outside = row(one, 0.0), row(other, 0.02 + lost)
    assert rank(inside, 0.01) < rank(outside, 0.01)
    if one > other:
        assert rank(row(one, kept * 0.01), 0.01) < rank(row(other, 0.0), 0.01)


@given(shares, st.floats(0.01, 0.2), st.floats(0.01, 0.2))
def test_ties_go_to_the_smaller_strength_whatever_its_sign(
    success: float, one: float, other: float
) -> None:
    ranks = rank(row(success, 0, -one), 0.01), rank(row(success, 0, other), 0.01)
    assert (ranks[0] < ranks[1]) == (one < other)


def test_a_label_names_vector_scope_and_layers() -> None:
    assert row(0.5, 0).label == "v, all, layers 0-2, 5"


@pytest.fixture
def bench(tiny_tokenizer: Any) -> Bench:
    llm = planted_llm(tiny_tokenizer)
    dev = EvaluationSet("dev", [*questions(llm, 20), *questions(llm, 6, "paraphrase")])
    kept = questions(llm, 5, "closed_book", want="either")
    bench = Bench(llm, dev, kept, max_new_tokens=4, batch_size=16, seed=0)
    bench.candidates = [
        Candidate("planted", planted_vector(llm), 0.12, "generated", None, "relative"),
        Candidate("planted", planted_vector(llm), -0.12, "generated", None, "relative"),
    ]
    return bench


def test_no_answer_is_made_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counting(llm: SteerableHFLLM, jobs: Any, *more: Any) -> list[str]:
        asked.append(len(jobs))
        return answers(llm, jobs, *more)

    monkeypatch.setattr("steerable_llm.evaluation.sweep.answers", counting)
    bench.run([None, 0], 8, False, "small")
    assert sum(asked) == 2 * (8 + 5)
    bench.run([None, 0, 1], 100, False, "all")
    assert sum(asked) == 3 * (26 + 5)


def test_a_larger_sample_contains_what_the_row_needs(bench: Bench) -> None:
    bench.run([None, 0, 1], 8, False, "small")
    small = bench.row(0, 8)
    assert (small.prompts, small.complete) == (8, False)
    bench.run([None, 0, 1], 100, False, "all")
    whole, flipped = bench.row(0, 100), bench.row(1, 100)
    assert (whole.prompts, whole.complete) == (26, True)
    assert whole.success > whole.unsteered > flipped.success
    assert whole.loss == {"closed_book": 0.0}
    assert whole.largest_loss == 0.0
