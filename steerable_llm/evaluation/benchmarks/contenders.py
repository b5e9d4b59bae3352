"""Which vectors run at which strengths, and under which controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from steerable_llm.errors import InvalidInputError, unknown
from steerable_llm.evaluation.arms import ARMS, Arm, Setting, arms
from steerable_llm.evaluation.benchmarks.benchmark import Benchmark
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.vector import SteeringVector

#: Arms that are made from a vector; the others are the same for all vectors.
OF_A_VECTOR = ("steered", "random", "sign_flipped")


def contenders_of(
    vectors: Sequence[SteeringVector], strengths: Sequence[float] | None
) -> dict[str, SteeringVector]:
    """The vectors at their strengths, by the labels that a report calls them.

    One alone is "steered". Several are called by their names, with the strength where each is
    run at more than one.

    Raises:
        InvalidInputError: No vector, one without a strength, or two of one label.
    """
    if not vectors:
        raise InvalidInputError("a benchmark needs a vector to steer with: give at least one")
    found: dict[str, SteeringVector] = {}
    alone = len(vectors) * max(1, len(strengths or ())) == 1
    wanted: Sequence[float | None] = strengths or [None]
    for vector in vectors:
        for strength in wanted:
            set_to = vector if strength is None else _at_strength(vector, strength)
            if set_to.calibration is None:
                raise InvalidInputError(
                    f"vector {vector.name!r} is not calibrated: give a strength, such as 0.05"
                )
            many = len(strengths or ()) > 1
            label = f"{vector.name} {set_to.calibration.strength:+g}" if many else vector.name
            label = "steered" if alone else label
            if label in found or (not alone and label in (*OF_A_VECTOR, "none")):
                raise InvalidInputError(
                    f"two vectors or strengths are called {label!r}: give each its own name"
                )
            found[label] = set_to
    return found


def _at_strength(vector: SteeringVector, strength: float) -> SteeringVector:
    how = vector.application
    own = vector.calibration or Calibration(
        strength=strength, scope=how.scope, unit=how.unit, renormalise=how.renormalise
    )
    return vector.with_calibration(replace(own, strength=strength, remark="strength given by hand"))


def benchmark_arms(
    benchmark: Benchmark,
    contenders: Mapping[str, SteeringVector],
    against: Sequence[str],
    setting: Setting,
) -> list[Arm]:
    """The unsteered model, each contender with its controls, then what needs no vector.

    Args:
        benchmark: Says whether it has a strict instruction.
        contenders: As `contenders_of` makes them.
        against: Names of arms.
        setting: What arms are made from; its vector is that of those without one.

    Raises:
        InvalidInputError: An unknown arm, or `prompt` where there is no instruction.
    """
    for name in against:
        if name not in ARMS:
            raise InvalidInputError(unknown("arm", name, ARMS))
    if "prompt" in against and benchmark.strict_instruction is None:
        raise InvalidInputError(
            f"{benchmark.name} has no strict instruction: leave the arm 'prompt' out"
        )
    controls = [name for name in against if name in OF_A_VECTOR]
    found: list[Arm] = []
    for label, vector in contenders.items():
        for arm in arms(replace(setting, vector=vector), controls):
            if arm.name != "none":
                found.append(replace(arm, name=_called(label, arm.name)))
    shared = arms(setting, [name for name in against if name not in OF_A_VECTOR])
    none, *others = [arm for arm in shared if arm.name != "steered"]
    return [none, *found, *others]


def _called(label: str, kind: str) -> str:
    if label == "steered":
        return kind
    return label if kind == "steered" else f"{label}: {kind}"
