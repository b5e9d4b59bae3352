"""Concurrent calls of one model join one batch."""

import asyncio
import gc
import re
import threading
import weakref
from typing import Any

import pytest
from adapter_models import TOKENS, counted_passes, random_vector, under_three_steps
from llama_index.core.llms import ChatMessage
from scripted import scripted_llm

from steerable_llm.adapters.langchain import SteerableChatModel
from steerable_llm.adapters.llama_index import SteerableLlamaIndexLLM
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import PromptTooLongError

INPUTS = [f"Question {i}?" for i in range(12)]


@pytest.fixture
def engine(tiny_llm: SteerableHFLLM) -> SteerableHFLLM:
    return under_three_steps(tiny_llm)


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
async def test_concurrent_calls_run_together_in_one_thread(
    engine: SteerableHFLLM, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    start = threading.Thread.start

    def counted(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", counted)
    steps = ["answer", "reply", "plain"] * 4
    calls = [ask(engine, text, step=step) for text, step in zip(INPUTS, steps, strict=True)]
    with counted_passes(engine) as rows:
        answers = await asyncio.gather(*calls)
    alone = [
        engine.generate(text, step=step, max_new_tokens=TOKENS).text
        for text, step in zip(INPUTS, steps, strict=True)
    ]
    assert [text_of(answer) for answer in answers] == alone
    assert len(rows) < len(INPUTS) * TOKENS / 2
    assert max(rows) > 1
    assert sum(name.startswith("steerable") for name in started) == 1


@pytest.mark.parametrize("ask", WAYS)
async def test_a_call_at_fault_fails_alone(engine: SteerableHFLLM, ask: Any) -> None:
    calls = [ask(engine, text) for text in ("Hello", "word " * 400, "Goodbye")]
    hello, long, goodbye = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(long, PromptTooLongError)
    expected = [engine.generate(x, max_new_tokens=TOKENS).text for x in ("Hello", "Goodbye")]
    assert [text_of(hello), text_of(goodbye)] == expected


@pytest.mark.parametrize("ask", WAYS)
async def test_who_stops_waiting_is_left_out_and_the_rest_go_on(
    engine: SteerableHFLLM, ask: Any
) -> None:
    calls = [asyncio.ensure_future(ask(engine, text)) for text in INPUTS[:4]]
    await asyncio.sleep(0)
    calls[1].cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[1], asyncio.CancelledError)
    kept = [text_of(answer) for i, answer in enumerate(answers) if i != 1]
    texts = [text for i, text in enumerate(INPUTS[:4]) if i != 1]
    assert kept == [engine.generate(text, max_new_tokens=TOKENS).text for text in texts]


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


# Streams: many answers at once, and one thread that makes them.


@pytest.fixture
def braked_llm() -> SteerableHFLLM:
    """A model that answers "Answer 7?" to "Question 7?", with a permit for each pass."""

    def say(prompt: str) -> str:
        number = re.findall(r"Question (\d+)", prompt)[-1]
        return f"Answer {number}?"

    llm = scripted_llm(say)
    llm.model.control.gate = threading.Semaphore(0)
    return llm


async def streamed_by_langchain(llm: Any, text: str) -> str:
    chat = SteerableChatModel(llm=llm, max_tokens=TOKENS)
    return "".join([str(chunk.content) async for chunk in chat.astream(text)])


async def streamed_by_llama_index(llm: Any, text: str) -> str:
    model = SteerableLlamaIndexLLM(llm=llm, max_tokens=TOKENS)
    return [str(piece) async for piece in await model.astream_complete(text)][-1]


MANY = [f"Question {number}?" for number in range(48)]


@pytest.mark.parametrize("streamed", [streamed_by_langchain, streamed_by_llama_index])
async def test_many_streams_take_one_thread(braked_llm: SteerableHFLLM, streamed: Any) -> None:
    before = set(threading.enumerate())
    tasks = [asyncio.ensure_future(streamed(braked_llm, text)) for text in MANY]
    engine = braked_llm.engine
    while engine.running + engine.waiting < len(MANY):  # all wait for a first token
        await asyncio.sleep(0)
    names = [thread.name for thread in set(threading.enumerate()) - before]
    braked_llm.model.control.gate.release(len(MANY) * (TOKENS + 1))
    assert await asyncio.gather(*tasks) == [text.replace("Question", "Answer") for text in MANY]
    assert [name for name in names if not name.startswith("asyncio")] == ["steerable-engine"]


def test_one_thread_may_read_many_streams_at_the_same_time(braked_llm: SteerableHFLLM) -> None:
    braked_llm.model.control.gate = None
    chat = braked_llm.as_langchain(max_tokens=TOKENS)
    begun = [chat.stream(text) for text in MANY]
    first = [next(stream) for stream in begun]  # each of them is left open while others begin
    for text, start, stream in zip(MANY, first, begun, strict=True):
        rest = "".join(str(chunk.content) for chunk in stream)
        assert f"{start.content}{rest}" == text.replace("Question", "Answer")


async def test_who_stops_listening_leaves_others_their_answers(braked_llm: SteerableHFLLM) -> None:
    chat = braked_llm.as_langchain(max_tokens=TOKENS)
    gate = braked_llm.model.control.gate

    async def first_piece() -> None:
        async for _ in chat.astream("Question 1?"):
            break

    # Whether they stop after a piece, wait for one, or wait for a place.
    left = [asyncio.ensure_future(first_piece()) for _ in range(8)]
    waiting = [asyncio.ensure_future(streamed_by_langchain(braked_llm, text)) for text in MANY]
    gate.release(8)
    await asyncio.sleep(0.05)
    for task in waiting:
        task.cancel()
    gate.release(160 * TOKENS)
    await asyncio.gather(*left, *waiting, return_exceptions=True)
    made = await asyncio.gather(*(streamed_by_langchain(braked_llm, text) for text in MANY))
    assert made == [text.replace("Question", "Answer") for text in MANY]
