"""A vector is proven on held-out prompts: a planted one passes, a random one does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from planted_behaviour import planted_llm, planted_vector, questions

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError, ModelMismatchError
from steerable_llm.evaluation.calibration import calibrate
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.evaluation.report import Report
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.vector.calibration import Calibration, Choice, DataUsed
from steerable_llm.vector.vector import SteeringVector

# A system message whose words hardly move the planted model's margin either way.
UNHEARD = "ab"


@pytest.fixture(scope="module")
def llm(tiny_tokenizer: Any) -> SteerableHFLLM:
    return planted_llm(tiny_tokenizer)


@pytest.fixture(scope="module")
def vector(llm: SteerableHFLLM) -> SteeringVector:
    return planted_vector(llm).with_calibration(Calibration(0.12, remark="chosen by hand"))


@pytest.fixture(scope="module")
def report(llm: SteerableHFLLM, vector: SteeringVector) -> Report:
    test = EvaluationSet("test", [*questions(llm, 40), *questions(llm, 20, "gold", want="bad")])
    kept = questions(llm, 20, "closed_book", want="either")
    return evaluate(
        llm, vector, test, capability=kept, strict_instruction=UNHEARD, progress=False,
        max_new_tokens=4,
    )  # fmt: skip


def test_the_effect_exists_before_steering_and_the_planted_vector_mends_it(report: Report) -> None:
    assert 0.2 < report.row("none").main.value < 0.8
    assert report.row("steered").main.value == 1.0
    assert report.row("sign_flipped").main.value < 0.1
    assert report.row("none", "closed_book").main.value == 1.0


def test_a_vector_that_helps_and_harms_nothing_is_promoted(
    llm: SteerableHFLLM, vector: SteeringVector
) -> None:
    kept = questions(llm, 20, "closed_book", want="either")
    found = evaluate(
        llm, vector, questions(llm, 40), capability=kept, strict_instruction=UNHEARD,
        progress=False, max_new_tokens=4,
    )  # fmt: skip
    assert found.verdict.promote, found.verdict.reasons


def test_a_harm_to_another_category_refuses_a_vector_that_helps(report: Report) -> None:
    assert not report.verdict.promote
    assert any(reason.startswith("gold: success falls by") for reason in report.verdict.reasons)


def test_a_random_vector_is_refused(llm: SteerableHFLLM, vector: SteeringVector) -> None:
    chance = evaluate(
        llm, vector.randomised(7), questions(llm, 40), against=["none", "prompt"],
        capability=questions(llm, 20, "closed_book", want="either"), progress=False,
        max_new_tokens=4,
    )  # fmt: skip
    assert not chance.verdict.promote


def test_what_is_lost_refuses_a_vector_that_helps(
    llm: SteerableHFLLM, vector: SteeringVector
) -> None:
    costly = evaluate(
        llm, vector, questions(llm, 40), against=["prompt"], progress=False, max_new_tokens=4,
        capability=questions(llm, 20, "closed_book", want="bad"), strict_instruction=UNHEARD,
    )  # fmt: skip
    assert not costly.verdict.promote
    assert "beyond the budget" in costly.verdict.reasons[0]


def test_every_arm_has_a_row_for_every_category_steered_first(report: Report) -> None:
    assert report.arms == ("steered", "none", "prompt", "random", "sign_flipped")
    assert report.categories == ("conflict", "gold", "closed_book")
    assert len(report.rows) == 15
    assert [row.capability for row in report.rows if row.arm == "none"] == [
        False, False, True,
    ]  # fmt: skip


def test_numbers_agree_with_answers_made_one_by_one(
    report: Report, llm: SteerableHFLLM, vector: SteeringVector
) -> None:
    items = questions(llm, 40)
    before = [i.succeeds(llm.generate(i.prompt, max_new_tokens=4).text) for i in items]
    after = [
        i.succeeds(llm.generate(i.prompt, vector.negated().steer(), max_new_tokens=4).text)
        for i in items
    ]
    flipped = report.row("sign_flipped")
    assert report.row("none").main.value == sum(before) / 40
    assert flipped.main.value == sum(after) / 40
    worse = sum(b and not a for b, a in zip(before, after, strict=True))
    assert flipped.regressed == worse / 40
    assert flipped.change is not None
    assert flipped.change.value == pytest.approx((sum(after) - sum(before)) / 40)
    preferred = [
        good > bad
        for good, bad in (llm.score(i.prompt, [i.good or "", i.bad or ""]) for i in items)
    ]
    assert report.row("none").preference is not None
    assert report.row("none").preference.value == sum(preferred) / 40


def test_the_random_row_averages_three_vectors_and_lists_them(report: Report) -> None:
    random = report.row("random")
    assert len(random.runs) == 3
    assert random.main.value == pytest.approx(sum(random.runs) / 3)


def test_regressions_are_the_prompts_that_succeeded_and_now_fail(report: Report) -> None:
    gold = report.row("steered", "gold")
    assert gold.regressed == report.row("none", "gold").main.value > 0
    assert len(report.regressions) == round(gold.regressed * gold.n)
    for change in report.regressions:
        assert (change.category, change.kind) == ("gold", "regression")
        assert change.before != change.after


def test_the_same_seed_gives_the_same_report(llm: SteerableHFLLM, vector: SteeringVector) -> None:
    one, two = (
        evaluate(llm, vector, questions(llm, 8), progress=False, max_new_tokens=4, batch_size=size)
        for size in (3, 64)
    )
    assert one.regressions == two.regressions
    assert [row.success for row in one.rows] == [row.success for row in two.rows]


def test_pairs_are_judged_by_preference(llm: SteerableHFLLM, vector: SteeringVector) -> None:
    pairs = questions(llm, 12).pairs()
    report = evaluate(llm, vector, pairs, against=[], progress=False, max_new_tokens=4)
    row = report.row("steered")
    assert row.success is None
    assert row.preference is not None
    assert row.main.value == 1.0


def test_a_strength_chosen_on_the_test_prompts_is_told(
    llm: SteerableHFLLM, vector: SteeringVector
) -> None:
    test = questions(llm, 8)
    leaky = vector.with_calibration(
        Calibration(0.12, choice=Choice(DataUsed("dev", test.digest), 0.5, 0.9, settings=24))
    )
    report = evaluate(llm, leaky, test, progress=False, max_new_tokens=4)
    assert not report.verdict.promote
    assert "no held-out result" in report.verdict.line


def test_a_strength_chosen_on_one_category_of_the_test_prompts_is_told_as_well(
    llm: SteerableHFLLM,
) -> None:
    test = EvaluationSet("test", [*questions(llm, 30), *questions(llm, 12, "gold")])
    found = calibrate(
        llm, planted_vector(llm), test, target="conflict", strengths=(0.12,), controls=False,
        progress=False, max_new_tokens=4,
    )  # fmt: skip
    report = evaluate(llm, found.vector, test, progress=False, max_new_tokens=4)
    assert "no held-out result" in report.verdict.line


def test_input_that_cannot_be_evaluated_is_refused(
    llm: SteerableHFLLM, vector: SteeringVector
) -> None:
    test = questions(llm, 4)
    with pytest.raises(
        InvalidInputError, match=r"rivals=.*choose from none, prompt, random, sign_flipped"
    ):
        evaluate(llm, vector, test, against=["caa"], progress=False)
    with pytest.raises(InvalidInputError, match="no category 'gold'; it has conflict"):
        evaluate(llm, vector, test, target="gold", progress=False)
    with pytest.raises(InvalidInputError, match="in both 'conflict-0' and the capability set"):
        evaluate(llm, vector, test, capability=test, progress=False)
    with pytest.raises(InvalidInputError, match="not calibrated"):
        evaluate(llm, vector.with_calibration(None), test, progress=False)
    mixed = EvaluationSet(
        "mixed",
        [test[0], *EvaluationSet.from_pairs("p", questions(llm, 2, seed=1).pairs(), "conflict")],
    )
    with pytest.raises(InvalidInputError, match="mixes items with and without"):
        evaluate(llm, vector, mixed, progress=False)


def test_a_vector_of_another_model_is_refused(llm: SteerableHFLLM, vector: SteeringVector) -> None:
    stranger = llm.fingerprint.model_copy(update={"weights_hash": "0" * 64})
    foreign = replace(vector, fingerprint=stranger)
    with pytest.raises(ModelMismatchError):
        evaluate(llm, foreign, questions(llm, 4), progress=False)
    forced = evaluate(
        llm, foreign, questions(llm, 4), against=["none"], force=True, progress=False,
        max_new_tokens=4,
    )  # fmt: skip
    assert forced.row("steered").main.value == 1.0


def test_other_ways_are_arms_of_the_same_report(
    llm: SteerableHFLLM, vector: SteeringVector
) -> None:
    test = questions(llm, 12)
    other = vector.negated().with_calibration(Calibration(0.12))
    report = evaluate(
        llm, vector, test, against=["cad", "adacad", "caa"], rivals={"caa": other},
        progress=False, max_new_tokens=4,
    )  # fmt: skip
    assert report.arms == ("steered", "none", "cad", "adacad", "caa")
    assert report.row("caa").main.value < 0.1
    # These prompts have no context, so contrasting changes nothing.
    assert report.row("cad").main == report.row("none").main
    assert "context-aware decoding" in report.to_markdown()
    stranger = replace(other, fingerprint=llm.fingerprint.model_copy(update={"weights_hash": "0"}))
    with pytest.raises(ModelMismatchError):
        evaluate(llm, vector, test, against=["caa"], rivals={"caa": stranger}, progress=False)


def test_shuffled_pairs_are_a_control_that_the_vector_has_to_beat(tiny_llm: Any) -> None:
    from slow_states import PAIRS

    from steerable_llm.evaluation.shuffled import shuffled_vectors
    from steerable_llm.methods.build import build_vector

    built = build_vector(tiny_llm, PAIRS, method="caa", name="v", progress=False)
    vector = built.with_calibration(Calibration(0.3, scope="all"))
    report = evaluate(
        tiny_llm, vector, PAIRS, pairs=PAIRS, random_vectors=2, progress=False, max_new_tokens=2
    )
    assert report.arms[-1] == "shuffled"
    row = report.row("shuffled")
    assert len(row.runs) == 2
    for control, share in zip(
        shuffled_vectors(tiny_llm, vector, PAIRS, [0, 1]), row.runs, strict=True
    ):
        preferred = [
            good > bad
            for pair in PAIRS
            for good, bad in [
                tiny_llm.score(pair.prompt, [pair.good, str(pair.bad)], control.steer())
            ]
        ]
        assert share == sum(preferred) / len(PAIRS)
    assert any("vectors of shuffled pairs" in reason for reason in report.verdict.reasons)
    assert "pairs=Pairs.from_jsonl" in report.command
    assert "Before any evaluation | pre-flight" in report.to_markdown()
    assert "pre-flight" in report.to_html()


def test_the_shuffled_control_needs_the_vectors_own_pairs(
    llm: SteerableHFLLM, vector: SteeringVector
) -> None:
    test = questions(llm, 4)
    with pytest.raises(InvalidInputError, match="give them"):
        evaluate(llm, vector, test, against=["shuffled"], progress=False)
    with pytest.raises(InvalidInputError, match="was built from other pairs"):
        evaluate(llm, vector, test, pairs=questions(llm, 4, seed=3).pairs(), progress=False)
