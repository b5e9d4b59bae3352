"""Arms on dev: what is run of each, what is remembered, and which of them may be chosen.

Strengths of a vector, the alpha of a decoding method and the learning rate of a LoRA are chosen by
one rule: by the success on dev, among those that lose no more of a capability than the budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import UNSTEERED, Arm
from steerable_llm.evaluation.conditions import Conditions
from steerable_llm.evaluation.measure import answers
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet, check_judged
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.metrics import standard_error
from steerable_llm.progress import progress_bar
from steerable_llm.reports import numbers
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.steering import Scope
from steerable_llm.vector.vector import SteeringVector

CONTROL = "random (control)"


@dataclass(frozen=True)
class DevRow:
    """How one arm did on dev.

    Attributes:
        arm: Which.
        prompts: How many dev prompts it was run on; all of them for those that could be chosen.
        success: Mean success on these.
        unsteered: Mean success of the unsteered model on the same prompts.
        capability: Accuracy per capability category; empty where it was not run.
        loss: Accuracy lost per capability category, positive is worse.
        complete: Whether it was run on all of dev and of capability.
        strength: Signed; 0 for an arm that does not steer.
        scope: Which positions were steered; None for an arm that does not steer.
        layers: Which blocks; None means all the vector has.
        is_control: Whether it is a random vector, there for the picture and never chosen.
        allowance: What a category may lose beyond the budget, where it is not the budget alone.
        kl: The divergence in nats per token that the strength was chosen for; None where it was
            given.
    """

    arm: str
    prompts: int
    success: float
    unsteered: float
    capability: Mapping[str, float]
    loss: Mapping[str, float]
    complete: bool
    strength: float = 0.0
    scope: Scope | None = None
    layers: tuple[int, ...] | None = None
    is_control: bool = False
    allowance: Mapping[str, float] = field(default_factory=dict)
    kl: float | None = None

    @property
    def push(self) -> float:
        """How far it pushes: its divergence where there is one, else the size of its strength."""
        return abs(self.strength) if self.kl is None else self.kl

    @property
    def label(self) -> str:
        """Arm, scope and layers: what one line of the sweep picture stands for."""
        if self.is_control:
            return CONTROL
        if self.scope is None:
            return self.arm
        which = "all layers" if self.layers is None else f"layers {numbers.ranges(self.layers)}"
        return f"{self.arm}, {self.scope}, {which}"

    @property
    def setting(self) -> str:
        """The label, with the strength of what steers."""
        return self.label if self.scope is None else f"{self.label}, strength {self.strength:+g}"

    @property
    def largest_loss(self) -> float:
        """The worst capability category, less its allowance; 0 when none was measured."""
        losses = (loss - self.allowance.get(name, 0.0) for name, loss in self.loss.items())
        return max(losses, default=0.0)

    def within(self, budget: float) -> bool:
        """Return whether it loses no more than the budget."""
        return self.largest_loss <= budget + 1e-9


class Bench:
    """Run arms on dev and remember every answer, so that none is made twice.

    The first arm is the unsteered model; others are appended to `arms` and called by their place,
    under which `divergences` has what their strengths were chosen for.
    """

    def __init__(
        self,
        llm: HookedModel,
        dev: EvaluationSet,
        capability: EvaluationSet | None,
        settings: EvaluationSettings,
        vector: SteeringVector | None = None,
    ) -> None:
        """Take the prompts, of which those with the target decide where the settings name one.

        The other categories of dev are then held to the budget beside the capability, give or take
        one standard error of their change (they are fewer). Under a step of a policy, prompts get
        what its conditions leave them of the strength, for this vector where it has its own.

        Raises:
            InvalidInputError: A prompt that cannot be judged by value, a category in both sets, a
                target that dev does not have, or a step that steers none of dev.
        """
        for items in (dev, capability):
            for item in items or ():
                if not item.has_verdict:
                    raise InvalidInputError(
                        f"item {item.id!r} of {items.name if items else ''!r} has no accept or "
                        "reject phrases, so a steered answer to it cannot be judged; add some or "
                        "leave it out"
                    )
        check_judged(dev, capability)
        self.llm, self.settings = llm, settings
        self.guarded: tuple[str, ...] = ()
        self.dev, self.capability = dev, capability
        if settings.target is not None:
            self.dev = dev.category(settings.target)
            rest = [item for item in dev if item.category != settings.target]
            if rest:
                others = _renamed(capability, rest) if capability else []
                name = f"{capability.name} and {dev.name}" if capability else dev.name
                self.capability = EvaluationSet(name, [*others, *rest])
                self.guarded = tuple(c for c in dev.categories if c != settings.target)
        self.arms = [UNSTEERED]
        self.divergences: dict[int, float] = {}
        self._successes: dict[tuple[int, str, str], float] = {}
        self._shares: dict[tuple[str, str], float] = {}
        conditions = Conditions.of(settings, vector)
        for side, given in (("dev", self.dev), ("kept", self.capability)):
            if conditions is not None and given is not None:
                shares = conditions.shares(llm, list(given))
                self._shares |= {
                    (side, item.id): share for item, share in zip(given, shares, strict=True)
                }
        if self._shares and not any(self.share("dev", item) for item in self.dev):
            raise InvalidInputError(
                f"the conditions of step {settings.step!r} hold for none of the prompts of "
                f"{self.dev.name!r}, so the step would steer none of them: give prompts that it is "
                "for"
            )

    @property
    def whole(self) -> int:
        """The prompts of the larger of both sets."""
        return max(len(self.dev), len(self.capability or ()))

    @property
    def everything(self) -> int:
        """A sample size that takes all: samples are spread over categories of unequal sizes."""
        categories = len(self.capability.categories) if self.capability else 1
        return self.whole * max(len(self.dev.categories), categories)

    def run(self, places: Sequence[int], size: int, title: str) -> dict[int, DevRow]:
        """Return how arms do on samples of a size; only what is still missing is run."""
        sides = {"dev": self._sample(self.dev, size), "kept": self._sample(self.capability, size)}
        missing = [
            (self.arms[place].at(self.share(side, item)), place, side, item)
            for place in dict.fromkeys((0, *places))
            for side, items in sides.items()
            for item in items
            if (place, side, item.id) not in self._successes
        ]
        # What conditions leave unsteered answers as the unsteered model does.
        asked = [row for row in missing if row[1] == 0 or _acts(row[0])]
        if asked:  # no bar of nothing
            how = self.settings
            prompts = [(arm, item) for arm, _, _, item in asked]
            with progress_bar(title, len(asked), how.progress) as advance:
                found = answers(self.llm, prompts, how.max_new_tokens, how.batch_size, advance)
            for (_, place, side, item), answer in zip(asked, found, strict=True):
                self._successes[place, side, item.id] = float(item.succeeds(answer))
        for _, place, side, item in missing:
            unsteered = self._successes[0, side, item.id]
            self._successes.setdefault((place, side, item.id), unsteered)
        return {place: self._row(place, sides["dev"], sides["kept"]) for place in places}

    def share(self, side: str, item: EvaluationItem) -> float:
        """What of its strength an arm has on a prompt of "dev" or of what is to be "kept"."""
        return self._shares.get((side, item.id), 1.0)

    def steers(self, item: EvaluationItem) -> bool:
        """Whether an arm has any of its strength on a prompt of dev, target or not."""
        kept = self.share("kept", item)
        return self._shares.get(("dev", item.id), kept) > 0

    def _sample(self, items: EvaluationSet | None, size: int) -> list[EvaluationItem]:
        """About so many prompts, spread evenly over the categories."""
        if items is None:
            return []
        return list(items.sample(math.ceil(size / len(items.categories)), self.settings.seed))

    def _row(
        self, place: int, dev: Sequence[EvaluationItem], kept: Sequence[EvaluationItem]
    ) -> DevRow:
        arm = self.arms[place]
        after, before = (self._by_category(which, kept) for which in (place, 0))
        right, unsteered = (
            fmean(self._successes[which, "dev", item.id] for item in dev) for which in (place, 0)
        )
        term = next(iter(arm.steering.terms), None)
        return DevRow(
            arm=arm.name,
            prompts=len(dev),
            success=right,
            unsteered=unsteered,
            capability={name: fmean(values) for name, values in after.items()},
            loss={name: fmean(before[name]) - fmean(after[name]) for name in before},
            complete=len(dev) == len(self.dev) and len(kept) == len(self.capability or ()),
            strength=term.strength if term else 0.0,
            scope=term.scope if term else None,
            layers=term.layers if term else None,
            is_control=arm.name == CONTROL,
            allowance={
                name: standard_error(after[name], before[name])
                for name in self.guarded
                if name in after
            },
            kl=self.divergences.get(place),
        )

    def _by_category(self, place: int, items: Sequence[EvaluationItem]) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for item in items:
            right = self._successes[place, "kept", item.id]
            found.setdefault(item.category, []).append(right)
        return found


def _renamed(items: EvaluationSet, others: Sequence[EvaluationItem]) -> list[EvaluationItem]:
    """Items with other ids where items of another set have theirs."""
    taken = {item.id for item in others}
    return [
        item.model_copy(update={"id": f"{items.name}/{item.id}"}) if item.id in taken else item
        for item in items
    ]


def _acts(arm: Arm) -> bool:
    return arm != replace(UNSTEERED, name=arm.name)


def choose(bench: Bench, arms: Mapping[str, Arm]) -> tuple[str, DevRow]:
    """Return which arm has most success on dev among those within the budget, and how it did.

    All are run on everything, and called by what tells them apart.

    Raises:
        InvalidInputError: None of them is within the budget.
    """
    start = len(bench.arms)
    bench.arms += arms.values()
    places = range(start, len(bench.arms))
    title = f"{next(iter(arms.values())).name} on {bench.dev.name}"
    rows = bench.run(places, bench.everything, title)
    budget = bench.settings.budget
    fit = [place for place in places if rows[place].within(budget)]
    labels = dict(zip(places, arms, strict=True))
    if not fit:
        least = min(places, key=lambda place: rows[place].largest_loss)
        raise InvalidInputError(
            f"no setting keeps within a capability budget of {numbers.points(budget, None)} on "
            f"dev: {labels[least]} loses least, {numbers.points(rows[least].largest_loss)}"
        )
    best = max(fit, key=lambda place: rows[place].success)
    return labels[best], rows[best]


def rank(row: DevRow, budget: float) -> tuple[bool, float, float]:
    """Sort the best first: within the budget, then success, then the gentler push."""
    return (not row.within(budget), -round(row.success, 9), row.push)
