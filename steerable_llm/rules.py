"""Steering rules whose addition depends on the state that they meet.

The plain rule adds a fixed vector. These two look at the state first: in-context vectors push
harder where the state points away (Liu et al. 2024, arXiv:2311.06668), and gates let a vector
through only where it is needed (MAT-Steer, Nguyen et al. 2025, arXiv:2502.12446).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True, eq=False)
class Gates:
    """The gated vectors of one layer, one per attribute.

    Attributes:
        weights: `[A, d]`, what each gate reads in a state.
        biases: `[A]`.
        vectors: `[A, d]`, what each gate lets through.
    """

    weights: Tensor
    biases: Tensor
    vectors: Tensor
    _elsewhere: dict[torch.device, Gates] = field(default_factory=dict, init=False, repr=False)

    def on(self, device: torch.device) -> Gates:
        """The same on a device; copied there once, not anew in each pass."""
        if device == self.weights.device:
            return self
        if device not in self._elsewhere:
            parts = (self.weights, self.biases, self.vectors)
            self._elsewhere[device] = Gates(*(part.to(device) for part in parts))
        return self._elsewhere[device]

    @property
    def table(self) -> Tensor:
        """All of it as one tensor `[A, 2d + 1]`: weights, bias, vector; how a file stores it."""
        return torch.cat([self.weights, self.biases[:, None], self.vectors], dim=1)

    @classmethod
    def from_table(cls, table: Tensor) -> Gates:
        """Take a table apart again.

        Raises:
            ValueError: It is no such table.
        """
        if table.ndim != 2 or table.shape[1] % 2 == 0 or not bool(torch.isfinite(table).all()):
            raise ValueError("a table of gates is [A, 2d + 1] finite numbers, which this is not")
        width = table.shape[1] // 2
        # Copies: views lie elsewhere in memory, and matrix products then round otherwise.
        parts = (table[:, :width], table[:, width], table[:, width + 1 :])
        return cls(*(part.clone() for part in parts))


def icv_delta(h: Tensor, direction: Tensor, strength: float) -> Tensor:
    """What is added to states before they are brought back to their length.

    `|x| lam (1 + max(0, cos(x, -v))) v / |v|`, so that with the length kept the state becomes
    `|x| normalise(x / |x| + lam s v / |v|)`. A negative strength turns v round.

    Args:
        h: States `[..., d]`.
        direction: v, `[d]`.
        strength: lam.

    Returns:
        float32 `[..., d]`.
    """
    x = h.float()
    towards = normalize(direction.to(x.device).float(), dim=0) * (1.0 if strength > 0 else -1.0)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    away = (normalize(x, dim=-1) @ -towards).clamp_min(0.0)
    added: Tensor = length * (abs(strength) * (1.0 + away))[..., None] * towards
    return added


def gated_delta(h: Tensor, gates: Gates, factor: float) -> Tensor:
    """`factor * sum_t sigmoid(w_t x + b_t) v_t` for every state.

    Args:
        h: States `[..., d]`.
        gates: Of this layer.
        factor: The strength.

    Returns:
        float32 `[..., d]`.
    """
    x = h.float()
    here = gates.on(x.device)
    opened = torch.sigmoid(x @ here.weights.T + here.biases)
    passed: Tensor = opened @ here.vectors
    return factor * passed
