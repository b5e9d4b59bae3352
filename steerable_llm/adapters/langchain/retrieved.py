"""The documents of a chain that is running, as its retriever or its graph's state hands them over.

So that it need not be guessed whether a prompt holds retrieved text: LangChain tells a handler what
each retriever returned and what each part of a chain took and gave. The handler here is in every
run of the process (by LangChain's own configure hook), keeps passages while their outermost run
lasts, and the chat model asks it which run it answers in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import is_dataclass
from itertools import islice
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.tracers.context import register_configure_hook
from pydantic import BaseModel

from steerable_llm.logs.answers import Passage
from steerable_llm.logs.open_traces import OpenTraces

_DEPTH = 3  # a state holds lists of documents, or lists of messages with them
_MOST = 1_000


class RetrievedDocuments(BaseCallbackHandler):
    """Remember which documents a run of LangChain came by so far."""

    # In the order of events, which is fine: nothing here ever waits.
    run_inline = True
    ignore_llm = True
    ignore_chat_model = True

    def __init__(self) -> None:
        self._traces = OpenTraces()

    def of(self, run: UUID | None) -> tuple[str, ...]:
        """Return the passages that the whole chain around a run came by."""
        if run is None:
            return ()
        return tuple(passage.text for passage in self._traces.of(str(run)).passages)

    def on_chain_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - LangChain's contract
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **_: Any,
    ) -> None:
        """Note the run and the documents that it is given."""
        self._traces.begin(str(run_id), None if parent_run_id is None else str(parent_run_id))
        self._keep(run_id, inputs)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
        """Note the documents that a part of a chain gave, such as a graph's node."""
        self._keep(run_id, outputs)
        self._traces.end(str(run_id))

    def on_retriever_start(
        self, *_: Any, run_id: UUID, parent_run_id: UUID | None = None, **__: Any
    ) -> None:
        """Note the run."""
        self._traces.begin(str(run_id), None if parent_run_id is None else str(parent_run_id))

    on_tool_start = on_retriever_start

    def on_retriever_end(self, documents: Sequence[Document], *, run_id: UUID, **_: Any) -> None:
        """Note what a retriever found."""
        self._keep(run_id, documents)
        self._traces.end(str(run_id))

    def _forget(self, *_: Any, run_id: UUID, **__: Any) -> None:
        """Forget a run that has ended."""
        self._traces.end(str(run_id))

    on_chain_error = on_tool_end = on_tool_error = on_retriever_error = _forget

    def _keep(self, run: UUID, value: Any) -> None:
        found = [
            Passage(id=str(document.id or place), text=document.page_content)
            for place, document in enumerate(islice(_documents(value, _DEPTH), _MOST))
        ]
        if found:
            self._traces.retrieve(str(run), found)


def _documents(value: Any, depth: int) -> Iterator[Document]:
    if isinstance(value, Document):
        yield value
    elif isinstance(value, ToolMessage):
        yield from _documents(value.artifact, 1)
    elif depth == 0 or isinstance(value, BaseMessage | str):
        return
    elif isinstance(value, Mapping):
        for inside in islice(value.values(), _MOST):
            yield from _documents(inside, depth - 1)
    elif isinstance(value, list | tuple):
        for inside in islice(value, _MOST):
            yield from _documents(inside, depth - 1)
    elif isinstance(value, BaseModel) or is_dataclass(value):  # a graph's state may be a class
        for inside in vars(value).values():
            yield from _documents(inside, depth - 1)


RETRIEVED = RetrievedDocuments()
"""What listens in this process."""

_LISTENS: ContextVar[RetrievedDocuments | None] = ContextVar(
    "steerable_retrieved_documents", default=RETRIEVED
)
register_configure_hook(_LISTENS, inheritable=True)
