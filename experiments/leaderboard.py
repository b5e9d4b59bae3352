"""Every method on every behaviour of the bundled model, in one page of the documentation.

Run ``python -m experiments.leaderboard``.

Each method learns from the same pairs, is set up on the same dev prompts within the same budget,
and answers the test prompts once. A finished cell (method and behaviour) is kept in a folder and
not measured again, unless the model, the data, the sizes or the method's settings have changed.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from exhibit.steerability import TARGETS
from steerable_llm import __version__, demo
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.evaluation.arms import TITLES
from steerable_llm.evaluation.compare import compare
from steerable_llm.evaluation.comparison import Comparison, section_figure
from steerable_llm.evaluation.recipes import recipes
from steerable_llm.evaluation.rows import Row
from steerable_llm.reports.numbers import change, number, percent, points, share, signed_points
from steerable_llm.reports.page import Page
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

COMMAND = "python -m experiments.leaderboard"
_HEAD: Head = (
    "method",
    *numeric("right [95 %]", "change, points", "made worse"),
    "capability lost, points",
    *numeric("KL/token"),
    "rules",
    *numeric("set up, s"),
)


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        pairs: Pairs to learn from.
        per_category: Prompts of every category, of dev and of test; None is all.
    """

    pairs: int
    per_category: int | None


FULL, QUICK = Size(50, None), Size(20, 30)


@dataclass(frozen=True)
class Leaderboard:
    """All behaviours, each with its comparison.

    Attributes:
        size: How much was measured.
        boards: Behaviour to comparison.
        machine: What it ran on, in words.
        command: What to run to get it again.
    """

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
        if self.size.per_category is not None:
            test = f"at most {self.size.per_category} test prompts of every kind"
        parts: list[Part] = [
            Text(
                f"Written by {self.command}: {len(first.arms) - 1} methods that change "
                f"{', '.join(self.boards)} in the bundled model ({first.model}), "
                f"{self.size.pairs} pairs each, set up on dev within a "
                f"capability budget of {points(first.budget, None)}, {test} read once. "
                "The model is an exhibit of a few million parameters: which method wins here says "
                "little about others. Compare on your own model with steerable compare."
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
                _picture(name, board),
                Table(_HEAD, _lines(board)),
            ]
            failed = [c for c in board.arms if c.failed]
            if failed:
                said = [f"{TITLES.get(c.name, c.name)}: {c.failed}" for c in failed]
                parts += [Text("Did not take part:"), Bullets(said)]
        parts += [Heading("Again"), Code(self.command)]
        return Page("Leaderboard of the bundled model", parts)


def leaderboard(
    llm: SteerableHFLLM,
    size: Size = FULL,
    methods: Sequence[str] = tuple(recipes()),
    behaviours: Sequence[demo.Behaviour] = tuple(TARGETS),
    keep: Path | None = None,
    *,
    max_new_tokens: int = 24,
    progress: bool = True,
    command: str = COMMAND,
) -> Leaderboard:
    """Run every method on every behaviour, with the bundled model; `keep` has finished cells.

    Raises:
        InvalidInputError: An unknown method.
    """
    boards: dict[str, Comparison] = {}
    for name in behaviours:
        every = demo.pairs(name)
        sets = [demo.evaluation_set(x, y) for x in (name, "capability") for y in ("dev", "test")]
        if size.per_category is not None:
            sets = [items.sample(size.per_category) for items in sets]
        dev, test, dev_capability, capability = sets
        boards[name] = compare(
            llm,
            every.sample(min(size.pairs, len(every)), seed=0),
            dev,
            test,
            capability,
            methods,
            dev_capability=dev_capability,
            target=TARGETS[name],
            max_new_tokens=max_new_tokens,
            progress=progress,
            keep=keep,
        )
    return Leaderboard(size, boards, _machine(llm), command)


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


def _lines(board: Comparison) -> list[list[str]]:
    lines = []
    for row in _ranked(board):
        arm = board.arm(row.arm)
        verdict = arm.verdict
        lines.append(
            [
                TITLES.get(row.arm, row.arm),
                share(row.main),
                change(row.change),
                percent(row.regressed),
                _lost(board, row.arm),
                number(row.kl_per_token),
                "" if verdict is None else "passes" if verdict.promote else "refused",
                f"{arm.seconds:.0f}",
            ]
        )
    return lines


def _lost(board: Comparison, arm: str) -> str:
    """Per capability the points that are lost."""
    if arm == "none":
        return ""
    values = {(row.arm, row.category): row.main.value for row in board.rows}
    kept = dict.fromkeys(row.category for row in board.rows if row.capability)
    return ", ".join(
        f"{category.replace('_', ' ')} "
        f"{signed_points(values['none', category] - values[arm, category])}"
        for category in kept
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
    return (
        f"{llm.device.type} ({platform.machine()}), {dtype}, steerable-llm {__version__}, torch "
        f"{torch.__version__}, transformers {transformers.__version__}, Python "
        f"{platform.python_version()}"
    )


def main() -> None:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/leaderboard.md"))
    parser.add_argument("--keep", type=Path, default=Path("leaderboard-results"))
    parser.add_argument("--quick", action="store_true", help="20 pairs, 30 prompts of every kind")
    parser.add_argument("--method", action="append", choices=tuple(recipes()))
    parser.add_argument("--behaviour", action="append", choices=tuple(TARGETS))
    options = parser.parse_args()
    command = COMMAND + (" --quick" if options.quick else "")
    command += "".join(f" --method {name}" for name in options.method or ())
    command += "".join(f" --behaviour {name}" for name in options.behaviour or ())
    board = leaderboard(
        SteerableHFLLM.demo(),
        QUICK if options.quick else FULL,
        options.method or tuple(recipes()),
        options.behaviour or tuple(TARGETS),
        options.keep,
        command=command,
    )
    print(board.page().save(options.out, board.to_json, "a leaderboard"))


if __name__ == "__main__":
    main()
