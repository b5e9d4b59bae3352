"""Every method on every behaviour of a model, in one page of the documentation.

``python -m experiments.leaderboard [--model smollm2 | demo | vision-demo]``

Each method learns from the same pairs, is set up on the same dev prompts within the same budget,
and answers the test prompts once. A finished cell (method and behaviour) is kept in a folder and
not measured again, unless the model, the data, the sizes or the method's settings have changed.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from exhibit.steerability import TARGETS
from experiments import vectors
from steerable_llm import __version__, demo
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.demo import vision
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import OWN_CONTROLS, TITLES
from steerable_llm.evaluation.compare import compare
from steerable_llm.evaluation.comparison import Comparison, section_figure
from steerable_llm.evaluation.recipes import Recipe, recipes
from steerable_llm.evaluation.rows import Row
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.files import check_writable
from steerable_llm.methods import METHODS
from steerable_llm.pairs.pair import Pairs
from steerable_llm.reports.numbers import change, number, percent, points, share, signed_points
from steerable_llm.reports.page import Page, check_suffix
from steerable_llm.reports.parts import (
    Bullets,
    Code,
    Head,
    Heading,
    Part,
    Picture,
    Table,
    Text,
    numeric,
)
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.steering import Scope

COMMAND = "python -m experiments.leaderboard"
SHIPPED = Path(__file__).resolve().parent.parent / "vectors"
#: Arms of GrAInS beside its defaults.
GRAINS: dict[str, Recipe] = {
    "grains, paper": Recipe("grains", ({"preset": "paper"},)),
    "grains, conservative": Recipe(
        "grains", ({"attribution": "conservative", "verified": 10, "baseline": "eos"},)
    ),
}
ARMS = (*recipes(), *GRAINS)
#: What GrAInS leaves open for pictures: dev chooses.
_PICTURED = tuple({"baseline": baseline, "k": 5} for baseline in ("zero", "mean"))


def _grains(**fixed: Any) -> Recipe:
    return Recipe("grains", tuple({**open_, **fixed} for open_ in _PICTURED))


def _fixed(method: str, config: Mapping[str, Any]) -> Recipe:
    given = Calibration(0.1, None, "last_prompt", "relative", True, remark="set, not chosen")
    return Recipe(method, (config,), calibration=given)


#: The paper's tables on the vision exhibit: which rows can be selected, and how they are scored.
PICTURES: dict[str, Recipe | tuple[Recipe, ...]] = {
    "grains, joint": _grains(),
    "grains, text only": _grains(modality="text"),
    "grains, vision only": _grains(modality="vision"),
    "grains, paper-vlm": Recipe("grains", ({"preset": "paper-vlm"},)),
    "grains, conservative": _grains(attribution="conservative"),
    "grains, gradient": _grains(attribution="gradient"),
    "grains, smoothgrad": _grains(attribution="smoothgrad"),
    "grains, random (3 seeds)": tuple(
        _grains(attribution="random", seed=seed) for seed in range(3)
    ),
    # How far they come when all push alike, and dev turns or lengthens none.
    "joint, fixed": _fixed("grains", {"k": 5}),
    "text only, fixed": _fixed("grains", {"k": 5, "modality": "text"}),
    "vision only, fixed": _fixed("grains", {"k": 5, "modality": "vision"}),
    "caa, fixed": _fixed("caa", {}),
    "random, fixed (3 seeds)": tuple(
        _fixed("grains", {"k": 5, "attribution": "random", "seed": seed}) for seed in range(3)
    ),
}
#: What was trained as one is tried as one, at shares of what it was trained at.
_AS_TRAINED = {"layers": (None,), "strengths": vectors.STRENGTHS, "kl": None}


@dataclass(frozen=True)
class Size:
    """How much is measured; None is all there is.

    Attributes:
        pairs: Pairs to learn from.
        dev: Prompts of every category of dev.
        test: The same of test.
    """

    pairs: int | None
    dev: int | None
    test: int | None


#: With `--small`: how much is measured, and what dev chooses among: two divergences, both signs,
#: and the blocks by what a grid tries; methods have the first of their own settings.
SMALL = Size(100, 12, 40)
_SMALL_KL = (0.2, 0.6)
_SMALL_LAYERS = {"single": ((14,),), "thirds": (None, tuple(range(10, 20)))}
#: They choose heads, and with them blocks, by themselves.
_OWN_LAYERS = ("iti", "nl_iti")
#: They see which prompt they steer, so pairs of prompts to be left alone teach them something.
_SEE_THE_PROMPT = ("bipo", "mat_steer", "lora")


@dataclass(frozen=True)
class Contest:
    """One behaviour that methods compete in.

    Attributes:
        pairs: What they learn from.
        dev: What they are set up on.
        dev_capability: What must not be lost there.
        test: What they are compared on.
        capability: What must not be lost there.
        settings: Target, and the step of a policy under which vectors act.
        recipes: Arms whose recipe is not the usual one of their method.
        kept: Sources of pairs of prompts that are to be left alone. Their preference is the other
            way round, so what is added to every prompt alike learns from the rest.
    """

    pairs: Pairs
    dev: EvaluationSet
    dev_capability: EvaluationSet
    test: EvaluationSet
    capability: EvaluationSet
    settings: EvaluationSettings
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    kept: tuple[str, ...] = ()

    def of(self, size: Size) -> Contest:
        """Return it with so many pairs and prompts."""
        return replace(
            self,
            pairs=self.pairs if size.pairs is None else _first(self.pairs, size.pairs),
            dev=_sampled(self.dev, size.dev),
            dev_capability=_sampled(self.dev_capability, size.dev),
            test=_sampled(self.test, size.test),
            capability=_sampled(self.capability, size.test),
        )


def _of_smollm2(name: str) -> Contest:
    """The pairs, sets and step of a shipped vector of SmolLM2."""
    behaviour = vectors.BEHAVIOURS[name]
    # Nor may what is answered well suffer.
    compared = (behaviour.target, *(c for c in behaviour.guarded if c in ("gold", "polite")))
    return Contest(
        behaviour.pairs(behaviour.answers()),
        vectors.held_out(behaviour, "dev").category(*compared),
        vectors.capability("dev"),
        vectors.held_out(behaviour, "test").category(*compared),
        vectors.capability("test"),
        EvaluationSettings(
            target=behaviour.target,
            policy=vectors.policy_of(behaviour.step, SHIPPED),
            step=behaviour.step,
        ),
        {"bipo": Recipe("bipo", (behaviour.config,), search=_AS_TRAINED)},
        kept=vectors.KEPT,
    )


def _of_the_exhibit(name: str) -> Contest:
    """The pairs and sets that the bundled model was trained to need."""
    (known,) = (each for each in TARGETS if each == name)
    return Contest(
        demo.pairs(known),
        demo.evaluation_set(known, "dev"),
        demo.evaluation_set("capability", "dev"),
        demo.evaluation_set(known, "test"),
        demo.evaluation_set("capability", "test"),
        EvaluationSettings(target=TARGETS[known]),
    )


def _of_the_pictures(_: str) -> Contest:
    """The pairs and sets of the vision exhibit."""
    return Contest(
        vision.pairs(),
        vision.evaluation_set("pictures", "dev"),
        vision.evaluation_set("capability", "dev"),
        vision.evaluation_set("pictures", "test"),
        vision.evaluation_set("capability", "test"),
        EvaluationSettings(target=vision.TARGET),
    )


@dataclass(frozen=True)
class Ground:
    """A model, and what methods compete in on it.

    Attributes:
        title: Of its page.
        said: What a reader has to know of it, in a sentence or two.
        page: Its page in the documentation.
        load: Returns the model.
        contest: Returns the contest of a behaviour.
        behaviours: Their names.
        size: How much is measured.
        quick: The same with `--quick`.
        search: What `sweep` is to try in place of each method's own.
        scopes: What is tried with methods that may steer several; none for each method's own.
        arms: Those of a whole run, by name.
        more: Arms of its own.
        controls: Those that every vector that helps is set beside.
        small: Whether methods choose among few settings (`SMALL`).
    """

    title: str
    said: str
    page: str
    load: Callable[[], SteerableHFLLM]
    contest: Callable[[str], Contest]
    behaviours: tuple[str, ...]
    size: Size
    quick: Size
    search: Mapping[str, Any] = field(default_factory=dict)
    scopes: tuple[Scope, ...] = ()
    arms: tuple[str, ...] = ARMS
    more: Mapping[str, Recipe | tuple[Recipe, ...]] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    small: bool = False

    def recipes(self, contest: Contest) -> dict[str, tuple[Recipe, ...]]:
        """Return all that may take part in a contest, by name."""
        every = {**recipes(images=True), **GRAINS, **self.more, **contest.recipes}
        return {
            name: tuple(
                self._searched(each, contest) for each in ((by,) if isinstance(by, Recipe) else by)
            )
            for name, by in every.items()
        }

    def _searched(self, recipe: Recipe, contest: Contest) -> Recipe:
        search = {**self.search, **recipe.search}
        if recipe.method not in _SEE_THE_PROMPT:
            recipe = replace(recipe, leave_out=contest.kept)
        if self.small and recipe.method in METHODS:
            subsets = METHODS[recipe.method].grid.subsets
            own = recipe.method in _OWN_LAYERS
            layers = (None,) if own else _SMALL_LAYERS.get(subsets, (None,))
            search = {**self.search, "kl": _SMALL_KL, "layers": layers, **recipe.search}
            recipe = replace(recipe, configs=recipe.configs[:1])
        wide = recipe.method in METHODS and len(METHODS[recipe.method].grid.scopes) > 1
        if self.scopes and wide:
            search["scopes"] = self.scopes
        return replace(recipe, search=search)


GROUNDS = {
    "smollm2": Ground(
        "Leaderboard",
        "The model is SmolLM2-135M-Instruct, the smallest instruct model that can be had on a bare "
        "machine: compare on your own with steerable compare. Vectors act under the condition of "
        "the policy's step that they are for, from the last prompt token on, as shipped ones do.",
        "docs/leaderboard.md",
        SteerableHFLLM.smollm2,
        _of_smollm2,
        ("faithfulness", "refusal", "civility"),
        Size(None, 45, 100),
        Size(20, 15, 30),
        {"kl": (0.05, 0.2, 0.6)},
        scopes=("generated",),
        controls=OWN_CONTROLS,
    ),
    "demo": Ground(
        "Leaderboard of the bundled model",
        "The model is an exhibit of a few million parameters: which method wins here says little "
        "about others. Compare on your own model with steerable compare.",
        "docs/leaderboard-exhibit.md",
        SteerableHFLLM.demo,
        _of_the_exhibit,
        tuple(TARGETS),
        Size(50, None, None),
        Size(20, 30, 30),
    ),
    "vision-demo": Ground(
        "Leaderboard of the bundled vision model",
        "The model is an exhibit of some million parameters that answers about drawn pictures: "
        "which method wins here says little about others. Right in a conflict is the colour that "
        "is seen and not the usual one; right of a companion is that it is not there. Arms called "
        "fixed push alike, by 0.1 of the state's length at the last prompt position: dev has "
        "turned and lengthened none of them. It has seen no system message in its training, so the "
        "strict instruction breaks it and tells nothing of instructions.",
        "docs/leaderboard-vision.md",
        SteerableHFLLM.vision_demo,
        _of_the_pictures,
        ("pictures",),
        Size(50, 25, 100),
        Size(20, 12, 30),
        {"kl": (0.1, 0.4)},
        scopes=("last_prompt", "generated"),
        arms=("prompt", "caa", "icv", "vti", "ict", *PICTURES),
        more=PICTURES,
    ),
}


def _sampled(items: EvaluationSet, number: int | None) -> EvaluationSet:
    return items if number is None else items.sample(number)


def _first(pairs: Pairs, number: int) -> Pairs:
    return pairs.sample(min(number, len(pairs)), seed=0)


@dataclass(frozen=True)
class Leaderboard:
    """All behaviours, each with its comparison.

    Attributes:
        ground: The model, and what it is.
        size: How much was measured.
        boards: Behaviour to comparison.
        machine: What it ran on, in words.
        command: What to run to get it again.
    """

    ground: Ground
    size: Size
    boards: dict[str, Comparison]
    machine: str
    command: str

    def to_json(self) -> str:
        """The comparisons by behaviour, as JSON."""
        boards = {name: board.model_dump(mode="json") for name, board in self.boards.items()}
        return json.dumps(boards, indent=1)

    def page(self) -> Page:
        """The page of the documentation."""
        first = next(iter(self.boards.values()))
        test = "all test prompts"
        if self.size.test is not None:
            test = f"at most {self.size.test} test prompts of every kind"
        parts: list[Part] = [
            Text(
                f"Written by {self.command}: methods that change {', '.join(self.boards)} in "
                f"{first.model}, set up on dev within a capability budget of "
                f"{points(first.budget, None)}, {test} read once. {self.ground.said}"
            ),
            Text(
                f"Measured on {self.machine}. The seconds of setting up are those of the run that "
                "filled the cell, with whatever else the machine was doing."
            ),
            Heading("Who wins"),
            Bullets([summary(name, board) for name, board in self.boards.items()]),
        ]
        for name, board in self.boards.items():
            parts += [
                Heading(f"{name}: {board.target}"),
                Text(f"From {board.pairs} pairs."),
                _picture(name, board),
                Table(*_table(board)),
            ]
            failed = [c for c in board.arms if c.failed]
            if failed:
                said = [f"{TITLES.get(c.name, c.name)}: {c.failed}" for c in failed]
                parts += [Text("Did not take part:"), Bullets(said)]
        parts += [Heading("Again"), Code(self.command)]
        return Page(self.ground.title, parts)


def leaderboard(
    ground: Ground,
    methods: Sequence[str] = (),
    behaviours: Sequence[str] = (),
    size: Size | None = None,
    keep: Path | None = None,
    *,
    max_new_tokens: int = 24,
    progress: bool = True,
    command: str = COMMAND,
) -> Leaderboard:
    """Run every method on every behaviour of a model; `keep` has finished cells."""
    llm, size = ground.load(), size or ground.size
    boards: dict[str, Comparison] = {}
    for name in behaviours or ground.behaviours:
        contest = ground.contest(name).of(size)
        known = ground.recipes(contest)
        boards[name] = compare(
            llm,
            contest.pairs,
            contest.dev,
            contest.test,
            contest.capability,
            {method: known[method] for method in methods or ground.arms},
            dev_capability=contest.dev_capability,
            keep=keep,
            settings=replace(contest.settings, against=ground.controls, random_vectors=1),
            max_new_tokens=max_new_tokens,
            progress=progress,
        )
    return Leaderboard(ground, size, boards, _machine(llm), command)


def summary(name: str, board: Comparison) -> str:
    """Who wins on one behaviour, and by how much, in a sentence or two."""
    rows = _ranked(board)
    best = rows[0]
    if best.arm == "none":
        return f"{name}: nothing does better than the unsteered model ({share(best.main)})."
    said = f"{name}: {TITLES.get(best.arm, best.arm)} does best, {share(best.main)}"
    level = [row for row in rows[1:] if not best.main.above(row.main)]
    if level:
        names = ", ".join(TITLES.get(row.arm, row.arm) for row in level)
        said += f", with an interval that overlaps with {names}"
    vectors = [row for row in rows if row.arm not in ("none", "prompt", "cad", "adacad", "lora")]
    if vectors and vectors[0] is not best:
        said += f". The best vector is {vectors[0].arm}, {share(vectors[0].main)}"
    passed = [c.name for c in board.arms if c.verdict is not None and c.verdict.promote]
    through = ", ".join(TITLES.get(each, each) for each in passed) or "none of them"
    return f"{said}. The promotion rules let through: {through}."


def _ranked(board: Comparison) -> list[Row]:
    rows = [row for row in board.rows if row.category == board.target]
    return sorted(rows, key=lambda row: -row.main.value)


def _table(board: Comparison) -> tuple[Head, list[list[str]]]:
    """The methods of a board, best first; under a step also what is lost without its conditions."""
    beside = any(not row.capability and row.category != board.target for row in board.rows)
    lost: tuple[str, ...] = ("others right", "capability lost, points")[not beside :]
    if board.always:
        lost = (*lost, "without the condition")
    if board.controls:
        lost = (*lost, "random, sign-flipped")
    head: Head = (
        "method",
        *numeric("right [95 %]", "change, points", "made worse"),
        *lost,
        *numeric("KL/token"),
        "rules",
        *numeric("set up, s"),
    )
    lines = []
    for row in _ranked(board):
        arm = board.arm(row.arm)
        verdict = arm.verdict
        others = [_others(board, row.arm)] if beside else []
        without = [_lost(board, row.arm, board.always)] if board.always else []
        lines.append(
            [
                TITLES.get(row.arm, row.arm),
                share(row.main),
                change(row.change),
                percent(row.regressed),
                *others,
                _lost(board, row.arm, board.rows),
                *without,
                *([_controls(board, row.arm)] if board.controls else []),
                number(row.kl_per_token),
                "" if verdict is None else "passes" if verdict.promote else "refused",
                f"{arm.seconds:.0f}",
            ]
        )
    return head, lines


def _others(board: Comparison, arm: str) -> str:
    """Per category beside the target, the share of right answers."""
    kept = [row for row in board.rows if row.arm == arm and not row.capability]
    return ", ".join(
        f"{row.category.replace('_', ' ')} {percent(row.main.value)}"
        for row in kept
        if row.category != board.target
    )


def _controls(board: Comparison, arm: str) -> str:
    """How far the controls of an arm come; nothing where they were not run."""
    return ", ".join(percent(row.main.value) for row in board.controls.get(arm, ()))


def _lost(board: Comparison, arm: str, rows: Sequence[Row]) -> str:
    """Per capability the points that are lost; nothing of an arm that these rows do not have."""
    if arm == "none":
        return ""
    base = {row.category: row.main.value for row in board.rows if row.arm == "none"}
    kept = [row for row in rows if row.arm == arm and row.capability]
    return ", ".join(
        f"{row.category.replace('_', ' ')} {signed_points(base[row.category] - row.main.value)}"
        for row in kept
    )


def _picture(name: str, board: Comparison) -> Picture:
    names = [row.arm for row in _ranked(board) if row.arm != "none"]
    categories = [board.target, *dict.fromkeys(r.category for r in board.rows if r.capability)]
    labels = [_short(each) for each in names]
    return Picture(
        name,
        lambda: section_figure(board.rows, categories, names, labels),
        f"Right answers per method, {name}, with 95 % intervals",
    )


def _short(name: str) -> str:
    return "strict\ninstruction" if name == "prompt" else name.replace("_", " ")


def _machine(llm: SteerableHFLLM) -> str:
    dtype = str(llm.model.dtype).removeprefix("torch.")
    if torch.get_float32_matmul_precision() == "medium":
        dtype += " multiplied in bfloat16"
    return (
        f"{llm.device.type} ({platform.machine()}), {dtype}, steerable-llm {__version__}, torch "
        f"{torch.__version__}, transformers {transformers.__version__}, Python "
        f"{platform.python_version()}"
    )


def main() -> None:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=tuple(GROUNDS), default="smollm2")
    parser.add_argument("--out", type=Path, help="the model's page in docs/ when left out")
    parser.add_argument("--keep", type=Path, default=Path("leaderboard-results"))
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="few pairs and prompts")
    every = (*recipes(images=True), *GRAINS, *PICTURES)
    size.add_argument(
        "--small",
        action="store_true",
        help="of SmolLM2: fewer prompts, and fewer settings to choose among, on a page of its own",
    )
    parser.add_argument(
        "--bf16",
        action="store_true",
        help="multiply matrices in bfloat16, two to three times as fast on CPUs that can",
    )
    parser.add_argument("--method", action="append", choices=tuple(dict.fromkeys(every)))
    parser.add_argument("--behaviour", action="append")
    options = parser.parse_args()
    ground = GROUNDS[options.model]
    if options.small and options.model != "smollm2":
        parser.error("--small names blocks of smollm2: use --quick for other models")
    for name in options.behaviour or ():
        if name not in ground.behaviours:
            parser.error(f"no behaviour {name!r}: choose from {', '.join(ground.behaviours)}")
    if options.small:
        ground = replace(
            ground,
            title="Small leaderboard",
            said=f"{ground.said} Each has the first of its settings, and few to choose among.",
            page="docs/leaderboard-small.md",
            size=SMALL,
            small=True,
        )
    out: Path = options.out or Path(ground.page)
    try:
        check_suffix(out, "a leaderboard")
        check_writable(out)
    except InvalidInputError as error:
        parser.error(str(error))
    keep: Path = options.keep
    if options.bf16:
        torch.set_float32_matmul_precision("medium")
        keep /= "bf16"
    command = f"{COMMAND} --model {options.model}"
    command += "".join(f" --{name}" for name in ("quick", "small", "bf16") if vars(options)[name])
    command += "".join(f' --method "{name}"' for name in options.method or ())
    command += "".join(f" --behaviour {name}" for name in options.behaviour or ())
    board = leaderboard(
        ground,
        options.method or (),
        options.behaviour or (),
        ground.quick if options.quick else ground.size,
        keep,
        command=command,
    )
    print(board.page().save(out, board.to_json, "a leaderboard"))


if __name__ == "__main__":
    main()
