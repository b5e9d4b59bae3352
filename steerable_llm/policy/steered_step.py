"""One step of a policy with its vectors looked up, and the conditions on which they steer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from steerable_llm.errors import InvalidInputError, PolicyError
from steerable_llm.policy.composition import orthogonalise
from steerable_llm.policy.policy_file import Step, VectorUse, When
from steerable_llm.steering import Steering, SteeringTerm
from steerable_llm.vector import SteeringVector


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
