"""The seam that answers are produced behind.

Above it a request has become a `Prompt`: checked, encoded, its steering decided, its grammar
compiled. Below it an engine makes tokens of it. The local one of `decode` runs the batch at hand;
one that lets requests join and leave, or that stands in another process, fits here as well, and
policies, adapters and recorders stay as they are.

An engine of its own keeps an `Answer` per prompt: it turns tokens into chunks, tells when stop
texts, calls, grammars or the limit end it, and makes the `Generation` with what was applied.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from steerable_llm.answer.constraint import GrammarState
from steerable_llm.answer.request import Generation, GenerationChunk, GenerationRequest
from steerable_llm.chat.tools import ToolFormat
from steerable_llm.chat.vision import ReadPrompt
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
    def steering(self) -> Steering:
        """What is applied."""
        return self.decision.steering

    @property
    def contrast(self) -> Contrast | None:
        """How the context is counted more; None where it is not."""
        return self.decision.contrast


class Engine(Protocol):
    """What turns prompts into answers."""

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
