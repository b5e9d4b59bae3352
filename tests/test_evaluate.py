"""A vector is proven on held-out prompts: a planted one passes, a random one does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from planted_behaviour import planted_llm, planted_vector, questions

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.chat.message import as_messages
from steerable_llm.errors import InvalidInputError, ModelMismatchError
from steerable_llm.evaluation.calibration import calibrate
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.evaluation.report import Report
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.methods.lora import LoraSettings, train_lora
from steerable_llm.pairs.pair import Pairs
from steerable_llm.runtime.lora import adapted
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.seen import hashes_of
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
    kept = questions(llm, 80, "closed_book", want="either")
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
    kept = questions(llm, 80, "closed_book", want="either")
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
        capability=questions(llm, 80, "closed_book", want="either"), progress=False,
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


def test_only_what_neither_build_nor_calibration_saw_is_evidence(llm: SteerableHFLLM) -> None:
    pairs, dev, kept = (
        questions(llm, 4, seed=3).pairs(),
        EvaluationSet("dev", [*questions(llm, 10, seed=1), *questions(llm, 4, "gold", seed=1)]),
        questions(llm, 10, "closed_book", want="either"),
    )
    built = replace(
        planted_vector(llm), provenance=Provenance(seen=tuple(sorted(hashes_of(llm, pairs))))
    )
    vector = calibrate(
        llm, built, dev, kept, target="conflict", strengths=(0.12,), progress=False,
        max_new_tokens=4,
    )  # fmt: skip
    fresh = list(questions(llm, 3))

    def changed(items: Any, **update: Any) -> list[EvaluationItem]:
        return [item.model_copy(update=update) for item in items]

    spaced = [
        item.model_copy(update={"messages": as_messages(f"  {item.question}\n")})
        for item in dev[:2]
    ]
    seen = {
        "nine of ten items": dev[:9],
        "another order": list(reversed(dev)),
        "other ids": [i.model_copy(update={"id": f"new {i.id}"}) for i in dev],
        "other whitespace": spaced,
        "the other categories of dev": changed(dev[10:], category="conflict"),
        "the build": EvaluationSet.from_pairs("p", pairs),
        "the capability set": changed(kept, category="conflict"),
    }
    for case, items in seen.items():
        for many in ([items[0]], list(items)):
            beside = [] if case == "the build" else fresh  # pairs have no phrases, and stand alone
            test = EvaluationSet("test", [*beside, *changed(many, category="conflict")])
            with pytest.raises(InvalidInputError, match=r"^\d+ of the \d+ prompts of 'test'"):
                evaluate(llm, vector, test, progress=False, max_new_tokens=4)
    leak = EvaluationSet("kept", changed(kept[:1], id="other"))
    with pytest.raises(InvalidInputError, match=r"1 of the 1 prompts of 'kept' .*first 'other'"):
        evaluate(llm, vector, EvaluationSet("test", fresh), leak, progress=False)
    with pytest.raises(InvalidInputError, match="the calibration of 'planted'"):
        evaluate(llm, "cad", dev, against=[vector], progress=False)
    report = evaluate(
        llm, vector, EvaluationSet("test", fresh), questions(llm, 3, "closed_book", seed=5),
        progress=False, max_new_tokens=4,
    )  # fmt: skip
    assert Report.from_json(report.to_json()).held_out == report.held_out
    assert report.held_out[0].hashes == hashes_of(llm, fresh)


def test_the_target_is_that_of_the_calibration_where_the_set_has_it(llm: SteerableHFLLM) -> None:
    dev = EvaluationSet("dev", [*questions(llm, 3, "gold", seed=1), *questions(llm, 20, seed=1)])
    vector = calibrate(
        llm, planted_vector(llm), dev, target="conflict", strengths=(0.12,),
        max_new_tokens=4, progress=False,
    )  # fmt: skip
    gold = questions(llm, 2, "gold", seed=2)
    quick = {"against": [], "max_new_tokens": 4, "progress": False}

    def target(*beside: EvaluationSet, **more: Any) -> str:
        test = EvaluationSet("test", [item for items in (gold, *beside) for item in items])
        return evaluate(llm, vector, test, **quick, **more).target

    asked = questions(llm, 2, seed=2)
    assert target(asked) == "conflict"
    assert target(asked, target="gold") == "gold"
    assert target() == "gold"


def test_input_that_cannot_be_evaluated_is_refused(
    llm: SteerableHFLLM, vector: SteeringVector
) -> None:
    test = questions(llm, 4)
    with pytest.raises(
        InvalidInputError, match=r"without what it made.*choose from none, prompt, random"
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
    other = replace(vector.negated(), name="caa")
    report = evaluate(
        llm, vector, test, against=["cad", "adacad", other], progress=False, max_new_tokens=4,
    )  # fmt: skip
    assert report.arms == ("steered", "none", "cad", "adacad", "caa")
    assert report.row("caa").main.value < 0.1
    # These prompts have no context, so contrasting changes nothing.
    assert report.row("cad").main == report.row("none").main
    assert "context-aware decoding" in report.to_markdown()
    stranger = replace(other, fingerprint=llm.fingerprint.model_copy(update={"weights_hash": "0"}))
    with pytest.raises(ModelMismatchError):
        evaluate(llm, vector, test, against=[stranger], progress=False)


def test_shuffled_pairs_are_a_control_that_the_vector_has_to_beat(tiny_llm: Any) -> None:
    from slow_states import PAIRS

    from steerable_llm.evaluation.shuffled import shuffled_vectors
    from steerable_llm.methods.build import build_vector

    pairs, test = Pairs(PAIRS[:4]), Pairs(PAIRS[4:])
    built = build_vector(tiny_llm, pairs, method="caa", name="v", progress=False)
    vector = built.with_calibration(Calibration(0.3, scope="all"))
    report = evaluate(
        tiny_llm, vector, test, pairs=pairs, random_vectors=2, progress=False, max_new_tokens=2
    )
    assert report.arms[-1] == "shuffled"
    row = report.row("shuffled")
    assert len(row.runs) == 2
    for control, share in zip(
        shuffled_vectors(tiny_llm, vector, pairs, [0, 1]), row.runs, strict=True
    ):
        preferred = [
            good > bad
            for pair in test
            for good, bad in [
                tiny_llm.score(pair.prompt, [pair.good, str(pair.bad)], control.steer())
            ]
        ]
        assert share == sum(preferred) / len(test)
    assert any("vectors of shuffled labels" in reason for reason in report.verdict.reasons)
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


def test_a_lora_or_a_decoding_method_is_proven_like_a_vector(tiny_llm: Any) -> None:
    pytest.importorskip("peft")
    from slow_states import PAIRS

    lora = train_lora(
        tiny_llm, Pairs(PAIRS[:4]), LoraSettings(rank=4, learning_rate=1e-2, epochs=2), "mine"
    )
    quick: dict[str, Any] = {"progress": False, "max_new_tokens": 2}
    report = evaluate(tiny_llm, lora, Pairs(PAIRS[4:]), **quick)
    assert report.arms == ("mine", "none", "prompt")
    assert (report.arm, report.vector, report.provenance.method) == ("mine", "mine", "lora")
    assert report.vector_fingerprint == lora.fingerprint_id
    assert report.verdict.reasons
    assert "mine against" in " ".join(report.verdict.reasons)
    with adapted(tiny_llm, lora):
        preferred = [
            good > bad
            for pair in PAIRS[4:]
            for good, bad in [tiny_llm.score(pair.prompt, [pair.good, str(pair.bad)])]
        ]
    assert report.row("mine").main.value == sum(preferred) / 2
    with pytest.raises(InvalidInputError, match="among those that the build of 'mine' saw"):
        evaluate(tiny_llm, lora, Pairs(PAIRS[3:]), **quick)
    decoded = evaluate(tiny_llm, "cad=2", Pairs(PAIRS), against=["none"], **quick)
    assert decoded.arms == ("cad=2", "none")
    assert decoded.row("cad=2").change is not None
    assert Report.from_json(decoded.to_json()) == decoded
