"""One policy file decides for LangChain and LlamaIndex alike, and a change reaches their caches."""

import os
from pathlib import Path
from typing import Any

import pytest
from adapter_models import QUESTION, drain, random_vector, steered_by
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.prompts.prompt_type import PromptType
from llama_index.core.schema import ImageNode, NodeWithScore, TextNode

from steerable_llm.adapters.langchain import record_steering
from steerable_llm.answer.constraint import Constraint
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.policy.policy import KILL_SWITCH, Hint, Policy, choose_step

POLICY = """
default_step = "plain"

[steps.plain]

[steps.answer]
vectors = [{ name = "a", strength = 0.8 }]
when = { context = "present" }
match = { node = ["gen*"], tag = ["public"], prompt_type = ["text_*"], step = ["answer_*"] }
"""
WITH = f"Documents:\n[1] The shop opens at nine.\n\nQuestion: {QUESTION}"


@pytest.fixture
def file(tiny_llm: SteerableHFLLM, tmp_path: Path) -> Path:
    random_vector(tiny_llm, "a", 0).save(tmp_path / "a.safetensors")
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def llm(tiny_llm: SteerableHFLLM, file: Path) -> SteerableHFLLM:
    return SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, policy=file, model_id="tiny")


def rewrite(file: Path, text: str) -> None:
    before = file.stat().st_mtime_ns
    file.write_text(text)
    os.utime(file, ns=(before + 10**9, before + 10**9))


def test_hints_of_every_kind_turn_into_the_policys_steps(llm: SteerableHFLLM) -> None:
    policy = llm.policy
    for hint in (Hint("generate", "node"), Hint("public", "tag"), Hint("text_qa", "prompt_type")):
        assert choose_step([None, Hint("other", hint.kind), hint], policy) == "answer"
        assert choose_step([hint], None) is None
    assert choose_step([Hint("generate", "tag"), Hint(None, "node")], policy) is None
    assert choose_step([Hint("plain", "tag"), "answer"], policy) == "plain"
    assert choose_step(["unknown", Hint("generate", "node")], policy) == "unknown"


@pytest.mark.parametrize(
    "config",
    [
        {"metadata": {"langgraph_node": "generate"}},
        {"tags": ["x", "public"]},
        {"metadata": {"steer_step": "answer_long"}},
        {"tags": ["steer:answer"]},
    ],
)
def test_a_langchain_call_is_steered_by_what_matches(llm: SteerableHFLLM, config: Any) -> None:
    chat = llm.as_langchain(max_tokens=3)
    answer = chat.invoke(WITH, config)
    assert steered_by(answer) == ["a"]
    decision = answer.response_metadata["decision"]
    assert decision["step"] == "answer"
    assert decision["reasons"][-1] == "a: context present: applied"
    assert decision["policy"] == llm.policy.digest  # type: ignore[union-attr]
    [*_, last] = chat.stream(WITH, config)
    assert last.response_metadata["decision"] == decision
    without = chat.invoke(QUESTION, config)
    assert steered_by(without) == []
    assert without.response_metadata["decision"]["reasons"][-1] == "a: context absent: not applied"


def test_a_llama_index_prompt_is_steered_by_what_matches(llm: SteerableHFLLM) -> None:
    index = llm.as_llama_index(max_tokens=3)
    prompt = PromptTemplate(WITH, prompt_type=PromptType.QUESTION_ANSWER)
    text = index.predict(prompt)
    assert text == llm.generate(WITH, step="answer", max_new_tokens=3).text
    raw = index.complete(WITH, step="answer").raw
    assert raw["decision"]["step"] == "answer"
    assert raw["decision"]["reasons"][-1] == "a: context present: applied"


def test_a_changed_file_is_another_model_to_a_cache(llm: SteerableHFLLM, file: Path) -> None:
    chat = llm.as_langchain(step="answer", max_tokens=4, cache=InMemoryCache())
    first = chat._get_llm_string()
    steered = chat.invoke([HumanMessage(WITH)])
    rewrite(file, POLICY.replace("0.8", "-0.8"))
    changed = chat.invoke([HumanMessage(WITH)])
    assert chat._get_llm_string() != first
    assert steered.response_metadata["steering"][0]["strength"] == 0.8
    assert changed.response_metadata["steering"][0]["strength"] == -0.8
    rewrite(file, POLICY)
    assert chat._get_llm_string() == first


def test_the_kill_switch_reaches_past_a_cache(
    llm: SteerableHFLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = llm.as_langchain(step="answer", max_tokens=4, cache=InMemoryCache())
    assert steered_by(chat.invoke(WITH)) == ["a"]
    monkeypatch.setenv(KILL_SWITCH, "1")
    assert steered_by(chat.invoke(WITH)) == []
    monkeypatch.setenv(KILL_SWITCH, "0")
    assert steered_by(chat.invoke(WITH)) == ["a"]


def test_a_broken_file_stops_no_chain(llm: SteerableHFLLM, file: Path) -> None:
    chat = llm.as_langchain(step="answer", max_tokens=3)
    rewrite(file, "[steps")
    with pytest.warns(UserWarning, match="the policy read before stays"):
        assert steered_by(chat.invoke(WITH)) == ["a"]
    assert steered_by(chat.invoke(WITH)) == ["a"]


def test_each_row_of_a_batch_is_decided_by_its_own_prompt(llm: SteerableHFLLM) -> None:
    chat = llm.as_langchain(step="answer", max_tokens=3)
    answers = chat.batch([WITH, QUESTION, WITH])
    assert [steered_by(answer) for answer in answers] == [["a"], [], ["a"]]


def test_a_steering_given_to_the_model_wins_over_the_policy(
    llm: SteerableHFLLM, tiny_vector: Any
) -> None:
    chat = llm.as_langchain(step="answer", steering=tiny_vector.steer(0.3), max_tokens=3)
    answer = chat.invoke(WITH)
    assert steered_by(answer) == ["random-0"]
    assert answer.response_metadata["decision"]["reasons"] == [
        "the request brings its own steering"
    ]


def test_a_policy_object_is_taken_as_it_is(llm: SteerableHFLLM, tiny_llm: SteerableHFLLM) -> None:
    given = llm.policy
    assert isinstance(given, Policy)
    twin = SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, policy=given)
    assert twin.policy is given


@pytest.mark.parametrize("steers", [False, True])
def test_an_answer_under_a_constraint_is_steered_only_where_the_step_says_so(
    tiny_llm: SteerableHFLLM, file: Path, steers: bool
) -> None:
    file.write_text(f"{POLICY}steer_structured = {str(steers).lower()}\n")
    llm = SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, policy=file)
    constraint = Constraint.choice(["nine", "ten"])
    answer = llm.generate(WITH, step="answer", constraint=constraint, max_new_tokens=20)
    assert answer.text in ("nine", "ten")
    assert [each.name for each in answer.steered] == (["a"] if steers else [])
    assert answer.decision is not None
    assert ("the answer is structured" in answer.decision.reasons[-1]) != steers
    [*_, last] = llm.stream(WITH, step="answer", constraint=constraint, max_new_tokens=20)
    assert last.final == answer


def test_the_caller_may_say_what_it_retrieved(llm: SteerableHFLLM) -> None:
    for context, steered in ((["At nine."], True), (True, True), ([], False), (None, False)):
        answer = llm.generate(QUESTION, step="answer", context=context, max_new_tokens=2)
        assert bool(answer.steered) == steered
        message = llm.as_langchain(max_tokens=2).invoke(QUESTION, step="answer", context=context)
        assert bool(steered_by(message)) == steered
        completion = llm.as_llama_index(max_tokens=2).complete(
            QUESTION, step="answer", context=context
        )
        assert bool(completion.raw["steering"]) == steered
    assert not llm.generate(WITH, step="answer", context=False, max_new_tokens=2).steered


def test_documents_and_nodes_tell_what_was_retrieved_as_their_texts_do(
    llm: SteerableHFLLM,
) -> None:
    chat, model = llm.as_langchain(max_tokens=2), llm.as_llama_index(max_tokens=2)
    for text in ("At nine.", " "):
        message = chat.invoke(QUESTION, step="answer", context=[Document(page_content=text)])
        node = TextNode(text=text, metadata={"page": 4})  # which says nothing by itself
        for given in (node, NodeWithScore(node=node)):
            completion = model.complete(QUESTION, step="answer", context=[given])
            assert bool(completion.raw["steering"]) == bool(text.strip())
        assert bool(steered_by(message)) == bool(text.strip())
    image = NodeWithScore(node=ImageNode(image="aGk="))
    assert model.complete(QUESTION, step="answer", context=[image]).raw["steering"]


async def test_a_llama_index_call_keeps_the_policy_that_told_its_step(
    llm: SteerableHFLLM, file: Path
) -> None:
    model = llm.as_llama_index(max_tokens=2)
    prompt = PromptTemplate("{q}", PromptType.QUESTION_ANSWER)
    with record_steering() as record:
        late = [model.stream_complete(WITH, step="answer"), model.stream(prompt, q=WITH)]
        alate = await model.astream(prompt, q=WITH)
        assert llm.policy is not None
        digest = llm.policy.digest
        rewrite(file, POLICY.replace("steps.answer", "steps.other"))
        assert llm.policy.digest != digest
        for stream in late:
            list(stream)
        await drain(alate)
    assert record.steps == ("answer",) * 3
    assert {answer.decision.policy for answer in record.answers if answer.decision} == {digest}


async def test_a_langchain_stream_keeps_the_policy_that_told_its_step(
    llm: SteerableHFLLM, file: Path
) -> None:
    chat = llm.as_langchain(max_tokens=2)
    config: Any = {"metadata": {"langgraph_node": "generate"}}
    late, alate = chat.stream(WITH, config), chat.astream(WITH, config)
    assert llm.policy is not None
    digest = llm.policy.digest
    rewrite(file, POLICY.replace("steps.answer", "steps.other"))
    assert llm.policy.digest != digest
    for [*_, last] in (list(late), [piece async for piece in alate]):
        assert last.response_metadata["decision"]["step"] == "answer"
        assert last.response_metadata["decision"]["policy"] == digest


class RewritingLLM(SteerableHFLLM):
    """The real engine, whose policy file changes just before it makes each answer."""

    def submit(self, *args: Any, **options: Any) -> Any:
        self.rewrite()
        return super().submit(*args, **options)

    def stream(self, *args: Any, **options: Any) -> Any:
        self.rewrite()
        return super().stream(*args, **options)

    def rewrite(self) -> None:
        self.strength += 1
        rewrite(self.file, POLICY.replace("0.8", f"0.{self.strength}"))


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "batch"])
async def test_an_answer_is_kept_under_the_policy_that_made_it_though_the_file_changes(
    tiny_llm: SteerableHFLLM, file: Path, way: str
) -> None:
    engine = RewritingLLM(tiny_llm.model, tiny_llm.tokenizer, policy=file, model_id="tiny")
    engine.file, engine.strength = file, 1
    kept: dict[str, Any] = {}

    class Recording(InMemoryCache):
        def update(self, _: str, llm_string: str, return_val: Any) -> None:
            kept[llm_string] = return_val[0].message.response_metadata["decision"]["policy"]

    chat = engine.as_langchain(step="answer", max_tokens=2, cache=Recording())
    for _ in range(2):
        if way == "batch":
            chat.batch([WITH])
        elif way == "invoke":
            chat.invoke(WITH)
        else:
            await chat.ainvoke(WITH)
    assert len(kept) == 2
    for key, digest in kept.items():
        assert digest in key
