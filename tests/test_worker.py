"""Async calls leave the event loop free, and stop generating when they are cancelled."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from adapter_models import (
    QUESTION,
    TOKENS,
    CountingLLM,
    drain,
    under_three_steps,
)
from langchain_core.runnables import RunnableLambda
from scripted import scripted_llm

from steerable_llm.adapters.langchain import SteerableChatModel
from steerable_llm.answer.llm import SteerableHFLLM


@pytest.fixture(scope="module")
def engine(tiny_llm: SteerableHFLLM) -> SteerableHFLLM:
    """The tiny model under a policy whose three steps steer in three ways."""
    return under_three_steps(tiny_llm)


@pytest.fixture
def chat(engine: SteerableHFLLM) -> SteerableChatModel:
    """The chat model without a step of its own."""
    return SteerableChatModel(llm=engine, max_tokens=TOKENS)


async def ticks_during(work: Any) -> int:
    """How often another task got its turn while something was awaited."""
    ticks = 0

    async def beat() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    heart = asyncio.create_task(beat())
    await work
    heart.cancel()
    return ticks


async def test_the_event_loop_keeps_turning(chat: SteerableChatModel) -> None:
    works = [
        lambda: chat.ainvoke(QUESTION),
        lambda: drain(chat.astream(QUESTION)),
        lambda: chat.abatch([QUESTION, "Hi"]),
    ]
    # A loop that were blocked would give the heart a handful of beats, one for each await.
    for work in works:
        assert await ticks_during(work()) > 10 * TOKENS


class SlowLLM(CountingLLM):
    """The real engine; each token waits until the test lets it go, and each is counted."""

    def __init__(self, engine: SteerableHFLLM) -> None:
        super().__init__(engine)
        self.made = 0
        self.may_go_on = threading.Semaphore(0)
        self.closed = threading.Event()

    def stream(self, *args: Any, **options: Any) -> Iterator[Any]:
        try:
            for chunk in super().stream(*args, **options):
                self.may_go_on.acquire(timeout=10)
                self.made += 1
                yield chunk
        finally:
            self.closed.set()


async def test_a_cancelled_task_stops_the_stream(engine: SteerableHFLLM) -> None:
    slow = SlowLLM(engine)
    task = asyncio.ensure_future(
        drain(SteerableChatModel(llm=slow, max_tokens=100).astream(QUESTION))
    )
    for _ in range(3):
        slow.may_go_on.release()
    while slow.made < 3:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(100):
        slow.may_go_on.release()
    assert await asyncio.to_thread(slow.closed.wait, 10)
    assert slow.made <= 4


@pytest.fixture
def braked() -> SteerableHFLLM:
    """A model that talks for long, and waits before each forward pass for a permit."""
    llm = scripted_llm({"": "word " * 80})
    llm.model.control.gate = threading.Semaphore(0)
    return llm


WAYS: dict[str, Any] = {
    "ainvoke": lambda chat: chat.ainvoke(QUESTION),
    "astream": lambda chat: drain(chat.astream(QUESTION)),
    "abatch": lambda chat: chat.abatch([QUESTION, "Hi", "Bye"]),
    "tools": lambda chat: chat.bind_tools([WORD], tool_choice="any").ainvoke(QUESTION),
    "structured": lambda chat: chat.with_structured_output(WORD, method="json_mode").ainvoke("Hi"),
    "v3 events": lambda chat: _listen(chat),
    "chain": lambda chat: (RunnableLambda(lambda text: text) | chat).ainvoke(QUESTION),
}
WORD = {"title": "word", "type": "object", "properties": {"text": {"type": "string"}}}


async def _listen(chat: SteerableChatModel) -> None:
    stream = await chat.astream_events(QUESTION, version="v3")
    await asyncio.gather(drain(stream.text), drain(stream.tool_calls))


# LangChain calls its third event protocol beta, and says so on each use.
@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
@pytest.mark.parametrize("way", list(WAYS))
async def test_a_cancelled_task_stops_within_one_forward_pass(
    braked: SteerableHFLLM, way: str
) -> None:
    control = braked.model.control
    task = asyncio.ensure_future(WAYS[way](SteerableChatModel(llm=braked, max_tokens=100)))
    control.gate.release(4)
    while len(control.forwards) < 4:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # The third event protocol answers in a task of its own, which the loop ends in its next turns.
    for _ in range(20):
        await asyncio.sleep(0)
    control.gate.release(200)  # nothing holds the model back any more
    await asyncio.to_thread(_all_work_is_done)
    # Four passes before, and the one that was under way.
    assert len(control.forwards) <= 5


def _all_work_is_done() -> None:
    for thread in threading.enumerate():
        if thread.name in ("stream", "steerable-stream", "steerable-batch"):
            thread.join(20)
            assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
async def test_one_cancelled_listener_leaves_the_stream_to_the_others(
    braked: SteerableHFLLM,
) -> None:
    chat = SteerableChatModel(llm=braked, max_tokens=6)
    stream = await chat.astream_events(QUESTION, version="v3")
    first, second = (asyncio.ensure_future(drain(stream.text)) for _ in range(2))
    braked.model.control.gate.release(2)
    while len(braked.model.control.forwards) < 2:
        await asyncio.sleep(0)
    first.cancel()
    braked.model.control.gate.release(200)
    await second
    assert (await stream.output).usage_metadata["output_tokens"] == 6


async def test_one_cancelled_input_leaves_the_others_of_its_batch(braked: SteerableHFLLM) -> None:
    chat = SteerableChatModel(llm=braked, max_tokens=6)
    [group] = chat._groups([QUESTION, QUESTION], None, {})
    first, second = (asyncio.ensure_future(own.ainvoke(*asked)) for own, asked in group)
    for task, (own, _) in zip((first, second), group, strict=True):
        task.add_done_callback(own._leave)
    braked.model.control.gate.release(2)
    while len(braked.model.control.forwards) < 2:
        await asyncio.sleep(0)
    first.cancel()
    braked.model.control.gate.release(100)
    assert (await second).usage_metadata["output_tokens"] == 6
    assert first.cancelled()


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_batch_takes_as_many_passes_as_its_longest_answer(asynchronous: bool) -> None:
    llm = scripted_llm({"": "word " * 80})
    chat = SteerableChatModel(llm=llm, max_tokens=7)
    inputs = [f"Question {i}" for i in range(5)]
    await chat.abatch(inputs) if asynchronous else await asyncio.to_thread(chat.batch, inputs)
    assert llm.model.control.forwards == [5] * 7


async def test_leaving_a_stream_early_stops_the_generation(engine: SteerableHFLLM) -> None:
    slow = SlowLLM(engine)
    slow.may_go_on.release()
    for _ in SteerableChatModel(llm=slow, max_tokens=100).stream(QUESTION):
        break
    assert slow.closed.wait(10)
    assert slow.made == 1
