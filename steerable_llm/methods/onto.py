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
    vectors: Sequence[SteeringVector],
    scope: Scope,
    renormalise: bool,
    gated: bool,
    decision_tokens: int = 0,
) -> Steering:
    """Return how vectors steer, as calibrated, while another is trained.

    Args:
        vectors: The others; none is no steering.
        scope: Of the one that is trained.
        renormalise: Its norm rule.
        gated: Whether it has gates.
        decision_tokens: How far it reaches where the scope is `decision`.

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
        if scope == "decision" and term.reach != decision_tokens:
            raise InvalidInputError(
                f"vector {term.vector.name!r} cannot be trained onto: it steers {term.reach} "
                f"generated tokens, up to where its own answers part, and the new one "
                f'{decision_tokens}, so that one vector cannot hold both; give scope="generated"'
            )
        if weighs and not gated:
            raise InvalidInputError(
                f"vector {term.vector.name!r} has gates, so a vector onto it has some, too: give "
                "gated=True"
            )
    return Steering(tuple(terms))


def seen_by(vectors: Sequence[SteeringVector]) -> tuple[str, ...] | None:
    """Return the hashes of all prompts that vectors were built and calibrated on.

    Returns:
        They; None where one of them did not write its prompts down.
    """
    records: list[tuple[str, ...] | None] = []
    for vector in vectors:
        records.append(vector.provenance.seen)
        records += [used.seen for used in (vector.calibration.used if vector.calibration else ())]
    known = [record for record in records if record is not None]
    return tuple(h for record in known for h in record) if len(known) == len(records) else None


def check_unchanged(vectors: Sequence[SteeringVector], recorded: Mapping[str, str]) -> None:
    """Make sure that the files that a vector was trained onto hold what they held then.

    Args:
        vectors: As read now.
        recorded: What the vector's facts say of them (`described`).

    Raises:
        InvalidInputError: Another vector, or another strength.
    """
    if (now := described(vectors)) != recorded:
        raise InvalidInputError(
            f"the vector was trained onto {recorded or 'none'}, and the files that its settings "
            f"name hold {now} by now: put those of then back, or leave the control 'shuffled' out"
        )


def described(vectors: Sequence[SteeringVector]) -> dict[str, str]:
    """Return by name what vectors are and how strongly they steer, for a record."""
    terms = [term for vector in vectors for term in vector.steer().active_terms]
    return {term.vector.name: f"{_fingerprint(term)} at {term.strength:+g}" for term in terms}


def _fingerprint(term: SteeringTerm) -> str:
    return getattr(term.vector, "fingerprint_id", "")


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
