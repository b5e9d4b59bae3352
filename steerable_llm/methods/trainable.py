"""A vector while it is trained: what the optimiser moves, and the steering that it makes.

The parameters are in shares of each block's residual norm, so that one learning rate fits all
blocks and models. The steering is the one that answers get later, so that training sees what
serving does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from steerable_llm.methods.probes import fit_logistic
from steerable_llm.vector.steering import Application, Steering, WeighedVectors

_GATE_PENALTY = 0.01
"""C of the regression that a gate starts from: states are wide and pairs are few."""


_LEAST_SPREAD = 0.01
"""Of a number of the state over prompts, as a share of the typical one."""


@dataclass(frozen=True, eq=False)
class _Live:
    """The directions as they stand, which gradients go through."""

    directions: Mapping[int, Tensor]
    scales: Mapping[int, float]
    application: Application
    decision_tokens: int
    weighed: Mapping[int, WeighedVectors]
    name: str = "trained"
    fingerprint_id: str = ""


@dataclass(frozen=True, eq=False)
class TrainableVector:
    """Directions of some blocks, and perhaps gates that let them in, as parameters.

    Attributes:
        scales: Block index to the residual norm that shares are of.
        shares: The directions, float32 `[L, d]`, in the blocks' order.
        application: What is done with them; the rule `weigh` goes with gates.
        decision_tokens: How far the scope `decision` reaches.
        weights: Of the gates, `[L, d]`, of states in shares; None without gates.
        biases: Of the gates, `[L]`.
    """

    scales: Mapping[int, float]
    shares: Tensor
    application: Application
    decision_tokens: int = 0
    weights: Tensor | None = None
    biases: Tensor | None = None

    @cached_property
    def _norms(self) -> Tensor:
        """`[L, 1]`."""
        norms = torch.tensor(list(self.scales.values()), device=self.shares.device)
        return norms[:, None]

    @property
    def directions(self) -> dict[int, Tensor]:
        """Block index to direction, in the units of the residual stream."""
        return dict(zip(self.scales, self.shares * self._norms, strict=True))

    @property
    def weighed(self) -> dict[int, WeighedVectors]:
        """Block index to the direction with its gate; empty without gates."""
        if self.weights is None or self.biases is None:
            return {}
        weights, biases = self.weights / self._norms, self.biases[:, None]
        vectors = self.shares * self._norms
        return {
            layer: WeighedVectors(weights[i, None], biases[i], vectors[i, None])
            for i, layer in enumerate(self.scales)
        }

    def detached(self) -> TrainableVector:
        """Return the same as numbers, of which no gradient is asked any more."""
        parts = {name: getattr(self, name) for name in ("shares", "weights", "biases")}
        return replace(self, **{k: v.detach() for k, v in parts.items() if v is not None})

    def steering(self, sign: float = 1.0) -> Steering:
        """Return the steering by the vector as it stands, or by its opposite."""
        how = self.application
        live = _Live(self.directions, self.scales, how, self.decision_tokens, self.weighed)
        return Steering.of(live, sign, None, how.scope, "absolute", how.renormalise)


def gates(states: Tensor, change: Tensor, scales: Mapping[int, float]) -> tuple[Tensor, Tensor]:
    """Return gates that tell prompts to be changed from those to be left alone, as a start.

    Per block a logistic regression of the standardised states, both kinds counting the same.

    Args:
        states: `[n, L, d]` at the last prompt position.
        change: `[n]`, true for prompts to be changed; there are some of both.
        scales: As of the vector.

    Returns:
        Weights `[L, d]`, of states in shares of the norms, and biases `[L]`; float32.
    """
    norms = torch.tensor(list(scales.values()))[:, None]
    x = states / norms
    mean, spread = x.mean(0), x.std(0)
    # A number that hardly varies must not be blown up to the size of the others: it is rounding.
    floor = _LEAST_SPREAD * spread.square().mean(-1, keepdim=True).sqrt()
    spread = torch.maximum(spread, floor).clamp_min(torch.finfo(x.dtype).tiny)
    share = change.double().mean()
    counts = torch.where(change, 0.5 / share, 0.5 / (1 - share))
    weights, biases = fit_logistic((x - mean) / spread, change, _GATE_PENALTY, counts)
    weights = weights / spread
    return weights.float(), (biases - (weights * mean).sum(-1)).float()
