"""Choosing vector, sign, strength, scope and layers on dev data, under a capability budget.

The equations leave the size of a steering open, and even its sign. Both are settled here, by
answering dev prompts, and only there: the test prompts are for `evaluate`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from steerable_llm.errors import CalibrationError, InvalidInputError
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.evaluation.sweep import Bench, CalibrationRow, Candidate, rank
from steerable_llm.evaluation.verdict import check_budget
from steerable_llm.files import write_whole
from steerable_llm.reports import numbers
from steerable_llm.reports.figures import sweep_figure
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Callout, Table, numeric
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.calibration import Calibration, Choice, DataUsed
from steerable_llm.vector.seen import hashes_of, kept
from steerable_llm.vector.steering import Scope, Unit
from steerable_llm.vector.vector import SteeringVector

#: Magnitudes in units of the residual norm; each is tried with both signs.
STRENGTHS = (0.02, 0.03, 0.05, 0.08, 0.1, 0.12)
_FIRST_SAMPLE = 24  # prompts of dev, and of capability, that every setting is tried on
_KEEP = 1 / 4  # share of the settings that survives a round of halving
_FEWEST_POSITIONS: tuple[Scope, ...] = ("last_prompt", "generated", "prompt", "all")
_FINALISTS = 8  # settings that are run on all of dev


@dataclass(frozen=True)
class CalibrationResult:
    """What a sweep found.

    Attributes:
        vector: The chosen candidate with its calibration.
        best: The chosen setting.
        rows: Every setting that was tried.
        unsteered: Mean success on dev without steering.
        unsteered_capability: Accuracy per capability category without steering.
        budget: Largest share of a capability that may be lost.
    """

    vector: SteeringVector
    best: CalibrationRow
    rows: tuple[CalibrationRow, ...]
    unsteered: float
    unsteered_capability: Mapping[str, float]
    budget: float

    def picture(self) -> bytes:
        """Draw what was run on all of dev, and the control (PNG)."""
        shown = [row for row in self.rows if row.complete]
        return sweep_figure(
            shown, self.unsteered, self.unsteered_capability, self.budget, self.best
        )

    def figure(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture as a PNG."""
        return write_whole(path, self.picture())

    def table(self) -> Page:
        """The settings that were run on all of dev, best first, for a console."""
        complete = [row for row in self.rows if row.complete]
        ranked = sorted(complete, key=lambda row: rank(row, self.budget))
        kept = list(self.unsteered_capability)
        lost = [f"{name.replace('_', ' ')} lost" for name in kept]
        return Page(
            f"sweep on dev; unsteered {numbers.percent(self.unsteered)}",
            [
                Table(
                    ["vector, scope, layers", *numeric("strength", "success", *lost)],
                    [
                        [
                            row.label,
                            f"{row.strength:+g}",
                            numbers.percent(row.success),
                            *(
                                numbers.signed_points(row.loss[v])
                                for v in self.unsteered_capability
                            ),
                        ]
                        for row in ranked
                    ],
                    strong=[i for i, row in enumerate(ranked) if row == self.best],
                    faint=[i for i, row in enumerate(ranked) if row.is_control],
                ),
                Callout(f"chosen: {self.best.label}, strength {self.best.strength:+g}"),
            ],
        )


def calibrate(
    llm: HookedModel,
    vectors: Mapping[str, SteeringVector] | SteeringVector,
    dev: EvaluationSet,
    capability: EvaluationSet | None = None,
    strengths: Sequence[float] = STRENGTHS,
    scopes: Sequence[Scope] = ("generated", "all"),
    layers: Sequence[tuple[int, ...] | None] = (None,),
    budget: float = 0.01,
    *,
    target: str | None = None,
    unit: Unit = "relative",
    max_new_tokens: int = 24,
    batch_size: int = 64,
    seed: int = 0,
    controls: bool = True,
    force: bool = False,
    progress: bool = True,
) -> CalibrationResult:
    """Finds the setting with the highest mean success on dev that stays within the budget.

    Every candidate vector is tried at every strength with both signs, every scope and every layer
    subset, by successive halving (Jamieson and Talwalkar 2016): all settings on a small sample
    of the prompts, spread over the categories, then the better quarter on twice as many, and so on;
    the last eight on all of dev. A sample is too coarse for a budget of one point, so there one
    prompt more may be lost. Then every strength of the winner's vector, scope and layers is run
    on all of dev (the sweep picture), with a random vector beside it. Only settings that were run
    on everything can be chosen, and of those within one standard error of the best the gentlest is:
    the one that steers the fewest positions, then the one of least strength. Where no finalist
    keeps within the budget, every setting that did any good on its sample is run on everything
    before the sweep gives up.

    Args:
        llm: The model.
        vectors: Candidates by name, such as one per aggregation, or a single vector.
        dev: Prompts with accept or reject phrases; success is the mean over all of them.
        capability: Prompts for the budget, which holds for each of its categories separately.
        strengths: Magnitudes; each is tried with both signs.
        scopes: Which positions to try.
        layers: Layer subsets to try; None is every layer that the vector has.
        budget: Largest share of a capability that may be lost on dev.
        target: The category of dev that the vector is meant to change. Success is then the mean
            over it alone, and the other categories of dev are held to the budget, too, give or take
            one standard error of their change (they are fewer): a setting that mends one kind of
            question and harms the next is not chosen.
        unit: Of the strengths; "absolute" is the paper's eq. 7.
        max_new_tokens: Where answers are cut.
        batch_size: Rows that run together; one batch mixes settings.
        seed: Of the samples and of the random vector.
        controls: Also run a random vector.
        force: Accept vectors of another model of the same shape.
        progress: Show progress bars on the error stream.

    Raises:
        CalibrationError: No setting within the budget beats the unsteered model.
        InvalidInputError: Nothing to try, a budget that is no share, a prompt that cannot be judged
            by value, or a target that dev does not have.
        ModelMismatchError: A vector belongs to another model.
    """
    named = {vectors.name: vectors} if isinstance(vectors, SteeringVector) else dict(vectors)
    guarded: tuple[str, ...] = ()
    whole_dev = dev
    if target is not None:
        guarded = tuple(category for category in dev.categories if category != target)
        dev, capability = _guarded(dev, target, capability)
    _check(llm, named, dev, capability, strengths, budget, force)
    bench = Bench(llm, dev, capability, max_new_tokens, batch_size, seed, guarded)
    bench.candidates = [
        Candidate(name, vector.with_calibration(None), sign * strength, scope, subset, unit)
        for name, vector in named.items()
        for scope in scopes
        for subset in layers
        for strength in sorted({abs(strength) for strength in strengths})
        for sign in (1, -1)
    ]
    settings = len(bench.candidates)
    # A sample is spread over categories of unequal sizes; so large a size takes all of each.
    whole = max(len(dev), len(capability or ()))
    everything = whole * max(len(dev.categories), len(capability.categories) if capability else 1)
    bench.run([None], everything, progress, "unsteered")
    tried = _halve(bench, whole, everything, budget, progress)

    def run_on_all(numbers: Sequence[int], title: str) -> None:
        bench.run(numbers, everything, progress, title)
        tried.update({number: bench.row(number, everything) for number in numbers})

    if not _helps(tried[_best(tried, budget)], budget):
        # The finalists were too strong: look at everything that did any good on its sample.
        run_on_all([i for i, row in tried.items() if row.success > row.unsteered], "second look")
    run_on_all(_line(bench.candidates, _best(tried, budget)), "chosen line")
    best = _best(tried, budget)
    if not _helps(tried[best], budget):
        raise CalibrationError(_nothing_helps(tried[best], tried.values(), budget))
    best = _gentlest(tried, best, budget)
    run_on_all(_line(bench.candidates, best), "chosen line")
    chosen = tried[best]
    if controls:
        random = bench.candidates[best].vector.randomised(seed)
        start = len(bench.candidates)
        bench.candidates += [
            replace(bench.candidates[number], name="random", vector=random, is_control=True)
            for number in _line(bench.candidates, best)
        ]
        run_on_all(range(start, len(bench.candidates)), "control")
    return CalibrationResult(
        vector=bench.candidates[best].vector.with_calibration(
            Calibration(
                strength=chosen.strength,
                layers=chosen.layers,
                scope=chosen.scope,
                unit=unit,
                renormalise=bench.candidates[best].vector.application.renormalise,
                choice=_choice(llm, chosen, dev, whole_dev, capability, budget, settings),
            )
        ),
        best=chosen,
        rows=tuple(tried.values()),
        unsteered=chosen.unsteered,
        unsteered_capability=bench.accuracies(None, list(capability or ())),
        budget=budget,
    )


def _guarded(
    dev: EvaluationSet, target: str, capability: EvaluationSet | None
) -> tuple[EvaluationSet, EvaluationSet | None]:
    """The target category of dev, and what must not be lost with dev's other categories in it."""
    rest = [item for item in dev if item.category != target]
    kept = list(capability or ())
    if not rest:
        return dev.category(target), capability
    name = f"{capability.name} and {dev.name}" if capability else dev.name
    return dev.category(target), EvaluationSet(name, [*kept, *rest])


def _halve(
    bench: Bench, whole: int, everything: int, budget: float, show: bool
) -> dict[int, CalibrationRow]:
    """Tries all candidates on small samples and ever fewer on larger ones."""
    tried: dict[int, CalibrationRow] = {}
    alive, size = list(range(len(bench.candidates))), _FIRST_SAMPLE
    capability_categories = len(bench.capability.categories) if bench.capability else 0
    while True:
        last = len(alive) <= _FINALISTS or size >= whole
        size = everything if last else size
        bench.run(alive, size, show, f"{len(alive)} settings")
        tried.update({number: bench.row(number, size) for number in alive})
        if last:
            return tried
        # One prompt of a capability category is this share of its sample.
        coarseness = capability_categories / size
        alive.sort(key=lambda number: rank(tried[number], budget + coarseness))
        alive = alive[: max(_FINALISTS, math.ceil(len(alive) * _KEEP))]
        size *= 2


def _best(tried: Mapping[int, CalibrationRow], budget: float) -> int:
    """The best of those that were run on everything."""
    complete = [i for i, row in tried.items() if row.complete and not row.is_control]
    return min(complete, key=lambda number: rank(tried[number], budget))


def _gentlest(tried: Mapping[int, CalibrationRow], best: int, budget: float) -> int:
    """The gentlest setting that is within one standard error of the best one.

    What separates the two is noise of the dev prompts as likely as not, and a steering of fewer
    positions, or else a weaker one, has fewer side effects that dev does not show (the rule of
    Breiman et al. 1984 for pruning).
    """
    top = tried[best].success
    error = math.sqrt(top * (1 - top) / tried[best].prompts)
    as_good = [
        i
        for i, row in tried.items()
        if row.complete
        and not row.is_control
        and _helps(row, budget)
        and row.success >= top - error
    ]
    return min(as_good, key=lambda i: (*_gentleness(tried[i]), rank(tried[i], budget)))


def _gentleness(row: CalibrationRow) -> tuple[float, float]:
    return (_FEWEST_POSITIONS.index(row.scope), abs(row.strength))


def _helps(row: CalibrationRow, budget: float) -> bool:
    return row.success > row.unsteered and row.largest_loss <= budget + 1e-9


def _line(candidates: Sequence[Candidate], number: int) -> list[int]:
    """All strengths of one vector, scope and layer subset."""
    of = candidates[number]
    return [
        place
        for place, c in enumerate(candidates)
        if (c.name, c.scope, c.layers) == (of.name, of.scope, of.layers)
    ]


def _choice(
    llm: HookedModel,
    best: CalibrationRow,
    dev: EvaluationSet,
    whole: EvaluationSet,
    capability: EvaluationSet | None,
    budget: float,
    tried: int,
) -> Choice:
    return Choice(
        dev=replace(_used(llm, dev), part_of=None if whole.digest == dev.digest else whole.digest),
        before=best.unsteered,
        after=best.success,
        settings=tried,
        capability=None if capability is None else _used(llm, capability),
        lost={} if capability is None else best.loss,
        budget=None if capability is None else budget,
    )


def _used(llm: HookedModel, prompts: EvaluationSet) -> DataUsed:
    return DataUsed(prompts.name, prompts.digest, len(prompts), seen=kept(hashes_of(llm, prompts)))


def _nothing_helps(best: CalibrationRow, rows: Iterable[CalibrationRow], budget: float) -> str:
    free = max((row for row in rows if row.complete), key=lambda row: row.success)
    return (
        f"no setting within a capability budget of {100 * budget:g} points beats the unsteered "
        f"model on dev ({numbers.percent(best.unsteered)}): without the budget the best was "
        f"{free.label} at {free.strength:+g} with {numbers.percent(free.success)}, losing "
        f"{numbers.points(free.largest_loss)}; try other vectors, layers or strengths"
    )


def _check(
    llm: HookedModel,
    vectors: Mapping[str, SteeringVector],
    dev: EvaluationSet,
    capability: EvaluationSet | None,
    strengths: Sequence[float],
    budget: float,
    force: bool,
) -> None:
    check_budget(budget)
    if not vectors:
        raise InvalidInputError("there is no vector to calibrate; give at least one")
    if not strengths or not all(math.isfinite(s) and s != 0 for s in strengths):
        raise InvalidInputError(
            f"strengths must be finite and not 0, and at least one, not {list(strengths)}"
        )
    for items in (dev, capability):
        for item in items or ():
            if not item.has_verdict:
                raise InvalidInputError(
                    f"item {item.id!r} of {items.name if items else ''!r} has no accept or reject "
                    "phrases, so a steered answer to it cannot be judged; add some or leave it out"
                )
    for vector in vectors.values():
        vector.check(llm.fingerprint, force=force)
