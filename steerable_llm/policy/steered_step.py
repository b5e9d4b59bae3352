"""One step of a policy with its vectors looked up, and the conditions on which they steer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from steerable_llm.errors import InvalidInputError, PolicyError
from steerable_llm.policy.file import Step, VectorUse, When
from steerable_llm.vector.steering import Steering, SteeringTerm
from steerable_llm.vector.vector import SteeringVector

# Several vectors on one request: how they relate, and how to keep them apart.

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


@dataclass(frozen=True)
class SteeredStep:
    """A step with its vectors looked up.

    Attributes:
        terms: what steers it, each with the conditions on which it does.
        steer_structured: whether tool calls and JSON are steered, too.
        kept: for an orthogonalised step, per vector and block the share of its length that is
            left.
    """

    terms: tuple[tuple[SteeringTerm, When], ...] = ()
    steer_structured: bool = False
    kept: tuple[tuple[str, Mapping[int, float]], ...] = ()

    @property
    def steering(self) -> Steering:
        """Everything that can steer it, as if all conditions held."""
        return Steering(tuple(term for term, _ in self.terms))


def look_up(
    step: Step, name: str, find: Callable[[str], SteeringVector], source: str
) -> SteeredStep:
    """Look up a step's vectors and make its steering.

    Args:
        step: what the file says, inheritance resolved.
        name: the step's name, for messages.
        find: from a vector's name to the vector.
        source: what error messages call the file.

    Raises:
        PolicyError: a vector lacks a layer, or is not calibrated and has no strength; or
            orthogonalising leaves nothing of one.
    """
    steering = Steering.none()
    for use in step.vectors:
        steering = steering + _steer(find(use.name), use, source, name)
    kept: tuple[tuple[str, Mapping[int, float]], ...] = ()
    if step.orthogonalise:
        try:
            apart = orthogonalise(steering)
        except PolicyError as error:
            raise PolicyError(f"{source}: step {name!r}: {error}") from error
        steering, kept = apart.steering, apart.kept
    conditions = [use.when.over(step.when) for use in step.vectors]
    terms = tuple(zip(steering.terms, conditions, strict=True))
    return SteeredStep(terms, step.steer_structured, kept)


def _steer(vector: SteeringVector, use: VectorUse, source: str, step: str) -> Steering:
    missing = sorted(set(use.layers or ()) - set(vector.directions))
    if missing:
        raise PolicyError(
            f"{source}: step {step!r} steers layers {missing} with vector {use.name!r}, "
            f"which has layers {sorted(vector.directions)}"
        )
    try:
        return vector.steer(strength=use.strength, layers=use.layers, scope=use.scope)
    except InvalidInputError as error:
        raise PolicyError(f"{source}: step {step!r}: {error}") from error


def describe(steering: Steering) -> list[dict[str, Any]]:
    """Return all that tells two steerings apart, in plain values for a cache key or a hash."""
    return [
        {
            "vector": f"{term.vector.name}@{term.vector.fingerprint_id}",
            "strength": term.strength,
            "layers": None if term.layers is None else list(term.layers),
            "scope": term.scope,
            "unit": term.unit,
            "renormalise": term.renormalise,
        }
        for term in steering.terms
    ]


def describe_step(steered: SteeredStep, step: Step) -> dict[str, Any]:
    """Return all that a step decides, in plain values for a hash."""
    conditions = [when.model_dump(by_alias=True) for _, when in steered.terms]
    return {
        "vectors": describe(steered.steering),
        "when": conditions,
        "steer_structured": steered.steer_structured,
        # A rule's patterns are tried together, so their order decides nothing.
        "match": {kind: sorted(patterns) for kind, patterns in step.match},
    }
