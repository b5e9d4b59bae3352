"""Two streams side by side: the prompt with and without its context, each with its own cache.

The stream without the context stands for what the model knows by itself and is never steered. A
prompt that has no context beside its question has nothing to contrast and is decoded plainly.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor

from steerable_llm.chat.context import Context, question_alone
from steerable_llm.chat.message import MessagesLike
from steerable_llm.chat.template import ChatFormat
from steerable_llm.errors import InvalidInputError
from steerable_llm.runtime.forward import Continuation, PromptState, forced_logits, run_prompts
from steerable_llm.vector.steering import Steering

# Context-aware decoding: what the context adds to the next token's scores is counted more.

ContrastKind = Literal["cad", "adacad"]
CONTRASTS: tuple[ContrastKind, ...] = get_args(ContrastKind)


@dataclass(frozen=True)
class Contrast:
    """A way to count the context more.

    Attributes:
        kind: `cad`, or `adacad`, which chooses a for every token.
        alpha: a of CAD; 0 is plain decoding. AdaCAD multiplies its own a with it.

    Raises:
        InvalidInputError: An unknown kind, or an alpha that is negative or not finite.
    """

    kind: ContrastKind = "cad"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what could only fail in the middle of an answer."""
        if self.kind not in CONTRASTS:
            raise InvalidInputError(
                f"unknown contrast {self.kind!r}: choose one of {', '.join(CONTRASTS)}"
            )
        if not math.isfinite(self.alpha) or self.alpha < 0:
            raise InvalidInputError(
                f"the contrast's alpha is {self.alpha}: give a finite number of 0 or more, such "
                "as 0.5"
            )

    def combine(self, with_context: Tensor, without: Tensor) -> Tensor:
        """The contrasted scores.

        Args:
            with_context: Logits `[..., V]`.
            without: Logits `[..., V]` of the same tokens.

        Returns:
            float32 `[..., V]`; `with_context` bit for bit where alpha is 0.
        """
        if self.alpha == 0:
            return with_context.float()
        first, second = with_context.float(), without.float()
        alpha: Tensor | float = self.alpha
        if self.kind == "adacad":
            alpha = self.alpha * divergence(first, second)[..., None]
        # A token that is impossible in both would be infinity minus infinity.
        combined = (1 + alpha) * first - alpha * second
        return torch.where(torch.isneginf(first), first, combined)


def divergence(one: Tensor, other: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two next-token distributions, in bits.

    Args:
        one: Logits `[..., V]`.
        other: Logits `[..., V]`.

    Returns:
        `[...]`, between 0 and 1.
    """
    p, q = one.log_softmax(-1), other.log_softmax(-1)
    middle = torch.logaddexp(p, q) - math.log(2)
    towards = [(x.exp() * (x - middle)).nan_to_num(0.0).sum(-1) for x in (p, q)]
    return ((towards[0] + towards[1]) / 2 / math.log(2)).clamp(0.0, 1.0)


def bare_prompt(
    chat: ChatFormat, messages: MessagesLike, context: Context = None
) -> list[int] | None:
    """Token ids of a prompt without its context; None when it has none beside its question."""
    question = question_alone(messages, context)
    return None if question is None else chat.encode(question)


class ContextContrast(LogitsProcessor):
    """Contrasts the scores of the rows that ask for it, while `generate` decodes the batch."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[nn.Module],
        bare: Sequence[Sequence[int] | None],
        contrasts: Sequence[Contrast | None],
    ) -> None:
        """Prepare the second stream; it runs with the first token.

        Args:
            model: The model that `generate` is called on.
            blocks: Its decoder blocks.
            bare: Per row the prompt without its context, or None.
            contrasts: Per row, or None.
        """
        self._model, self._blocks = model, blocks
        self._rows = [
            row
            for row, (tokens, contrast) in enumerate(zip(bare, contrasts, strict=True))
            if tokens is not None and contrast is not None
        ]
        self._bare = [bare[row] or [] for row in self._rows]
        self._contrasts = [contrasts[row] or Contrast() for row in self._rows]
        self._second: Continuation | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Replace the scores `[B, V]` of the contrasted rows."""
        if not self._rows:
            return scores
        if self._second is None:
            plain = [Steering.none()] * len(self._rows)
            state = run_prompts(self._model, self._blocks, self._bare, plain)
            self._second = Continuation(self._model, self._blocks, state)
            without = state.first
        else:
            without = self._second.feed(input_ids[self._rows, -1:])[:, -1]
        for row, contrast, other in zip(self._rows, self._contrasts, without, strict=True):
            scores[row] = contrast.combine(scores[row], other.to(scores.device))
        return scores


@dataclass(frozen=True)
class TwoStreams:
    """A batch of prompts after both streams were run, ready to be continued any number of times.

    Attributes:
        full: The prompts with their context.
        bare: The prompts without it.
        contrasts: Per row; None for a row whose prompt has no context.
    """

    full: PromptState
    bare: PromptState
    contrasts: tuple[Contrast | None, ...]

    def combine(self, full: Tensor, bare: Tensor) -> Tensor:
        """Row by row: logits `[B, ..., V]` of both streams to those that are decoded from."""
        rows = zip(self.contrasts, full, bare, strict=True)
        return torch.stack([a.float() if c is None else c.combine(a, b) for c, a, b in rows])


def run_two_streams(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    prompts: Sequence[Sequence[int]],
    bare: Sequence[Sequence[int] | None],
    contrasts: Sequence[Contrast],
    steerings: Sequence[Steering],
) -> TwoStreams:
    """Run a batch of prompts with and without their contexts.

    Args:
        model: A Hugging Face causal language model in evaluation mode.
        blocks: Its decoder blocks.
        prompts: Token ids of each row.
        bare: The same without context; None for a row that has none.
        contrasts: One per row.
        steerings: One per row; of the prompts with context.
    """
    short = [
        prompt if tokens is None else tokens for prompt, tokens in zip(prompts, bare, strict=True)
    ]
    plain = [Steering.none()] * len(prompts)
    return TwoStreams(
        full=run_prompts(model, blocks, prompts, steerings),
        bare=run_prompts(model, blocks, short, plain),
        contrasts=tuple(
            None if tokens is None else contrast
            for tokens, contrast in zip(bare, contrasts, strict=True)
        ),
    )


def contrasted_logits(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    streams: TwoStreams,
    answers: Sequence[Sequence[int]],
) -> list[Tensor | None]:
    """Next-token logits along one given answer per row, as `forced_logits` without contrast."""
    both = [forced_logits(model, blocks, state, answers) for state in (streams.full, streams.bare)]
    return [
        a if a is None or b is None or contrast is None else contrast.combine(a, b)
        for contrast, a, b in zip(streams.contrasts, *both, strict=True)
    ]


def contrasted_tokens(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    streams: TwoStreams,
    end_ids: Collection[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """The likeliest answer token by token, as `greedy_tokens` without contrast."""
    full = Continuation(model, blocks, streams.full)
    bare = Continuation(model, blocks, streams.bare)
    answers: list[list[int]] = [[] for _ in streams.contrasts]
    logits = streams.combine(streams.full.first, streams.bare.first)
    for step in range(max_new_tokens):
        chosen = logits.argmax(-1)
        for answer, token in zip(answers, chosen.tolist(), strict=True):
            if not answer or answer[-1] not in end_ids:
                answer.append(token)
        if step + 1 == max_new_tokens or all(answer[-1] in end_ids for answer in answers):
            break
        fed = chosen[:, None]
        logits = streams.combine(full.feed(fed)[:, -1], bare.feed(fed)[:, -1])
    return answers
