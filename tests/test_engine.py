"""Any engine that takes prompts and gives answers serves requests, policies and both adapters."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from steerable_llm.answer.answer import Answer
from steerable_llm.answer.engine import Engine, Limits, Prompt
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.pending import Pending
from steerable_llm.answer.request import (
    AppliedVector,
    Generation,
    GenerationChunk,
    GenerationRequest,
)
from steerable_llm.errors import InvalidInputError, PromptTooLongError
from steerable_llm.policy.policy import Policy

QUESTION = "The capital of France is what?"
SAID = "The text does not say."


class Parrot:
    """Says the same to every prompt, and claims to have steered one position each."""

    def __init__(self, llm: SteerableHFLLM) -> None:
        self.llm = llm
        self.calls: list[list[Prompt]] = []

    alive, running, waiting = True, 0, 0
    limits = Limits()

    def submit(
        self,
        prompt: Prompt,
        cancelled: threading.Event | None = None,
        timeout: float | None = None,
    ) -> Pending:
        pending = Pending(prompt.decision, len(prompt.tokens), cancelled)
        for chunk in self.stream(prompt, cancelled):
            pending.put(chunk) if chunk.final is None else pending.end(chunk.final)
        return pending

    def run(
        self,
        prompts: Sequence[Prompt],
        batch_size: int,
        cancelled: threading.Event | None = None,
    ) -> list[Generation]:
        self.calls.append(list(prompts))
        finals = [[*self._chunks(prompt, cancelled)][-1].final for prompt in prompts]
        return [final for final in finals if final is not None]

    def stream(
        self, prompt: Prompt, cancelled: threading.Event | None = None
    ) -> Iterator[GenerationChunk]:
        self.calls.append([prompt])
        yield from self._chunks(prompt, cancelled)

    def _chunks(
        self, prompt: Prompt, cancelled: threading.Event | None
    ) -> Iterator[GenerationChunk]:
        answer = Answer(prompt, self.llm.chat_format, self.llm.end_ids)
        for token in self.llm.encode_answer(SAID):
            yield answer.push(token)
            if cancelled is not None and cancelled.is_set():
                return
            if answer.finish_reason is not None:
                break
        terms = prompt.steering.active_terms
        yield GenerationChunk(
            "", None, answer.generation(tuple(AppliedVector.of(term, 1) for term in terms))
        )


@pytest.fixture
def parrot(tiny_llm: SteerableHFLLM) -> Parrot:
    return Parrot(tiny_llm)


@pytest.fixture
def llm(tiny_llm: SteerableHFLLM, tiny_vector: Any, parrot: Parrot) -> SteerableHFLLM:
    step = {"vectors": [{"name": "v", "strength": 0.3}]}
    policy = Policy.from_dict(
        {"default_step": "answer", "steps": {"answer": step, "condense": {}}}, {"v": tiny_vector}
    )
    engine: Engine = parrot
    return SteerableHFLLM(
        tiny_llm.model,
        tiny_llm.tokenizer,
        model_id=tiny_llm.model_id,
        policy=policy,
        engine=engine,
    )


def fail(*_: Any) -> None:
    raise AssertionError("the model ran")


def test_another_engine_answers_and_the_model_does_not_run(
    llm: SteerableHFLLM, parrot: Parrot
) -> None:
    with llm.blocks[0].register_forward_pre_hook(fail):
        answer = llm.generate(QUESTION)
        chunks = list(llm.stream(QUESTION))
    assert answer.text == SAID
    assert answer.finish_reason == "stop"
    assert answer.usage.prompt_tokens == len(llm.encode(QUESTION))
    assert chunks[-1].final == answer
    assert "".join(chunk.text for chunk in chunks) == SAID
    assert [len(call) for call in parrot.calls] == [1, 1]


def test_an_engine_gets_prompts_that_are_decided_and_encoded(
    llm: SteerableHFLLM, parrot: Parrot
) -> None:
    requests = [
        GenerationRequest(QUESTION, max_new_tokens=128),
        GenerationRequest("Why?", step="condense", stop="does", max_new_tokens=128),
    ]
    first, second = llm.generate_batch(request for request in requests)
    [[steered, plain]] = parrot.calls
    assert [each.request for each in (steered, plain)] == requests
    assert steered.tokens == llm.encode(QUESTION)
    assert steered.steering.active_terms[0].strength == 0.3
    assert not plain.steering.is_active
    # What was decided, and what the engine says that it has applied, are in the answers.
    assert first.decision == steered.decision
    assert [each.steered_tokens for each in first.steered] == [1]
    assert second.steered == ()
    assert second.text == "The text "


def test_bad_input_never_reaches_the_engine(llm: SteerableHFLLM, parrot: Parrot) -> None:
    with pytest.raises(PromptTooLongError):
        llm.generate_batch([GenerationRequest(QUESTION), GenerationRequest("word " * 400)])
    with pytest.raises(InvalidInputError, match="request 0"):
        llm.generate_batch([QUESTION])  # type: ignore[list-item]
    assert parrot.calls == []


def test_a_cancelled_stream_has_no_last_chunk(llm: SteerableHFLLM) -> None:
    cancelled = threading.Event()
    stream = llm.stream(QUESTION, cancelled=cancelled)
    next(stream)
    cancelled.set()
    assert [chunk.final for chunk in stream] == []


async def test_both_adapters_speak_through_it(llm: SteerableHFLLM) -> None:
    with llm.blocks[0].register_forward_pre_hook(fail):
        assert llm.as_langchain().invoke(QUESTION).content == SAID
        assert llm.as_llama_index().complete(QUESTION).text == SAID
        assert (await llm.as_langchain().ainvoke(QUESTION)).content == SAID
        assert (await llm.as_llama_index().acomplete(QUESTION)).text == SAID
