"""Answers from a shared state: given ones are scored along their tokens, or one is made greedily.

A row may have several answers, and rows of one batch may be steered differently, so good, bad and
unsteered answers under all conditions share the work on the prompt.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steerable_llm.errors import InvalidInputError
from steerable_llm.runtime.hooks import SteeringPlan, steering_hooks
from steerable_llm.vector.steering import Steering

# Prompts that are run once and continued many times.


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


def forced_logits(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    state: PromptState,
    answers: Sequence[Sequence[int]],
) -> list[Tensor | None]:
    """Next-token logits along one given answer per row.

    Args:
        model: The model that made the state.
        blocks: Its decoder blocks.
        state: The prompts; unchanged, so it can be continued again.
        answers: Token ids, one answer per row; empty for a row that has none.

    Returns:
        Per row float32 logits `[n, V]`, entry i being the distribution that chooses token i of
        the answer, or None for an empty answer.

    Raises:
        InvalidInputError: Not as many answers as rows, or all are empty.
    """
    if len(answers) != len(state.steerings) or not any(map(len, answers)):
        raise InvalidInputError(
            f"{len(answers)} answers for {len(state.steerings)} rows, or all without tokens: "
            "give one per row, at least one of them with a token"
        )
    # The last token of an answer chooses nothing, so it is never fed.
    fed = [answer[:-1] for answer in answers]
    logits = state.first[:, None]
    if any(map(len, fed)):
        ids, _ = padded(fed, left=False, device=state.mask.device)
        logits = torch.cat([logits, Continuation(model, blocks, state).feed(ids)], dim=1)
    return [logits[row, : len(a)] if len(a) else None for row, a in enumerate(answers)]


def greedy_tokens(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    state: PromptState,
    end_ids: Collection[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """The likeliest answer token by token, as `HookedModel.generate` makes it.

    Args:
        model: The model that made the state.
        blocks: Its decoder blocks.
        state: The prompts; unchanged.
        end_ids: Tokens that end an answer.
        max_new_tokens: Where answers are cut.

    Returns:
        Per row the tokens, the one that ended it included.
    """
    continuation = Continuation(model, blocks, state)
    answers: list[list[int]] = [[] for _ in state.steerings]
    logits = state.first
    for step in range(max_new_tokens):
        chosen = logits.argmax(-1)
        for answer, token in zip(answers, chosen.tolist(), strict=True):
            if not answer or answer[-1] not in end_ids:
                answer.append(token)
        if step + 1 == max_new_tokens or all(answer[-1] in end_ids for answer in answers):
            break
        logits = continuation.feed(chosen[:, None])[:, -1]
    return answers


def log_probability(logits: Tensor, answer: Sequence[int]) -> float:
    """Sum of log-probabilities of the answer's tokens.

    Args:
        logits: `[n, V]`, as `forced_logits` returns them.
        answer: The n token ids.
    """
    chosen = torch.tensor(list(answer), device=logits.device)[:, None]
    return float(logits.log_softmax(-1).gather(-1, chosen).sum())
