"""What a comparison found, as data, Markdown, a page with pictures and a terminal table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import TITLES
from steerable_llm.evaluation.conditions import StepUse
from steerable_llm.evaluation.rows import Row, categories_of
from steerable_llm.evaluation.verdict import Verdict
from steerable_llm.reports import numbers
from steerable_llm.reports.figures import BLUE, GREEN, GREY, DotPanel, Mark, dots_figure
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Code, Head, Heading, Part, Picture, Table, Text, numeric

_CHOICES: Head = ("arm", "setting", *numeric("success on dev", "seconds"), "verdict")
_HEAD: Head = (
    "arm",
    *numeric("made worse", "success [95 %]", "change, points"),
    "rules",
    *numeric("f > 0", "KL/token"),
)


class ComparedArm(BaseModel, frozen=True, extra="forbid"):
    """One arm of a comparison.

    Attributes:
        name: Of the method, or what else tells it apart.
        setting: What was chosen for it on dev, in words.
        dev: Its success on dev with that; None where nothing was to choose.
        seconds: Time to build and to choose.
        verdict: Whether it may be used, by the rules of `verdict`; None for the unsteered model.
        failed: Why it could not take part; None when it did.
    """

    name: str
    setting: str = ""
    dev: float | None = None
    seconds: float = 0.0
    verdict: Verdict | None = None
    failed: str | None = None


class Comparison(BaseModel, frozen=True, extra="forbid"):
    """Several arms on the same pairs, dev and test prompts.

    Attributes:
        model: The model's id with a short hash.
        pairs: How many pairs were learnt from.
        data_digest: Their SHA-256.
        test_name: The held-out set.
        test_digest: SHA-256 of its items.
        target: The category that is to be changed.
        budget: Largest share of a capability that may be lost.
        arms: In the order in which they ran.
        rows: One per arm that took part and category.
        use: The step of a policy as which arms steered; None where they steered everywhere.
        always: Where there is such a step, the rows of arms that steer, without its conditions.
        controls: By the name of an arm the rows of its own controls on the target, where they ran.
        command: What to run to get this again.
    """

    model: str
    pairs: int
    data_digest: str
    test_name: str
    test_digest: str
    target: str
    budget: float
    arms: tuple[ComparedArm, ...]
    rows: tuple[Row, ...]
    use: StepUse | None = None
    always: tuple[Row, ...] = ()
    controls: dict[str, tuple[Row, ...]] = {}
    command: str = ""

    @property
    def categories(self) -> tuple[str, ...]:
        """The target first, capability last."""
        return categories_of(self.rows, self.target)

    def arm(self, name: str) -> ComparedArm:
        """Return one of the arms.

        Raises:
            InvalidInputError: It did not take part; the message lists those that did.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        known = ", ".join(arm.name for arm in self.arms)
        raise InvalidInputError(f"the comparison has no {name!r}; it has {known}")

    def ranked(self, category: str) -> list[Row]:
        """Return the rows of a category: what makes most prompts worse comes first."""
        rows = [row for row in self.rows if row.category == category]
        return sorted(rows, key=lambda row: (-(row.regressed or 0.0), -row.main.value))

    def _cells(self, row: Row) -> list[str]:
        verdict = self.arm(row.arm).verdict
        rules = ""
        if row.category == self.target and verdict is not None:
            rules = "passes" if verdict.promote else "refused"
        return [
            TITLES.get(row.arm, row.arm),
            numbers.percent(row.regressed),
            numbers.share(row.success, row.runs),
            numbers.change(row.change),
            rules,
            numbers.share(row.preference),
            numbers.number(row.kl_per_token),
        ]

    def table(self) -> Page:
        """All rows, for a console."""
        parts: list[Part] = []
        for category in self.categories:
            parts += [Heading(category, 3), self.table_of(self.ranked(category))]
        return Page(f"{len(self.arms)} arms on {self.test_name}", parts)

    def table_of(self, rows: Sequence[Row]) -> Table:
        """Some of the rows as a table."""
        cells = [self._cells(row) for row in rows]
        return Table(_HEAD, cells, strong=[i for i, c in enumerate(cells) if "passes" in c])

    def page(self) -> Page:
        """Return what was compared, in a picture and a table per category, and what was chosen."""
        picture = self.picture("methods", [arm.name for arm in self.arms])
        return Page(self.title, [Text(self.introduction), picture, *self.tables()])

    def tables(self) -> list[Part]:
        """Return a table per category, what was chosen on dev, and the command."""
        parts: list[Part] = []
        for category in self.categories:
            parts += [Heading(category), self.table_of(self.ranked(category))]
        if self.always:
            parts += [Heading("Without the step's conditions"), self._table_without()]
        choices = [
            [
                TITLES.get(arm.name, arm.name),
                arm.failed or arm.setting,
                numbers.percent(arm.dev),
                f"{arm.seconds:.1f}",
                arm.verdict.line if arm.verdict else "",
            ]
            for arm in self.arms
        ]
        parts += [Heading("What was chosen on dev"), Table(_CHOICES, choices)]
        if self.command:
            parts += [Heading("Again"), Code(self.command)]
        return parts

    def _table_without(self) -> Table:
        """What steering does where the step leaves prompts alone."""
        cells = [
            [
                category,
                TITLES.get(row.arm, row.arm),
                numbers.percent(row.regressed),
                numbers.share(row.success, row.runs),
                numbers.change(row.change),
            ]
            for category in self.categories
            for row in self.always
            if row.category == category
        ]
        return Table(("category", *_HEAD[:4]), cells)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it in the form that the suffix names: `.md`, `.html` or `.json`.

        The pictures of a Markdown page are files beside it.

        Raises:
            InvalidInputError: Another suffix.
        """
        return self.page().save(path, lambda: self.model_dump_json(indent=2), "a comparison")

    def picture(self, name: str, arms: Sequence[str], prefix: str = "", axis: str = "") -> Picture:
        """Success on the target, and on every capability, over some of the arms.

        Args:
            name: What they differ in; in the picture's file name.
            arms: From left to right; those that did not take part are left out.
            prefix: What the axis leaves out of their names.
            axis: What the axis is called.
        """
        kept = {row.category for row in self.rows if row.capability}
        took_part = {row.arm for row in self.rows} - {"none"}
        categories = [name for name in self.categories if name in {self.target, *kept}]
        names = [each for each in arms if each in took_part]
        labels = [TITLES.get(each, each.removeprefix(prefix)) for each in names]
        return Picture(
            name,
            lambda: section_figure(self.rows, categories, names, labels, axis),
            f"Success by {name}, with 95 % intervals",
        )

    @property
    def title(self) -> str:
        """The heading of both forms."""
        return f"{len(self.arms)} arms that change {self.target}"

    @property
    def introduction(self) -> str:
        """What was compared, in a sentence or two."""
        steered = ""
        if self.use is not None:
            steered = (
                f" Arms that steer did so as step {self.use.step!r} of a policy would "
                f"({self.use.said})."
            )
        return (
            f"{self.model}, {self.pairs} pairs (sha256 {self.data_digest[:12]}), test prompts "
            f"{self.test_name} (sha256 {self.test_digest[:12]}). Every arm was set up on dev "
            f"within a capability budget of {numbers.points(self.budget, None)}, and read test "
            "once. In the tables of a category, those that make most prompts worse stand first."
            + steered
        )


def section_figure(
    rows: Sequence[Row],
    categories: Sequence[str],
    arms: Sequence[str],
    labels: Sequence[str],
    axis_title: str = "",
) -> bytes:
    """Draw success over arms, from left to right, that differ in one thing, a panel per category.

    The unsteered model is a grey band, the strict instruction a dashed line where it took part and
    is none of the arms.
    """
    known = {(row.arm, row.category): row for row in rows}
    panels = []
    for category in categories:
        plain = known["none", category]
        strict = known.get(("prompt", category)) if "prompt" not in arms else None
        colour = GREEN if plain.capability else BLUE
        panels.append(
            DotPanel(
                title=f"{category.replace('_', ' ')}, %\n(n = {plain.n})",
                marks=[
                    _mark(known[name, category], label, colour)
                    for name, label in zip(arms, labels, strict=True)
                ],
                band=_mark(plain, TITLES["none"]),
                line=_mark(strict, TITLES["prompt"]) if strict else None,
                # Of a capability a fraction of a point counts, so its axis does not start at 0.
                whole=not plain.capability,
            )
        )
    return dots_figure(panels, axis_title)


def _mark(row: Row, label: str, colour: str = GREY) -> Mark:
    e = row.main
    return Mark(label, e.value, e.low, e.high, colour=colour, runs=row.runs)
