"""What the `with` blocks around a call say of it: which step it is, and where it is recorded.

Everything else that decides an answer is an argument of the call or a field of the model. A block
is for calls that somebody else's code makes, be it a query engine or a parser behind the model,
which hands neither arguments nor answers on; nothing but a context variable reaches through such
code, into its threads and tasks. This is the only one in the adapters.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from steerable_llm.answer.record import what_steered
from steerable_llm.answer.request import Generation
from steerable_llm.policy.policy import Hint


class SteeringRecord:
    """The answers that the model gave in a `record_steering()` block, in the order they ended.

    Threads and tasks may add to one record at the same time, as to any list.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._answers: list[Generation] = []
        self._failures: list[Exception] = []

    @property
    def answers(self) -> tuple[Generation, ...]:
        """What the model answered so far: text, step, vectors, tokens."""
        return tuple(self._answers)

    @property
    def steps(self) -> tuple[str | None, ...]:
        """The step of each answer; None is the policy's default step."""
        return tuple(answer.step for answer in self.answers)

    def to_list(self) -> list[dict[str, Any]]:
        """Return what steered each answer, in JSON values, for a response's metadata or a log."""
        return [
            {
                **what_steered(answer),
                "finish_reason": answer.finish_reason,
                "prompt_tokens": answer.usage.prompt_tokens,
                "completion_tokens": answer.usage.completion_tokens,
            }
            for answer in self.answers
        ]


def take_down(answer: Generation | None, records: Iterable[SteeringRecord]) -> None:
    """Add an answer to records, if there is one yet."""
    if answer is not None:
        for record in records:
            record._answers.append(answer)


@contextmanager
def failing_on(records: Iterable[SteeringRecord]) -> Iterator[None]:
    """Note an error in records on its way to the caller, whom it may not reach."""
    try:
        yield
    except Exception as error:
        for record in records:
            record._failures.append(error)
        raise


def raise_failure(record: SteeringRecord) -> None:
    """Raise the first error that was noted in a record, where somebody has swallowed it."""
    if record._failures:
        raise record._failures[0]


@dataclass(frozen=True)
class Surroundings:
    """What the blocks around a call say.

    Attributes:
        step: The step that was named, or the place that a LlamaIndex engine's tags tell.
        records: Where the answer is taken down, the outermost first.
    """

    step: str | Hint | None = None
    records: tuple[SteeringRecord, ...] = ()


_AROUND: ContextVar[Surroundings | None] = ContextVar("steerable_surroundings", default=None)


def surroundings() -> Surroundings:
    """Return what the blocks around the caller say."""
    return _AROUND.get() or Surroundings()


@contextmanager
def _inside(inner: Surroundings) -> Iterator[None]:
    token = _AROUND.set(inner)
    try:
        yield
    finally:
        _AROUND.reset(token)


@contextmanager
def steer_step(name: str | Hint | None) -> Iterator[None]:
    """Name the step of every call in this block, where the framework itself tells none.

    Calls made in threads or tasks that are started inside the block inherit it as far as they
    inherit the context, as asyncio tasks do.

    Example:
        ```python
        with steer_step("condense"):
            engine.query("And in Lyon?")
        ```
    """
    with _inside(replace(surroundings(), step=name)):
        yield


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
    around = surroundings()
    with _inside(replace(around, records=(*around.records, record))):
        yield record
