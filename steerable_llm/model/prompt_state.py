"""Prompts that are run once and continued many times.

Rows that steer only from the last prompt position on (scopes "generated" and "last_prompt") read
the prompt before it exactly alike, whatever their vector and strength: that part runs once per
distinct prompt and its cache is shared out. Evaluations and sweeps ask the same prompts under many
conditions, so this saves most of their work.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steerable_llm.model.hooks import SteeringPlan, steering_hooks
from steerable_llm.steering import Steering


@dataclass(frozen=True)
class PromptState:
    """A batch of prompts after they were run, ready to be continued any number of times.

    Attributes:
        first: float32 `[B, V]`, the logits that choose each row's first answer token.
        cache: The model's cache of all prompts; continuations work on a copy.
        mask: `[B, T]`, 1 where a column of the left-padded prompts holds a token.
        steerings: What each row is steered with.
    """

    first: Tensor
    cache: Any
    mask: Tensor
    steerings: tuple[Steering, ...]


class Continuation:
    """One way on from a state: answer tokens are fed, steered as their rows say."""

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module], state: PromptState) -> None:
        """Starts after the prompts, on a copy of their cache."""
        self._model, self._blocks = model, blocks
        self._cache = copy.deepcopy(state.cache)
        self._mask = state.mask
        # Columns are counted from the first answer token here, so no column is a prompt's.
        self._plan = SteeringPlan(state.steerings, state.mask[:, :0], last_prompt=-1)

    def feed(self, ids: Tensor) -> Tensor:
        """Feeds tokens `[B, A]` and returns float32 logits `[B, A, V]`, each for the next one."""
        past = self._mask.shape[1]
        # Padding after an answer is seen by nothing before it, so every column counts as used.
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=1)
        with torch.no_grad(), steering_hooks(self._blocks, self._plan):
            output = self._model(
                **_inputs(self._model, ids, self._mask, past),
                past_key_values=self._cache,
                use_cache=True,
            )
        logits: Tensor = output.logits.float()
        return logits


def run_prompts(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    prompts: Sequence[Sequence[int]],
    steerings: Sequence[Steering],
) -> PromptState:
    """Runs a batch of prompts, each with its own steering.

    Args:
        model: A Hugging Face causal language model in evaluation mode.
        blocks: Its decoder blocks.
        prompts: Token ids of each row, generation prompt included; none empty.
        steerings: One per row.

    Raises:
        SteeringNotAppliedError: A steering reached no layer.
    """
    device = next(model.parameters()).device
    scopes = {term.scope for steering in steerings for term in steering.active_terms}
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    if (
        scopes <= {"generated", "last_prompt"}
        and min(map(len, prompts)) > 1
        and len(distinct) < len(prompts)
    ):
        ids, mask = padded([prompt[:-1] for prompt in distinct], left=True, device=device)
        with torch.no_grad(), steering_hooks(blocks, SteeringPlan([], mask[:0], -1)):
            cache = model(**_inputs(model, ids, mask, past=0), use_cache=True).past_key_values
        place = {prompt: number for number, prompt in enumerate(distinct)}
        rows = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=device)
        cache.batch_select_indices(rows)
        mask, past = mask[rows], mask.shape[1]
        ids = torch.tensor([[prompt[-1]] for prompt in prompts], device=device)
        plan = SteeringPlan(steerings, torch.ones_like(ids), last_prompt=0)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    else:
        ids, mask = padded(prompts, left=True, device=device)
        cache, past = None, 0
        plan = SteeringPlan(steerings, mask, last_prompt=ids.shape[1] - 1)
    with torch.no_grad(), steering_hooks(blocks, plan):
        output = model(**_inputs(model, ids, mask, past), past_key_values=cache, use_cache=True)
    for number, steering in enumerate(steerings):
        for term in steering.active_terms:
            plan.steered_tokens(number, term)  # raises where a steering did not arrive
    return PromptState(output.logits[:, -1].float(), output.past_key_values, mask, tuple(steerings))


def padded(
    sequences: Sequence[Sequence[int]], left: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both `[B, T]`; token 0 stands in the padding and is never read."""
    width = max(len(sequence) for sequence in sequences)
    ids = torch.zeros((len(sequences), width), dtype=torch.long)
    mask = torch.zeros((len(sequences), width), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        place = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        ids[row, place] = torch.tensor(list(sequence), dtype=torch.long)
        mask[row, place] = 1
    return ids.to(device), mask.to(device)


def _inputs(model: nn.Module, ids: Tensor, mask: Tensor, past: int) -> dict[str, Any]:
    """What one pass needs; padding takes no position, as in `generate`."""
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    known = inspect.signature(model.forward).parameters
    if "position_ids" in known:
        positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
        inputs["position_ids"] = positions[:, past : past + ids.shape[1]]
    if past == 0 and "logits_to_keep" in known:
        inputs["logits_to_keep"] = 1
    return inputs
