"""Answers from a shared state: given ones are scored along their tokens, or one is made greedily.

A row may have several answers, and rows of one batch may be steered differently, so good, bad and
unsteered answers under all conditions share the work on the prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from steerable_llm.errors import InvalidInputError
from steerable_llm.model.prompt_state import Continuation, PromptState, padded


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
    """The likeliest answer token by token, as `SteerableHFLLM.generate` makes it.

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
