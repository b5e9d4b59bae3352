"""What context-aware decoding does to scores: what the context adds to them is counted more.

The scores of the next token after the whole prompt are set off against those after the prompt
without its context, which stand for what the model knows by itself.

CAD is of Shi et al. 2024 (arXiv:2305.14739), AdaCAD of Wang et al. 2025 (arXiv:2409.07394).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from steerable_llm.errors import InvalidInputError

ContrastKind = Literal["cad", "adacad"]
# With more, float32 would have infinite scores, and their differences are no numbers.
_STRONGEST = 1e20
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

    def to_dict(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return {"kind": self.kind, "alpha": self.alpha}

    def __str__(self) -> str:
        """Return it in words, for tables and reasons."""
        return f"{self.kind} {self.alpha:.3g}"

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
        alpha: Tensor | float = min(self.alpha, _STRONGEST)
        if self.kind == "adacad":
            alpha = alpha * jensen_shannon(first, second)[..., None]
        # A token that is impossible in both would be infinity minus infinity.
        combined = (1 + alpha) * first - alpha * second
        return torch.where(torch.isneginf(first), first, combined)


def jensen_shannon(one: Tensor, other: Tensor) -> Tensor:
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
