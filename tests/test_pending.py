"""An answer that is asked for and read later: in threads, in tasks, whole or token by token."""

import asyncio
import threading
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import pytest
from scripted import scripted_llm

from steerable_llm.answer.engine import Limits
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.errors import (
    DeadlineError,
    InvalidInputError,
    OverloadedError,
    PromptTooLongError,
)

REQUEST = GenerationRequest("The capital of France is what?", max_new_tokens=12)


@pytest.fixture
def braked() -> SteerableHFLLM:
    """A model that talks for long, and waits before each pass for a permit."""
    llm = scripted_llm({"": "word " * 80})
    llm.model.control.gate = threading.Semaphore(0)
    return llm


@pytest.fixture
def llm(tiny_llm: SteerableHFLLM) -> SteerableHFLLM:
    """The tiny model with an engine of its own."""
    return SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, model_id="tiny")


async def test_it_is_read_in_a_thread_and_in_a_task_whole_and_in_pieces(
    llm: SteerableHFLLM, tiny_vector: Any
) -> None:
    request = GenerationRequest(REQUEST.messages, tiny_vector.steer(0.5), max_new_tokens=12)
    whole = llm.generate_batch([request])[0]
    pending = llm.submit(request)
    assert pending.decision.steering == request.steering
    assert pending.prompt_tokens == whole.usage.prompt_tokens
    assert await pending == pending.result() == whole
    pieces = [chunk async for chunk in llm.submit(request)]
    assert [chunk.token_id for chunk in pieces[:-1]] == list(whole.token_ids)
    assert pieces[-1].final == whole
    # Whoever comes late misses nothing.
    assert list(pending) == pieces
    assert pending.done
    times = pending.times
    assert times.asked <= times.begun <= times.first <= times.ended  # type: ignore[operator]


def test_bad_input_raises_where_it_is_asked(llm: SteerableHFLLM) -> None:
    with pytest.raises(PromptTooLongError):
        llm.submit(GenerationRequest("word " * 400))
    with pytest.raises(InvalidInputError, match="queue is -1"):
        Limits(queue=-1)
    with pytest.raises(InvalidInputError, match="tokens is None"):
        Limits(tokens=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["cancel", "event", "future", "leave"])
def test_a_cancelled_answer_stops_within_a_token(braked: SteerableHFLLM, how: str) -> None:
    event = threading.Event()
    pending = braked.submit(GenerationRequest("Hi", max_new_tokens=60), cancelled=event)
    gate, stream = braked.model.control.gate, iter(pending)
    gate.release(3)
    for _ in range(3):
        next(stream)
    {
        "cancel": pending.cancel,
        "event": event.set,
        "future": pending.future.cancel,
        "leave": stream.close,  # type: ignore[attr-defined]
    }[how]()
    gate.release(60)
    with pytest.raises(CancelledError):
        pending.result(timeout=30)
    _idle(braked)
    assert len(braked.model.control.forwards) <= 4


async def test_a_task_that_is_cancelled_cancels_the_answer_it_waits_for(
    braked: SteerableHFLLM,
) -> None:
    pending = braked.submit(GenerationRequest("Hi", max_new_tokens=60))

    async def wait() -> None:
        await pending

    task = asyncio.ensure_future(wait())
    braked.model.control.gate.release(2)
    while len(braked.model.control.forwards) < 2:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    braked.model.control.gate.release(60)
    await asyncio.to_thread(_idle, braked)
    assert len(braked.model.control.forwards) <= 3


def test_an_answer_that_takes_too_long_is_given_up(braked: SteerableHFLLM) -> None:
    late = braked.submit(GenerationRequest("Hi", max_new_tokens=60), timeout=0)
    braked.model.control.gate.release(60)
    with pytest.raises(DeadlineError, match="0 s"):
        late.result(timeout=30)


def test_a_full_queue_says_so_and_when_to_come_again(braked: SteerableHFLLM) -> None:
    braked.engine.limits = Limits(rows=16, queue=0)

    def flood() -> None:
        for _ in range(40):
            braked.submit(GenerationRequest("Hi", max_new_tokens=2))

    with pytest.raises(OverloadedError) as refused:
        flood()
    assert refused.value.retry_after > 0
    assert braked.engine.alive
    braked.model.control.gate.release(200)
    _idle(braked)


def asked_at_the_end_of(braked: SteerableHFLLM, pending: Any) -> Future[Any]:
    """What comes of asking again from where the end of an answer is told."""
    told: Future[Any] = Future()

    def ask(_: Any) -> None:
        try:
            told.set_result(braked.submit(GenerationRequest("Hi", max_new_tokens=2)))
        except Exception as error:
            told.set_exception(error)

    pending.future.add_done_callback(ask)
    return told


def test_who_is_told_the_end_of_an_answer_has_its_place_for_the_next(
    braked: SteerableHFLLM,
) -> None:
    braked.engine.limits = Limits(rows=1, queue=0)
    told = asked_at_the_end_of(braked, braked.submit(GenerationRequest("Hi", max_new_tokens=2)))
    braked.model.control.gate.release(60)
    assert told.result(timeout=30).result(timeout=30).usage.completion_tokens == 2


@pytest.mark.parametrize("way", ["generate", "stream"])
def test_the_engines_own_thread_does_not_wait_for_itself(llm: SteerableHFLLM, way: str) -> None:
    told: Future[Any] = Future()

    def wait_here(_: Any) -> None:
        try:
            made = getattr(llm, way)("Hi", max_new_tokens=2)
            told.set_result(made if way == "generate" else list(made))
        except InvalidInputError as error:
            told.set_exception(error)

    llm.submit(REQUEST).future.add_done_callback(wait_here)
    with pytest.raises(InvalidInputError, match="would wait for itself"):
        told.result(timeout=30)
    assert llm.generate("Hi", max_new_tokens=2).text == llm.generate("Hi", max_new_tokens=2).text


def test_who_is_told_that_one_in_the_queue_is_late_may_ask_again(braked: SteerableHFLLM) -> None:
    braked.engine.limits = Limits(rows=1)
    request = GenerationRequest("Hi", max_new_tokens=2)
    first = braked.submit(request)
    late = braked.submit(request, timeout=0.2)
    told, last = asked_at_the_end_of(braked, late), braked.submit(request)
    threading.Event().wait(0.25)
    braked.model.control.gate.release(60)
    with pytest.raises(DeadlineError):
        late.result(timeout=30)
    for each in (first, told.result(timeout=30), last):
        assert each.result(timeout=30).usage.completion_tokens == 2


def test_a_cancellation_reaches_those_who_wait_for_several(braked: SteerableHFLLM) -> None:
    pending = [braked.submit(GenerationRequest("Hi", max_new_tokens=2)) for _ in range(2)]
    pending[1].cancel()
    assert wait([each.future for each in pending], timeout=0).done == {pending[1].future}
    braked.model.control.gate.release(60)
    assert wait([each.future for each in pending], timeout=30).not_done == set()


def _idle(llm: SteerableHFLLM) -> None:
    """Wait until the engine has nothing to do."""
    waiting = threading.Event()
    for _ in range(3000):
        if not llm.engine.running + llm.engine.waiting:
            return
        waiting.wait(0.01)
    raise AssertionError("the engine does not come to rest")
