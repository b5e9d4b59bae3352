"""Recipes: how each method makes an arm from the same pairs, and what dev is to choose for it.

Whatever a recipe leaves open (the strength of a vector, the alpha of a decoding method, the
learning rate of a LoRA) is chosen on dev by one rule, see `bench`.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.bench import Bench, choose
from steerable_llm.evaluation.calibration import sweep
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.methods import METHODS
from steerable_llm.methods.build import build_vector
from steerable_llm.methods.lora import LoraSettings, train_lora
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import progress_bar
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.vector import SteeringVector

CAD_ALPHAS = (0.25, 0.5, 1.0, 2.0)
LORA_RATES = (5e-6, 1e-4, 1e-3)


@dataclass(frozen=True)
class Recipe:
    """How an arm is made.

    Attributes:
        method: A name in `METHODS`, or "prompt", "cad", "adacad" or "lora".
        configs: Settings of the method, one after the other; dev chooses among them.
        pairs: How many of the pairs to learn from, the first of an order that `order` decides, so
            that fewer pairs are always among more; None is all of them.
        order: Seed of that order.
        leave_out: Sources of pairs that it does not learn from. A vector that is added to every
            prompt alike only loses by pairs of prompts that are to be left alone; one with gates
            needs them.
        search: What `sweep` is to try in place of the method's own.
        calibration: Use this one instead of choosing on dev.
    """

    method: str
    configs: tuple[Mapping[str, Any], ...] = ({},)
    pairs: int | None = None
    order: int = 0
    leave_out: tuple[str, ...] = ()
    search: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Data:
    """What arms are made from, chosen on and tested on.

    Attributes:
        pairs: What to learn from.
        dev: Prompts to choose on.
        test: Held-out prompts.
        dev_capability: Prompts for the budget on dev; without them it is not kept there.
        capability: Held-out prompts that measure what must not be lost.
    """

    pairs: Pairs
    dev: EvaluationSet
    test: EvaluationSet
    dev_capability: EvaluationSet | None = None
    capability: EvaluationSet | None = None


@dataclass(frozen=True)
class Made:
    """An arm that can be tested.

    Attributes:
        arm: What to run the model with.
        setting: What was chosen, in words.
        dev: Success on dev; None where nothing was to choose.
        calibration: What was chosen for a vector.
    """

    arm: Arm
    setting: str
    dev: float | None = None
    calibration: Calibration | None = None


def recipes(search: Mapping[str, Any] | None = None, images: bool = False) -> dict[str, Recipe]:
    """Return a recipe for every method that can be compared, by name.

    Args:
        search: What `sweep` is to try for every vector, in place of each method's own.
        images: Those that learn from images, too.
    """
    return {
        "prompt": Recipe("prompt"),
        "cad": Recipe("cad", tuple({"alpha": alpha} for alpha in CAD_ALPHAS)),
        "adacad": Recipe("adacad"),
        **{
            name: Recipe(name, tuple(method.grid.configs), search=search or {})
            for name, method in METHODS.items()
            if images or not method.images
        },
        "lora": Recipe("lora", tuple({"learning_rate": rate} for rate in LORA_RATES)),
    }


def make(
    llm: HookedModel, data: Data, recipe: Recipe, name: str, settings: EvaluationSettings
) -> Made:
    """Make an arm and choose on dev what its recipe leaves open.

    Raises:
        CalibrationError: No strength helps within the budget.
        InvalidInputError: A setting that the method does not have, or none within the budget.
        PairError: Pairs that the method cannot use.
        MissingExtraError: The method needs a package that is not installed.
    """
    # Where dev has nothing but the target, or nothing of it, all of dev decides.
    aimed = set(data.dev.categories) > {settings.target}
    choosing = replace(settings, target=settings.target if aimed else None)
    if recipe.leave_out:
        left = Pairs(pair for pair in data.pairs if pair.source not in recipe.leave_out)
        data = replace(data, pairs=left)
    if recipe.pairs is not None:
        data = replace(data, pairs=nested(data.pairs, recipe.pairs, recipe.order))
    if recipe.method == "prompt":
        instruction = settings.strict_instruction
        return Made(Arm(name, instruction=instruction), f'system: "{instruction}"')
    if recipe.method == "adacad":
        arm = Arm(name, contrast=Contrast("adacad"))
        return Made(arm, "alpha for every token, from the divergence")
    making = _best if recipe.method in ("cad", "lora") else _vector
    return making(llm, data, recipe, name, choosing)


def nested(pairs: Pairs, number: int, order: int) -> Pairs:
    """Return the first pairs of a random order, a seed: of one, fewer are always among more.

    Raises:
        InvalidInputError: There are not so many.
    """
    if not 1 <= number <= len(pairs):
        raise InvalidInputError(f"cannot take {number} of {len(pairs)} pairs: give 1 to all")
    places = list(range(len(pairs)))
    random.Random(order).shuffle(places)
    return Pairs(pairs[place] for place in sorted(places[:number]))


def _vector(
    llm: HookedModel, data: Data, recipe: Recipe, name: str, settings: EvaluationSettings
) -> Made:
    vectors: dict[str, SteeringVector] = {}
    with warnings.catch_warnings():
        # The completeness of the attribution is in the vector's record; here it is one of many.
        warnings.filterwarnings("ignore", "the token scores miss", UserWarning)
        how = {"method": recipe.method, "name": name, "progress": settings.progress}
        for config in recipe.configs:
            vector = build_vector(llm, data.pairs, **{**how, **config})
            # Settings may come to the same, such as more heads than the model has.
            if vector.fingerprint_id not in {other.fingerprint_id for other in vectors.values()}:
                vectors[", ".join([name, *([_said(config)] if config else [])])] = vector
    if recipe.calibration is not None:
        (vector,) = vectors.values()
        vector = vector.with_calibration(recipe.calibration)
        return Made(Arm(name, vector.steer()), _at(recipe.calibration), None, recipe.calibration)
    search: dict[str, Any] = {"controls": False, "settings": settings, **recipe.search}
    found = sweep(llm, vectors, data.dev, data.dev_capability, **search)
    arm = Arm(name, found.vector.steer())
    return Made(arm, found.best.setting, found.best.success, found.vector.calibration)


def _best(
    llm: HookedModel, data: Data, recipe: Recipe, name: str, settings: EvaluationSettings
) -> Made:
    """The arm of the setting of CAD or LoRA that does best on dev."""
    arms = {}
    for config in recipe.configs:
        said = _said(config)
        if recipe.method == "cad":
            arms[said] = Arm(name, contrast=Contrast("cad", **config))
            continue
        how = LoraSettings(seed=settings.seed, **config)
        with progress_bar(f"{name}: {said}", len(data.pairs), settings.progress) as advance:
            arms[said] = Arm(name, lora=train_lora(llm, data.pairs, how, name, advance))
    label, row = choose(Bench(llm, data.dev, data.dev_capability, settings), arms)
    return Made(arms[label], label, row.success)


def _said(config: Mapping[str, Any]) -> str:
    said = (f"{key.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in config.items())  # fmt: skip
    return ", ".join(said)


def _at(calibration: Calibration) -> str:
    layers = calibration.layers
    where = "all layers" if layers is None else f"layers {', '.join(map(str, layers))}"
    return f"{calibration.scope}, {where}, strength {calibration.strength:+g}"
