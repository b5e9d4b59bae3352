"""The seam that answers are produced behind.

Above it a request has become a `Prompt`: checked, encoded, its steering decided, its grammar
compiled. Below it an engine makes tokens of it. The local one of `decode` runs the batch at hand;
one that lets requests join and leave, or that stands in another process, fits here as well, and
policies, adapters and recorders stay as they are.

An engine of its own keeps an `Answer` per prompt: it turns tokens into chunks, tells when stop
texts, calls, grammars or the limit end it, and makes the `Generation` with what was applied.

What a server builds on (`SteerableHFLLM.submit` leads to it)::

    pending = llm.submit(request, timeout=60)     # OverloadedError: 429, with error.retry_after
    pending.decision                              # known at once: what is applied, and why
    async for chunk in pending: ...               # or `for`; the last has the answer in `final`
    answer = await pending                        # or pending.result(); DeadlineError: too late
    pending.cancel()                              # a client has gone; so has its row, a token later
    pending.times                                 # asked, begun, first token, ended
    llm.engine.alive                              # False after a death, told by EngineError
    llm.engine.running, llm.engine.waiting        # requests at work, and in the queue
    llm.engine.limits = Limits(queue=64)          # rows, tokens, queue

`submit` decides and encodes in the calling thread (milliseconds, or passes of the model where the
policy measures a conflict), so an event loop calls it by `asyncio.to_thread`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from steerable_llm.answer.constraint import GrammarState
from steerable_llm.answer.pending import Pending
from steerable_llm.answer.request import Generation, GenerationChunk, GenerationRequest
from steerable_llm.chat.tools import ToolFormat
from steerable_llm.chat.vision import ReadPrompt
from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.decision import SteeringDecision
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.steering import Steering


@dataclass(frozen=True)
class Prompt:
    """A request that is ready to run.

    Attributes:
        request: As it was asked, its length settled.
        tokens: The prompt.
        decision: What it is steered with, and why.
        grammar: What the answer must follow; it keeps count of the answer, so it serves one.
        tool_format: How calls are read; None where no tool was offered.
        vision: What the model takes beside the tokens; empty for text alone.
        bare: The prompt without its context, where the two are contrasted.
    """

    request: GenerationRequest
    tokens: list[int]
    decision: SteeringDecision
    grammar: GrammarState | None = None
    tool_format: ToolFormat | None = None
    vision: Mapping[str, Tensor] = field(default_factory=dict)
    bare: ReadPrompt | None = None

    @property
    def read(self) -> ReadPrompt:
        """The prompt as the model takes it."""
        return ReadPrompt(self.tokens, self.vision)

    @property
    def steering(self) -> Steering:
        """What is applied."""
        return self.decision.steering

    @property
    def contrast(self) -> Contrast | None:
        """How the context is counted more; None where it is not."""
        return self.decision.contrast


_LEAST = {"rows": 1, "tokens": 1, "queue": 0, "prefill": 1, "prefixes": 0}


@dataclass(frozen=True)
class Limits:
    """How much an engine takes on at once.

    Attributes:
        rows: Prompts that run together; more wait.
        tokens: What prompts and answers that run together may take in caches, padding included;
            more wait. A single prompt is always taken on.
        queue: Prompts that may wait; more are refused with `OverloadedError`. None lets all wait.
        prefill: Tokens of prompts that are read between two tokens of the answers under way.
        prefixes: Bytes of prompts' states that are kept for prompts that begin alike; 0 for none.

    Raises:
        InvalidInputError: A number that would let nothing run.
    """

    rows: int = 64
    tokens: int = 65536
    queue: int | None = None
    prefill: int = 256
    prefixes: int = 2**28

    def __post_init__(self) -> None:
        """Refuse what would let nothing run."""
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None and name == "queue":
                continue
            if not isinstance(value, int) or value < least:
                raise InvalidInputError(f"{name} is {value}: give a whole number from {least} on")


class Load(Protocol):
    """How much is under way: all that a server asks of an engine, here or on other machines.

    Attributes:
        limits: How much is taken on at once.
    """

    limits: Limits

    @property
    def alive(self) -> bool:
        """Whether answers are still made."""
        ...

    @property
    def running(self) -> int:
        """How many answers are being made."""
        ...

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        ...


class Engine(Load, Protocol):
    """What turns prompts into answers."""

    def submit(
        self,
        prompt: Prompt,
        cancelled: threading.Event | None = None,
        timeout: float | None = None,
    ) -> Pending:
        """Begin to answer one prompt, beside all others, and return at once.

        Args:
            prompt: What to answer.
            cancelled: Once set, the work stops after the token at hand.
            timeout: Seconds after which it is given up with a `DeadlineError`.

        Raises:
            OverloadedError: The queue is full.
            EngineError: The engine has died.
        """
        ...

    def run(
        self,
        prompts: Sequence[Prompt],
        batch_size: int,
        cancelled: threading.Event | None = None,
    ) -> list[Generation]:
        """Answer prompts, each with its own steering and settings.

        Args:
            prompts: What to answer.
            batch_size: At most so many rows of this call run together.
            cancelled: Once set, all work stops after the token at hand.

        Returns:
            The answers in the order of the prompts, each with a record of what was applied; none
            at all after a cancellation.

        Raises:
            SteeringNotAppliedError: A steering reached no layer.
        """
        ...

    def stream(
        self, prompt: Prompt, cancelled: threading.Event | None = None
    ) -> Iterator[GenerationChunk]:
        """Answer one prompt token by token.

        Args:
            prompt: What to answer; nothing is done before the first chunk is asked for.
            cancelled: Once set, the work stops after the token at hand.

        Yields:
            One chunk per token, then one with the whole answer in `final`; that one not after a
            cancellation. Closing the iterator cancels.
        """
        ...
