"""Several ways to change a behaviour, each set up on the same dev prompts, on the same test."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from steerable_llm import __version__
from steerable_llm.errors import InvalidInputError, MissingExtraError, PairError, SteerableError
from steerable_llm.evaluation.arms import Arm, strict_instruction_for
from steerable_llm.evaluation.calibration import CalibrationResult, calibrate
from steerable_llm.evaluation.comparison import Comparison, Contender
from steerable_llm.evaluation.evaluate import check_apart, check_uniform, rows_of
from steerable_llm.evaluation.measure import Job, Outcome, answers, measure
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.evaluation.sweep import CalibrationRow
from steerable_llm.evaluation.verdict import Row, check_budget, judge
from steerable_llm.files import write_whole
from steerable_llm.methods import METHODS
from steerable_llm.methods.build import build_vector, sweep_of
from steerable_llm.methods.lora import LoraSettings, train_lora
from steerable_llm.metrics import standard_error
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import progress_bar
from steerable_llm.runtime.contrast import Contrast
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.lora import Lora
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.steering import Steering
from steerable_llm.vector.vector import SteeringVector

# Every way to change a behaviour, set up on the same pairs and dev prompts.

CAD_ALPHAS = (0.25, 0.5, 1.0, 2.0)
LORA_RATES = (5e-6, 1e-4, 1e-3)


@dataclass(frozen=True)
class Setup:
    """What every way is set up with.

    Attributes:
        llm: The model.
        pairs: What to learn from.
        dev: Prompts to choose on.
        capability: Prompts for the budget on dev, if any.
        budget: Largest share of a capability that may be lost.
        instruction: The system message of `prompt`.
        max_new_tokens: Where answers are cut.
        batch_size: Rows that run together.
        seed: Of the choices and of the intervals.
        progress: Show progress bars on the error stream.
        target: The category of dev to change; its other categories are then held to the budget, see
            `calibrate`. None takes them all alike.
    """

    llm: HookedModel
    pairs: Pairs
    dev: EvaluationSet
    capability: EvaluationSet | None
    budget: float
    instruction: str
    max_new_tokens: int
    batch_size: int
    seed: int
    progress: bool
    target: str | None = None


@dataclass(frozen=True)
class Ready:
    """A way that can be tested.

    Attributes:
        arms: What to run the model with; several are averaged per prompt.
        setting: What was chosen, in words.
        dev: Success on dev, averaged over the arms; None where nothing was to choose.
        calibrations: What was chosen for each arm that steers.
    """

    arms: tuple[Arm, ...]
    setting: str
    dev: float | None = None
    calibrations: tuple[Calibration, ...] = ()


Way: TypeAlias = Callable[[Setup, str], Ready]


@dataclass(frozen=True)
class Recipe:
    """One vector in a way that is given in full.

    Attributes:
        method: A name in `METHODS`.
        config: Settings of the method.
        pairs: How many of the pairs to learn from, the first of an order that `order` decides, so
            that fewer pairs are always among more; None is all of them.
        order: Seed of that order.
        sweep: Arguments of `calibrate` in place of the method's own.
        calibration: Use this one instead of choosing on dev.
    """

    method: str
    config: Mapping[str, Any] = field(default_factory=dict)
    pairs: int | None = None
    order: int = 0
    sweep: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None


def recipe_way(*recipes: Recipe) -> Way:
    """Return the way that builds and calibrates these vectors and averages them per prompt."""

    def way(setup: Setup, name: str) -> Ready:
        found = [_cook(setup, name, recipe) for recipe in recipes]
        dev = [row.success for _, row in found if row]
        calibrations = [v.calibration for v, _ in found if v.calibration]
        return Ready(
            tuple(Arm(name, vector.steer()) for vector, _ in found),
            "; ".join(dict.fromkeys(_chosen(calibration) for calibration in calibrations)),
            sum(dev) / len(dev) if dev else None,
            tuple(calibrations),
        )

    return way


def _chosen(calibration: Calibration) -> str:
    layers = calibration.layers
    where = "all layers" if layers is None else f"layers {', '.join(map(str, layers))}"
    return f"{calibration.scope}, {where}, strength {calibration.strength:+g}"


def _cook(setup: Setup, name: str, recipe: Recipe) -> tuple[SteeringVector, CalibrationRow | None]:
    pairs = setup.pairs if recipe.pairs is None else nested(setup.pairs, recipe.pairs, recipe.order)
    vector = _built(setup, pairs, recipe.method, name, recipe.config)
    if recipe.calibration is not None:
        return vector.with_calibration(recipe.calibration), None
    found = _calibrated(setup, {name: vector}, recipe.sweep)
    return found.vector, found.best


def nested(pairs: Pairs, number: int, order: int) -> Pairs:
    """Return the first pairs of a random order: of one order, fewer are always among more.

    Args:
        pairs: All of them.
        number: How many, from 1 to all.
        order: Seed of the order.

    Raises:
        InvalidInputError: There are not so many.
    """
    if not 1 <= number <= len(pairs):
        raise InvalidInputError(f"cannot take {number} of {len(pairs)} pairs: give 1 to all")
    places = list(range(len(pairs)))
    random.Random(order).shuffle(places)
    return Pairs(pairs[place] for place in sorted(places[:number]))


def _built(
    setup: Setup, pairs: Pairs, method: str, name: str, config: Mapping[str, Any]
) -> SteeringVector:
    with warnings.catch_warnings():
        # The completeness of the attribution is in the vector's record; here it is one of many.
        warnings.filterwarnings("ignore", "the token scores miss", UserWarning)
        return build_vector(
            setup.llm, pairs, method=method, name=name, progress=setup.progress, **config
        )


def _calibrated(
    setup: Setup, candidates: Mapping[str, SteeringVector], sweep: Mapping[str, Any]
) -> CalibrationResult:
    return calibrate(
        setup.llm,
        candidates,
        setup.dev,
        capability=setup.capability,
        budget=setup.budget,
        max_new_tokens=setup.max_new_tokens,
        batch_size=setup.batch_size,
        seed=setup.seed,
        controls=False,
        target=setup.target,
        progress=setup.progress,
        **{**sweep_of(next(iter(candidates.values()))), **sweep},
    )


def _vector(setup: Setup, name: str) -> Ready:
    candidates: dict[str, SteeringVector] = {}
    for config in METHODS[name].grid.configs:
        label = ", ".join([name, *(f"{key} {value}" for key, value in config.items())])
        made = _built(setup, setup.pairs, name, name, config)
        # Settings may come to the same, such as more heads than the model has.
        if made.fingerprint_id not in {vector.fingerprint_id for vector in candidates.values()}:
            candidates[label] = made
    found = _calibrated(setup, candidates, {})
    assert found.vector.calibration is not None, "a calibration result has a calibrated vector"
    return Ready(
        (Arm(name, found.vector.steer()),),
        f"{found.best.label}, strength {found.best.strength:+g}",
        found.best.success,
        (found.vector.calibration,),
    )


def _prompt(setup: Setup, name: str) -> Ready:
    arm = Arm(name, Steering.none(), setup.instruction)
    return Ready((arm,), f'system: "{setup.instruction}"')


def _cad(setup: Setup, name: str) -> Ready:
    candidates = {
        f"alpha {alpha:g}": Arm(name, Steering.none(), contrast=Contrast("cad", alpha))
        for alpha in CAD_ALPHAS
    }
    return _best(setup, candidates)


def _adacad(_: Setup, name: str) -> Ready:
    arm = Arm(name, Steering.none(), contrast=Contrast("adacad"))
    return Ready((arm,), "alpha for every token, from the divergence")


def _lora(setup: Setup, name: str) -> Ready:
    loras: dict[str, Lora] = {}
    for rate in LORA_RATES:
        config = LoraSettings(learning_rate=rate, seed=setup.seed)
        title = f"{name}: learning rate {rate:g}"
        with progress_bar(title, len(setup.pairs), setup.progress) as advance:
            loras[f"learning rate {rate:g}"] = train_lora(
                setup.llm, setup.pairs, config, name, advance
            )
    return _best(
        setup,
        {label: Arm(name, Steering.none(), lora=lora) for label, lora in loras.items()},
    )


def _best(setup: Setup, candidates: dict[str, Arm]) -> Ready:
    """The candidate with most success on dev among those within the budget.

    Raises:
        InvalidInputError: None of them is within the budget.
    """
    plain = Arm("none", Steering.none())
    lost, success = {}, {}
    beside = set(setup.dev.categories)
    aims = {setup.target} if setup.target else beside
    before = _right(setup, plain, setup.capability) | _right(setup, plain, setup.dev)
    for label, arm in candidates.items():
        after = _right(setup, arm, setup.capability) | _right(setup, arm, setup.dev)
        # As in `calibrate`: what stands beside the target may vary by its standard error.
        lost[label] = max(
            (
                fmean(before[v])
                - fmean(after[v])
                - (standard_error(after[v], before[v]) if v in beside else 0.0)
                for v in before
                if v not in aims
            ),
            default=0.0,
        )
        success[label] = fmean(value for v in sorted(aims) for value in after[v])
    fit = [label for label in candidates if lost[label] <= setup.budget + 1e-9]
    if not fit:
        least = min(lost, key=lambda label: lost[label])
        raise InvalidInputError(
            f"no setting keeps within a capability budget of {100 * setup.budget:g} points on "
            f"dev: {least} loses least, {100 * lost[least]:.1f} points"
        )
    best = max(fit, key=lambda label: success[label])
    return Ready((candidates[best],), best, success[best])


def _right(setup: Setup, arm: Arm, items: EvaluationSet | None) -> dict[str, list[float]]:
    """Per category, 1.0 or 0.0 for each answer."""
    found: dict[str, list[float]] = {}
    if items is None:
        return found
    jobs = [Job(arm, item) for item in items]
    with progress_bar(f"{arm.name} on {items.name}", len(jobs), setup.progress) as advance:
        texts = answers(setup.llm, jobs, setup.max_new_tokens, setup.batch_size, advance)
    for item, text in zip(items, texts, strict=True):
        found.setdefault(item.category, []).append(float(item.succeeds(text)))
    return found


#: Every way that can be compared, by name.
WAYS: dict[str, Way] = {
    "prompt": _prompt,
    "cad": _cad,
    "adacad": _adacad,
    **dict.fromkeys(METHODS, _vector),
    "lora": _lora,
}


# Contenders set up and tested one after the other, each result kept as soon as it is there.

#: Goes up when a kept result of an earlier version must not be used again.
KEPT_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One contender before it runs.

    Attributes:
        name: What tables call it.
        way: Sets it up.
        recipe: JSON values that say all that the way does, apart from what the setup says.
    """

    name: str
    way: Way
    recipe: Any


class Result(BaseModel):
    """One contender after it ran.

    Attributes:
        contender: What was chosen and how long it took, or why it failed.
        rows: Its rows and those of the unsteered model; none if it failed.
        calibrations: What was chosen for each of its vectors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    contender: Contender
    rows: tuple[Row, ...] = ()
    calibrations: tuple[Calibration, ...] = ()


@dataclass(frozen=True)
class Trial:
    """What every contender is set up on and tested on.

    Attributes:
        setup: What each way is set up with.
        test: Held-out prompts.
        capability: Held-out prompts that measure what must not be lost.
        target: The category of `test` that is to be changed.
        keep: Folder of finished results; None keeps nothing.
    """

    setup: Setup
    test: EvaluationSet
    capability: EvaluationSet | None
    target: str
    keep: Path | None = None

    def check(self) -> None:
        """Make sure that a trial on these data says something.

        Raises:
            InvalidInputError: No such target, prompts of dev in test, or prompts that cannot be
                judged alike.
            PairError: No pairs.
        """
        if not self.setup.pairs:
            raise PairError("there are no pairs to build from: give at least two")
        self.test.category(self.target)  # raises, listing the categories
        check_apart(self.test, self.capability)
        check_apart(self.setup.dev, self.setup.capability)
        for items in (self.test, self.capability):
            if items is not None:
                check_uniform(items)
        seen = {item.messages for item in self.setup.dev}
        both = [item.id for item in self.test if item.messages in seen]
        if both:
            raise InvalidInputError(
                f"{len(both)} prompts of test {self.test.name!r} are in dev "
                f"{self.setup.dev.name!r} as well, such as {both[0]!r}: keep them apart, else the "
                "comparison is no held-out result"
            )

    def unsteered(self) -> Result:
        """Test the model as it is."""
        entry = Entry("none", lambda _, name: Ready((), name), None)
        return self.run(entry, "the model as it is")

    def run(self, entry: Entry, setting: str | None = None) -> Result:
        """Set one contender up and test it, unless a kept result says how that went.

        Args:
            entry: The contender.
            setting: What was chosen, in words, in place of what the way says.
        """
        path = self.keep / f"{self._key(entry)}.json" if self.keep else None
        if path is not None and path.is_file():
            try:
                return Result.model_validate_json(path.read_text(encoding="utf-8"))
            except ValidationError:
                pass  # cut short, or of another version: measured again
        result, lasting = self._measured(entry, setting)
        if path is not None and lasting:
            write_whole(path, result.model_dump_json(indent=1))
        return result

    def _measured(self, entry: Entry, setting: str | None) -> tuple[Result, bool]:
        """Return the result, and whether another run would come to the same."""
        start = time.perf_counter()
        try:
            ready = entry.way(self.setup, entry.name)
        except SteerableError as error:
            seconds = time.perf_counter() - start
            failed = Contender(name=entry.name, failed=str(error), seconds=seconds)
            # What is not installed today may be tomorrow.
            return Result(contender=failed), not isinstance(error, MissingExtraError)
        contender = Contender(
            name=entry.name,
            setting=setting or ready.setting,
            dev=ready.dev,
            seconds=time.perf_counter() - start,
        )
        rows = self._rows(ready.arms)
        return Result(contender=contender, rows=rows, calibrations=ready.calibrations), True

    def _rows(self, arms: Sequence[Arm]) -> tuple[Row, ...]:
        items: list[EvaluationItem] = [*self.test, *(self.capability or ())]
        runs = [Arm("none", Steering.none()), *arms]
        setup = self.setup
        title = f"testing {runs[-1].name}"
        with progress_bar(title, len(items) * len(runs), setup.progress) as advance:
            found = measure(setup.llm, runs, items, setup.max_new_tokens, setup.batch_size, advance)
        outcomes: dict[str, list[list[Outcome]]] = {}
        for run, results in zip(runs, found, strict=True):
            outcomes.setdefault(run.name, []).append(results)
        kept = set(self.capability.categories if self.capability else ())
        return tuple(rows_of(outcomes, items, kept, setup.seed))

    def _key(self, entry: Entry) -> str:
        """A hash of all that decides the result, with the name in front for people."""
        setup, fingerprint = self.setup, self.setup.llm.fingerprint
        content = {
            "version": [KEPT_VERSION, __version__],
            "model": fingerprint.model_dump(exclude={"model_id", "revision"}),
            "pairs": setup.pairs.digest,
            "dev": setup.dev.digest,
            "dev_capability": setup.capability.digest if setup.capability else None,
            "test": self.test.digest,
            "capability": self.capability.digest if self.capability else None,
            "target": self.target,
            "budget": setup.budget,
            "instruction": setup.instruction,
            "max_new_tokens": setup.max_new_tokens,
            "seed": setup.seed,
            "name": entry.name,
            "recipe": entry.recipe,
        }
        text = json.dumps(content, sort_keys=True, default=_plain)
        readable = "".join(c if c.isalnum() else "-" for c in entry.name)
        return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def comparison(self, results: Sequence[Result], **more: Any) -> Comparison:
        """Put results side by side, with what else the report is to hold."""
        budget = self.setup.budget
        contenders, rows = joined(results, self.target, budget)
        return Comparison(
            model=self.setup.llm.fingerprint.short,
            pairs=len(self.setup.pairs),
            data_digest=self.setup.pairs.digest,
            test_name=self.test.name,
            test_digest=self.test.digest,
            target=self.target,
            budget=budget,
            contenders=contenders,
            rows=rows,
            **more,
        )


def joined(results: Sequence[Result], target: str, budget: float) -> tuple[
    tuple[Contender, ...], tuple[Row, ...]
]:  # fmt: skip
    """Return the contenders with their verdicts, and every row once."""
    rows: dict[tuple[str, str], Row] = {}
    for result in results:
        for row in result.rows:
            rows.setdefault((row.arm, row.category), row)
    every = tuple(rows.values())
    contenders = (_judged(result.contender, every, target, budget) for result in results)
    return tuple(contenders), every


def _judged(contender: Contender, rows: Sequence[Row], target: str, budget: float) -> Contender:
    """The contender with its verdict, by the same rules as a vector's card."""
    if contender.name in ("none", "prompt") or contender.failed:
        return contender
    others = [row for row in rows if row.arm in ("none", "prompt")]
    mine = [row.model_copy(update={"arm": "steered"}) for row in rows if row.arm == contender.name]
    return contender.model_copy(update={"verdict": judge([*mine, *others], target, budget)})


def _plain(value: object) -> object:
    if isinstance(value, Calibration):
        return value.record()
    raise TypeError(f"{type(value).__name__} has no JSON form")  # a fault of ours


def compare(
    llm: HookedModel,
    pairs: Pairs,
    dev: EvaluationSet,
    test: EvaluationSet,
    capability: EvaluationSet | None = None,
    methods: Sequence[str] | None = None,
    *,
    dev_capability: EvaluationSet | None = None,
    target: str | None = None,
    strict_instruction: str | None = None,
    budget: float = 0.01,
    max_new_tokens: int = 24,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
    command: str = "",
    keep: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Build, set up and test several methods on the same data.

    Every method that makes a vector is built with each of its own candidate settings and
    calibrated on dev (strength, sign, scope, layers) within the budget; CAD chooses its alpha and
    LoRA its learning rate on dev in the same way. Then all read the test prompts once. A method
    that cannot be used on these pairs, or of which no setting helps, is listed with the reason.

    Args:
        llm: The model.
        pairs: What to learn from.
        dev: Prompts to choose on.
        test: Held-out prompts.
        capability: Held-out prompts that measure what must not be lost.
        methods: Names in `WAYS`; all of them when left out. The unsteered model always runs.
        dev_capability: Prompts for the budget on dev; without it the budget is not kept there.
        target: The category that is to be changed; the first of `test` unless given.
        strict_instruction: The system message of `prompt`; by default the one for the target.
        budget: Largest share of a capability that may be lost.
        max_new_tokens: Where answers are cut.
        batch_size: Rows that run together.
        seed: Of the calibrations and of the intervals.
        progress: Show progress bars on the error stream.
        command: What to run to get the comparison again.
        keep: Folder in which the result of each method is kept as soon as it is there; a later
            call on the same data does not measure it again.

    Raises:
        InvalidInputError: An unknown method or target, or prompts that cannot be judged.
        PairError: No pairs.
    """
    chosen = list(dict.fromkeys(methods if methods is not None else WAYS))
    unknown = [name for name in chosen if name not in WAYS and name != "none"]
    if unknown:
        raise InvalidInputError(f"unknown method {unknown[0]!r}: choose from {', '.join(WAYS)}")
    check_budget(budget)
    aim = target or test.categories[0]
    instruction = strict_instruction or strict_instruction_for(aim)
    setup = Setup(
        llm, pairs, dev, dev_capability, budget, instruction, max_new_tokens, batch_size, seed,
        progress, aim if set(dev.categories) > {aim} else None,
    )  # fmt: skip
    trial = Trial(setup, test, capability, aim, Path(keep) if keep else None)
    trial.check()
    results = [trial.unsteered()]
    results += [
        trial.run(Entry(name, WAYS[name], _recipe(name))) for name in chosen if name != "none"
    ]
    return trial.comparison(results, command=command)


def _recipe(name: str) -> object:
    """What a way tries, as JSON values: another grid is another result."""
    grids: dict[str, object] = {"cad": CAD_ALPHAS, "lora": repr((LORA_RATES, LoraSettings()))}
    if name in METHODS:
        return repr((METHODS[name].config().model_dump(), METHODS[name].grid))
    return grids.get(name)
