"""Recording LlamaIndex runs: the answers of every model, joined with what was retrieved."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatStartEvent,
    LLMCompletionEndEvent,
    LLMCompletionStartEvent,
)
from llama_index.core.instrumentation.events.query import QueryStartEvent
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent
from llama_index.core.instrumentation.span import BaseSpan
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.schema import BaseNode, QueryType
from llama_index_instrumentation import get_dispatcher
from pydantic import PrivateAttr

from steerable_llm.adapters.llama_index.messages import (
    image_of_node,
    read_messages,
    thoughts_of,
)
from steerable_llm.adapters.surroundings import surroundings
from steerable_llm.answer.record import logged_steering
from steerable_llm.chat.message import Message
from steerable_llm.logs.answers import LoggedAnswer, Passage
from steerable_llm.logs.open_traces import RUNS, Latest, OpenTraces, as_logged
from steerable_llm.logs.recorder import AnswerRecorder

_ROLES = {"system": "system", "developer": "system", "assistant": "assistant"}


@dataclass(frozen=True)
class _Start:
    time: datetime
    model: str | None


class AnswerLogSpans(BaseSpanHandler[BaseSpan]):
    """Tell which run is inside which; LlamaIndex's events alone do not say."""

    _traces: OpenTraces = PrivateAttr(default_factory=OpenTraces)
    _parents: Latest[str, str | None] = PrivateAttr(default_factory=partial(Latest, RUNS))
    _revisions: Latest[str, str] = PrivateAttr(default_factory=partial(Latest, RUNS))

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex shows."""
        return "AnswerLogSpans"

    def new_span(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any = None,
        parent_span_id: str | None = None,
        tags: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note the run; nothing else of it is kept."""
        del bound_args, tags, kwargs
        self._traces.begin(id_, parent_span_id)
        self._parents[id_] = parent_span_id
        fingerprint = getattr(getattr(instance, "llm", None), "fingerprint", None)
        revision = getattr(fingerprint, "revision", None)
        if isinstance(revision, str):
            self._revisions[id_] = revision

    # A streamed answer comes after the run that asked for it has returned, so that nothing is
    # forgotten when a run ends, only when there are too many.

    def prepare_to_exit_span(self, *_: Any, **__: Any) -> None:
        """Keep the run."""

    def prepare_to_drop_span(self, *_: Any, **__: Any) -> None:
        """Keep the run."""

    def around(self, span: str) -> Iterator[str]:
        """Yield the runs around a run, the nearest first."""
        seen = self._parents.get(span)
        while seen is not None:
            yield seen
            seen = self._parents.get(seen)


class AnswerLogEventHandler(BaseEventHandler):
    """Log every answer with the passages that its run retrieved before it.

    `record_answers` makes one and attaches it.

    Attributes:
        spans: What tells which run an event belongs to; attached beside the handler.
    """

    spans: AnswerLogSpans
    _recorder: AnswerRecorder = PrivateAttr()
    _started: Latest[str, _Start] = PrivateAttr(default_factory=partial(Latest, RUNS))

    def __init__(self, log: str | AnswerRecorder) -> None:
        super().__init__(spans=AnswerLogSpans())
        self._recorder = AnswerRecorder(log) if isinstance(log, str) else log

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex shows."""
        return "AnswerLogEventHandler"

    @property
    def recorder(self) -> AnswerRecorder:
        """What writes; `flush()` waits for it, `dropped` counts losses."""
        return self._recorder

    def stop(self) -> None:
        """Record no more; what waits is still written."""
        root = get_dispatcher()
        # LlamaIndex has no method for this; both are plain lists.
        root.event_handlers = [h for h in root.event_handlers if h is not self]
        root.span_handlers = [h for h in root.span_handlers if h is not self.spans]

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """Take what an event tells."""
        del kwargs
        span = event.span_id or event.id_
        traces = self.spans._traces
        if isinstance(event, QueryStartEvent):
            traces.note(span, question=_text(event.query))
        elif isinstance(event, RetrievalEndEvent):
            found = [passage for hit in event.nodes for passage in _passages(hit.node)]
            traces.note(span, query=_text(event.str_or_query_bundle))
            traces.retrieve(span, found)
        elif isinstance(event, LLMChatStartEvent | LLMCompletionStartEvent):
            # Some models answer a chat by completing a prompt: that is one answer, not two.
            if not any(around in self._started for around in self.spans.around(span)):
                named = event.model_dict.get("model") or event.model_dict.get("model_name")
                self._started[span] = _Start(datetime.now(UTC), named)
        elif isinstance(event, LLMChatEndEvent | LLMCompletionEndEvent):
            start = self._started.pop(span, None)
            if start is not None and event.response is not None:
                self._recorder.record(self._answer(event, span, start))

    def _answer(
        self, event: LLMChatEndEvent | LLMCompletionEndEvent, span: str, start: _Start
    ) -> LoggedAnswer:
        response = event.response
        assert response is not None, "the caller has looked"
        said = response.raw if isinstance(response.raw, Mapping) else {}
        if isinstance(response, ChatResponse):
            text, reasoning = response.message.content or "", thoughts_of(response.message)
        else:
            thought = said.get("reasoning")
            text, reasoning = response.text, thought if isinstance(thought, str) else None
        if isinstance(event, LLMChatEndEvent):
            messages = as_logged(event.messages, read_messages, _in_text)
        else:
            messages = (Message(role="user", content=event.prompt),)
        usage = said.get("usage") or {}
        named = surroundings().step
        trace = self.spans._traces.of(span)
        if not (trace.question or trace.passages):
            # A query engine that streams asks its model once its own run is over. Then the run is
            # the one whose question and passages the prompt quotes, or none.
            prompt = "\n".join(message.in_words for message in messages)
            trace = self.spans._traces.quoted_in(prompt) or trace
        return trace.answered(
            span,
            messages,
            answer=text,
            step=said.get("step") or (named if isinstance(named, str) else None),
            model=said.get("model_name") or start.model,
            revision=self.spans._revisions.get(span),
            steering=logged_steering(said),
            usage={
                name: usage[name]
                for name in ("prompt_tokens", "completion_tokens")
                if isinstance(usage, Mapping) and isinstance(usage.get(name), int)
            },
            time=start.time,
            reasoning=reasoning,
            chat_template_kwargs=said.get("chat_template_kwargs"),
        )


def record_answers(log: str | AnswerRecorder) -> AnswerLogEventHandler:
    """Log the answers of all LlamaIndex runs in this process from now on.

    ::

        record_answers("sqlite:///answers.db")

    Args:
        log: The address of the log, or a recorder.

    Returns:
        The handler; its `recorder` writes, and its `stop()` ends the recording.
    """
    handler = AnswerLogEventHandler(log)
    root = get_dispatcher()
    root.add_event_handler(handler)
    root.add_span_handler(handler.spans)
    return handler


def _passages(node: BaseNode) -> list[Passage]:
    """Return what was found as it is logged, an image by the name it has in the prompt."""
    image = image_of_node(node)
    told = [node.get_content(), image.in_words] if image else [node.get_content()]
    name = node.ref_doc_id or node.node_id
    return [Passage(id=name, text=text) for text in told if text or len(told) == 1]


def _text(query: QueryType) -> str:
    return query if isinstance(query, str) else query.query_str


def _in_text(message: ChatMessage) -> Message:
    """Return a message that cannot be read as its text; what has no role of ours is the user's."""
    role = _ROLES.get(getattr(message.role, "value", message.role), "user")
    return Message(role=role, content=message.content or "")
