"""Conflict: how far the context speaks against the answer that the model gives all the same."""

import threading
from statistics import median
from typing import Any

import pytest

from steerable_llm import SteerableHFLLM, demo
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.chat.context import without_context
from steerable_llm.chat.message import as_messages
from steerable_llm.policy.decision import Asked
from steerable_llm.policy.policy import Policy
from steerable_llm.runtime.conflict import ANSWER_TOKENS, conflicts
from steerable_llm.vector.steering import Steering

WITH = "Documents:\n[1] The shop in Lyon opens at nine.\n\nQuestion: When does the shop open?"
WITHOUT = "Question: When does the shop open?"


def pair(whole: str, alone: str, arguments: dict[str, Any] | None = None) -> Any:
    return as_messages(whole), as_messages(alone), arguments


def test_it_is_what_the_answer_loses_per_token_when_the_context_comes_in(
    tiny_llm: SteerableHFLLM,
) -> None:
    none = Steering.none()
    answer = tiny_llm.generate(WITH, none, max_new_tokens=ANSWER_TOKENS).text
    alone, whole = (
        tiny_llm.score(prompt, [answer], none, reduction="none")[0][:-1]
        for prompt in (WITHOUT, WITH)
    )
    [found] = conflicts(tiny_llm, [pair(WITH, WITHOUT)])
    assert found == pytest.approx((sum(alone) - sum(whole)) / len(alone), abs=1e-4)
    assert found != 0


def test_a_context_that_changes_nothing_is_no_conflict(tiny_llm: SteerableHFLLM) -> None:
    assert conflicts(tiny_llm, [pair(WITH, WITH)]) == [pytest.approx(0, abs=1e-5)]
    assert conflicts(tiny_llm, []) == []


def test_a_batch_measures_each_prompt_as_alone(tiny_llm: SteerableHFLLM) -> None:
    prompts = [pair(WITH, WITHOUT), pair(WITH.replace("nine", "ten"), WITHOUT), pair("a", "b")]
    together = conflicts(tiny_llm, prompts)
    alone = [conflicts(tiny_llm, [each])[0] for each in prompts]
    assert together == pytest.approx(alone, abs=1e-4)


def test_where_the_window_leaves_no_room_nothing_is_measured(tiny_llm: SteerableHFLLM) -> None:
    text = "a"
    while len(tiny_llm.encode(text)) < tiny_llm.context_window - 1:
        text += " a"
    found = conflicts(tiny_llm, [pair(text, "a"), pair(WITH, WITHOUT)])
    assert found[0] is None
    assert found[1] is not None


def test_a_cancelled_request_is_not_measured_to_the_end(tiny_llm: SteerableHFLLM) -> None:
    cancelled = threading.Event()
    cancelled.set()
    assert conflicts(tiny_llm, [pair(WITH, WITHOUT)], cancelled) == [None]


def test_the_policy_does_not_steer_what_it_measures(
    tiny_llm: SteerableHFLLM, tiny_vector: Any
) -> None:
    step = {
        "vectors": [{"name": "v", "strength": 0.9}],
        "when": {"conflict": {"from": -99, "to": 99}},
    }
    policy = Policy.from_dict({"default_step": "a", "steps": {"a": step}}, {"v": tiny_vector})
    steered = SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, policy=policy)
    answer = steered.generate(WITH, max_new_tokens=4)
    [measured] = conflicts(tiny_llm, [pair(WITH, WITHOUT)])
    assert measured is not None
    assert answer.steered[0].strength == pytest.approx(0.9 * (measured + 99) / 198, rel=1e-4)
    assert answer.decision is not None
    assert f"conflict {measured:+.3f}" in answer.decision.reasons[-1]
    # Scoring is steered as generating is.
    scored = steered.score(WITH, ["At nine."])
    assert scored == pytest.approx(
        tiny_llm.score(WITH, ["At nine."], tiny_vector.steer(answer.steered[0].strength))
    )
    assert steered.decide([Asked(WITH)])[0].steering == steered.decide([Asked(WITH)])[0].steering


@pytest.mark.slow
def test_on_the_bundled_model_it_tells_answers_from_memory_from_answers_from_the_text() -> None:
    llm = SteerableHFLLM.demo()
    items = list(demo.evaluation_set("faithfulness", "dev").category("conflict"))[:60]
    prompts = [(item.prompt, without_context(item.prompt)) for item in items]
    told = [
        (item, whole, alone)
        for item, (whole, alone) in zip(items, prompts, strict=True)
        if whole != alone
    ]
    answers = llm.generate_batch(
        [GenerationRequest(whole, max_new_tokens=32) for _, whole, _ in told]
    )
    measured = conflicts(llm, [(whole, alone, None) for _, whole, alone in told])
    by_outcome: dict[bool, list[float]] = {True: [], False: []}
    for (item, _, _), answer, value in zip(told, answers, measured, strict=True):
        assert value is not None
        by_outcome[item.succeeds(answer.text)].append(value)
    assert min(map(len, by_outcome.values())) >= 5
    # Far below zero where the answer came from the text, around zero where it came from memory.
    assert median(by_outcome[True]) < -1 < median(by_outcome[False])
