"""A step may choose decoding or words: `contrast` and `instruction`, beside vectors or alone."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

import pytest
from adapter_models import random_vector, steered_by
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.caches import InMemoryCache
from langchain_core.messages import HumanMessage, SystemMessage
from policy_models import WordEmbedder, policy_of
from transformers import PreTrainedTokenizerFast

from steerable_llm.adapters.langchain import AnswerLogHandler
from steerable_llm.adapters.llama_index import record_answers
from steerable_llm.answer.constraint import Constraint
from steerable_llm.answer.encode import asked, encode
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.chat.message import MessagesLike, as_messages
from steerable_llm.errors import InvalidInputError, PolicyError, PromptTooLongError
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.policy.check import TracedCall, check_policy, dry_run
from steerable_llm.policy.decision import Asked, SteeringDecision, decide
from steerable_llm.policy.policy import KILL_SWITCH, Policy
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.steering import Steering

STRICT = "Answer only from the text."
QUESTION = "When does the shop open?"
WITH = f"Documents:\n[1] The shop in Lyon opens at nine.\n\nQuestion: {QUESTION}"
SYSTEM = {"role": "system", "content": "You help a shop."}
BARE = f"Question: {QUESTION}"
TOLD: MessagesLike = [{"role": "system", "content": STRICT}, {"role": "user", "content": WITH}]
NEW = 8


@pytest.fixture(autouse=True)
def _no_kill_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KILL_SWITCH, raising=False)


def under(tiny_llm: SteerableHFLLM, step: dict[str, Any], **top: Any) -> SteerableHFLLM:
    """The tiny model under a policy of one step, which is the default."""
    policy = Policy.from_dict(
        {"default_step": "answer", "steps": {"answer": step}, **top},
        {"a": random_vector(tiny_llm, "a", 0)},
    )
    return SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, policy=policy, model_id="tiny")


def decided(step: dict[str, Any], asked: Asked | None = None, conflict: float | None = None,
            **top: Any) -> SteeringDecision:  # fmt: skip
    policy = policy_of({"answer": step}, **top)
    asked = asked or Asked(WITH, "answer")
    return decide(policy, [asked], lambda prompts: [conflict] * len(prompts))[0]


# The answer is the one that was asked for directly.


@pytest.mark.parametrize(
    ("written", "contrast"),
    [
        (0.5, Contrast("cad", 0.5)),
        (2, Contrast("cad", 2.0)),
        ("adacad", Contrast("adacad", 1.0)),
        ({"kind": "adacad", "alpha": 3.0}, Contrast("adacad", 3.0)),
        ({"alpha": 1.5}, Contrast("cad", 1.5)),
    ],
)
def test_a_steps_contrast_answers_as_one_that_the_request_brings(
    tiny_llm: SteerableHFLLM, written: Any, contrast: Contrast
) -> None:
    llm = under(tiny_llm, {"contrast": written})
    found = llm.generate(WITH, max_new_tokens=NEW)
    assert found == tiny_llm.generate(WITH, max_new_tokens=NEW, contrast=contrast)
    assert found.decision is not None
    assert found.decision.contrast == contrast
    assert found.decision.to_dict()["contrast"] == {"kind": contrast.kind, "alpha": contrast.alpha}
    [*_, last] = llm.stream(WITH, max_new_tokens=NEW)
    assert last.final == found


def test_a_contrast_changes_answers(tiny_llm: SteerableHFLLM) -> None:
    plain = tiny_llm.generate(WITH, max_new_tokens=NEW)
    assert under(tiny_llm, {"contrast": 2.0}).generate(WITH, max_new_tokens=NEW) != plain


def test_a_steps_instruction_answers_as_a_system_message_of_the_prompt(
    tiny_llm: SteerableHFLLM,
) -> None:
    llm = under(tiny_llm, {"instruction": STRICT})
    found = llm.generate(WITH, max_new_tokens=NEW)
    asked = tiny_llm.generate(TOLD, max_new_tokens=NEW)
    assert found == asked
    assert found != tiny_llm.generate(WITH, max_new_tokens=NEW)
    assert found.usage.prompt_tokens == asked.usage.prompt_tokens
    assert found.decision is not None
    assert found.decision.to_dict()["instruction"] == STRICT
    [*_, last] = llm.stream(WITH, max_new_tokens=NEW)
    assert last.final == found


def test_an_instruction_stands_behind_the_applications_own_and_takes_nothing_away(
    tiny_llm: SteerableHFLLM,
) -> None:
    llm = under(tiny_llm, {"instruction": STRICT})
    both = {**SYSTEM, "content": f"{SYSTEM['content']}\n\n{STRICT}"}
    user = {"role": "user", "content": WITH}
    found = llm.generate([SYSTEM, user], max_new_tokens=NEW)
    assert found == tiny_llm.generate([both, user], max_new_tokens=NEW)


def test_vectors_contrast_and_instruction_act_together(tiny_llm: SteerableHFLLM) -> None:
    step = {"vectors": [{"name": "a", "strength": 0.4}], "contrast": 0.7, "instruction": STRICT}
    found = under(tiny_llm, step).generate(WITH, max_new_tokens=NEW)
    steering = random_vector(tiny_llm, "a", 0).steer(0.4)
    contrast = Contrast("cad", 0.7)
    assert found == tiny_llm.generate(TOLD, steering, max_new_tokens=NEW, contrast=contrast)
    assert [each.name for each in found.steered] == ["a"]


def test_a_batch_of_steps_with_and_without_equals_one_by_one(tiny_llm: SteerableHFLLM) -> None:
    steps = {
        "plain": {},
        "cad": {"contrast": 1.5},
        "told": {"instruction": STRICT},
        "both": {"contrast": "adacad", "instruction": STRICT},
        "steered": {"vectors": [{"name": "a", "strength": 0.5}], "contrast": 0.5},
    }
    policy = Policy.from_dict({"steps": steps}, {"a": random_vector(tiny_llm, "a", 0)})
    llm = SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, policy=policy)
    requests = [
        GenerationRequest(prompt, step=step, max_new_tokens=NEW)
        for step in steps
        for prompt in (WITH, QUESTION, f"Context:\nTea costs four euros.\n\nQuestion: {QUESTION}")
    ]
    together = llm.generate_batch(requests)
    assert len({answer.token_ids for answer in together}) > len(steps)
    for request, answer in zip(requests, together, strict=True):
        assert llm.generate_batch([request]) == [answer]


# Conditions.


@pytest.mark.parametrize("wanted", ["present", "absent"])
def test_a_steps_conditions_hold_for_its_instruction_and_its_contrast(wanted: str) -> None:
    step = {"contrast": 0.5, "instruction": STRICT, "when": {"context": wanted}}
    there, not_there = (decided(step, Asked(text, "answer")) for text in (WITH, QUESTION))
    assert (there.instruction is None) == (wanted == "absent")
    assert (not_there.instruction is None) == (wanted == "present")
    # Without a context there is nothing to contrast, whatever the conditions say.
    assert (there.contrast is None) == (wanted == "absent")
    assert not_there.contrast is None


def test_each_may_have_conditions_of_its_own() -> None:
    step = {
        "vectors": [{"name": "faithful"}],
        "contrast": {"alpha": 0.5, "when": {"conflict": {"above": 0}}},
        "instruction": {"text": STRICT, "when": {"context": "absent"}},
        "when": {"context": "present"},
    }
    found = decided(step, conflict=1.0)
    assert (found.contrast, found.instruction) == (Contrast("cad", 0.5), None)
    assert found.steering.is_active
    assert decided(step, conflict=-1.0).contrast is None
    bare = decided(step, Asked(QUESTION, "answer"))
    assert (bare.contrast, bare.instruction) == (None, STRICT)
    assert not bare.steering.is_active


@given(st.floats(-2, 2))
def test_a_ramp_takes_of_the_contrasts_weight_and_gives_words_whole_from_its_middle_on(
    conflict: float,
) -> None:
    when = {"conflict": {"from": -1, "to": 1}}
    found = decided({"contrast": 2.0, "instruction": STRICT, "when": when}, conflict=conflict)
    share = min(1.0, max(0.0, (conflict + 1) / 2))
    alpha = found.contrast.alpha if found.contrast else 0.0
    assert alpha == pytest.approx(2 * share)
    if abs(conflict) > 1e-9:
        assert (found.instruction == STRICT) == (conflict > 0)


def test_a_gate_that_only_a_contrast_asks_is_found() -> None:
    step = {"contrast": {"alpha": 1.0, "when": {"gate": {"name": "rudeness"}}}}
    rude = WITH.replace("When", "rude")
    embedder = WordEmbedder()
    assert decided(step, Asked(rude, "answer"), embedder=embedder).contrast == Contrast("cad", 1.0)
    kind = decided(step, Asked(WITH.replace("When", "kind"), "answer"), embedder=embedder)
    assert kind.contrast is None
    with pytest.raises(PolicyError, match="did you mean 'rudeness'"):
        decided({"contrast": {"alpha": 1.0, "when": {"gate": {"name": "rudness"}}}})


def test_reasons_say_what_was_applied_and_what_was_not() -> None:
    step = {"contrast": 0.5, "instruction": STRICT, "when": {"context": "present"}}
    assert decided(step).reasons == (
        "step 'answer'",
        "contrast: context present: applied",
        "instruction: context present: applied",
    )
    assert decided(step, Asked(QUESTION, "answer")).reasons == (
        "step 'answer'",
        "contrast: the prompt has no context beside its question: not applied",
        "instruction: context absent: not applied",
    )


# What goes before the policy, and what switches it off.


def test_a_contrast_of_the_request_takes_the_place_of_the_steps(tiny_llm: SteerableHFLLM) -> None:
    llm = under(tiny_llm, {"contrast": 0.5, "vectors": [{"name": "a", "strength": 0.4}]})
    steering = random_vector(tiny_llm, "a", 0).steer(0.4)
    for own in (Contrast("cad", 3.0), Contrast("adacad"), Contrast("cad", 0.0)):
        found = llm.generate(WITH, max_new_tokens=NEW, contrast=own)
        assert found == tiny_llm.generate(WITH, steering, max_new_tokens=NEW, contrast=own)
        assert found.decision is not None
        assert found.decision.contrast == (own if own.alpha else None)
        assert "the request brings its own contrast" in found.decision.reasons


def test_a_request_with_its_own_steering_gets_nothing_of_the_policy(
    tiny_llm: SteerableHFLLM,
) -> None:
    llm = under(tiny_llm, {"contrast": 2.0, "instruction": STRICT})
    found = llm.generate(WITH, Steering.none(), max_new_tokens=NEW)
    assert found == tiny_llm.generate(WITH, max_new_tokens=NEW)
    assert found.decision is not None
    assert (found.decision.contrast, found.decision.instruction) == (None, None)


@pytest.mark.parametrize("how", ["enabled", "environment"])
def test_what_switches_a_policy_off_switches_both_off(
    tiny_llm: SteerableHFLLM, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    step = {"contrast": 2.0, "instruction": STRICT}
    llm = under(tiny_llm, step, **({"enabled": False} if how == "enabled" else {}))
    if how == "environment":
        monkeypatch.setenv(KILL_SWITCH, "1")
    plain = tiny_llm.generate(WITH, max_new_tokens=NEW)
    assert llm.generate(WITH, max_new_tokens=NEW) == plain
    own = Contrast("cad", 2.0)
    found = llm.generate(WITH, max_new_tokens=NEW, contrast=own)
    assert found == tiny_llm.generate(WITH, max_new_tokens=NEW, contrast=own)
    assert llm.prompt_window == llm.context_window


def test_structured_answers_get_both_only_where_the_step_says_so(tiny_llm: SteerableHFLLM) -> None:
    constraint = Constraint.choice(["nine", "ten"])
    for steers in (False, True):
        step = {"contrast": 2.0, "instruction": STRICT, "steer_structured": steers}
        found = under(tiny_llm, step).generate(WITH, constraint=constraint, max_new_tokens=20)
        assert found.text in ("nine", "ten")
        assert found.decision is not None
        given = (found.decision.contrast is not None, found.decision.instruction is not None)
        assert given == (steers, steers)


def test_a_step_that_inherits_may_take_back_what_it_inherits() -> None:
    policy = policy_of(
        {
            "answer": {"contrast": 0.5, "instruction": STRICT},
            "refine": {"inherits": "answer"},
            "chat": {"inherits": "answer", "contrast": 0, "instruction": ""},
        }
    )

    def given(step: str) -> tuple[Any, Any]:
        [found] = decide(policy, [Asked(WITH, step)], lambda _: [])
        return found.contrast, found.instruction

    assert given("refine") == given("answer") == (Contrast("cad", 0.5), STRICT)
    assert given("chat") == (None, None)


def test_a_prompt_with_an_image_keeps_the_steps_contrast() -> None:
    picture = "data:image/png;base64,iVBORw0KGgo="
    content = [{"type": "text", "text": WITH}, {"type": "image_url", "image_url": {"url": picture}}]
    found = decided({"contrast": 0.5}, Asked([{"role": "user", "content": content}], "answer"))
    assert found.contrast == Contrast("cad", 0.5)


# The file.


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"contrast": -1}, "steps.answer.contrast.alpha: Input should be greater than or equal"),
        ({"contrast": True}, 'steps.answer.contrast: give a number such as 0.5, "adacad", or'),
        ({"contrast": float("inf")}, "steps.answer.contrast.alpha: Input should be a finite"),
        ({"contrast": "dola"}, "steps.answer.contrast.kind: Input should be 'cad' or 'adacad'"),
        ({"contrast": "cad"}, "cad needs its alpha: write a number, such as contrast = 0.5"),
        ({"contrast": {"alpah": 1.0}}, "did you mean 'alpha'"),
        ({"contrast": {"alpha": "much"}}, "steps.answer.contrast.alpha: Input should be a valid"),
        ({"contrast": [0.5]}, "steps.answer.contrast: give a number"),
        ({"contrst": 0.5}, "did you mean 'contrast'"),
        ({"instruction": 3}, "steps.answer.instruction: give a text, or a table with text"),
        ({"instruction": {"txt": "x"}}, "did you mean 'text'"),
        ({"instruction": {"text": "x", "when": {"context": "no"}}}, "'present' or 'absent'"),
        ({"instruction": {"when": {}}}, "steps.answer.instruction.text: Field required"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_where(step: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy_of({"answer": step})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whatever_changes_an_answer_changes_the_digest() -> None:
    steps: list[dict[str, Any]] = [
        {},
        {"contrast": 0.5},
        {"contrast": 0.6},
        {"contrast": {"kind": "adacad", "alpha": 0.5}},
        {"contrast": {"alpha": 0.5, "when": {"context": "present"}}},
        {"instruction": STRICT},
        {"instruction": STRICT.lower()},
        {"instruction": {"text": STRICT, "when": {"context": "present"}}},
    ]
    digests = {policy_of({"answer": step}).digest for step in steps}
    assert len(digests) == len(steps)
    assert policy_of({"answer": {"contrast": 0, "instruction": " "}}).digest in digests


def test_the_check_shows_both_and_warns_of_a_contrast_that_never_happens() -> None:
    when = {"context": "absent"}
    policy = policy_of({"answer": {"contrast": 0.5, "instruction": STRICT, "when": when}})
    checked = check_policy(policy)
    told = checked.steps[0].to_dict()
    assert told["contrast"] == {"kind": "cad", "alpha": 0.5, "when": when}
    assert told["instruction"] == {"text": STRICT, "when": when}
    assert [warning for warning in checked.warnings if "so never" in warning]
    calls = [TracedCall(step="answer"), TracedCall(step="answer", messages=WITH)]
    at_most, here = dry_run(policy, calls)
    assert (at_most.contrast, at_most.instruction) == (Contrast("cad", 0.5), STRICT)
    assert (here.contrast, here.instruction) == (None, None)


# Where an instruction has no place of its own, and the room that it takes.


def test_a_template_without_system_messages_gets_it_before_the_users_words(
    make_tiny_model: Any, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    refusing = copy(tiny_tokenizer)
    refusing.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + str(tiny_tokenizer.chat_template)
    )
    plain = SteerableHFLLM(make_tiny_model("llama"), refusing)
    step = {"contrast": 1.0, "instruction": STRICT}
    llm = under(plain, step)
    requests = [GenerationRequest(WITH)]
    [prompt] = encode(llm, requests, llm.decide(asked(requests)))
    told, alone = ([{"role": "user", "content": f"{STRICT}\n\n{x}"}] for x in (WITH, BARE))
    assert prompt.tokens == plain.encode(told)
    assert prompt.bare is not None
    assert prompt.bare.tokens == plain.encode(alone)  # the instruction is no part of the context


def test_an_instruction_counts_in_the_context_window(tiny_llm: SteerableHFLLM) -> None:
    llm = under(tiny_llm, {"instruction": STRICT})
    added = len(llm.encode(TOLD)) - len(llm.encode(WITH))
    assert 0 < added <= llm.context_window - llm.prompt_window
    room = llm.context_window - len(llm.encode(WITH))
    with pytest.raises(PromptTooLongError):
        llm.generate(WITH, max_new_tokens=room)
    assert llm.as_llama_index().metadata.context_window == llm.prompt_window
    profile = llm.as_langchain().profile
    assert profile is not None
    assert profile["max_input_tokens"] == llm.prompt_window


def test_given_answers_are_scored_under_the_instruction_and_not_under_a_contrast(
    tiny_llm: SteerableHFLLM,
) -> None:
    llm = under(tiny_llm, {"instruction": STRICT})
    assert llm.score(WITH, ["nine"]) == tiny_llm.score(TOLD, ["nine"])
    assert llm.score(WITH, ["nine"]) != tiny_llm.score(WITH, ["nine"])
    with pytest.raises(InvalidInputError, match="step 'answer' contrasts the prompt"):
        under(tiny_llm, {"contrast": 0.5}).score(WITH, ["nine"])


# Both frameworks, their records and the answer log.


def test_langchain_gets_both_and_says_so(tiny_llm: SteerableHFLLM) -> None:
    step = {"contrast": 0.5, "instruction": STRICT, "match": {"node": ["gen*"]}}
    llm = under(tiny_llm, step, default_step=None)
    chat = llm.as_langchain(max_tokens=NEW, cache=InMemoryCache())
    config: Any = {"metadata": {"langgraph_node": "generate"}}
    messages = [SystemMessage("You help a shop."), HumanMessage(WITH)]
    own = {**SYSTEM, "content": f"{SYSTEM['content']}\n\n{STRICT}"}
    expected = tiny_llm.generate(
        [own, {"role": "user", "content": WITH}], max_new_tokens=NEW, contrast=Contrast("cad", 0.5)
    )
    answer = chat.invoke(messages, config)
    assert answer.content == expected.text
    assert steered_by(answer) == []
    decision = answer.response_metadata["decision"]
    assert decision["contrast"] == {"kind": "cad", "alpha": 0.5}
    assert decision["instruction"] == STRICT
    assert answer.usage_metadata["input_tokens"] == expected.usage.prompt_tokens
    [*_, last] = chat.stream(messages, config)
    assert last.response_metadata["decision"] == decision
    batch = chat.batch([messages, messages], [config, {}])
    assert batch[0].content == expected.text
    assert "contrast" not in batch[1].response_metadata["decision"]


def test_llama_index_gets_both_and_says_so(tiny_llm: SteerableHFLLM) -> None:
    index = under(tiny_llm, {"contrast": 0.5, "instruction": STRICT}).as_llama_index(max_tokens=NEW)
    answer = index.complete(WITH)
    expected = tiny_llm.generate(TOLD, max_new_tokens=NEW, contrast=Contrast("cad", 0.5))
    assert answer.text == expected.text
    assert answer.raw["decision"]["contrast"] == {"kind": "cad", "alpha": 0.5}
    assert answer.raw["decision"]["instruction"] == STRICT


def test_a_prompt_in_the_templates_form_gets_no_instruction_and_says_so(
    tiny_llm: SteerableHFLLM,
) -> None:
    index = under(tiny_llm, {"instruction": STRICT}).as_llama_index(max_tokens=NEW)
    prompt = tiny_llm.chat_format.render(WITH)
    answer = index.complete(prompt, formatted=True)
    assert answer.text == tiny_llm.generate(WITH, max_new_tokens=NEW).text
    assert "instruction" not in answer.raw["decision"]
    assert answer.raw["decision"]["reasons"][-1].startswith("instruction: the prompt is in")


@pytest.mark.parametrize("framework", ["langchain", "llama_index"])
def test_the_answer_log_keeps_what_was_applied_beside_the_messages(
    tiny_llm: SteerableHFLLM, tmp_path: Path, framework: str
) -> None:
    llm = under(
        tiny_llm,
        {"vectors": [{"name": "a", "strength": 0.4}], "contrast": 0.5, "instruction": STRICT},
    )
    url = f"sqlite:///{tmp_path / 'answers.db'}"
    handler: Any
    if framework == "langchain":
        handler = AnswerLogHandler(url)
        llm.as_langchain(max_tokens=NEW).invoke(WITH, {"callbacks": [handler]})
    else:
        handler = record_answers(url)
        llm.as_llama_index(max_tokens=NEW).complete(WITH)
        handler.stop()
    assert handler.recorder.flush(30)
    handler.recorder.close()
    with AnswerLog(url) as log:
        [answer] = log.answers()
    vector, *beside = answer.steering
    assert vector["name"] == "a"
    assert beside == [
        {"name": "contrast", "kind": "cad", "alpha": 0.5},
        {"name": "instruction", "text": STRICT},
    ]
    assert answer.messages == as_messages(WITH)
