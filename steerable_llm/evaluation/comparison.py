"""What a comparison found, as data, Markdown, a page with pictures and a terminal table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.table
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.report import TITLES
from steerable_llm.evaluation.verdict import Row, Verdict
from steerable_llm.metrics import Estimate
from steerable_llm.reports.figures import plain, png
from steerable_llm.reports.page import Code, Heading, Page, Part, Picture, Table, Text

# The picture of one section of a comparison: success over contenders that differ in one thing.

_WIDTH, _DPI = 12.0, 100  # inches and dots per inch: 1200 pixels
_SUCCESS, _KEPT, _REFERENCE = "#0072B2", "#009E73", "#999999"


def section_figure(
    rows: Sequence[Row],
    categories: Sequence[str],
    contenders: Sequence[str],
    labels: Sequence[str],
    axis_title: str = "",
) -> bytes:
    """Draw one panel per category: a point with its 95 % interval per contender.

    The unsteered model is a grey band, the strict instruction a dashed line where it took part;
    single runs of a contender are small dots beside its point.

    Args:
        rows: Of all contenders and categories.
        categories: The target, then the capabilities.
        contenders: Names, from left to right.
        labels: What the axis calls them.
        axis_title: What they differ in.
    """
    heights = [3.4] + [2.0] * (len(categories) - 1)
    figure = Figure(figsize=(_WIDTH, 1.2 + sum(heights)), dpi=_DPI, layout="constrained")
    axes = figure.subplots(
        len(categories), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    by_name = {(row.arm, row.category): row for row in rows}
    for axis, category in zip(axes, categories, strict=True):
        _panel(axis, by_name, category, contenders)
    axes[-1].set_xticks(range(len(labels)), labels, rotation=30 if len(labels) > 6 else 0)
    # Room on the right for the words at the unsteered model's line.
    axes[-1].set_xlim(-0.6, max(len(labels), 1) - 0.4 + 0.08 * len(labels))
    axes[-1].set_xlabel(axis_title, fontsize=13)
    return png(figure)


def _panel(
    axis: Any, by_name: dict[tuple[str, str], Row], category: str, contenders: Sequence[str]
) -> None:
    plain(axis)
    unsteered = by_name["none", category]
    axis.axhline(100 * unsteered.main.value, color=_REFERENCE, linewidth=1.2)
    axis.axhspan(100 * unsteered.main.low, 100 * unsteered.main.high, color=_REFERENCE, alpha=0.2)
    axis.annotate(
        "unsteered", (1, 100 * unsteered.main.value), xycoords=("axes fraction", "data"),
        ha="right", va="bottom", fontsize=11, color="#555555",
    )  # fmt: skip
    if ("prompt", category) in by_name and "prompt" not in contenders:
        strict = by_name["prompt", category].main.value
        axis.axhline(100 * strict, color="#E69F00", linestyle="--", linewidth=1.2)
        axis.annotate(
            "strict instruction", (0, 100 * strict), xycoords=("axes fraction", "data"),
            va="bottom", fontsize=11, color="#E69F00",
        )  # fmt: skip
    colour = _KEPT if unsteered.capability else _SUCCESS
    for place, name in enumerate(contenders):
        row = by_name[name, category]
        value = 100 * row.main.value
        axis.errorbar(
            [place], [value], yerr=[[d] for d in _whiskers(row.main)], fmt="o", color=colour,
            markersize=8, capsize=4, elinewidth=1.5,
        )  # fmt: skip
        if row.runs:
            places = [place + 0.025 * len(contenders)] * len(row.runs)
            shares = [100 * run for run in row.runs]
            axis.plot(places, shares, "o", color=colour, alpha=0.45, markersize=4)
        axis.annotate(
            f"{value:.1f}", (place, value), xytext=(-9, 0), textcoords="offset points",
            ha="right", va="center", fontsize=11,
        )  # fmt: skip
    # Of a capability a fraction of a point counts, so its axis does not start at 0.
    shown = [
        by_name[x, category] for x in ("none", "prompt", *contenders) if (x, category) in by_name
    ]
    lowest = min(100 * row.main.low for row in shown)
    axis.set_ylim(max(0.0, lowest - 3) if unsteered.capability else 0, 103)
    axis.set_ylabel(f"{category.replace('_', ' ')}, %\n(n = {unsteered.n})", fontsize=12)


def _whiskers(e: Estimate) -> tuple[float, float]:
    return max(100 * (e.value - e.low), 0.0), max(100 * (e.high - e.value), 0.0)


COLUMNS = ("arm", "made worse", "success [95 %]", "change", "f > 0", "KL/token", "gate")


class Contender(BaseModel):
    """One method in a comparison.

    Attributes:
        name: Of the method.
        setting: What was chosen for it on dev, in words.
        dev: Its success on dev with that; None where nothing was to choose.
        seconds: Time to build and to choose.
        verdict: Whether it may be used, by the rules of `verdict`; None for the unsteered model.
        failed: Why it could not take part; None when it did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    setting: str = ""
    dev: float | None = None
    seconds: float = 0.0
    verdict: Verdict | None = None
    failed: str | None = None


class Comparison(BaseModel):
    """Several ways on the same pairs, dev and test prompts.

    Attributes:
        model: The model's id with a short hash.
        pairs: How many pairs were learnt from.
        data_digest: Their SHA-256.
        test_name: The held-out set.
        test_digest: SHA-256 of its items.
        target: The category that is to be changed.
        budget: Largest share of a capability that may be lost.
        contenders: In the order in which they ran.
        rows: One per contender that took part and category.
        command: What to run to get this again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    pairs: int
    data_digest: str
    test_name: str
    test_digest: str
    target: str
    budget: float
    contenders: tuple[Contender, ...]
    rows: tuple[Row, ...]
    command: str = ""

    @property
    def categories(self) -> tuple[str, ...]:
        """The target first, capability last."""
        ordered = sorted(self.rows, key=lambda row: (row.capability, row.category != self.target))
        return tuple(dict.fromkeys(row.category for row in ordered))

    def contender(self, name: str) -> Contender:
        """One method.

        Raises:
            InvalidInputError: It did not take part; the message lists those that did.
        """
        for contender in self.contenders:
            if contender.name == name:
                return contender
        known = ", ".join(contender.name for contender in self.contenders)
        raise InvalidInputError(f"the comparison has no {name!r}; it has {known}")

    def ranked(self, category: str) -> list[Row]:
        """The rows of a category: what makes most prompts worse comes first."""
        rows = [row for row in self.rows if row.category == category]
        return sorted(rows, key=lambda row: (-(row.regressed or 0.0), -row.main.value))

    def cells(self, row: Row) -> list[str]:
        """One line of a table; the columns are `COLUMNS`."""
        verdict = self.contender(row.arm).verdict
        gate = ""
        if row.category == self.target and verdict is not None:
            gate = "passes" if verdict.promote else "refused"
        runs = f" ({', '.join(f'{100 * run:.1f}' for run in row.runs)})" if row.runs else ""
        return [
            TITLES.get(row.arm, row.arm),
            "" if row.regressed is None else f"{100 * row.regressed:.1f} %",
            _share(row.success) + runs,
            _points(row.change),
            _share(row.preference),
            "" if row.kl_per_token is None else f"{row.kl_per_token.value:.3f}",
            gate,
        ]

    def table(self) -> rich.table.Table:
        """All rows, for a rich console."""
        table = rich.table.Table(title=f"{len(self.contenders)} ways on {self.test_name}")
        table.add_column("category")
        for number, name in enumerate(COLUMNS):
            table.add_column(name, justify="right" if 0 < number < len(COLUMNS) - 1 else "left")
        for category in self.categories:
            for row in self.ranked(category):
                style = "bold" if self.cells(row)[-1] == "passes" else ""
                table.add_row(category, *self.cells(row), style=style)
            table.add_section()
        return table

    def page(self) -> Page:
        """What was compared, in a picture and a table per category, and what was chosen."""
        everybody = [c.name for c in self.contenders if not c.failed]
        picture = self.picture("methods", everybody)
        return Page(self.title, [Text(self.introduction), picture, *self.tables()])

    def tables(self) -> list[Part]:
        """A table per category, what was chosen on dev, and the command."""
        parts: list[Part] = []
        for category in self.categories:
            rows = [self.cells(row) for row in self.ranked(category)]
            parts += [Heading(category), Table(COLUMNS, rows)]
        parts += [Heading("What was chosen on dev"), Table(_CHOICES, self._choices())]
        if self.command:
            parts += [Heading("Again"), Code(self.command)]
        return parts

    def to_markdown(self) -> str:
        """The page without its pictures."""
        return self.page().to_markdown()

    def to_html(self) -> str:
        """The page with its pictures, as one file."""
        return self.page().to_html()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it in the form that the suffix names: `.md`, `.html` or `.json`.

        The pictures of a Markdown page are files beside it.

        Raises:
            InvalidInputError: Another suffix.
        """
        return self.page().save(path, lambda: self.model_dump_json(indent=2), "a comparison")

    def picture(
        self, name: str, contenders: Sequence[str], prefix: str = "", axis: str = ""
    ) -> Picture:
        """Success on the target, and on every capability, over some of the contenders.

        Args:
            name: What they differ in; in the picture's file name.
            contenders: From left to right; those that did not take part are left out.
            prefix: What the axis leaves out of their names.
            axis: What the axis is called.
        """
        categories = [v for v in self.categories if v == self.target or self._is_capability(v)]
        names = [each for each in contenders if each != "none" and self._took_part(each)]
        labels = [TITLES.get(each, each.removeprefix(prefix)) for each in names]
        picture = section_figure(self.rows, categories, names, labels, axis)
        return Picture(name, picture, f"Success by {name}, with 95 % intervals")

    def _took_part(self, name: str) -> bool:
        return any(row.arm == name for row in self.rows)

    def _is_capability(self, category: str) -> bool:
        return any(row.capability for row in self.rows if row.category == category)

    @property
    def title(self) -> str:
        """The heading of both forms."""
        return f"{len(self.contenders)} ways to change {self.target}"

    @property
    def introduction(self) -> str:
        """What was compared, in a sentence or two."""
        return (
            f"{self.model}, {self.pairs} pairs (sha256 {self.data_digest[:12]}), test prompts "
            f"{self.test_name} (sha256 {self.test_digest[:12]}). Every way was set up on dev "
            f"within a capability budget of {100 * self.budget:g} points, and read test once. "
            "In the tables of a category, those that make most prompts worse stand first."
        )

    def _choices(self) -> list[list[str]]:
        return [
            [
                TITLES.get(c.name, c.name),
                c.failed or c.setting,
                "" if c.dev is None else f"{100 * c.dev:.1f} %",
                f"{c.seconds:.1f}",
                c.verdict.line if c.verdict else "",
            ]
            for c in self.contenders
        ]


_CHOICES = ("arm", "setting", "success on dev", "seconds", "verdict")


def _share(e: Estimate | None) -> str:
    if e is None:
        return ""
    return f"{100 * e.value:.1f} % [{100 * e.low:.1f}, {100 * e.high:.1f}]"


def _points(e: Estimate | None) -> str:
    if e is None:
        return ""
    return f"{100 * e.value:+.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]"
