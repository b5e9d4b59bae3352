"""Async calls leave the event loop free, and stop generating when they are cancelled."""

import asyncio
import threading
import time
from typing import Any

import pytest
from adapter_models import QUESTION, TOKENS, drain
from langchain_core.runnables import RunnableLambda
from scripted import scripted_llm

from steerable_llm.adapters.langchain import SteerableChatModel
from steerable_llm.answer.llm import SteerableHFLLM


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


@pytest.mark.parametrize("way", ["ainvoke", "astream", "abatch"])
async def test_the_event_loop_keeps_turning(braked: SteerableHFLLM, way: str) -> None:
    control = braked.model.control

    async def beat() -> None:
        while True:
            control.gate.release()
            await asyncio.sleep(0)

    # Each pass waits for a permit of another task: a loop that waited for the pass would wait on.
    heart = asyncio.create_task(beat())
    await WAYS[way](SteerableChatModel(llm=braked, max_tokens=TOKENS))
    heart.cancel()
    assert sum(control.forwards) >= TOKENS


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
    await asyncio.to_thread(_all_work_is_done, braked)
    # Four passes before, and the one that was under way.
    assert len(control.forwards) <= 5


def _all_work_is_done(llm: SteerableHFLLM) -> None:
    for _ in range(2000):
        if not llm.engine.running + llm.engine.waiting:
            return
        time.sleep(0.01)
    raise AssertionError("the engine does not come to rest")


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


async def test_one_cancelled_call_leaves_those_that_run_with_it(braked: SteerableHFLLM) -> None:
    chat = SteerableChatModel(llm=braked, max_tokens=6)
    first, second = (asyncio.ensure_future(chat.ainvoke(QUESTION)) for _ in range(2))
    braked.model.control.gate.release(2)
    while len(braked.model.control.forwards) < 2:
        await asyncio.sleep(0)
    first.cancel()
    braked.model.control.gate.release(100)
    assert (await second).usage_metadata["output_tokens"] == 6
    assert first.cancelled()


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_batch_takes_few_more_passes_than_its_longest_answer(
    braked: SteerableHFLLM, asynchronous: bool
) -> None:
    chat = SteerableChatModel(llm=braked, max_tokens=30)
    inputs = [f"Question {i}" for i in range(5)]
    work = chat.abatch(inputs) if asynchronous else asyncio.to_thread(chat.batch, inputs)
    batch = asyncio.ensure_future(work)
    while braked.engine.running + braked.engine.waiting < 5:
        await asyncio.sleep(0.001)
    braked.model.control.gate.release(1000)
    await batch
    passes = braked.model.control.forwards
    assert sum(passes) == 5 * 30
    # The scripted model's rows do not join: those that came while the first ran are a second batch.
    assert len(passes) <= 2 * 30


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_leaving_a_stream_early_stops_the_generation(
    braked: SteerableHFLLM, way: str
) -> None:
    control = braked.model.control
    chat = SteerableChatModel(llm=braked, max_tokens=100)
    control.gate.release(1)
    if way == "stream":
        for _ in chat.stream(QUESTION):
            break
    else:
        async for _ in (stream := chat.astream(QUESTION)):
            break
        await stream.aclose()
    control.gate.release(200)
    await asyncio.to_thread(_all_work_is_done, braked)
    assert len(control.forwards) <= 2
