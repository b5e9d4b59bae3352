"""A batch of prompts under their conditions, run once and continued as often as needed.

Steered, prompted and unsteered rows share a batch. Contrasted rows need a second stream, and an
adapter changes the weights for everybody, so each of these makes a batch of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from torch import Tensor

from steerable_llm.contrast import Contrast
from steerable_llm.errors import PromptTooLongError
from steerable_llm.evaluation.conditions import Condition
from steerable_llm.evaluation_set import EvaluationItem
from steerable_llm.model.adapter import adapted
from steerable_llm.model.contrast_decoding import (
    TwoStreams,
    bare_prompt,
    contrasted_logits,
    contrasted_tokens,
    run_two_streams,
)
from steerable_llm.model.forced_answers import forced_logits, greedy_tokens
from steerable_llm.model.hooked_model import SteerableHFLLM
from steerable_llm.model.prompt_state import PromptState, run_prompts


@dataclass(frozen=True)
class Job:
    """One prompt to run under one condition."""

    condition: Condition
    item: EvaluationItem


@dataclass(frozen=True)
class Running:
    """A batch after its prompts; good inside `running`'s with block."""

    llm: SteerableHFLLM
    state: PromptState | TwoStreams

    def greedy(self, max_new_tokens: int) -> list[list[int]]:
        """Per row the likeliest answer, the token that ended it included."""
        model, blocks, ends = self.llm.model, self.llm.blocks, self.llm.end_ids
        if isinstance(self.state, TwoStreams):
            return contrasted_tokens(model, blocks, self.state, ends, max_new_tokens)
        return greedy_tokens(model, blocks, self.state, ends, max_new_tokens)

    def forced(self, answers: Sequence[Sequence[int]]) -> list[Tensor | None]:
        """Per row the logits `[n, V]` along a given answer; None for an empty one."""
        if isinstance(self.state, TwoStreams):
            return contrasted_logits(self.llm.model, self.llm.blocks, self.state, answers)
        return forced_logits(self.llm.model, self.llm.blocks, self.state, answers)


@contextmanager
def running(
    llm: SteerableHFLLM, jobs: Sequence[Job], prompts: Sequence[Sequence[int]], new_tokens: int
) -> Iterator[Running]:
    """Run the prompts of jobs that may share a batch (see `batches`).

    Args:
        llm: The model.
        jobs: One per row.
        prompts: Their token ids.
        new_tokens: How many tokens will follow at most.

    Raises:
        PromptTooLongError: A prompt with its answer does not fit the context window.
    """
    longest = max(map(len, prompts))
    if longest + new_tokens > llm.context_window:
        raise PromptTooLongError(longest, new_tokens, llm.context_window)
    conditions = [job.condition for job in jobs]
    steerings = [condition.steering for condition in conditions]
    adapter = conditions[0].adapter
    with nullcontext() if adapter is None else adapted(llm, adapter):
        state: PromptState | TwoStreams
        if conditions[0].contrast is None:
            state = run_prompts(llm.model, llm.blocks, prompts, steerings)
        else:
            bare = [bare_prompt(llm.chat_format, job.condition.messages(job.item)) for job in jobs]
            contrasts = [condition.contrast or Contrast() for condition in conditions]
            state = run_two_streams(llm.model, llm.blocks, prompts, bare, contrasts, steerings)
        yield Running(llm, state)


def groups(conditions: Sequence[Condition]) -> list[list[int]]:
    """Places of the conditions that may share a batch; those that steer or prompt come first."""
    found: dict[tuple[bool, int], list[int]] = {(False, 0): []}
    for place, condition in enumerate(conditions):
        adapter = 0 if condition.adapter is None else id(condition.adapter)
        found.setdefault((condition.contrast is not None, adapter), []).append(place)
    return [group for group in found.values() if group]
