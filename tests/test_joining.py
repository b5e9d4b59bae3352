"""Concurrent calls of one model join one batch."""

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest
from adapter_models import TOKENS, CountingLLM, random_vector, under_three_steps
from llama_index.core.llms import ChatMessage

from steerable_llm.adapters.langchain import SteerableChatModel
from steerable_llm.adapters.llama_index import SteerableLlamaIndexLLM
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import PromptTooLongError

INPUTS = [f"Question {i}?" for i in range(12)]


@pytest.fixture
def counting(tiny_llm: SteerableHFLLM) -> CountingLLM:
    return CountingLLM(under_three_steps(tiny_llm))


def asked_in_langchain(llm: Any, text: str, **options: Any) -> Any:
    chat = SteerableChatModel(llm=llm, max_tokens=TOKENS, batch_size=8)
    return chat.ainvoke(text, **options)


def asked_in_llama_index(llm: Any, text: str, **options: Any) -> Any:
    model = SteerableLlamaIndexLLM(llm=llm, max_tokens=TOKENS)
    return model.achat([ChatMessage(text)], **options)


def text_of(answer: Any) -> str:
    return str(answer.content if hasattr(answer, "content") else answer.message.content)


WAYS = [asked_in_langchain, asked_in_llama_index]


@pytest.mark.parametrize("ask", WAYS)
async def test_concurrent_calls_run_together_in_few_threads(
    counting: CountingLLM, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    start = threading.Thread.start

    def counted(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", counted)
    steps = ["answer", "reply", "plain"] * 4
    calls = [ask(counting, text, step=step) for text, step in zip(INPUTS, steps, strict=True)]
    answers = await asyncio.gather(*calls)
    alone = [
        counting.generate(text, step=step, max_new_tokens=TOKENS).text
        for text, step in zip(INPUTS, steps, strict=True)
    ]
    assert [text_of(answer) for answer in answers] == alone
    together = counting.batches[: -len(INPUTS)]
    assert sum(together) == len(INPUTS)
    assert len(together) < len(INPUTS) / 2
    assert counting.singles == 0
    assert sum(name.startswith(("steerable", "stream")) for name in started) < len(INPUTS) / 2


@pytest.mark.parametrize("ask", WAYS)
async def test_a_call_at_fault_fails_alone(counting: CountingLLM, ask: Any) -> None:
    calls = [ask(counting, text) for text in ("Hello", "word " * 400, "Goodbye")]
    hello, long, goodbye = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(long, PromptTooLongError)
    expected = [counting.generate(x, max_new_tokens=TOKENS).text for x in ("Hello", "Goodbye")]
    assert [text_of(hello), text_of(goodbye)] == expected


@pytest.mark.parametrize("ask", WAYS)
async def test_who_stops_waiting_is_left_out_and_the_rest_go_on(
    counting: CountingLLM, ask: Any
) -> None:
    calls = [asyncio.ensure_future(ask(counting, text)) for text in INPUTS[:4]]
    await asyncio.sleep(0)
    calls[1].cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[1], asyncio.CancelledError)
    kept = [text_of(answer) for i, answer in enumerate(answers) if i != 1]
    texts = [text for i, text in enumerate(INPUTS[:4]) if i != 1]
    assert kept == [counting.generate(text, max_new_tokens=TOKENS).text for text in texts]


async def test_the_queue_does_not_keep_a_model_alive(tiny_llm: SteerableHFLLM) -> None:
    llm = SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, model_id="tiny")
    await llm.as_langchain(max_tokens=2).ainvoke("Hello")
    gone = weakref.ref(llm)
    del llm
    for _ in range(50):  # until its thread has ended
        gc.collect()
        if gone() is None:
            break
        await asyncio.sleep(0.05)
    assert gone() is None


def test_a_steering_of_its_own_stays_with_its_call(tiny_llm: SteerableHFLLM) -> None:
    steering = random_vector(tiny_llm, "a", 1).steer(0.9)

    async def both() -> list[Any]:
        steered = tiny_llm.as_langchain(max_tokens=TOKENS, steering=steering)
        return await asyncio.gather(
            steered.ainvoke("Hello"), tiny_llm.as_langchain(max_tokens=TOKENS).ainvoke("Hello")
        )

    steered, plain = asyncio.run(both())
    assert steered.response_metadata["steering"]
    assert not plain.response_metadata["steering"]
    assert steered.content != plain.content
