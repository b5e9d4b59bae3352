"""Prompts that a build or a calibration saw are refused as evidence, however they come."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steerable_llm import SteerableHFLLM, SteeringVector, calibrate, demo, evaluate
from steerable_llm.chat.message import Message
from steerable_llm.errors import InvalidInputError, ModelMismatchError
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.compare import compare
from steerable_llm.evaluation.overlap import HeldOut, looked_at, overlap, past_of
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.evaluation.transfer import transfer
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.vector.calibration import Calibration, Choice, DataUsed
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.seen import hashes_of, kept


def items(numbers: range, name: str = "q", text: str = "What is {} and one?") -> EvaluationSet:
    return EvaluationSet(
        name,
        [
            EvaluationItem(
                id=f"{name}-{n}", category="sum", messages=text.format(n), accept=(str(n + 1),)
            )
            for n in numbers
        ],
    )


VECTORS = Path(__file__).parent.parent / "vectors"
PAIR = Pairs([PreferencePair(messages="Which way?", good="This way.", bad="That way.")])
DEV, KEPT = items(range(10), "dev"), items(range(50, 55), "kept")
SAME = {
    "nine of the ten": DEV[:9],
    "another order": EvaluationSet("dev", reversed(DEV.items)),
    "other ids": items(range(10), "test"),
    "other whitespace": items(range(10), "test", "What  is {}\nand one? "),
    "a blank system message": EvaluationSet(
        "test",
        [
            item.model_copy(
                update={"messages": (Message(role="system", content=" \n"), *item.messages)}
            )
            for item in DEV
        ],
    ),
    "a blank message at the end": EvaluationSet(
        "test",
        [
            item.model_copy(update={"messages": (*item.messages, Message(role="user", content=""))})
            for item in DEV
        ],
    ),
    "blanks that nobody sees": items(range(10), "test", "\ufeffWhat\u00a0is {}\u200b and one?"),
    "one of them among others": EvaluationSet("test", [*items(range(20, 29)), DEV[4]]),
}


@pytest.fixture
def vector(tiny_llm: Any, tiny_vector: SteeringVector) -> SteeringVector:
    def used(prompts: EvaluationSet) -> DataUsed:
        hashes = kept(hashes_of(tiny_llm, prompts))
        return DataUsed(prompts.name, prompts.digest, len(prompts), seen=hashes)

    built = kept(hashes_of(tiny_llm, items(range(100, 110))))
    choice = Choice(used(DEV), 0.5, 0.9, 24, used(KEPT), {"reading": 0.0}, 0.01)
    return replace(
        tiny_vector,
        provenance=Provenance(method="caa", seen=built),
        calibration=Calibration(0.1, choice=choice),
    )


@pytest.mark.parametrize("prompts", SAME.values(), ids=SAME)
def test_dev_prompts_are_refused_however_they_come(
    tiny_llm: Any, vector: SteeringVector, prompts: EvaluationSet
) -> None:
    with pytest.raises(InvalidInputError, match="that the calibration of") as told:
        overlap([HeldOut.of(tiny_llm, prompts)], past_of(vector))
    assert "\n" not in str(told.value)


def test_the_line_says_how_many_with_what_and_which_first(
    tiny_llm: Any, vector: SteeringVector
) -> None:
    test = EvaluationSet("test", [*items(range(20, 23)), *items(range(103, 105))])
    with pytest.raises(
        InvalidInputError, match=r"2 of the 5 prompts of 'test' .* the build of .* \(first 'q-103'"
    ):
        overlap([HeldOut.of(tiny_llm, test)], past_of(vector))


def test_capability_prompts_are_held_out_as_well(tiny_llm: Any, vector: SteeringVector) -> None:
    fine = HeldOut.of(tiny_llm, items(range(20, 25)))
    for prompts in (KEPT, EvaluationSet("kept2", [KEPT[2]]), DEV):
        with pytest.raises(InvalidInputError, match="not held out"):
            overlap([fine, HeldOut.of(tiny_llm, prompts)], past_of(vector))
    assert overlap([fine], past_of(vector)) == ()


def test_a_vector_or_a_lora_inside_an_arm_has_a_past_as_well(
    tiny_llm: Any, vector: SteeringVector
) -> None:
    told = {saw.what for saw in past_of(Arm("mine", vector.steer(0.1)))}
    assert told == {saw.what for saw in past_of(vector)}
    with pytest.raises(InvalidInputError, match="not held out"):
        evaluate(tiny_llm, Arm("mine", vector.steer()), DEV[2:3], progress=False)
    with pytest.raises(InvalidInputError, match="not held out"):
        evaluate(
            tiny_llm, "prompt", DEV[2:3], against=[Arm("mine", vector.steer())], progress=False
        )
    elsewhere = vector.fingerprint.model_copy(update={"weights_hash": "0" * 64})
    other = replace(vector, fingerprint=elsewhere)
    with pytest.raises(ModelMismatchError):
        evaluate(tiny_llm, Arm("mine", other.steer()), items(range(20, 22)), progress=False)


def test_a_prompt_is_target_or_capability(tiny_llm: Any, vector: SteeringVector) -> None:
    fine = items(range(20, 25))
    same = EvaluationSet(
        "kept", [item.model_copy(update={"category": "reading"}) for item in fine[1:3]]
    )
    message = "2 of the 2 prompts of 'kept' are among those of 'q' .first 'q-21'.*target and"
    with pytest.raises(InvalidInputError, match=message):
        evaluate(tiny_llm, vector, fine, same, progress=False)
    with pytest.raises(InvalidInputError, match=message):
        calibrate(tiny_llm, vector, fine, same, progress=False)


def test_a_prompt_that_repeats_another_one_proves_nothing_of_its_own(
    tiny_llm: Any, vector: SteeringVector
) -> None:
    fine, kept_apart = items(range(20, 25)), items(range(30, 33), "kept")
    again = items(range(22, 24), "again", "What  is {}\nand one?")
    twice = EvaluationSet("test", [*fine, *again])
    apart = EvaluationSet("apart", [x.model_copy(update={"category": "aloud"}) for x in kept_apart])
    message = "2 of the 7 prompts of 'test' only repeat others .first 'again-22' that of 'q-22'"
    for given in (
        lambda: evaluate(tiny_llm, vector, twice, progress=False),
        lambda: evaluate(tiny_llm, vector, apart, twice, progress=False),
        lambda: calibrate(tiny_llm, vector, twice, progress=False),
        lambda: transfer(tiny_llm, [vector], [twice], progress=False),
        lambda: compare(tiny_llm, PAIR, items(range(40, 42), "dev"), twice, progress=False),
    ):
        with pytest.raises(InvalidInputError, match=message) as told:
            given()
        assert "\n" not in str(told.value)


def test_the_same_prompt_may_be_asked_in_another_category(tiny_llm: Any) -> None:
    fine = items(range(20, 25))
    other = [x.model_copy(update={"id": f"a{x.id}", "category": "aloud"}) for x in fine]
    assert not HeldOut.of(tiny_llm, EvaluationSet("test", [*fine, *other])).repeats


def test_a_strength_set_by_hand_does_not_forget_what_dev_was(
    tiny_llm: Any, vector: SteeringVector
) -> None:
    by_hand = vector.with_calibration(Calibration(0.3, remark="stronger"))
    with pytest.raises(InvalidInputError, match="10 of the 10"):
        overlap([HeldOut.of(tiny_llm, DEV)], past_of(by_hand))
    assert by_hand.with_calibration(Calibration(0.2)).calibration == replace(
        by_hand.calibration or Calibration(0), strength=0.2, remark=""
    )


def test_arms_without_a_record_are_checked_against_what_they_were_given(tiny_llm: Any) -> None:
    with pytest.raises(InvalidInputError, match="10 of the 10 prompts of 'dev'"):
        overlap([HeldOut.of(tiny_llm, DEV)], [looked_at(tiny_llm, "the choice of alpha", DEV)])


def test_a_file_without_hashes_is_told_from_whole_sets_only_and_says_so(
    tiny_llm: Any, vector: SteeringVector
) -> None:
    choice = Choice(DataUsed("dev", DEV.digest[:12], 10), 0.5, 0.9, 24)
    old = replace(vector, provenance=Provenance(), calibration=Calibration(0.1, choice=choice))
    with pytest.raises(InvalidInputError, match="10 of the 10"):
        overlap([HeldOut.of(tiny_llm, DEV)], past_of(old))
    told = overlap([HeldOut.of(tiny_llm, DEV[:9])], past_of(old))
    assert len(told) == 2
    assert all("is not proven" in line for line in told)


def test_what_an_earlier_calibration_looked_at_stays_looked_at(
    tiny_llm: Any, vector: SteeringVector
) -> None:
    before = DataUsed("first", DEV.digest, 10, seen=hashes_of(tiny_llm, DEV))
    again = DataUsed("second", KEPT.digest, 5, seen=hashes_of(tiny_llm, KEPT))
    choice = Choice(again, 0.5, 0.9, 24)
    new = vector.with_calibration(Calibration(0.1, choice=choice, earlier=(before,)))
    for items_, name in ((DEV[3:4], "first"), (KEPT[:1], "second")):
        with pytest.raises(InvalidInputError, match=f"the calibration of '.*' on '{name}' saw"):
            overlap([HeldOut.of(tiny_llm, items_)], past_of(new))
    read = Calibration.from_record(new.calibration.record())
    assert read == new.calibration
    assert "seen" not in str(read.shown()["earlier"][0]["seen"] or "")


def test_hashes_of_another_template_prove_nothing(tiny_llm: Any, vector: SteeringVector) -> None:
    other = vector.fingerprint.model_copy(update={"template_hash": "0" * 64})
    elsewhere = replace(vector, fingerprint=other)
    told = overlap([HeldOut.of(tiny_llm, items(range(20, 25)))], past_of(elsewhere))
    assert "another chat template" in told[0]


def test_a_shipped_vector_is_not_proven_on_what_it_was_calibrated_on() -> None:
    llm = SteerableHFLLM.demo()
    for behaviour in demo.REASONS:
        vector = SteeringVector.load(VECTORS / f"demo-{behaviour}.safetensors", llm)
        for name in (behaviour, "capability"):
            dev = demo.evaluation_set(name, "dev")  # type: ignore[arg-type]
            part = [item.model_copy(update={"id": f"new {item.id}"}) for item in dev[::2]]
            with pytest.raises(InvalidInputError, match=f"the calibration of 'demo-{behaviour}'"):
                overlap([HeldOut.of(llm, EvaluationSet("test", part))], past_of(vector))
        test = demo.evaluation_set(behaviour, "test")  # type: ignore[arg-type]
        assert overlap([HeldOut.of(llm, test)], past_of(vector)) == ()
