"""One prompt at work: how its tokens are chosen, and when it is given up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from torch import Tensor

from steerable_llm.answer.answer import Answer
from steerable_llm.answer.constraint import GrammarMask
from steerable_llm.answer.engine import Prompt
from steerable_llm.answer.logprobs import LogprobNotes
from steerable_llm.answer.pending import Pending
from steerable_llm.answer.request import AppliedVector
from steerable_llm.answer.sampling import RowSampler, RowShaping
from steerable_llm.errors import DeadlineError, not_numbers
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.steering import SteeringTerm


class Job:
    """A prompt that an engine is at work on.

    Attributes:
        prompt: What is answered.
        pending: Who waits for it.
        answer: What there is of it.
        late: When it is too late for it, by `time.monotonic`; None for never.
    """

    def __init__(
        self, llm: HookedModel, prompt: Prompt, pending: Pending, timeout: float | None = None
    ) -> None:
        """Begin with nothing said.

        Args:
            llm: The model.
            prompt: What to answer.
            pending: Who waits for it.
            timeout: Seconds from when it was asked.
        """
        self.prompt, self.pending = prompt, pending
        self.answer = Answer(prompt, llm.chat_format, llm.end_ids)
        self.late = None if timeout is None else pending.times.asked + timeout
        self._timeout = timeout
        request = prompt.request
        self._notes = LogprobNotes([request], llm.tokenizer)
        self._processes: list[Callable[[Tensor], Tensor]] = []
        if request.logprobs:
            self._processes.append(self._notes)
        if request.repetition_penalty != 1.0 or request.logit_bias:
            self._processes.append(RowShaping([request], [prompt.tokens], [self.answer.tokens]))
        if prompt.grammar is not None:
            self._processes.append(GrammarMask([prompt.grammar]))
        if request.temperature > 0:
            self._processes.append(RowSampler([request]))

    @property
    def ended(self) -> bool:
        """Whether nobody waits for it any more; one that takes too long is given up here."""
        if self.late is not None and time.monotonic() >= self.late:
            self.fail(DeadlineError(f"the answer took longer than the {self._timeout} s it had"))
        return self.pending.unwanted

    def take(self, scores: Tensor, likeliest: int, broken: bool) -> bool:
        """Take the next token; returns whether the answer is whole.

        Args:
            scores: Float32 `[V]`; left as they are.
            likeliest: The token that has the largest of them.
            broken: Whether that is no number.

        Raises:
            SteerableError: A token cannot be chosen.
        """
        if broken:
            raise not_numbers()
        token = likeliest
        if self._processes:
            chosen = scores[None].clone()
            for process in self._processes:
                chosen = process(chosen)
            token = int(chosen.argmax())
        if self.prompt.request.logprobs:
            self.answer.logprobs.append(self._notes.of(0, token))
        self.pending.put(self.answer.push(token))
        return self.answer.finish_reason is not None

    def finish(self, steered_tokens: Callable[[SteeringTerm], int]) -> None:
        """Hand over the whole answer.

        Args:
            steered_tokens: Says how many positions a term has changed.
        """
        terms = self.prompt.steering.active_terms
        try:
            steered = tuple(AppliedVector.of(term, steered_tokens(term)) for term in terms)
            self.pending.end(self.answer.generation(steered))
        except Exception as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Hand over what went wrong."""
        self.pending.end(error)


def take_tokens(jobs: Sequence[Job], scores: Tensor) -> list[bool]:
    """Choose each job's next token; returns which answers are whole, or have failed.

    Args:
        jobs: At least one.
        scores: Float32 `[B, V]`.
    """
    # NaN counts as the largest.
    best, likeliest = (each.tolist() for each in scores.max(-1))
    ended = []
    for job, row, token, largest in zip(jobs, scores, likeliest, best, strict=True):
        try:
            ended.append(job.take(row, token, math.isnan(largest)))
        except Exception as error:
            job.fail(error)
            ended.append(True)
    return ended
