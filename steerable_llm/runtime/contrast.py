"""Context-aware decoding: what the context adds to the next token's scores is counted more.

Two streams run side by side, the prompt with and without its context, each with its own cache. The
stream without the context stands for what the model knows by itself and is never steered. A prompt
that has no context beside its question has nothing to contrast and is decoded plainly.

CAD is of Shi et al. 2024 (arXiv:2305.14739), AdaCAD of Wang et al. 2025 (arXiv:2409.07394).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import torch
from torch import Tensor

from steerable_llm.chat.context import Context, question_alone
from steerable_llm.chat.message import MessagesLike
from steerable_llm.chat.template import ChatFormat
from steerable_llm.errors import InvalidInputError
from steerable_llm.runtime.forward import Stream, run_prompts
from steerable_llm.vector.steering import Steering

if TYPE_CHECKING:
    from steerable_llm.runtime.hooked_model import HookedModel

ContrastKind = Literal["cad", "adacad"]
CONTRASTS: tuple[ContrastKind, ...] = get_args(ContrastKind)


@dataclass(frozen=True)
class Contrast:
    """A way to count the context more.

    Attributes:
        kind: `cad`, or `adacad`, which chooses a for every token.
        alpha: The weight a of CAD; 0 is plain decoding. AdaCAD multiplies its own a with it.

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
        """Return the contrasted scores.

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
    """Return the Jensen-Shannon divergence of two next-token distributions, in bits.

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
    """Return a prompt without its context; None when it has none beside its question."""
    question = question_alone(messages, context)
    return None if question is None else chat.encode(question)


class Contrasted:
    """Two streams side by side, of which the scores of some rows are contrasted.

    Attributes:
        first: Contrasted scores, float32 `[B, V]`, that choose each row's first answer token.
        full: The prompts with their context.
    """

    def __init__(self, full: Stream, bare: Stream, contrasts: Mapping[int, Contrast]) -> None:
        """Put two streams together.

        Args:
            full: All prompts, with their context.
            bare: Without it the prompts of the rows that are contrasted, in their order.
            contrasts: From such a row to its contrast.
        """
        self.full, self._bare, self._contrasts = full, bare, contrasts
        self._rows = sorted(contrasts)
        self.first = self._combine(full.first, bare.first)

    @property
    def rows(self) -> int:
        """How many prompts there are."""
        return self.full.rows

    def fork(self) -> Self:
        """Return a pair of streams that goes on from here by itself."""
        twin = copy(self)
        twin.full, twin._bare = self.full.fork(), self._bare.fork()
        return twin

    def feed(self, ids: Tensor) -> Tensor:
        """Feed tokens `[B, A]` to both and return contrasted float32 logits `[B, A, V]`."""
        return self._combine(self.full.feed(ids), self._bare.feed(ids[self._rows]))

    def finish(self, row: int) -> None:
        """Stop steering and counting one row: its answer is complete."""
        self.full.finish(row)

    def steered(self) -> AbstractContextManager[Any]:
        """Keep the hooks in place over many tokens; the second stream has none."""
        return self.full.steered()

    def _combine(self, full: Tensor, bare: Tensor) -> Tensor:
        """Contrast logits `[B, ..., V]` with those `[b, ..., V]` of the rows without context."""
        combined = full.clone()
        for row, without in zip(self._rows, bare, strict=True):
            combined[row] = self._contrasts[row].combine(full[row], without.to(full.device))
        return combined


def contrasted(
    llm: HookedModel,
    full: Stream,
    bare: Sequence[Sequence[int] | None],
    contrasts: Sequence[Contrast | None],
) -> Stream | Contrasted:
    """Run the second stream beside a batch of prompts, where there is anything to contrast.

    Args:
        llm: The model.
        full: The prompts, which were run.
        bare: Per row the prompt without its context; None where there is none.
        contrasts: Per row; None for a row that is decoded plainly.
    """
    found = {
        row: contrast
        for row, (tokens, contrast) in enumerate(zip(bare, contrasts, strict=True))
        if tokens is not None and contrast is not None
    }
    if not found:
        return full
    prompts = [bare[row] or [] for row in found]
    without = run_prompts(llm, prompts, [Steering.none()] * len(prompts))
    return Contrasted(full, without, found)
