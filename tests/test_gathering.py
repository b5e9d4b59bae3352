"""The inputs of one LangChain batch run together on the model, each with its own step."""

import asyncio
import threading
from typing import Any

import pytest
from adapter_models import TOKENS, counted_passes, under_three_steps
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from steerable_llm.adapters.langchain import SteerableChatModel
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError, PromptTooLongError


@pytest.fixture(scope="module")
def engine(tiny_llm: SteerableHFLLM) -> SteerableHFLLM:
    """The tiny model under a policy whose three steps steer in three ways."""
    return under_three_steps(tiny_llm)


@pytest.fixture
def chat(engine: SteerableHFLLM) -> SteerableChatModel:
    """The chat model without a step of its own."""
    return SteerableChatModel(llm=engine, max_tokens=TOKENS)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_batch_runs_together_with_a_step_for_each_input(
    engine: SteerableHFLLM, asynchronous: bool
) -> None:
    chat = SteerableChatModel(llm=engine, max_tokens=TOKENS, batch_size=4)
    inputs = [f"Question {i}?" for i in range(6)]
    steps = ["answer", "reply", "plain"] * 2
    configs: Any = [{"metadata": {"steer_step": step}} for step in steps]
    with counted_passes(engine) as rows:
        ask = chat.abatch(inputs, configs) if asynchronous else None
        answers = await ask if ask else await asyncio.to_thread(chat.batch, inputs, configs)
    assert 1 < max(rows) <= 4
    assert len(rows) < len(inputs) * TOKENS * 3 / 4
    alone = [
        engine.generate(text, step=step, max_new_tokens=TOKENS)
        for text, step in zip(inputs, steps, strict=True)
    ]
    assert [m.content for m in answers] == [g.text for g in alone]
    assert [m.response_metadata["step"] for m in answers] == steps


def test_a_chain_batches_too_and_cached_inputs_stay_out(engine: SteerableHFLLM) -> None:
    chat = SteerableChatModel(llm=engine, max_tokens=TOKENS, cache=InMemoryCache())
    chain = ChatPromptTemplate.from_template("{q}") | chat | StrOutputParser()
    first = chain.batch([{"q": "one"}, {"q": "two"}])
    with counted_passes(engine) as rows:
        second = chain.batch([{"q": "one"}, {"q": "two"}, {"q": "three"}])
    assert set(rows) == {1}
    assert len(rows) <= TOKENS
    assert second[:2] == first


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_one_bad_input_of_a_batch_fails_alone(
    chat: SteerableChatModel, asynchronous: bool
) -> None:
    inputs = ["Hello", "word " * 400, "Goodbye"]
    both = (
        await chat.abatch(inputs, return_exceptions=True)
        if asynchronous
        else chat.batch(inputs, return_exceptions=True)
    )
    assert isinstance(both[1], PromptTooLongError)
    assert [both[0].content, both[2].content] == [chat.invoke(inputs[i]).content for i in (0, 2)]
    with pytest.raises(PromptTooLongError):
        chat.batch(inputs)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_batch_for_a_model_that_is_not_here_falls_back(
    chat: SteerableChatModel, asynchronous: bool
) -> None:
    bound = chat.bind(model="absent")
    told = bound.batch(["one", "two"], return_exceptions=True)
    assert [type(error) for error in told] == [InvalidInputError] * 2
    chain = bound.with_fallbacks([chat.for_step("reply")])
    inputs: Any = ["one", "two"]
    answers = await chain.abatch(inputs) if asynchronous else chain.batch(inputs)
    assert [answer.response_metadata["step"] for answer in answers] == ["reply"] * 2


# A row that is waited for does not wait for its neighbours.


class FewAtATime(BaseCallbackHandler):
    """Lets so many models answer at once, as what counts requests or shares a connection does."""

    raise_error = True

    def __init__(self, most: int = 1) -> None:
        self.door = threading.Semaphore(most)

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        assert self.door.acquire(timeout=30), "a row waits for its neighbours"

    def on_llm_end(self, *_: Any, **__: Any) -> None:
        self.door.release()

    def on_llm_error(self, *_: Any, **__: Any) -> None:
        self.door.release()


class OneAtATimeInALoop(AsyncCallbackHandler):
    """The same, for an event loop."""

    raise_error = True

    def __init__(self) -> None:
        self.door = asyncio.Semaphore(1)

    async def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        await asyncio.wait_for(self.door.acquire(), 30)

    async def on_llm_end(self, *_: Any, **__: Any) -> None:
        self.door.release()


@pytest.mark.parametrize("most", [1, 2])
def test_a_callback_that_lets_few_through_at_a_time(chat: SteerableChatModel, most: int) -> None:
    inputs = [f"Question {i}?" for i in range(4)]
    answers = chat.batch(inputs, {"callbacks": [FewAtATime(most)]})
    assert [m.content for m in answers] == [chat.invoke(text).content for text in inputs]


async def test_a_callback_that_lets_one_through_at_a_time_in_an_event_loop(
    chat: SteerableChatModel,
) -> None:
    inputs = [f"Question {i}?" for i in range(3)]
    answers = await chat.abatch(inputs, {"callbacks": [OneAtATimeInALoop()]})
    assert [m.content for m in answers] == [chat.invoke(text).content for text in inputs]


def test_an_error_behind_such_a_callback_is_that_rows_alone(chat: SteerableChatModel) -> None:
    inputs = ["Hello", "word " * 400, "Goodbye"]
    both = chat.batch(inputs, {"callbacks": [FewAtATime()]}, return_exceptions=True)
    assert isinstance(both[1], PromptTooLongError)
    assert [both[0].content, both[2].content] == [chat.invoke(inputs[i]).content for i in (0, 2)]


def test_a_row_that_waits_for_the_answer_to_another(chat: SteerableChatModel) -> None:
    answered = threading.Event()

    class Second(BaseCallbackHandler):
        raise_error = True

        def on_chat_model_start(self, _: Any, messages: Any, **__: Any) -> None:
            if messages[0][0].content == "second":
                assert answered.wait(30), "the first row waits for the second"

        def on_llm_end(self, *_: Any, **__: Any) -> None:
            answered.set()

    assert len(chat.batch(["first", "second"], {"callbacks": [Second()]})) == 2
