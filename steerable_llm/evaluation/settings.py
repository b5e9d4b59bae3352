"""How arms are run and judged, said once for every evaluation, sweep and comparison."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.policy import Policy
from steerable_llm.runtime.ray_workers import RayWorkers

if TYPE_CHECKING:
    from steerable_llm.evaluation.arms import Subject


@dataclass(frozen=True)
class EvaluationSettings:
    """How arms are run and judged.

    Attributes:
        target: The category that is to be changed, which the verdict is about; None for that of a
            vector's calibration, or else the first of the prompts.
        budget: Largest share of a capability that may be lost, such as 0.01 for one point.
        against: What to compare with: names in `arms.ARMS`, vectors, LoRAs or other arms; None for
            the usual ones. The unsteered model is always run.
        strict_instruction: The system message of the arm `prompt`; None for the one that fits the
            target.
        random_vectors: How many random vectors, and vectors of shuffled labels, are averaged.
        max_new_tokens: Where answers are cut.
        batch_size: Rows that run together.
        seed: Of samples, random vectors and intervals.
        force: Accept a vector of another model of the same shape.
        progress: Show progress bars on the error stream.
        policy: A policy, or its file, of which a step says where arms that steer do so; None steers
            everywhere.
        step: That step.
        command: What to run to get the result again, for its report.
        workers: Copies of the model on a cluster of Ray that share the work; the result is the
            same.
    """

    target: str | None = None
    budget: float = 0.01
    against: Sequence[Subject] | None = None
    strict_instruction: str | None = None
    random_vectors: int = 3
    max_new_tokens: int = 32
    batch_size: int = 64
    seed: int = 0
    force: bool = False
    progress: bool = True
    policy: Policy | str | os.PathLike[str] | None = None
    step: str | None = None
    command: str = ""
    workers: RayWorkers | None = None

    def __post_init__(self) -> None:
        """Refuse what could only fail after the work."""
        if not 0 <= self.budget <= 1:
            raise InvalidInputError(
                f"the capability budget is {self.budget}: give a share from 0 to 1, such as 0.01 "
                "for one point"
            )
        for name in ("random_vectors", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.against is not None:
            object.__setattr__(self, "against", tuple(self.against))


#: What is taken where nothing else is said.
DEFAULTS = EvaluationSettings()


class Changes(TypedDict, total=False):
    """Settings by keyword, each a field of `EvaluationSettings`."""

    target: str | None
    budget: float
    against: Sequence[Subject] | None
    strict_instruction: str | None
    random_vectors: int
    max_new_tokens: int
    batch_size: int
    seed: int
    force: bool
    progress: bool
    policy: Policy | str | os.PathLike[str] | None
    step: str | None
    command: str
    workers: RayWorkers | None
