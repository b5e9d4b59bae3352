"""Callbacks and instrumentation see every way in; a cancelled task stops within one token."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from adapter_models import QUESTION, RecordingLLM, last
from llama_index.core import PromptTemplate
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMCompletionEndEvent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel
from scripted import calling, scripted_llm

from steerable_llm.adapters.llama_index import SteerableLlamaIndexLLM
from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.policy import Policy

MESSAGE = [ChatMessage(QUESTION)]
PROMPT = PromptTemplate("{q}")


class Opening(BaseModel):
    """When something opens."""

    hour: Literal[8, 9]


TOOL = FunctionTool.from_defaults(lambda hour: hour, name="opening", fn_schema=Opening)


def script(prompt: str) -> str:
    return calling("opening", {"hour": 9}) if "Tools:" in prompt else "It opens at nine. " * 30


@pytest.fixture
def engine() -> RecordingLLM:
    scripted = scripted_llm(script)
    policy = Policy.from_dict({"steps": {"answer": {}}, "default_step": "answer"}, {})
    return RecordingLLM(scripted, policy, context_window=8192)


@pytest.fixture
def llm(engine: RecordingLLM) -> SteerableLlamaIndexLLM:
    return SteerableLlamaIndexLLM(llm=engine, max_tokens=60, step="answer")


class Listener(BaseEventHandler):
    """Keeps the events that it is told of."""

    heard: list[Any] = []  # noqa: RUF012 - a field of pydantic's, copied for each

    def handle(self, event: Any, **_: Any) -> None:
        self.heard.append(event)

    def names(self) -> list[str]:
        return [event.class_name() for event in self.heard]


@pytest.fixture
def listener() -> Iterator[Listener]:
    dispatcher = get_dispatcher()
    listener = Listener()
    before = list(dispatcher.event_handlers)
    dispatcher.add_event_handler(listener)
    yield listener
    dispatcher.event_handlers = before


async def drained(stream: Any) -> Any:
    return await last(await stream)


# How each way in is called, the kind of its events, and whether it streams.
WAYS: dict[str, tuple[Callable[[Any], Any], str, bool]] = {
    "complete": (lambda m: m.complete(QUESTION), "Completion", False),
    "stream_complete": (lambda m: list(m.stream_complete(QUESTION)), "Completion", True),
    "acomplete": (lambda m: m.acomplete(QUESTION), "Completion", False),
    "astream_complete": (lambda m: drained(m.astream_complete(QUESTION)), "Completion", True),
    "chat": (lambda m: m.chat(MESSAGE), "Chat", False),
    "stream_chat": (lambda m: list(m.stream_chat(MESSAGE)), "Chat", True),
    "achat": (lambda m: m.achat(MESSAGE), "Chat", False),
    "astream_chat": (lambda m: drained(m.astream_chat(MESSAGE)), "Chat", True),
    "predict": (lambda m: m.predict(PROMPT, q="?"), "Chat", False),
    "apredict": (lambda m: m.apredict(PROMPT, q="?"), "Chat", False),
    "stream": (lambda m: list(m.stream(PROMPT, q="?")), "Chat", True),
    "astream": (lambda m: drained(m.astream(PROMPT, q="?")), "Chat", True),
    "structured_predict": (lambda m: m.structured_predict(Opening, PROMPT, q="?"), "Chat", False),
    "astructured_predict": (lambda m: m.astructured_predict(Opening, PROMPT, q="?"), "Chat", False),
    "chat_with_tools": (lambda m: m.chat_with_tools([TOOL], QUESTION), "Chat", False),
    "achat_with_tools": (lambda m: m.achat_with_tools([TOOL], QUESTION), "Chat", False),
    "structured chat": (lambda m: m.as_structured_llm(Opening).chat(MESSAGE), "Chat", False),
}


@pytest.mark.parametrize("way", WAYS)
async def test_each_way_in_tells_callbacks_and_instrumentation_of_its_call(
    llm: SteerableLlamaIndexLLM, listener: Listener, way: str
) -> None:
    call, kind, streams = WAYS[way]
    debug = LlamaDebugHandler(print_trace_on_end=False)
    watched = llm.model_copy(update={"callback_manager": CallbackManager([debug])})
    made = call(watched)
    if asyncio.iscoroutine(made):
        await made
    assert len(debug.get_event_pairs(CBEventType.LLM)) == 1
    names = listener.names()
    assert f"LLM{kind}StartEvent" in names
    assert f"LLM{kind}EndEvent" in names
    assert (f"LLM{kind}InProgressEvent" in names) == streams
    ends = [e for e in listener.heard if isinstance(e, LLMChatEndEvent | LLMCompletionEndEvent)]
    told = ends[0].response
    assert told is not None
    assert told.additional_kwargs["step"] == "answer"
    assert told.additional_kwargs["completion_tokens"] > 0


def test_a_failed_call_is_told_of_too(llm: SteerableLlamaIndexLLM) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    watched = llm.model_copy(update={"callback_manager": CallbackManager([debug])})
    with pytest.raises(InvalidInputError):
        watched.chat(MESSAGE, max_tokens=0)
    (pair,) = debug.get_event_pairs(CBEventType.LLM)
    assert isinstance((pair[1].payload or {})["exception"], InvalidInputError)


SLOW = {
    "acomplete": lambda m: m.acomplete(QUESTION),
    "achat": lambda m: m.achat(MESSAGE),
    "apredict": lambda m: m.apredict(PROMPT, q="?"),
    "astream_complete": lambda m: drained(m.astream_complete(QUESTION)),
    "astream_chat": lambda m: drained(m.astream_chat(MESSAGE)),
    "astream": lambda m: drained(m.astream(PROMPT, q="?")),
    "astructured_predict": lambda m: m.astructured_predict(Opening, PROMPT, q="?"),
    "achat_with_tools": lambda m: m.achat_with_tools([TOOL], QUESTION),
    "structured achat": lambda m: m.as_structured_llm(Opening).achat(MESSAGE),
}


@pytest.mark.parametrize("way", SLOW)
async def test_a_cancelled_task_stops_the_model_within_one_token(
    llm: SteerableLlamaIndexLLM, engine: RecordingLLM, way: str
) -> None:
    control = engine.model.control
    control.gate = threading.Semaphore(3)
    task = asyncio.ensure_future(SLOW[way](llm))
    # The loop turns although the model stands still before its fourth token.
    while len(control.forwards) < 3:
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    control.gate.release(1000)
    assert await asyncio.to_thread(engine.closed.wait, 10)
    # The three that were let through, and the one that already stood at the gate.
    assert len(control.forwards) <= 4
    assert engine.steps == []


@pytest.mark.parametrize("way", SLOW)
async def test_the_loop_turns_while_the_model_works(
    llm: SteerableLlamaIndexLLM, engine: RecordingLLM, way: str
) -> None:
    control = engine.model.control
    control.gate = threading.Semaphore(0)
    task = asyncio.ensure_future(SLOW[way](llm))
    beats = 0
    # The loop itself lets the model go on: were it blocked, nothing would ever end.
    while not task.done():
        control.gate.release()
        beats += 1
        await asyncio.sleep(0)
    await task
    assert beats >= len(control.forwards) > 3
