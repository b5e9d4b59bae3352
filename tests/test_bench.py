"""The bench behind every choice on dev: nothing runs twice, the best within the budget is taken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted_behaviour import planted_llm, planted_vector, questions

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.bench import Bench, DevRow, choose, rank
from steerable_llm.evaluation.measure import answers
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.vector.steering import Steering

shares = st.floats(0, 1).map(lambda x: round(x, 3))


def row(success: float, loss: float, strength: float = 0.1) -> DevRow:
    return DevRow(
        arm="v",
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


QUICK = EvaluationSettings(max_new_tokens=4, batch_size=16, progress=False)


@pytest.fixture(scope="module")
def llm(tiny_tokenizer: Any) -> SteerableHFLLM:
    return planted_llm(tiny_tokenizer)


@pytest.fixture
def bench(llm: SteerableHFLLM) -> Bench:
    dev = EvaluationSet("dev", [*questions(llm, 20), *questions(llm, 6, "paraphrase")])
    kept = questions(llm, 5, "closed_book", want="either")
    bench = Bench(llm, dev, kept, QUICK)
    bench.arms += [
        Arm("planted", planted_vector(llm).steer(strength)) for strength in (0.12, -0.12)
    ]
    return bench


def test_no_answer_is_made_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counting(llm: SteerableHFLLM, jobs: Any, *more: Any) -> list[str]:
        asked.append(len(jobs))
        return answers(llm, jobs, *more)

    monkeypatch.setattr("steerable_llm.evaluation.bench.answers", counting)
    bench.run([1], 8, "small")
    assert sum(asked) == 2 * (8 + 5)
    bench.run([1, 2], 100, "all")
    assert sum(asked) == 3 * (26 + 5)


def test_a_larger_sample_contains_what_the_row_needs(bench: Bench) -> None:
    small = bench.run([1], 8, "small")[1]
    assert (small.prompts, small.complete) == (8, False)
    rows = bench.run([1, 2], 100, "all")
    whole, flipped = rows[1], rows[2]
    assert (whole.prompts, whole.complete) == (26, True)
    assert whole.success > whole.unsteered > flipped.success
    assert whole.loss == {"closed_book": 0.0}
    assert whole.largest_loss == 0.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_the_allowance_is_the_standard_error_of_the_paired_change(
    llm: SteerableHFLLM, pairs: list[tuple[bool, bool]]
) -> None:
    items = EvaluationSet("dev", [*questions(llm, 1), *questions(llm, len(pairs), "gold")])
    bench = Bench(llm, items, None, replace(QUICK, target="conflict"))
    bench.arms.append(Arm("one"))
    for place in (0, 1):
        bench._successes[place, "dev", items[0].id] = 1.0
        for item, pair in zip(items[1:], pairs, strict=True):
            bench._successes[place, "kept", item.id] = float(pair[place])
    changes = torch.tensor([float(after) - float(before) for before, after in pairs])
    expected = (changes.square().mean() - changes.mean().square()).clamp(min=0).sqrt()
    found = bench.run([1], bench.everything, "all")[1].allowance["gold"]
    assert found == pytest.approx(float(expected) / len(pairs) ** 0.5, abs=1e-4)


def bench_with(llm: SteerableHFLLM, want: str, target: str | None, budget: float = 0.01) -> Bench:
    dev = EvaluationSet("dev", [*questions(llm, 30), *questions(llm, 30, "gold", want=want)])
    return Bench(llm, dev, None, replace(QUICK, target=target, budget=budget))


def test_a_category_is_in_dev_or_in_capability(llm: SteerableHFLLM) -> None:
    dev = EvaluationSet("dev", [*questions(llm, 3), *questions(llm, 3, "gold")])
    kept = questions(llm, 3, "gold", seed=1)
    for target in ("conflict", None):
        with pytest.raises(InvalidInputError, match="category 'gold' is in both 'dev' and the"):
            Bench(llm, dev, kept, replace(QUICK, target=target))


def test_dev_and_capability_may_call_their_prompts_alike(llm: SteerableHFLLM) -> None:
    dev = EvaluationSet("dev", [*questions(llm, 3), *questions(llm, 3, "gold")])
    kept = [
        item.model_copy(update={"id": other.id})
        for item, other in zip(questions(llm, 6, "closed_book", want="either"), dev, strict=True)
    ]
    bench = Bench(llm, dev, EvaluationSet("kept", kept), replace(QUICK, target="conflict"))
    row = bench.run([0], bench.everything, "all")[0]
    assert row.complete
    assert set(row.loss) == {"closed_book", "gold"}


def candidates(llm: SteerableHFLLM) -> dict[str, Arm]:
    strong = Steering.of(planted_vector(llm), 0.12)
    return {"strong": Arm("strong", strong), "nothing": Arm("nothing")}


def test_with_a_target_a_setting_that_harms_another_category_is_not_chosen(
    llm: SteerableHFLLM,
) -> None:
    for want, expected in (("good", "strong"), ("bad", "nothing")):
        chosen, row = choose(bench_with(llm, want, "conflict"), candidates(llm))
        assert (chosen, row.arm) == (expected, expected)


def test_success_counts_on_the_target_alone(llm: SteerableHFLLM) -> None:
    assert choose(bench_with(llm, "good", "conflict"), candidates(llm))[1].success == 1.0
    both = choose(bench_with(llm, "bad", None), candidates(llm))[1]
    assert 0.4 < both.success < 0.65


def test_where_nothing_keeps_within_the_budget_the_least_loss_is_told(llm: SteerableHFLLM) -> None:
    only = {"strong": candidates(llm)["strong"]}
    with pytest.raises(InvalidInputError, match="strong loses least"):
        choose(bench_with(llm, "bad", "conflict", budget=0.0), only)
