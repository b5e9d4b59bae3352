"""Concurrent calls of one model join one batch."""

import asyncio
import gc
import re
import threading
import weakref
from typing import Any

import pytest
from adapter_models import TOKENS, CountingLLM, random_vector, under_three_steps
from llama_index.core.llms import ChatMessage
from scripted import scripted_llm

from steerable_llm.adapters.langchain import SteerableChatModel
from steerable_llm.adapters.llama_index import SteerableLlamaIndexLLM
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.places import STREAMS, Places
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


# Streams, which are many threads' work and take few.


@pytest.fixture
def braked_llm() -> SteerableHFLLM:
    """A model that answers "Answer 7?" to "Question 7?", with a permit for each pass."""

    def say(prompt: str) -> str:
        number = re.findall(r"Question (\d+)", prompt)[-1]
        return f"Answer {number}?"

    llm = scripted_llm(say)
    llm.model.control.gate = threading.Semaphore(0)
    return llm


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many threads of ours were there whenever another was started."""
    ours: list[threading.Thread] = []
    counts: list[int] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        start(thread)
        if thread.name.startswith(("steerable", "stream")):
            ours.append(thread)
            counts.append(sum(one.is_alive() for one in ours))

    monkeypatch.setattr(threading.Thread, "start", noted)
    return counts


async def streamed_by_langchain(llm: Any, text: str) -> str:
    chat = SteerableChatModel(llm=llm, max_tokens=TOKENS)
    return "".join([str(chunk.content) async for chunk in chat.astream(text)])


async def streamed_by_llama_index(llm: Any, text: str) -> str:
    model = SteerableLlamaIndexLLM(llm=llm, max_tokens=TOKENS)
    return [str(piece) async for piece in await model.astream_complete(text)][-1]


MANY = [f"Question {number}?" for number in range(3 * STREAMS)]


@pytest.mark.parametrize("streamed", [streamed_by_langchain, streamed_by_llama_index])
async def test_many_streams_take_a_bounded_number_of_threads(
    braked_llm: SteerableHFLLM, alive: list[int], streamed: Any
) -> None:
    tasks = [asyncio.ensure_future(streamed(braked_llm, text)) for text in MANY]
    while len(alive) < 2 * STREAMS:  # all that can begin have begun, and wait for a first token
        await asyncio.sleep(0)
    braked_llm.model.control.gate.release(len(MANY) * (TOKENS + 1))
    assert await asyncio.gather(*tasks) == [text.replace("Question", "Answer") for text in MANY]
    # One that has ended its work may not have ended itself.
    assert 2 * STREAMS <= max(alive) < len(MANY)


def test_one_thread_may_read_many_streams_at_the_same_time(braked_llm: SteerableHFLLM) -> None:
    braked_llm.model.control.gate = None
    chat = braked_llm.as_langchain(max_tokens=TOKENS)
    begun = [chat.stream(text) for text in MANY]
    first = [next(stream) for stream in begun]  # each of them is left open while others begin
    for text, start, stream in zip(MANY, first, begun, strict=True):
        rest = "".join(str(chunk.content) for chunk in stream)
        assert f"{start.content}{rest}" == text.replace("Question", "Answer")


async def test_who_stops_listening_leaves_the_place_to_others(braked_llm: SteerableHFLLM) -> None:
    chat = braked_llm.as_langchain(max_tokens=TOKENS)
    gate = braked_llm.model.control.gate

    async def first_piece() -> None:
        async for _ in chat.astream("Question 1?"):
            break

    # Whether they stop after a piece, wait for one, or wait for a place.
    left = [asyncio.ensure_future(first_piece()) for _ in range(STREAMS // 2)]
    waiting = [asyncio.ensure_future(streamed_by_langchain(braked_llm, text)) for text in MANY]
    gate.release(STREAMS // 2)
    await asyncio.sleep(0.05)
    for task in waiting:
        task.cancel()
    gate.release(10 * STREAMS * TOKENS)
    await asyncio.gather(*left, *waiting, return_exceptions=True)
    made = await asyncio.gather(*(streamed_by_langchain(braked_llm, text) for text in MANY))
    assert made == [text.replace("Question", "Answer") for text in MANY]


def test_work_that_fails_gives_its_place_back() -> None:
    places = Places(1, "work")

    def fails() -> None:
        raise KeyboardInterrupt

    assert isinstance(places.run(fails).exception(timeout=60), KeyboardInterrupt)
    assert places.run(lambda: None).result(timeout=60) is None


def test_a_thread_that_cannot_be_started_costs_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    places = Places(1, "work")

    def full(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", full)
        with pytest.raises(RuntimeError):
            places.run(lambda: None)
    assert places.run(lambda: None).result(timeout=60) is None
