"""How strongly to push for a given effect: strengths by divergence instead of by length.

A strength counts shares of the hidden state's length, and equal shares of two vectors may move the
model very differently. KL(steered || unsteered) per token along the unsteered answers says how far
the next-token distribution has really moved, on any model and with any vector. `calibrate` then
chooses among strengths of which none is idle and none destroys the model.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from steerable_llm.errors import CalibrationError, InvalidInputError
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.measure import Job, answers, running
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.metrics import kl_per_token, standard_error
from steerable_llm.progress import progress_bar
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.steering import Scope, Steering, Unit
from steerable_llm.vector.vector import SteeringVector

# Trying settings on dev prompts: what is tried, how it runs, and what is kept of it.

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
        capability: Accuracy per capability category; empty where it was not run.
        loss: Accuracy lost per capability category, positive is worse.
        allowance: What a category may lose beyond the budget, where it is not the budget alone.
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
        """The worst capability category, less its allowance; 0 when none was measured."""
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
    def arm(self) -> Arm:
        """What the model is run with."""
        steering = self.vector.steer(self.strength, self.layers, self.scope, self.unit)
        return Arm(self.name, steering)


class Bench:
    """Runs candidates on prompts and remembers every answer, so that none is made twice."""

    def __init__(
        self,
        llm: HookedModel,
        dev: EvaluationSet,
        capability: EvaluationSet | None,
        max_new_tokens: int,
        batch_size: int,
        seed: int,
        guarded: Collection[str] = (),
    ) -> None:
        """Takes the prompts; of ``capability``, the categories ``guarded`` get an allowance."""
        self.llm, self.dev, self.capability, self.guarded = llm, dev, capability, guarded
        self.max_new_tokens, self.batch_size, self.seed = max_new_tokens, batch_size, seed
        self.successes: dict[tuple[int | None, str, str], float] = {}
        self.candidates: list[Candidate] = []

    def sample(self, items: EvaluationSet | None, size: int) -> list[EvaluationItem]:
        """About so many prompts, spread evenly over the categories."""
        if items is None:
            return []
        return list(items.sample(math.ceil(size / len(items.categories)), self.seed))

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
        plain = Arm("none", Steering.none())
        made = {n: plain if n is None else self.candidates[n].arm for n in numbers}
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
            loss={category: before[category] - kept[category] for category in before},
            complete=len(dev) == len(self.dev) and len(capability) == len(self.capability or ()),
            is_control=candidate.is_control,
            allowance={
                name: self.standard_error(number, [i for i in capability if i.category == name])
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
        """Accuracy per capability category."""
        categories = dict.fromkeys(item.category for item in items)
        return {
            v: self.mean(number, "cap", [i for i in items if i.category == v]) for v in categories
        }

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


PROMPTS = 24  # enough for a mean; success itself is judged on all of dev afterwards
_START: Mapping[str, float] = {"relative": 0.05, "absolute": 1.0}
_DOUBLINGS = 8
_HALVINGS = 10
_CLOSE = 0.05  # relative


class KlMeter:
    """KL(steered || unsteered) of one vector, per token along the unsteered answers."""

    def __init__(
        self,
        llm: HookedModel,
        items: Sequence[EvaluationItem],
        max_new_tokens: int = 24,
        batch_size: int = 64,
    ) -> None:
        """Answer the prompts once, unsteered.

        Args:
            llm: The model.
            items: At least one prompt.
            max_new_tokens: Where answers are cut.
            batch_size: Rows that run together.

        Raises:
            InvalidInputError: No prompts.
            PromptTooLongError: A prompt with its answer does not fit the context window.
        """
        if not items:
            raise InvalidInputError("the divergence needs at least one prompt")
        self.llm, self.max_new_tokens = llm, max_new_tokens
        order = sorted(items, key=lambda item: -len(llm.encode(item.prompt)))
        self.chunks = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        self.answers: list[list[list[int]]] = []
        self.before: list[list[Tensor | None]] = []
        for chunk in self.chunks:
            jobs, prompts = self._jobs(chunk, Steering.none())
            with running(llm, jobs, prompts, max_new_tokens) as batch:
                self.answers.append(batch.greedy(max_new_tokens))
                self.before.append(batch.forced(self.answers[-1]))

    def __call__(self, steering: Steering) -> float:
        """Mean over the prompts, in nats per token."""
        found = []
        for chunk, replies, before in zip(self.chunks, self.answers, self.before, strict=True):
            jobs, prompts = self._jobs(chunk, steering)
            with running(self.llm, jobs, prompts, self.max_new_tokens) as batch:
                after = batch.forced(replies)
            found += [
                kl_per_token(a, b)
                for a, b in zip(after, before, strict=True)
                if a is not None and b is not None
            ]
        if not found:
            raise CalibrationError(
                "the unsteered model answers none of the prompts: there is nothing to compare along"
            )
        return sum(found) / len(found)

    def _jobs(
        self, chunk: Sequence[EvaluationItem], steering: Steering
    ) -> tuple[list[Job], list[list[int]]]:
        jobs = [Job(Arm("steered", steering), item) for item in chunk]
        return jobs, [self.llm.encode(item.prompt) for item in chunk]


def strength_for_kl(
    meter: KlMeter,
    vector: SteeringVector,
    kl: float,
    scope: Scope | None = None,
    layers: tuple[int, ...] | None = None,
    unit: Unit | None = None,
) -> float:
    """Find the positive strength at which a vector has this divergence, by doubling and halving.

    Args:
        meter: Has answered the prompts.
        vector: The vector; its calibration, if any, gives what is left out.
        kl: In nats per token, above 0.
        scope: Which positions are steered.
        layers: Which blocks.
        unit: Of the strength.

    Returns:
        The strength, within 5 % of the divergence where that grows smoothly.

    Raises:
        InvalidInputError: A divergence that is not above 0.
        CalibrationError: No strength up to 256 times the usual reaches it.
    """
    if not (math.isfinite(kl) and kl > 0):
        raise InvalidInputError(f"the divergence must be above 0 nats per token, not {kl:g}")
    counted = unit or (vector.calibration or vector.application).unit

    def reached(strength: float) -> float:
        return meter(vector.steer(strength, layers, scope, unit))

    high = _START[counted]
    for _ in range(_DOUBLINGS):
        if (most := reached(high)) >= kl:
            break
        high *= 2
    else:
        raise CalibrationError(
            f"vector {vector.name!r} moves the model by at most {most:.3g} nats per token, even at "
            f"strength {high / 2:g}, and not by {kl:g}: ask for a smaller divergence"
        )
    low = high / 2**_HALVINGS
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        found = reached(middle)
        if abs(found - kl) <= _CLOSE * kl:
            return middle
        low, high = (middle, high) if found < kl else (low, middle)
    return math.sqrt(low * high)


def strengths_for_kl(
    llm: HookedModel,
    vector: SteeringVector,
    dev: EvaluationSet,
    kls: Sequence[float],
    sweep: Mapping[str, Any],
) -> tuple[float, ...]:
    """Strengths for `calibrate`: one per divergence and scope.

    Of a method that steers one block at a time, the divergences are those in the middle one.

    Args:
        llm: The model.
        vector: The vector.
        dev: Prompts of dev; a sample of them is used.
        kls: Divergences in nats per token.
        sweep: What `build.sweep_of` gives for the vector.

    Raises:
        InvalidInputError: A divergence that is not above 0.
        CalibrationError: One that no strength reaches.
    """
    meter = KlMeter(llm, list(dev.sample(math.ceil(PROMPTS / len(dev.categories)))))
    subsets = sweep.get("layers", (None,))
    layers = subsets[len(subsets) // 2]
    found = {
        float(f"{strength_for_kl(meter, vector, kl, scope, layers, sweep.get('unit')):.3g}")
        for kl in kls
        for scope in sweep.get("scopes", ("generated", "all"))
    }
    return tuple(sorted(found))
