"""Recording LangChain runs: the answers of every model, joined with what was retrieved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, get_buffer_string
from langchain_core.outputs import ChatGeneration, LLMResult

from steerable_llm.adapters.langchain.messages import read_messages, reasoning_of
from steerable_llm.answer.record import logged_steering
from steerable_llm.chat.images import image_in
from steerable_llm.chat.message import Message
from steerable_llm.logs.answers import QUESTION_KEYS, LoggedAnswer, Passage
from steerable_llm.logs.open_traces import RUNS, Latest, OpenTraces, as_logged
from steerable_llm.logs.recorder import AnswerRecorder
from steerable_llm.policy.policy import named_by

_ROLES = {"human": "user", "ai": "assistant", "system": "system"}


@dataclass(frozen=True)
class _Prompt:
    messages: tuple[Message, ...]
    step: str | None
    model: str | None
    revision: str | None
    time: datetime


class AnswerLogHandler(BaseCallbackHandler):
    """Log every answer of a chain with the passages that the chain retrieved before it.

    ::

        chain.invoke(question, config={"callbacks": [AnswerLogHandler("sqlite:///answers.db")]})

    It works with any chat model and with text models. One handler serves any number of chains and
    threads. The answer's id is LangChain's run id, so that feedback from LangSmith finds it.

    Args:
        log: The address of the log, or a recorder.

    Attributes:
        recorder: What writes; `recorder.flush()` waits for it, `recorder.dropped` counts losses.
    """

    # Called on the event loop in the order of events, which is fine: nothing here ever waits.
    run_inline = True

    def __init__(self, log: str | AnswerRecorder) -> None:
        self.recorder = AnswerRecorder(log) if isinstance(log, str) else log
        self._traces = OpenTraces()
        self._prompts: Latest[UUID, _Prompt] = Latest(RUNS)

    def on_chain_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - LangChain's contract
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **_: Any,
    ) -> None:
        """Note the run, and the question if the outermost run has one."""
        self._begin(run_id, parent_run_id)
        question = _question(inputs)
        if parent_run_id is None and question:
            self._traces.note(str(run_id), question=question)

    def _forget(self, *_: Any, run_id: UUID, **__: Any) -> None:
        """Forget a run that has ended, whatever it gave."""
        self._traces.end(str(run_id))

    on_chain_end = on_chain_error = on_tool_end = on_tool_error = on_retriever_error = _forget

    def on_tool_start(
        self, *_: Any, run_id: UUID, parent_run_id: UUID | None = None, **__: Any
    ) -> None:
        """Note the run: a tool may retrieve, or ask a model."""
        self._begin(run_id, parent_run_id)

    def on_retriever_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - LangChain's contract
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **_: Any,
    ) -> None:
        """Note the run, and what it looks for: a streamed chain does not know its question yet."""
        self._begin(run_id, parent_run_id)
        self._traces.note(str(run_id), query=query)

    def on_retriever_end(self, documents: Sequence[Document], *, run_id: UUID, **_: Any) -> None:
        """Keep the passages for the answers to come."""
        found = [
            Passage(id=_document_id(document, place), text=_passage(document))
            for place, document in enumerate(documents)
        ]
        self._traces.retrieve(str(run_id), found)
        self._traces.end(str(run_id))

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - LangChain's contract
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the prompt until the answer is there."""
        self._ask(run_id, parent_run_id, as_logged(messages[0], read_messages, _in_text), kwargs)

    def on_llm_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - LangChain's contract
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the prompt until the answer is there."""
        self._ask(run_id, parent_run_id, (Message(role="user", content=prompts[0]),), kwargs)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Record the answer."""
        prompt = self._prompts.pop(run_id, None)
        if prompt is not None and response.generations and response.generations[0]:
            self.recorder.record(self._answer(run_id, prompt, response))
        # A model that is asked outside any chain is its own outermost run.
        self._traces.end(str(run_id))

    def on_llm_error(self, *_: Any, run_id: UUID, **__: Any) -> None:
        """Forget the prompt: there is no answer."""
        self._prompts.pop(run_id, None)
        self._forget(run_id=run_id)

    def _begin(self, run: UUID, parent: UUID | None) -> None:
        self._traces.begin(str(run), None if parent is None else str(parent))

    def _ask(
        self,
        run: UUID,
        parent: UUID | None,
        messages: tuple[Message, ...],
        told: Mapping[str, Any],
    ) -> None:
        self._begin(run, parent)
        metadata = told.get("metadata") or {}
        tags = told.get("tags") or ()
        step = metadata.get("steer_step") or metadata.get("langgraph_node")
        step = step or next(iter(named_by(tags)), None)
        settings = told.get("invocation_params") or {}
        self._prompts[run] = _Prompt(
            messages,
            step or settings.get("step"),
            metadata.get("ls_model_name"),
            settings.get("revision"),
            datetime.now(UTC),
        )

    def _answer(self, run: UUID, prompt: _Prompt, response: LLMResult) -> LoggedAnswer:
        made = response.generations[0][0]
        message = made.message if isinstance(made, ChatGeneration) else None
        said = message.response_metadata if message is not None else {}
        used = message.usage_metadata if isinstance(message, AIMessage) else None
        return self._traces.of(str(run)).answered(
            str(run),
            prompt.messages,
            answer=str(message.text) if message is not None else made.text,
            step=said.get("step") or prompt.step,
            model=said.get("model_name") or prompt.model,
            revision=prompt.revision,
            steering=logged_steering(said),
            usage={}
            if used is None
            else {
                "prompt_tokens": used["input_tokens"],
                "completion_tokens": used["output_tokens"],
            },
            time=prompt.time,
            reasoning=reasoning_of(message) if isinstance(message, AIMessage) else None,
            chat_template_kwargs=said.get("chat_template_kwargs"),
        )


def _question(inputs: Any) -> str | None:
    if isinstance(inputs, str):
        return inputs
    if isinstance(inputs, Mapping):
        found = (inputs.get(key) for key in QUESTION_KEYS)
        return next((value for value in found if isinstance(value, str)), None)
    return None


def _passage(document: Document) -> str:
    """Return what was found, an image by the name it has in the prompt."""
    image = image_in(document.page_content)
    return image.in_words if image else document.page_content


def _document_id(document: Document, place: int) -> str:
    named = document.id or document.metadata.get("id") or document.metadata.get("source")
    return str(named) if named else f"passage-{place + 1}"


def _in_text(message: BaseMessage) -> Message:
    """Return a message that cannot be read as its text; what has no role of ours is the user's."""
    if message.type in _ROLES:
        return Message(role=_ROLES[message.type], content=str(message.text))
    return Message(role="user", content=get_buffer_string([message]))
