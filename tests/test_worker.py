"""Async calls leave the event loop free, and stop generating when they are cancelled."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from adapter_models import (
    QUESTION,
    TOKENS,
    CountingEngine,
    drain,
    under_three_steps,
)

from steerable_llm.adapters.langchain import SteerableChatModel
from steerable_llm.model import SteerableHFLLM


@pytest.fixture(scope="module")
def engine(tiny_llm: SteerableHFLLM) -> SteerableHFLLM:
    """The tiny model under a policy whose three steps steer in three ways."""
    return under_three_steps(tiny_llm)


@pytest.fixture
def chat(engine: SteerableHFLLM) -> SteerableChatModel:
    """The chat model without a step of its own."""
    return SteerableChatModel(engine=engine, max_tokens=TOKENS)


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


class SlowEngine(CountingEngine):
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


@pytest.mark.parametrize("path", ["ainvoke", "astream"])
async def test_a_cancelled_task_stops_the_generation(engine: SteerableHFLLM, path: str) -> None:
    slow = SlowEngine(engine)
    chat = SteerableChatModel(engine=slow, max_tokens=100)
    task = asyncio.ensure_future(
        chat.ainvoke(QUESTION) if path == "ainvoke" else drain(chat.astream(QUESTION))
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


async def test_leaving_a_stream_early_stops_the_generation(engine: SteerableHFLLM) -> None:
    slow = SlowEngine(engine)
    slow.may_go_on.release()
    for _ in SteerableChatModel(engine=slow, max_tokens=100).stream(QUESTION):
        break
    assert slow.closed.wait(10)
    assert slow.made == 1
