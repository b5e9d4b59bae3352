"""Vectors that another one is trained on top of, and takes in.

Two vectors that were trained apart may spoil each other's work: what one of them reads in a state,
the other has changed. A vector that is trained while the others act learns to live with them, and
holds them afterwards, so that nobody can apply it without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from steerable_llm.errors import InvalidInputError
from steerable_llm.methods.trainable import TrainableVector
from steerable_llm.vector.steering import Scope, Steering, SteeringTerm, WeighedVectors
from steerable_llm.vector.vector import SteeringVector

_OPEN = 30.0
"""Bias of a gate that is open whatever the state: its sigmoid is 1 in float32."""
_CPU = torch.device("cpu")


def ground(
    vectors: Sequence[SteeringVector], scope: Scope, renormalise: bool, gated: bool
) -> Steering:
    """Return how vectors steer, as calibrated, while another is trained.

    Args:
        vectors: The others; none is no steering.
        scope: Of the one that is trained.
        renormalise: Its norm rule.
        gated: Whether it has gates.

    Raises:
        InvalidInputError: They steer in another way, so that one vector cannot hold both.
    """
    terms = [term for vector in vectors for term in vector.steer().terms]
    for term in terms:
        weighs = term.rule == "weigh" and term.unit == "absolute"
        if (term.scope, term.renormalise, term.site) != (scope, renormalise, "block") or not (
            term.rule == "add" or weighs
        ):
            raise InvalidInputError(
                f"vector {term.vector.name!r} cannot be trained onto: it steers with scope "
                f"{term.scope}, renormalise={term.renormalise}, site {term.site}, rule {term.rule} "
                f"and unit {term.unit}, and the new one with scope {scope} and "
                f"renormalise={renormalise} on blocks; give the same scope and renormalise"
            )
        if weighs and not gated:
            raise InvalidInputError(
                f"vector {term.vector.name!r} has gates, so a vector onto it has some, too: give "
                "gated=True"
            )
    return Steering(tuple(terms))


def joined(
    vector: TrainableVector, onto: Steering
) -> tuple[dict[int, Tensor], dict[int, WeighedVectors]]:
    """Return what a trained vector and those it stands on add together at strength 1.

    Returns:
        Per block the directions `[d]`, and with gates the weighed vectors.
    """
    directions = {layer: direction.cpu() for layer, direction in vector.directions.items()}
    weighed = {layer: mine.on(_CPU) for layer, mine in vector.weighed.items()}
    gated = bool(weighed)
    for term in onto.active_terms:
        for layer in term.steered_layers:
            delta = term.delta(layer).cpu()
            directions[layer] = directions[layer] + delta if layer in directions else delta
            if gated:
                more = _weighed(term, layer, delta)
                weighed[layer] = _stacked(weighed[layer], more) if layer in weighed else more
    return directions, weighed


def _weighed(term: SteeringTerm, layer: int, delta: Tensor) -> WeighedVectors:
    """Return what a term adds; what it always adds has an open gate."""
    if term.rule == "weigh":
        of: Mapping[int, WeighedVectors] = getattr(term.vector, "weighed", {})
        found = of[layer].on(_CPU)
        return WeighedVectors(found.weights, found.biases, term.strength * found.vectors)
    return WeighedVectors(torch.zeros(1, len(delta)), torch.full((1,), _OPEN), delta[None])


def _stacked(one: WeighedVectors, other: WeighedVectors) -> WeighedVectors:
    parts = ("weights", "biases", "vectors")
    return WeighedVectors(*(torch.cat([getattr(one, p), getattr(other, p)]) for p in parts))
