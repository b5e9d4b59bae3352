"""Every way to change a behaviour, set up on the same pairs and dev prompts.

A way builds what it needs, chooses on dev what is left open, and comes back ready to be tested.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, TypeAlias

from steerable_llm.build import build_vector, sweep_of
from steerable_llm.calibration import CalibrationResult, calibrate
from steerable_llm.contrast import Contrast
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.conditions import Condition
from steerable_llm.evaluation.outcomes import Job, answers
from steerable_llm.evaluation.sweep import CalibrationRow
from steerable_llm.evaluation_set import EvaluationSet
from steerable_llm.methods import METHODS
from steerable_llm.methods.lora import LoraSettings, train_lora
from steerable_llm.metrics import standard_error
from steerable_llm.model.adapter import Adapter
from steerable_llm.model.hooked_model import SteerableHFLLM
from steerable_llm.pairs import Pairs
from steerable_llm.progress import progress_bar
from steerable_llm.steering import Steering
from steerable_llm.vector import Calibration, SteeringVector

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
        target: The variant of dev to change; its other variants are then held to the budget, see
            `calibrate`. None takes them all alike.
    """

    llm: SteerableHFLLM
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
        conditions: What to run the model with; several are averaged per prompt.
        setting: What was chosen, in words.
        dev: Success on dev, averaged over the conditions; None where nothing was to choose.
        calibrations: What was chosen for each condition that steers.
    """

    conditions: tuple[Condition, ...]
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
            tuple(Condition(name, vector.steer()) for vector, _ in found),
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
        (Condition(name, found.vector.steer()),),
        f"{found.best.label}, strength {found.best.strength:+g}",
        found.best.success,
        (found.vector.calibration,),
    )


def _prompt(setup: Setup, name: str) -> Ready:
    condition = Condition(name, Steering.none(), setup.instruction)
    return Ready((condition,), f'system: "{setup.instruction}"')


def _cad(setup: Setup, name: str) -> Ready:
    candidates = {
        f"alpha {alpha:g}": Condition(name, Steering.none(), contrast=Contrast("cad", alpha))
        for alpha in CAD_ALPHAS
    }
    return _best(setup, candidates)


def _adacad(_: Setup, name: str) -> Ready:
    condition = Condition(name, Steering.none(), contrast=Contrast("adacad"))
    return Ready((condition,), "alpha for every token, from the divergence")


def _lora(setup: Setup, name: str) -> Ready:
    adapters: dict[str, Adapter] = {}
    for rate in LORA_RATES:
        config = LoraSettings(learning_rate=rate, seed=setup.seed)
        title = f"{name}: learning rate {rate:g}"
        with progress_bar(title, len(setup.pairs), setup.progress) as advance:
            adapters[f"learning rate {rate:g}"] = train_lora(
                setup.llm, setup.pairs, config, name, advance
            )
    return _best(
        setup,
        {
            label: Condition(name, Steering.none(), adapter=adapter)
            for label, adapter in adapters.items()
        },
    )


def _best(setup: Setup, candidates: dict[str, Condition]) -> Ready:
    """The candidate with most success on dev among those within the budget.

    Raises:
        InvalidInputError: None of them is within the budget.
    """
    plain = Condition("none", Steering.none())
    lost, success = {}, {}
    beside = set(setup.dev.variants)
    aims = {setup.target} if setup.target else beside
    before = _right(setup, plain, setup.capability) | _right(setup, plain, setup.dev)
    for label, condition in candidates.items():
        after = _right(setup, condition, setup.capability) | _right(setup, condition, setup.dev)
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


def _right(
    setup: Setup, condition: Condition, items: EvaluationSet | None
) -> dict[str, list[float]]:
    """Per variant, 1.0 or 0.0 for each answer."""
    found: dict[str, list[float]] = {}
    if items is None:
        return found
    jobs = [Job(condition, item) for item in items]
    with progress_bar(f"{condition.name} on {items.name}", len(jobs), setup.progress) as advance:
        texts = answers(setup.llm, jobs, setup.max_new_tokens, setup.batch_size, advance)
    for item, text in zip(items, texts, strict=True):
        found.setdefault(item.variant, []).append(float(item.succeeds(text)))
    return found


#: Every way that can be compared, by name.
WAYS: dict[str, Way] = {
    "prompt": _prompt,
    "cad": _cad,
    "adacad": _adacad,
    **dict.fromkeys(METHODS, _vector),
    "lora": _lora,
}
