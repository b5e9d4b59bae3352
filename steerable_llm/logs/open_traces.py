"""Runs of a chain that are still going: what was asked and retrieved, until the model answers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from steerable_llm.chat.message import Message, as_messages
from steerable_llm.errors import InvalidInputError
from steerable_llm.logs.answers import LoggedAnswer, Passage, asked

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

#: Runs and traces that are kept. One that never ends, as an abandoned stream may, goes at last.
RUNS, TRACES = 20_000, 1_000
#: Traces among which a streamed answer looks for its own.
RECENT = 50


class Latest(OrderedDict[K, V]):
    """The latest so many entries; when one more is set, the oldest goes."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: K, value: V) -> None:
        """Set an entry, which is the latest then."""
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._most:
            self.popitem(last=False)


@dataclass
class OpenTrace:
    """One run of a whole chain.

    Attributes:
        id: The id of its outermost run.
        question: What it was asked, if it says so.
        query: What was looked for first; in place of a question that is not known.
        passages: What was retrieved so far, in order, none of them twice.
    """

    id: str
    question: str | None = None
    query: str | None = None
    passages: list[Passage] = field(default_factory=list)

    def answered(self, id: str, messages: tuple[Message, ...], **told: Any) -> LoggedAnswer:
        """Return an answer of this trace as it is logged.

        Args:
            id: Names the answer.
            messages: The prompt; its last user message is the question if the trace has none.
            **told: What else is known of it, by the fields of :class:`LoggedAnswer`.
        """
        return LoggedAnswer(
            id=id,
            question=asked(self.question or self.query, messages),
            passages=tuple(self.passages),
            messages=messages,
            trace_id=self.id,
            **told,
        )


class OpenTraces:
    """The traces of the runs that are going on; safe for threads, and bounded in size."""

    def __init__(self) -> None:
        self._roots: Latest[str, str] = Latest(RUNS)
        self._traces: Latest[str, OpenTrace] = Latest(TRACES)
        self._lock = threading.Lock()

    def begin(self, run: str, parent: str | None) -> None:
        """Note that a run began inside another one, or outermost."""
        with self._lock:
            self._roots[run] = self._roots.get(parent, parent) if parent else run

    def of(self, run: str) -> OpenTrace:
        """Return the trace that a run belongs to."""
        with self._lock:
            root = self._roots.get(run, run)
            trace = self._traces[root] = self._traces.get(root) or OpenTrace(root)
            return trace

    def note(self, run: str, *, question: str | None = None, query: str | None = None) -> None:
        """Note what a trace was asked or looks for; the first one to say so counts."""
        trace = self.of(run)
        with self._lock:
            trace.question = trace.question or question
            trace.query = trace.query or query

    def retrieve(self, run: str, passages: Iterable[Passage]) -> None:
        """Note what a trace retrieved."""
        trace = self.of(run)
        with self._lock:
            trace.passages += [p for p in dict.fromkeys(passages) if p not in trace.passages]

    def quoted_in(self, prompt: str) -> OpenTrace | None:
        """Return the latest of some recent traces whose question and passage a prompt quotes."""
        with self._lock:
            for trace in islice(reversed(self._traces.values()), RECENT):
                asked_for = trace.question or trace.query
                if asked_for and asked_for in prompt:
                    if any(passage.text in prompt for passage in trace.passages):
                        return trace
        return None

    def end(self, run: str) -> None:
        """Forget a run, and with an outermost run its trace."""
        with self._lock:
            self._roots.pop(run, None)
            self._traces.pop(run, None)


def as_logged(
    messages: Iterable[T],
    read: Callable[[list[T]], Iterable[Message]],
    in_text: Callable[[T], Message],
) -> tuple[Message, ...]:
    """Return a prompt as it is logged."""
    made: list[Message] = []
    for message in messages:
        try:
            made += read([message])
        except InvalidInputError:
            made.append(in_text(message))
    return as_messages(made) if made else ()
