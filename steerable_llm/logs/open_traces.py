"""Runs of a chain that are still going: what was asked and retrieved, until the model answers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from steerable_llm.logs.answers import Passage
from steerable_llm.pairs import Message

#: Runs and traces that are kept. One that never ends, as an abandoned stream may, goes at last.
RUNS, TRACES = 20_000, 1_000
#: Traces among which a streamed answer looks for its own.
RECENT = 50


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


class OpenTraces:
    """The traces of the runs that are going on; safe for threads, and bounded in size."""

    def __init__(self) -> None:
        self._roots: OrderedDict[str, str] = OrderedDict()
        self._traces: OrderedDict[str, OpenTrace] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, run: str, parent: str | None) -> None:
        """Note that a run began inside another one, or outermost."""
        with self._lock:
            self._roots[run] = self._roots.get(parent, parent) if parent else run
            while len(self._roots) > RUNS:
                self._roots.popitem(last=False)

    def of(self, run: str) -> OpenTrace:
        """Return the trace that a run belongs to."""
        with self._lock:
            root = self._roots.get(run, run)
            trace = self._traces.setdefault(root, OpenTrace(root))
            self._traces.move_to_end(root)
            while len(self._traces) > TRACES:
                self._traces.popitem(last=False)
            return trace

    def ask(self, run: str, question: str) -> None:
        """Note what a trace was asked; the first one to say so counts."""
        trace = self.of(run)
        with self._lock:
            trace.question = trace.question or question

    def search(self, run: str, query: str) -> None:
        """Note what a trace looks for; the first time counts."""
        trace = self.of(run)
        with self._lock:
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


def asked(question: str | None, messages: Iterable[Message]) -> str:
    """Return the question of an answer: the chain's own, or else the last user message."""
    users = [message.content for message in messages if message.role == "user"]
    return question or (users[-1] if users else "")
