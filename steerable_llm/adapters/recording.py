"""Keeping the answers that were made in a block, for callers that a framework gives none of them.

A LlamaIndex query engine returns the text of its last call and drops all else: how many calls
there were, which step each was, and what steered it. So does a LangChain chain that ends in a
parser.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from steerable_llm.answer.request import Generation

Answer = TypeVar("Answer", Generation, Generation | None)


class SteeringRecord:
    """The answers that the model gave in a `record_steering()` block, in the order they ended.

    Threads and tasks may add to one record at the same time.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._answers: list[Generation] = []
        self._lock = threading.Lock()

    def add(self, answer: Generation) -> None:
        """Take down one more answer."""
        with self._lock:
            self._answers.append(answer)

    @property
    def answers(self) -> tuple[Generation, ...]:
        """What the model answered so far: text, step, vectors, tokens."""
        with self._lock:
            return tuple(self._answers)

    @property
    def steps(self) -> tuple[str | None, ...]:
        """The step of each answer; None is the policy's default step."""
        return tuple(answer.step for answer in self.answers)

    def to_list(self) -> list[dict[str, Any]]:
        """Return what steered each answer, in JSON values, for a response's metadata or a log."""
        return [
            {
                "step": answer.step,
                "steering": [applied.to_dict() for applied in answer.steered],
                "decision": answer.decision.to_dict() if answer.decision else None,
                "finish_reason": answer.finish_reason,
                "prompt_tokens": answer.usage.prompt_tokens,
                "completion_tokens": answer.usage.completion_tokens,
            }
            for answer in self.answers
        ]


_RECORDS: ContextVar[tuple[SteeringRecord, ...]] = ContextVar("steerable_records", default=())


@contextmanager
def record_steering() -> Iterator[SteeringRecord]:
    """Record every answer of our LangChain and LlamaIndex models to a call that begins here.

    The answer to a stream that is read after the block is recorded too, once it has ended. (Those
    of LangChain begin when they are first read, and so do those of LlamaIndex's query engines:
    read them in the block. Those of a LlamaIndex LLM begin when they are asked for.)
    Blocks may be nested, each then has what happened inside it. Threads and tasks that are started
    inside take part as far as they inherit the context, as asyncio tasks do.

    Example:
        ```python
        with record_steering() as record:
            response = query_engine.query("When does the shop open?")
        print(record.steps, record.to_list())
        ```
    """
    record = SteeringRecord()
    token = _RECORDS.set((*_RECORDS.get(), record))
    try:
        yield record
    finally:
        _RECORDS.reset(token)


def current_records() -> Sequence[SteeringRecord]:
    """Return the records whose blocks the caller is in, the outermost first."""
    return _RECORDS.get()


def take_down(answer: Answer, records: Sequence[SteeringRecord] | None = None) -> Answer:
    """Add an answer, if there is one yet, to some records, and return it.

    Args:
        answer: what was made.
        records: None stands for those whose blocks the caller is in.
    """
    if answer is not None:
        for record in current_records() if records is None else records:
            record.add(answer)
    return answer
