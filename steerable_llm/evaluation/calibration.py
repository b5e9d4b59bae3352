"""Choosing vector, sign, strength, scope and layers on dev data, under a capability budget.

The equations leave the size of a steering open, and even its sign. Both are settled here, by
answering dev prompts, and only there: the test prompts are for `evaluate`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TypeAlias, Unpack

from steerable_llm.errors import CalibrationError, InvalidInputError
from steerable_llm.evaluation.arms import Arm, check_fits
from steerable_llm.evaluation.bench import CONTROL, Bench, DevRow, rank
from steerable_llm.evaluation.divergence import KlMeter, checked_divergences, effect_of
from steerable_llm.evaluation.loss import fewest, fewest_to_beat
from steerable_llm.evaluation.overlap import HeldOut, apart, overlap, past_of
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.evaluation.settings import DEFAULTS, Changes, EvaluationSettings
from steerable_llm.files import write_whole
from steerable_llm.methods.build import grid_of
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import note, progress_bar
from steerable_llm.reports import numbers
from steerable_llm.reports.figures import sweep_figure
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Callout, Table, numeric, visible
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.calibration import Calibration, Choice, DataUsed
from steerable_llm.vector.seen import hashes_of, kept
from steerable_llm.vector.steering import Scope, Unit
from steerable_llm.vector.vector import SteeringVector

_FIRST_SAMPLE = 12  # prompts of dev, and of capability, that every setting is tried on
_KEEP = 1 / 4  # share of the settings that survives a round of halving
_FEWEST_POSITIONS: tuple[Scope, ...] = ("last_prompt", "decision", "generated", "prompt", "all")
_WIDENED = 2  # lines of the first scope that are tried at the others, too
_FINALISTS = 8  # settings that are run on all of dev
_METERED = 12  # prompts that the divergence is measured on, along as many tokens of their answers
_CLOSE = 0.15  # share that a divergence may be off, and ...
_READ = 5.0  # ... the factor between two measured ones that strengths are read off between


#: One vector by name, scope, layer subset and sign, at all of its strengths.
_Line: TypeAlias = tuple[str, Scope, "tuple[int, ...] | None", int]


class Search(Changes, total=False):
    """What `sweep` takes by keyword: what is tried, and the settings."""

    strengths: Sequence[float] | None
    scopes: Sequence[Scope] | None
    layers: Sequence[tuple[int, ...] | None] | None
    unit: Unit | None
    kl: Sequence[float] | None
    settings: EvaluationSettings


def calibrate(
    llm: HookedModel,
    vector: SteeringVector,
    dev: EvaluationSet | Pairs,
    capability: EvaluationSet | None = None,
    **search: Unpack[Search],
) -> SteeringVector:
    """Choose how strongly to steer with a vector, and where, on dev data.

    Arguments and errors are those of `sweep`, which also returns every setting that was tried.

    Returns:
        The vector with its calibration, which says what it was chosen by.
    """
    return sweep(llm, vector, dev, capability, controls=False, **search).vector


@dataclass(frozen=True)
class Sweep:
    """What was tried on dev, and what was chosen.

    Attributes:
        vector: The chosen one, with its calibration.
        best: The chosen setting.
        rows: Every setting that was tried.
        unsteered: Mean success on dev without steering.
        unsteered_capability: Accuracy per capability category without steering.
        budget: Largest share of a capability that may be lost.
    """

    vector: SteeringVector
    best: DevRow
    rows: tuple[DevRow, ...]
    unsteered: float
    unsteered_capability: Mapping[str, float]
    budget: float

    def picture(self) -> bytes:
        """Draw what was run on all of dev, and the control (PNG)."""
        shown = [row for row in self.rows if row.complete]
        kept = self.unsteered_capability
        return sweep_figure(shown, self.unsteered, kept, self.budget, self.best)

    def figure(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture as a PNG."""
        return write_whole(path, self.picture())

    def table(self) -> Page:
        """Return the settings that were run on all of dev, best first, for a console."""
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


def sweep(
    llm: HookedModel,
    vectors: Mapping[str, SteeringVector] | SteeringVector,
    dev: EvaluationSet | Pairs,
    capability: EvaluationSet | None = None,
    *,
    strengths: Sequence[float] | None = None,
    scopes: Sequence[Scope] | None = None,
    layers: Sequence[tuple[int, ...] | None] | None = None,
    unit: Unit | None = None,
    kl: Sequence[float] | None = None,
    controls: bool = True,
    settings: EvaluationSettings = DEFAULTS,
    **changes: Unpack[Changes],
) -> Sweep:
    """Find the setting with the highest mean success on dev that stays within the budget.

    Every vector is tried with both signs and every layer subset, each at the strengths that move
    the model by given divergences (see `divergence`), or at those that its method names. Scopes
    that are asked for are all tried with each of these; of those that its method names the first
    is, and the others with the two vectors, layer subsets and signs that do best there.
    That is done by successive halving (Jamieson and Talwalkar 2016): all settings on a small sample
    of the prompts, spread over the categories, then the better quarter on twice as many, and so on;
    the last eight on all of dev.
    What costs more than it may and gains nothing is dropped at once. A sample is too coarse for a
    budget of one point, so there one prompt more may be lost. Then every strength of the winner's
    vector, scope, layers and sign is run on all of dev (the sweep picture). Only settings that were
    run on everything can be chosen, and of those within one standard error of the best the gentlest
    is: the one that steers the fewest positions, then the one that moves the model least. Where no
    finalist keeps within the budget, the gentlest settings that did any good on their samples are
    run on everything before the sweep gives up. As controls, the choice is then turned round, and a
    random vector put in its place, both ways.

    Args:
        llm: The model.
        vectors: What to choose among, by name, such as one per aggregation, or a single vector.
        dev: Prompts with accept or reject phrases; success is the mean over all of them. In pairs
            an answer is right when it contains the preferred answer's words and not the other's.
        capability: Prompts for the budget, which holds for each of its categories separately.
        strengths: Magnitudes to try in place of divergences, each with both signs.
        scopes: Which positions to try. What is left out here and in the next two is as the
            vector's method means it.
        layers: Layer subsets to try; None is every layer that a vector has. Left out, those that
            the method of the first names are tried, of each vector's own layers.
        unit: Of the strengths; "absolute" is the paper's eq. 7.
        kl: Divergences to look for, in nats per token, in place of the usual ones.
        controls: Also run the chosen strength with the other sign, and a random vector at both.
        settings: See `EvaluationSettings`. With a target, success is the mean over it alone, and
            the other categories of dev are held to the budget, too, give or take one standard error
            of their change: what fixes one kind of question and harms the next is not chosen.
        **changes: Single settings in place of those in `settings`.

    Raises:
        CalibrationError: No setting within the budget beats the unsteered model.
        InvalidInputError: Nothing to try, prompts that the build has seen or that cannot be judged
            by value, or a target that dev does not have.
        ModelMismatchError: A vector belongs to another model.
    """
    settings = replace(settings, **changes)
    named = {vectors.name: vectors} if isinstance(vectors, SteeringVector) else dict(vectors)
    if not named:
        raise InvalidInputError("there is no vector to calibrate; give at least one")
    if isinstance(dev, Pairs):
        dev = EvaluationSet.from_pairs("dev", dev, phrases=True)
    given, named = named, {name: vector.with_calibration(None) for name, vector in named.items()}
    for vector in named.values():
        check_fits(vector, llm, settings.force)
    bench = Bench(llm, dev, capability, settings, next(iter(named.values())))
    held_out = [HeldOut.of(llm, items) for items in (dev, capability) if items is not None]
    overlap(held_out, [past for vector in named.values() for past in past_of(vector)])
    if len(held_out) == 2:
        apart(*held_out)

    if strengths is not None and kl is not None:
        raise InvalidInputError(
            "strengths are given, or looked for by the divergences in kl: leave one of them out"
        )
    first = next(iter(named.values()))
    grid = grid_of(first)
    unit = unit or grid.unit
    subsets = {name: layers or grid.layers(vector.layers) for name, vector in named.items()}
    unsteered = bench.run([0], bench.everything, "unsteered")[0]
    for told in _to_know(bench, unsteered.success):
        note(visible(told), settings.progress)
    in_full, further = (scopes, ()) if scopes else (grid.scopes[:1], grid.scopes[1:])
    sizes = strengths if strengths is not None else grid.strengths or None
    by_effect = sizes is None or kl is not None
    wanted = checked_divergences(grid.divergences if kl is None else kl) if by_effect else []
    meter = _meter(bench, dev) if by_effect else None
    lines: list[_Line] = []

    def add(sought: Sequence[_Line]) -> None:
        found = (
            _by_effect(meter, named, sought, unit, wanted, settings.progress)
            if meter is not None
            else [(line, size, None) for line in sought for size in _magnitudes(sizes or ())]
        )
        for line, size, divergence in found:
            if divergence is not None:
                bench.divergences[len(bench.arms)] = divergence
            name, scope, subset, sign = line
            bench.arms.append(Arm(name, named[name].steer(sign * size, subset, scope, unit)))
            lines.append(line)

    add([line for name in named for line in product([name], in_full, subsets[name], (1, -1))])
    if not lines:
        raise CalibrationError(
            f"no vector moves the model by {wanted[0]:g} nats per token at any strength: ask for "
            "smaller divergences (--kl), or build it from other pairs"
        )
    if further:
        best_ones = _best_lines(bench, lines)
        add([(name, scope, s, sign) for name, _, s, sign in best_ones for scope in further])
    number = len(bench.arms) - 1
    tried = _halve(bench)
    best = _chosen(bench, tried)
    chosen = tried[best]
    if controls:
        term = bench.arms[best].steering.terms[0]
        random = named[chosen.arm].randomised(settings.seed)
        places = []
        for name, vector, strength in (
            (chosen.arm, named[chosen.arm], -term.strength),
            (CONTROL, random, term.strength),
            (CONTROL, random, -term.strength),
        ):
            arm = Arm(name, vector.steer(strength, term.layers, term.scope, unit))
            if arm not in bench.arms:
                bench.arms.append(arm)
            places.append(bench.arms.index(arm))
        tried.update(bench.run(places, bench.everything, "control"))
    made = _calibration(bench, dev, best, chosen, number)
    return Sweep(
        vector=given[chosen.arm].with_calibration(made),
        best=chosen,
        rows=tuple(tried.values()),
        unsteered=chosen.unsteered,
        unsteered_capability=unsteered.capability,
        budget=settings.budget,
    )


def _to_know(bench: Bench, unsteered: float) -> Iterator[str]:
    """What dev can decide, and what a proof of the outcome will need, before the search.

    Raises:
        CalibrationError: The unsteered model gets everything right, so nothing can be chosen.
    """
    budget, target = bench.settings.budget, bench.settings.target or "the target"
    kept = bench.capability
    if unsteered == 1.0:
        raise CalibrationError(
            f"the unsteered model is right on all {len(bench.dev)} dev prompts that decide, so "
            "there is nothing to choose by: give prompts on which it fails"
        )
    if kept is None:
        yield "no prompts of what must not be lost, so no budget holds: give some (--capability)"
    for category in kept.categories if kept else ():
        n = sum(item.category == category for item in kept or ())
        if category not in bench.guarded and n * budget < 1 and budget:
            yield (
                f"{category}: of {n} prompts none may be lost under the budget of "
                f"{numbers.points(budget)}; from {math.ceil(1 / budget)} on one may"
            )
    yield (
        f"the unsteered model is right on {numbers.percent(unsteered)}: a proof (`evaluate`) needs "
        f"at least {fewest_to_beat(unsteered)} other prompts of {target}, more where less than all "
        f"of them become right, and {fewest(budget)} of each capability"
    )


def _calibration(
    bench: Bench, dev: EvaluationSet, place: int, row: DevRow, number: int
) -> Calibration:
    """What was chosen, and by what: one of a number of settings."""
    term = bench.arms[place].steering.terms[0]
    kept_set = bench.capability
    whole = None if bench.dev.digest == dev.digest else dev.digest
    choice = Choice(
        dev=replace(_used(bench.llm, bench.dev), part_of=whole),
        before=row.unsteered,
        after=row.success,
        settings=number,
        capability=None if kept_set is None else _used(bench.llm, kept_set),
        lost={} if kept_set is None else row.loss,
        budget=None if kept_set is None else bench.settings.budget,
        kl=row.kl,
        target=bench.settings.target,
    )
    return Calibration(term.strength, term.layers, term.scope, term.unit, term.renormalise, choice)


def _meter(bench: Bench, dev: EvaluationSet) -> KlMeter:
    """Measure divergences on some of the prompts of dev that are steered."""
    settings = bench.settings
    steered = EvaluationSet(dev.name, [item for item in dev if bench.steers(item)])
    sample = list(steered.sample(math.ceil(_METERED / len(steered.categories)), settings.seed))
    tokens = min(_METERED, settings.max_new_tokens)
    return KlMeter(bench.llm, sample, tokens, settings.batch_size)


def _by_effect(
    meter: KlMeter,
    vectors: Mapping[str, SteeringVector],
    sought: Sequence[_Line],
    unit: Unit,
    wanted: Sequence[float],
    progress: bool,
) -> list[tuple[_Line, float, float | None]]:
    """The strengths by which each vector, scope, layer subset and sign reaches each divergence.

    Divergences that a vector does not reach are left out.
    """
    found: list[tuple[_Line, float, float | None]] = []
    with progress_bar("strengths by effect", len(sought), progress) as advance:
        for line in sought:
            name, scope, subset, sign = line
            effect = effect_of(meter, vectors[name], sign, scope, subset, unit)
            for kl in wanted:
                strength = effect.strength_for(kl, _CLOSE, _READ)
                if strength is None:
                    break
                found.append((line, float(f"{strength:.3g}"), kl))
            advance(1)
    return found


def _best_lines(bench: Bench, lines: Sequence[_Line]) -> list[_Line]:
    """Return the lines that do best on a small sample, whatever the strength."""
    places = range(1, len(bench.arms))
    tried = bench.run(places, _FIRST_SAMPLE, f"{len(places)} settings")
    allowed = _allowed(bench, _FIRST_SAMPLE)
    ranked = sorted(places, key=lambda place: rank(tried[place], allowed))
    return list(dict.fromkeys(lines[place - 1] for place in ranked))[:_WIDENED]


def _magnitudes(strengths: Sequence[float]) -> list[float]:
    if not strengths or not all(math.isfinite(s) and s != 0 for s in strengths):
        raise InvalidInputError(
            f"strengths must be finite and not 0, and at least one, not {list(strengths)}"
        )
    return sorted({abs(strength) for strength in strengths})


def _used(llm: HookedModel, prompts: EvaluationSet) -> DataUsed:
    return DataUsed(prompts.name, prompts.digest, len(prompts), seen=kept(hashes_of(llm, prompts)))


def _halve(bench: Bench) -> dict[int, DevRow]:
    """Try all arms on small samples and ever fewer on larger ones; the last on everything."""
    tried: dict[int, DevRow] = {}
    alive, size = list(range(1, len(bench.arms))), _FIRST_SAMPLE
    while len(alive) > _FINALISTS and size < bench.whole:
        tried.update(bench.run(alive, size, f"{len(alive)} settings"))
        allowed = _allowed(bench, size)
        alive.sort(key=lambda place: rank(tried[place], allowed))
        # What costs too much and gains nothing is no finalist, however few others there are.
        worth = [place for place in alive if _worth(tried[place], allowed)] or alive[:1]
        alive = worth[: max(_FINALISTS, math.ceil(len(alive) * _KEEP))]
        size *= 2
    tried.update(bench.run(alive, bench.everything, f"{len(alive)} settings"))
    return tried


def _allowed(bench: Bench, size: int) -> float:
    """What may be lost on a sample: one prompt of a capability category more than the budget."""
    categories = len(bench.capability.categories) if bench.capability else 0
    return bench.settings.budget + categories / size


def _chosen(bench: Bench, tried: dict[int, DevRow]) -> int:
    """The place of the setting to take; what is run on the way is added to `tried`.

    Raises:
        CalibrationError: None within the budget beats the unsteered model.
    """
    budget = bench.settings.budget

    def run_on_all(places: Sequence[int], title: str) -> None:
        tried.update(bench.run(places, bench.everything, title))

    if not _helps(tried[_best(tried, budget)], budget):
        # The finalists were too strong: look at everything that did any good on its sample.
        good = [i for i, row in tried.items() if row.success > row.unsteered]
        gentle = sorted(good, key=lambda place: tried[place].push)
        run_on_all(gentle[: 2 * _FINALISTS], "second look")
    run_on_all(_line(bench.arms, _best(tried, budget)), "chosen line")
    best = _best(tried, budget)
    if not _helps(tried[best], budget):
        raise CalibrationError(_nothing_helps(tried[best], tried, budget))
    best = _gentlest(tried, best, budget)
    run_on_all(_line(bench.arms, best), "chosen line")
    return best


def _best(tried: Mapping[int, DevRow], budget: float) -> int:
    """The best of those that were run on everything."""
    complete = [place for place, row in tried.items() if row.complete]
    return min(complete, key=lambda place: rank(tried[place], budget))


def _gentlest(tried: Mapping[int, DevRow], best: int, budget: float) -> int:
    """The gentlest setting that is within one standard error of the best one.

    What separates the two is noise of the dev prompts as likely as not, and a steering of fewer
    positions, or else a weaker one, has fewer side effects that dev does not show (the rule of
    Breiman et al. 1984 for pruning).
    """
    top = tried[best].success
    error = math.sqrt(top * (1 - top) / tried[best].prompts)
    as_good = [
        place
        for place, row in tried.items()
        if row.complete and _helps(row, budget) and row.success >= top - error
    ]
    return min(as_good, key=lambda place: (*_gentleness(tried[place]), rank(tried[place], budget)))


def _gentleness(row: DevRow) -> tuple[float, float]:
    return (_FEWEST_POSITIONS.index(row.scope or "all"), row.push)


def _worth(row: DevRow, allowed: float) -> bool:
    return row.within(allowed) or row.success > row.unsteered


def _helps(row: DevRow, budget: float) -> bool:
    return row.success > row.unsteered and row.within(budget)


def _line(arms: Sequence[Arm], place: int) -> list[int]:
    """The places of all strengths of one vector, scope, layer subset and sign."""

    def where(arm: Arm) -> tuple[object, ...] | None:
        term = next(iter(arm.steering.terms), None)
        return (arm.name, term.scope, term.layers, term.strength > 0) if term else None

    return [other for other, arm in enumerate(arms) if where(arm) == where(arms[place])]


def _nothing_helps(best: DevRow, tried: Mapping[int, DevRow], budget: float) -> str:
    free = max((row for row in tried.values() if row.complete), key=lambda row: row.success)
    said = (
        f"no setting within a capability budget of {numbers.points(budget, None)} beats the "
        f"unsteered model on dev ({numbers.percent(best.unsteered)}): without the budget the best "
        f"was {free.label} at {free.strength:+g} with {numbers.percent(free.success)}"
    )
    if free.success <= best.unsteered:
        return (
            f"{said}; build from more pairs, all of one kind of fault (`steerable pairs make "
            "--reason`), or train the vector (`steerable build --method bipo`)"
        )
    lost = max(free.loss, key=lambda name: free.loss[name], default="")
    return (
        f"{said}, losing {numbers.points(free.largest_loss)} ({lost}); try a gentler push (--kl "
        "0.01), fewer positions (--scope last_prompt), the step that will use it, which leaves "
        "other prompts alone (--policy, --step), or a larger --budget"
    )
