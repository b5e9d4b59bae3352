"""Several methods, each made and set up on the same data, on the same held-out prompts."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Unpack

from pydantic import BaseModel, TypeAdapter, ValidationError

from steerable_llm.errors import InvalidInputError, MissingExtraError, PairError, SteerableError
from steerable_llm.evaluation.arms import OWN_CONTROLS, UNSTEERED, Arm, controls_of
from steerable_llm.evaluation.comparison import ComparedArm, Comparison
from steerable_llm.evaluation.conditions import Conditions, under_conditions
from steerable_llm.evaluation.evaluate import for_sets
from steerable_llm.evaluation.loss import what_a_proof_needs
from steerable_llm.evaluation.overlap import HeldOut, apart, looked_at, overlap
from steerable_llm.evaluation.recipes import Data, Recipe, make, recipes
from steerable_llm.evaluation.rows import Row, rows_of, run_arms
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet, check_judged
from steerable_llm.evaluation.settings import DEFAULTS, Changes, EvaluationSettings
from steerable_llm.evaluation.verdict import judge
from steerable_llm.files import write_whole
from steerable_llm.methods import METHODS
from steerable_llm.methods.lora import LoraSettings
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import note
from steerable_llm.reports.parts import visible
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.calibration import Calibration
from steerable_llm.version import __version__

#: Goes up when a kept result of an earlier version must not be used again.
KEPT_VERSION = 4


def compare(
    llm: HookedModel,
    pairs: Pairs,
    dev: EvaluationSet,
    test: EvaluationSet,
    capability: EvaluationSet | None = None,
    methods: Sequence[str] | Mapping[str, Recipe | Sequence[Recipe]] | None = None,
    *,
    dev_capability: EvaluationSet | None = None,
    keep: str | os.PathLike[str] | None = None,
    search: Mapping[str, Any] | None = None,
    settings: EvaluationSettings = DEFAULTS,
    **changes: Unpack[Changes],
) -> Comparison:
    """Make, set up and test several methods on the same data.

    Every method that makes a vector is built with each of its own settings to choose among, and
    calibrated on dev (strength, sign, scope, layers) within the budget; CAD chooses its alpha and
    LoRA its learning rate on dev in the same way. Then all read the test prompts once. A method
    that cannot be used on these pairs, or of which no setting helps, is listed with the reason.

    Args:
        llm: The model.
        pairs: What to learn from.
        dev: Prompts to choose on.
        test: Held-out prompts.
        capability: Held-out prompts that measure what must not be lost.
        methods: Names in `recipes(images=True)`, or recipes of your own by the name of their arm
            (the arms of several, such as of several seeds, are averaged per prompt); when left out
            all of them, those that learn from images where the pairs have some. The unsteered model
            and the strict instruction, which every verdict compares with, always run.
        dev_capability: Prompts for the budget on dev; without it the budget is not kept there.
        keep: Folder in which the result of each method is kept as soon as it is there; a later
            call on the same data does not measure it again.
        search: What `sweep` is to try for vectors in place of each method's own (`strengths`, `kl`,
            `scopes`, `layers`); recipes of your own bring theirs.
        settings: How the arms are run, chosen and judged. The controls "random" and "sign_flipped"
            in its `against` are run on the target for every vector that does better than the
            unsteered model, and must be beaten, too.
        **changes: Single settings in place of those in `settings`.

    Raises:
        InvalidInputError: An unknown method or target, prompts that are not held out, or prompts
            that cannot be judged.
        PairError: No pairs.
    """
    if methods is None:
        methods = recipes(search, images=any(pair.images for pair in pairs))
    given = methods if isinstance(methods, Mapping) else recipes(search, images=True)
    known = {name: (by,) if isinstance(by, Recipe) else by for name, by in given.items()}
    chosen = list(dict.fromkeys(methods))
    unknown = [name for name in chosen if name not in known and name != "none"]
    if unknown:
        raise InvalidInputError(f"unknown method {unknown[0]!r}: choose from {', '.join(known)}")
    data = Data(pairs, dev, test, dev_capability, capability)
    trial = Trial.of(llm, data, replace(settings, **changes), keep)
    if trial.settings.policy is None:  # conditions may leave categories alone
        for told in what_a_proof_needs(test, capability, trial.settings):
            note(visible(told), trial.settings.progress)
    known.setdefault("prompt", (Recipe("prompt"),))
    others = [name for name in chosen if name != "none"]
    if "prompt" not in others:
        others.insert(0, "prompt")
    results = [trial.run("none"), *(trial.run(name, *known[name]) for name in others)]
    return trial.comparison(results)


class Result(BaseModel, frozen=True, extra="forbid"):
    """One arm after it ran.

    Attributes:
        arm: What was chosen and how long it took, or why it failed.
        rows: Its rows and those of the unsteered model; none if it failed.
        always: Under a step of a policy, its rows without the step's conditions.
        controls: How its own controls did on the target.
        calibrations: What was chosen for each of its vectors.
    """

    arm: ComparedArm
    rows: tuple[Row, ...] = ()
    always: tuple[Row, ...] = ()
    controls: tuple[Row, ...] = ()
    calibrations: tuple[Calibration, ...] = ()


@dataclass(frozen=True)
class Trial:
    """Arms made and tested one after the other, each result kept as soon as it is there.

    Attributes:
        llm: The model.
        data: What arms are made from and tested on.
        settings: How; target and strict instruction are those of the test prompts.
        keep: Folder of finished results; None keeps nothing.
    """

    llm: HookedModel
    data: Data
    settings: EvaluationSettings
    keep: Path | None = None

    @cached_property
    def conditions(self) -> Conditions | None:
        """Those of the policy's step that the settings name, if they do."""
        return Conditions.of(self.settings, None)

    @classmethod
    def of(
        cls,
        llm: HookedModel,
        data: Data,
        settings: EvaluationSettings,
        keep: str | os.PathLike[str] | None = None,
    ) -> Trial:
        """Make sure that a trial on these data says something; it raises what `compare` does."""
        if not data.pairs:
            raise PairError("there are no pairs to build from: give at least one")
        settings = for_sets(settings, data.test, data.capability)
        Conditions.of(settings, None)  # raises what is wrong with the policy before any work
        check_judged(data.dev, data.dev_capability)
        looked = [looked_at(llm, "the build", data.pairs)]
        for target, capability in ((data.dev, data.dev_capability), (data.test, data.capability)):
            sets = [items for items in (target, capability) if items is not None]
            held_out = [HeldOut.of(llm, items) for items in sets]
            overlap(held_out, looked)
            if capability is not None:
                apart(*held_out)
            looked += [looked_at(llm, f"the calibration on {one.name!r}", one) for one in sets]
        return cls(llm, data, settings, Path(keep) if keep else None)

    def run(self, name: str, *made_by: Recipe) -> Result:
        """Make and test an arm by its recipe, unless a kept result says how that went.

        The arms of several recipes are averaged per prompt; without any it is the model as it is.
        """
        path = self.keep / f"{self._key(name, made_by)}.json" if self.keep else None
        if path is not None and path.is_file():
            try:
                return Result.model_validate_json(path.read_bytes())
            except ValidationError:
                pass  # cut short, or of another version: measured again
        result, lasting = self._measured(name, made_by)
        if path is not None and lasting:
            write_whole(path, result.model_dump_json(indent=1))
        return result

    def _measured(self, name: str, made_by: Sequence[Recipe]) -> tuple[Result, bool]:
        """Return the result, and whether another run would come to the same."""
        start = time.perf_counter()
        try:
            made = [make(self.llm, self.data, each, name, self.settings) for each in made_by]
        except SteerableError as error:
            seconds = time.perf_counter() - start
            failed = ComparedArm(name=name, failed=str(error), seconds=seconds)
            # What is not installed today may be tomorrow.
            return Result(arm=failed), not isinstance(error, MissingExtraError)
        on_dev = [each.dev for each in made if each.dev is not None]
        arm = ComparedArm(
            name=name,
            setting="; ".join(dict.fromkeys(each.setting for each in made)),
            dev=fmean(on_dev) if on_dev else None,
            seconds=time.perf_counter() - start,
        )
        rows, always = self._rows([each.arm for each in made])
        return Result(
            arm=arm,
            rows=rows,
            always=always,
            controls=self._controls(made[0].arm, rows) if len(made) == 1 else (),
            calibrations=tuple(each.calibration for each in made if each.calibration),
        ), True

    def _rows(self, arms: Sequence[Arm]) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        """Return the rows, and those of what steers without the step's conditions."""
        items, capability = self._items, self.data.capability
        title = f"testing {arms[-1].name if arms else UNSTEERED.name}"
        every = [UNSTEERED, *arms]
        outcomes = run_arms(self.llm, every, items, self.settings, title)
        kept = set(capability.categories if capability else ())
        if self.conditions is None:
            return tuple(rows_of(outcomes, items, kept, self.settings.seed)), ()
        steering = {arm.name for arm in arms if arm.steering.is_active}
        always = rows_of(outcomes, items, kept, self.settings.seed)
        under = under_conditions(self.llm, every, outcomes, items, self._shares, self.settings)
        rows = rows_of(under, items, kept, self.settings.seed)
        return tuple(rows), tuple(row for row in always if row.arm in steering)

    def _controls(self, arm: Arm, rows: Sequence[Row]) -> tuple[Row, ...]:
        """How the controls of a vector do on the target, where it does any good there."""
        target, settings = self.settings.target, self.settings
        arms = controls_of(arm, settings)
        mine = [r for r in rows if r.arm == arm.name and r.category == target and r.change]
        if not arms or not any(row.change and row.change.value > 0 for row in mine):
            return ()
        places = [i for i, item in enumerate(self._items) if item.category == target]
        items = [self._items[i] for i in places]
        every = [UNSTEERED, *arms]
        found = run_arms(self.llm, every, items, settings, f"controls of {arm.name}")
        if self.conditions is not None:
            shares = [self._shares[i] for i in places]
            found = under_conditions(self.llm, every, found, items, shares, settings)
        return tuple(
            row for row in rows_of(found, items, set(), settings.seed) if row.arm != "none"
        )

    @cached_property
    def _items(self) -> list[EvaluationItem]:
        """The test prompts, and those of what must not be lost."""
        return [*self.data.test, *(self.data.capability or ())]

    @cached_property
    def _shares(self) -> list[float]:
        """What the step leaves each of them of the strength; measured once for all arms."""
        assert self.conditions is not None
        return self.conditions.shares(self.llm, self._items)

    def _key(self, name: str, made_by: Sequence[Recipe]) -> str:
        """A hash of all that decides the result, with the name in front for people."""
        settings, data = self.settings, self.data
        given = self.llm.chat_format.arguments
        content = {
            "version": [KEPT_VERSION, __version__],
            "model": self.llm.fingerprint.model_dump(exclude={"model_id", "revision"}),
            "pairs": data.pairs.digest,
            "dev": data.dev.digest,
            "dev_capability": data.dev_capability.digest if data.dev_capability else None,
            "test": data.test.digest,
            "capability": data.capability.digest if data.capability else None,
            "target": settings.target,
            "budget": settings.budget,
            "instruction": settings.strict_instruction,
            "max_new_tokens": settings.max_new_tokens,
            "controls": [
                [control, settings.random_vectors]
                for control in OWN_CONTROLS
                if control in (settings.against or ())
            ],
            "seed": settings.seed,
            "conditions": None if self.conditions is None else self.conditions.use((), ()).same,
            **({"chat_template_kwargs": given} if given else {}),
            "name": name,
            "recipes": [_content(recipe) for recipe in made_by],
        }
        text = json.dumps(content, sort_keys=True)
        readable = "".join(c if c.isalnum() else "-" for c in name)
        return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def comparison(self, results: Sequence[Result]) -> Comparison:
        """Put results side by side, each judged by the same rules as a vector's card."""
        budget, target = self.settings.budget, self.settings.target or ""
        rows: dict[tuple[str, str], Row] = {}
        for result in results:
            for row in result.rows:
                rows.setdefault((row.arm, row.category), row)
        every = tuple(rows.values())
        return Comparison(
            model=self.llm.fingerprint.short,
            pairs=len(self.data.pairs),
            data_digest=self.data.pairs.digest,
            test_name=self.data.test.name,
            test_digest=self.data.test.digest,
            target=target,
            budget=budget,
            arms=tuple(_judged(result, every, target, budget) for result in results),
            rows=every,
            controls={each.arm.name: each.controls for each in results if each.controls},
            use=self.conditions and self.conditions.use(self._items, self._shares),
            always=tuple(row for result in results for row in result.always),
            command=self.settings.command,
        )


def _judged(result: Result, rows: Sequence[Row], target: str, budget: float) -> ComparedArm:
    arm = result.arm
    if arm.name in ("none", "prompt") or arm.failed:
        return arm
    # Other methods are no controls: what is to be beaten is the unsteered model, the instruction
    # and the arm's own controls.
    mine = [row for row in rows if row.arm in ("none", "prompt", arm.name)]
    verdict = judge([*mine, *result.controls], target, budget, arm.name)
    return arm.model_copy(update={"verdict": verdict})


def _content(recipe: Recipe) -> list[Any]:
    """What a recipe tries, as JSON values: another grid, or another default, is another result."""
    defaults = ""
    if recipe.method in METHODS:
        method = METHODS[recipe.method]
        defaults = repr((method.config().model_dump(), method.grid))
    elif recipe.method == "lora":
        defaults = repr(LoraSettings())
    return [defaults, TypeAdapter(Recipe).dump_python(recipe, mode="json")]
