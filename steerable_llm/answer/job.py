"""One prompt at work: how its tokens are chosen, and when it is given up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from itertools import chain

from torch import Tensor

from steerable_llm.answer.answer import Answer
from steerable_llm.answer.engine import Prompt
from steerable_llm.answer.logprobs import likelihoods
from steerable_llm.answer.pending import Pending
from steerable_llm.answer.request import AppliedVector
from steerable_llm.answer.sampling import Draws, shaped
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
        self._reshaped = request.repetition_penalty != 1.0 or bool(request.logit_bias)
        self._draws = Draws(request) if request.temperature > 0 else None
        self._tokenizer = llm.tokenizer

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
        request, grammar, allowed = self.prompt.request, self.prompt.grammar, scores
        if self._reshaped:
            allowed = shaped(request, chain(self.prompt.tokens, self.answer.tokens), allowed)
        if grammar is not None:
            allowed = grammar.masked(allowed)
        if self._draws is not None:
            token = self._draws.draw(allowed)
        else:
            token = likeliest if allowed is scores else int(allowed.argmax())
        if request.logprobs:
            noted = likelihoods(self._tokenizer, scores, token, request.top_logprobs)
            self.answer.logprobs.append(noted)
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
