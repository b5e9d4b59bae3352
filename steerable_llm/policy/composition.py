"""Several vectors on one request: how they relate, and how to keep them apart.

What is compared and separated is what each vector adds to a block's output, its sign and strength
included, since that is what meets there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from steerable_llm.errors import PolicyError
from steerable_llm.steering import Steering, SteeringTerm
from steerable_llm.vector import SteeringVector

FIGHT = -0.5
"""At or below this cosine two vectors fight: each undoes half or more of what the other does."""

# A vector of which less than this share is left has nothing of its own in that block.
_NOTHING_LEFT = 1e-4


@dataclass(frozen=True)
class Meeting:
    """Two vectors that act together.

    Attributes:
        first: name of the earlier vector.
        second: name of the later one.
        cosines: per block on which both act, the cosine between what they add there.
    """

    first: str
    second: str
    cosines: dict[int, float]

    @property
    def fights(self) -> tuple[int, ...]:
        """The blocks in which the two work against each other."""
        return tuple(layer for layer, cosine in self.cosines.items() if cosine <= FIGHT)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return {
            "first": self.first,
            "second": self.second,
            "cosines": {str(layer): cosine for layer, cosine in self.cosines.items()},
            "fights": list(self.fights),
        }


def meetings(steering: Steering) -> list[Meeting]:
    """Return how every two vectors of a steering relate, where they act on the same blocks."""
    found = []
    for first, second in combinations(steering.active_terms, 2):
        shared = sorted(set(first.steered_layers) & set(second.steered_layers))
        cosines = {layer: _cosine(first.delta(layer), second.delta(layer)) for layer in shared}
        if cosines:
            found.append(Meeting(first.vector.name, second.vector.name, cosines))
    return found


@dataclass(frozen=True)
class Orthogonalised:
    """A steering whose later vectors lost what they share with earlier ones.

    Attributes:
        steering: the steering that is left.
        kept: per vector, in order: per block the share of the length that is left, at most 1.
    """

    steering: Steering
    kept: tuple[tuple[str, Mapping[int, float]], ...]


def orthogonalise(steering: Steering) -> Orthogonalised:
    """Take from every vector its component along the earlier ones, block by block.

    Nothing is scaled up again: what a vector adds to a block gets shorter by what was taken. Where
    less than one ten-thousandth of its length is left, the vector no longer acts on that block.

    Raises:
        PolicyError: nothing at all is left of a vector; or one comes in a form that only its own
            code can change.
    """
    terms: list[SteeringTerm] = []
    kept = []
    span: dict[int, list[Tensor]] = {}
    for term in steering.terms:
        left: dict[int, tuple[Tensor, float]] = {}
        for layer in term.steered_layers:
            before = term.vector.directions[layer].double()
            after = _without(before, span.get(layer, []))
            length = float(torch.linalg.vector_norm(before))
            share = float(torch.linalg.vector_norm(after)) / length if length else 0.0
            if share > _NOTHING_LEFT and term.is_active:
                span.setdefault(layer, []).append(after / torch.linalg.vector_norm(after))
            left[layer] = after, min(share, 1.0)
        kept.append((term.vector.name, {layer: share for layer, (_, share) in left.items()}))
        terms.append(_shortened(term, left))
    return Orthogonalised(Steering(tuple(terms)), tuple(kept))


def _shortened(term: SteeringTerm, left: dict[int, tuple[Tensor, float]]) -> SteeringTerm:
    if all(share == 1.0 for _, share in left.values()):
        return term
    name = term.vector.name
    if not isinstance(term.vector, SteeringVector):
        raise PolicyError(f"{name!r} is no SteeringVector and cannot be orthogonalised")
    acting = {layer: both for layer, both in left.items() if both[1] > _NOTHING_LEFT}
    if not acting:
        raise PolicyError(
            f"nothing is left of vector {name!r} when it is orthogonalised: "
            "it points along the vectors before it; leave it or `orthogonalise` out"
        )
    vector = replace(
        term.vector,
        name=f"{name}-orthogonalised",
        directions={layer: after.float() for layer, (after, _) in acting.items()},
        # A relative strength counts shares of the scale along the unit direction, so the scale
        # has to shrink with the direction.
        scales={layer: term.vector.scales[layer] * share for layer, (_, share) in acting.items()},
        attributions=(),
    )
    return replace(term, vector=vector, layers=tuple(acting))


def _without(direction: Tensor, span: list[Tensor]) -> Tensor:
    """Remove the components along unit vectors that are orthogonal to each other."""
    for _ in range(2):  # once more, for what rounding left of a nearly parallel direction
        for unit in span:
            direction = direction - (direction @ unit) * unit
    return direction


def _cosine(a: Tensor, b: Tensor) -> float:
    lengths = torch.linalg.vector_norm(a.double()) * torch.linalg.vector_norm(b.double())
    return float(a.double() @ b.double() / lengths) if float(lengths) else 0.0
