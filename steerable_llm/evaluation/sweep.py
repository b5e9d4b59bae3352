"""Trying settings on dev prompts: what is tried, how it runs, and what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from steerable_llm.evaluation.conditions import Condition
from steerable_llm.evaluation.outcomes import Job, answers
from steerable_llm.evaluation_set import EvaluationItem, EvaluationSet
from steerable_llm.metrics import standard_error
from steerable_llm.model.hooked_model import SteerableHFLLM
from steerable_llm.progress import progress_bar
from steerable_llm.steering import Scope, Steering, Unit
from steerable_llm.vector import SteeringVector

CONTROL = "random (control)"


@dataclass(frozen=True)
class CalibrationRow:
    """One setting that was tried.

    Attributes:
        vector: Which of the candidates.
        strength: Signed.
        scope: Which positions were steered.
        layers: Which blocks; None means all the vector has.
        prompts: How many dev prompts it was run on; all of them for those that could be chosen.
        success: Mean success on these.
        unsteered: Mean success of the unsteered model on the same prompts.
        capability: Accuracy per capability variant; empty where it was not run.
        loss: Accuracy lost per capability variant, positive is worse.
        allowance: What a variant may lose beyond the budget, where it is not the budget alone.
        complete: Whether it was run on all of dev and of capability.
        is_control: Whether it is a random vector, there for the picture and never chosen.
    """

    vector: str
    strength: float
    scope: Scope
    layers: tuple[int, ...] | None
    prompts: int
    success: float
    unsteered: float
    capability: Mapping[str, float]
    loss: Mapping[str, float]
    complete: bool
    is_control: bool = False
    allowance: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Vector, scope and layers: what one line of the sweep picture stands for."""
        if self.is_control:
            return CONTROL
        which = "all layers" if self.layers is None else f"layers {_ranges(self.layers)}"
        return f"{self.vector}, {self.scope}, {which}"

    @property
    def largest_loss(self) -> float:
        """The worst capability variant, less its allowance; 0 when none was measured."""
        losses = (loss - self.allowance.get(name, 0.0) for name, loss in self.loss.items())
        return max(losses, default=0.0)


@dataclass(frozen=True)
class Candidate:
    """One setting, before it was tried. The vector brings no calibration of its own."""

    name: str
    vector: SteeringVector
    strength: float
    scope: Scope
    layers: tuple[int, ...] | None
    unit: Unit
    is_control: bool = False

    @property
    def condition(self) -> Condition:
        """What the model is run with."""
        steering = self.vector.steer(self.strength, self.layers, self.scope, self.unit)
        return Condition(self.name, steering)


class Bench:
    """Runs candidates on prompts and remembers every answer, so that none is made twice."""

    def __init__(
        self,
        llm: SteerableHFLLM,
        dev: EvaluationSet,
        capability: EvaluationSet | None,
        max_new_tokens: int,
        batch_size: int,
        seed: int,
        guarded: Collection[str] = (),
    ) -> None:
        """Takes the prompts; of ``capability``, the variants ``guarded`` get an allowance."""
        self.llm, self.dev, self.capability, self.guarded = llm, dev, capability, guarded
        self.max_new_tokens, self.batch_size, self.seed = max_new_tokens, batch_size, seed
        self.successes: dict[tuple[int | None, str, str], float] = {}
        self.candidates: list[Candidate] = []

    def sample(self, items: EvaluationSet | None, size: int) -> list[EvaluationItem]:
        """About so many prompts, spread evenly over the variants."""
        if items is None:
            return []
        return list(items.sample(math.ceil(size / len(items.variants)), self.seed))

    def run(self, numbers: Sequence[int | None], size: int, show: bool, title: str) -> None:
        """Answers what is still missing; candidate None is the unsteered model."""
        sides = {"dev": self.sample(self.dev, size), "cap": self.sample(self.capability, size)}
        missing = [
            (number, side, item)
            for number in numbers
            for side, items in sides.items()
            for item in items
            if (number, side, item.id) not in self.successes
        ]
        if not missing:
            return  # no bar of nothing
        plain = Condition("none", Steering.none())
        made = {n: plain if n is None else self.candidates[n].condition for n in numbers}
        jobs = [Job(made[number], item) for number, _, item in missing]
        with progress_bar(title, len(jobs), show) as advance:
            found = answers(self.llm, jobs, self.max_new_tokens, self.batch_size, advance)
        for (number, side, item), answer in zip(missing, found, strict=True):
            self.successes[number, side, item.id] = float(item.succeeds(answer))

    def row(self, number: int, size: int) -> CalibrationRow:
        """What is known of a candidate from samples of this size."""
        candidate = self.candidates[number]
        dev, capability = self.sample(self.dev, size), self.sample(self.capability, size)
        kept = self.accuracies(number, capability)
        before = self.accuracies(None, capability)
        return CalibrationRow(
            vector=candidate.name,
            strength=candidate.strength,
            scope=candidate.scope,
            layers=candidate.layers,
            prompts=len(dev),
            success=self.mean(number, "dev", dev),
            unsteered=self.mean(None, "dev", dev),
            capability=kept,
            loss={variant: before[variant] - kept[variant] for variant in before},
            complete=len(dev) == len(self.dev) and len(capability) == len(self.capability or ()),
            is_control=candidate.is_control,
            allowance={
                name: self.standard_error(number, [i for i in capability if i.variant == name])
                for name in self.guarded
            },
        )

    def standard_error(self, number: int, items: Sequence[EvaluationItem]) -> float:
        """Of the mean change against the unsteered model, paired by prompt."""
        after, before = (
            [self.successes[which, "cap", item.id] for item in items] for which in (number, None)
        )
        return standard_error(after, before)

    def accuracies(self, number: int | None, items: Sequence[EvaluationItem]) -> dict[str, float]:
        """Accuracy per capability variant."""
        variants = dict.fromkeys(item.variant for item in items)
        return {v: self.mean(number, "cap", [i for i in items if i.variant == v]) for v in variants}

    def mean(self, number: int | None, side: str, items: Sequence[EvaluationItem]) -> float:
        """Mean success on these prompts."""
        return sum(self.successes[number, side, item.id] for item in items) / len(items)


def rank(row: CalibrationRow, budget: float) -> tuple[bool, float, float]:
    """Sorts the best first: within the budget, then success, then the smaller strength."""
    return (row.largest_loss > budget + 1e-9, -round(row.success, 9), abs(row.strength))


def _ranges(layers: Sequence[int]) -> str:
    """0, 1, 2, 5 as "0-2, 5"."""
    parts: list[list[int]] = []
    for layer in sorted(layers):
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
