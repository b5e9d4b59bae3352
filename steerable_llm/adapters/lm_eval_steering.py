"""What steers a model in the harness, from arguments as its command line gives them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from steerable_llm.errors import InvalidInputError
from steerable_llm.model.hooked_model import SteerableHFLLM
from steerable_llm.policy.policy import Policy
from steerable_llm.steering import Steering
from steerable_llm.vector import SteeringVector

_log = logging.getLogger(__name__)


def steering_from(
    llm: SteerableHFLLM,
    vector: str | Sequence[str],
    strength: float | Sequence[float] | None,
    scope: str | None,
    layers: Sequence[int] | int | None,
    unit: str | None,
    policy: str | None,
    step: str | None,
    force: bool,
) -> Steering:
    """Add up vectors, or look a policy's step up; nothing given steers nothing.

    Raises:
        InvalidInputError: Vectors and a policy together, settings without a vector, a step
            without a policy, or not one strength per vector.
        PolicyError: The policy file is wrong, or has no such step.
        ModelMismatchError: A vector was built for another model.
    """
    files = [vector] if isinstance(vector, str) else [str(file) for file in vector]
    settings: dict[str, Any] = {
        "strength": strength, "scope": scope, "layers": layers, "unit": unit,
    }  # fmt: skip
    given = [name for name, value in settings.items() if value is not None]
    if given and not files:
        raise InvalidInputError(f"{given[0]} is given without a vector: add vector=FILE")
    if step is not None and policy is None:
        raise InvalidInputError(f"step={step} is given without a policy: add policy=FILE")
    if policy is not None:
        if files:
            raise InvalidInputError("give vectors or a policy, not both: a policy names its own")
        # The harness reads a step called 1 as a number.
        return _of_policy(llm, policy, None if step is None else str(step), force)
    strengths = list(strength) if isinstance(strength, Sequence) else [strength] * len(files)
    if len(strengths) != len(files):
        raise InvalidInputError(
            f"{len(strengths)} strengths for {len(files)} vectors: give one for all, or one each"
        )
    if isinstance(layers, int):
        layers = [layers]
    total = Steering.none()
    for file, own in zip(files, strengths, strict=True):
        loaded = SteeringVector.load(file, model=llm, force=force)
        total = total + loaded.steer(
            own,
            layers=None if layers is None else tuple(layers),
            scope=scope,  # type: ignore[arg-type]  # refused by the term if it is unknown
            unit=unit,  # type: ignore[arg-type]
        )
    return total


def _of_policy(llm: SteerableHFLLM, path: str, step: str | None, force: bool) -> Steering:
    policy = Policy.load(path)
    policy.check(llm.fingerprint, force=force)
    name = policy.step_for(step)
    if name is None:
        raise InvalidInputError(
            f"{path} has no default step: say which one steers, step=NAME, of "
            f"{', '.join(policy.steps)}"
        )
    if policy.off:
        _log.warning("the policy steers nothing: %s", policy.off)
    return policy.steering_for(name)
