"""Figures as PNG bytes, 1200 pixels wide, drawn from plain rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from textwrap import wrap
from typing import Any, Protocol

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text as Label

from steerable_llm.reports.parts import visible

_WIDTH, _DPI = 12.0, 100  # inches and dots per inch: 1200 pixels
_GROUPS_PER_PANEL = 4
_LETTERS = 104  # beneath a panel, so that the names of groups do not touch
_LETTERS_BESIDE = 26  # beside one of a sweep
# Okabe and Ito's colours, which people with colour blindness tell apart.
BLUE, GREEN, ORANGE, RED = "#0072B2", "#009E73", "#E69F00", "#D55E00"
PINK, YELLOW, SKY, GREY = "#CC79A7", "#F0E442", "#56B4E9", "#999999"
_LINES = (BLUE, GREEN, RED, PINK, ORANGE, SKY, "#000000")


@dataclass(frozen=True)
class Mark:
    """One measured value.

    Attributes:
        label: What was measured, such as an arm.
        value: Of it; a share lies in [0, 1].
        low: Lower end of its interval.
        high: Upper end.
        group: What it was measured on, such as a kind of prompt.
        colour: Of its bar, dot or line.
        control: Whether it only shows what chance does: it is hatched or dashed.
        runs: The values that it is the mean of, drawn beside it.
    """

    label: str
    value: float
    low: float
    high: float
    group: str = ""
    colour: str = SKY
    control: bool = False
    runs: Sequence[float] = ()

    @property
    def whiskers(self) -> tuple[float, float]:
        """How far the interval reaches below and above the value."""
        return max(self.value - self.low, 0.0), max(self.high - self.value, 0.0)


def bars_figure(marks: Sequence[Mark]) -> bytes:
    """Draw shares as a bar per label, grouped, with intervals; controls are hatched.

    Groups and labels stand in the order in which they first come; a label that lacks a group
    leaves a gap.
    """
    groups = list(dict.fromkeys(mark.group for mark in marks))
    panels = [groups[i : i + _GROUPS_PER_PANEL] for i in range(0, len(groups), _GROUPS_PER_PANEL)]
    labels = list(dict.fromkeys(mark.label for mark in marks))
    figure, axes = _panels([3.6] * len(panels), sharex=False)
    width = 0.84 / len(labels)
    room = _LETTERS // max(len(panel) for panel in panels)
    for axis, names in zip(axes, panels, strict=True):
        for place, label in enumerate(labels):
            mine = [mark for mark in marks if mark.label == label and mark.group in names]
            offset = (place - (len(labels) - 1) / 2) * width
            _bars(axis, mine, [names.index(mark.group) + offset for mark in mine], width)
        axis.set_xticks(range(len(names)), [_wrapped(visible(name), room) for name in names])
        # All panels have the same room, so that their bars are equally wide.
        axis.set_xlim(-0.5, min(len(groups), _GROUPS_PER_PANEL) - 0.5)
        axis.set_ylim(0, 112)
        axis.set_yticks(range(0, 101, 20))
        axis.set_ylabel("success, %", fontsize=13)
        _plain(axis)
    handles, titles = axes[0].get_legend_handles_labels()
    columns = min(len(titles), 3 if len(titles) > 4 else 4)  # more do not fit the width
    figure.legend(
        handles, titles, loc="outside upper center", ncols=columns, fontsize=13, frameon=False
    )
    return _png(figure)


def _wrapped(text: str, room: int) -> str:
    return "\n".join(part for line in text.splitlines() for part in wrap(line, room) or [""])


def _bars(axis: Any, marks: Sequence[Mark], places: Sequence[float], width: float) -> None:
    if not marks:
        return
    bars = axis.bar(
        places,
        [100 * mark.value for mark in marks],
        width * 0.92,
        color=marks[0].colour,
        edgecolor="white",
        hatch="//" if marks[0].control else None,
        yerr=100 * np.array([mark.whiskers for mark in marks]).T,
        capsize=3,
        error_kw={"elinewidth": 1.2},
        label=marks[0].label,
    )
    for bar, mark in zip(bars, marks, strict=True):
        axis.annotate(
            f"{100 * mark.value:.0f}",
            (bar.get_x() + bar.get_width() / 2, 100 * mark.high),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=11,
        )


@dataclass(frozen=True)
class DotPanel:
    """One panel of dots.

    Attributes:
        title: Of its axis.
        marks: From left to right, the same labels in every panel.
        band: What they are compared with: a grey line, its interval a grey band.
        line: A second one, dashed.
        whole: Whether the axis starts at 0; else where the lowest interval ends.
    """

    title: str
    marks: Sequence[Mark]
    band: Mark
    line: Mark | None = None
    whole: bool = True


def dots_figure(panels: Sequence[DotPanel], axis_title: str = "") -> bytes:
    """Draw shares as a dot with its interval per label, one panel above the other.

    Single runs of a label are small dots beside its own.
    """
    figure, axes = _panels([3.4] + [2.0] * (len(panels) - 1))
    for axis, panel in zip(axes, panels, strict=True):
        _dots(axis, panel)
    labels = [mark.label for mark in panels[0].marks]
    axes[-1].set_xticks(
        range(len(labels)), list(map(visible, labels)), rotation=30 if len(labels) > 6 else 0
    )
    # Room on the right for the words at the band.
    axes[-1].set_xlim(-0.6, max(len(labels), 1) - 0.4 + 0.08 * len(labels))
    axes[-1].set_xlabel(axis_title, fontsize=13)
    return _png(figure)


def _dots(axis: Any, panel: DotPanel) -> None:
    _plain(axis)
    band, line = panel.band, panel.line
    axis.axhline(100 * band.value, color=GREY, linewidth=1.2)
    axis.axhspan(100 * band.low, 100 * band.high, color=GREY, alpha=0.2)
    axis.annotate(
        band.label, (1, 100 * band.value), xycoords=("axes fraction", "data"),
        ha="right", va="bottom", fontsize=11, color="#555555",
    )  # fmt: skip
    if line is not None:
        axis.axhline(100 * line.value, color=ORANGE, linestyle="--", linewidth=1.2)
        axis.annotate(
            line.label, (0, 100 * line.value), xycoords=("axes fraction", "data"),
            va="bottom", fontsize=11, color=ORANGE,
        )  # fmt: skip
    for place, mark in enumerate(panel.marks):
        axis.errorbar(
            [place], [100 * mark.value], yerr=[[100 * reach] for reach in mark.whiskers], fmt="o",
            color=mark.colour, markersize=8, capsize=4, elinewidth=1.5,
        )  # fmt: skip
        if mark.runs:
            places = [place + 0.025 * len(panel.marks)] * len(mark.runs)
            shares = [100 * run for run in mark.runs]
            axis.plot(places, shares, "o", color=mark.colour, alpha=0.45, markersize=4)
        axis.annotate(
            f"{100 * mark.value:.1f}", (place, 100 * mark.value), xytext=(-9, 0),
            textcoords="offset points", ha="right", va="center", fontsize=11,
        )  # fmt: skip
    lowest = min(100 * mark.low for mark in (band, *([line] if line else []), *panel.marks))
    axis.set_ylim(0 if panel.whole else max(0.0, lowest - 3), 103)
    axis.set_ylabel(panel.title, fontsize=12)


def lines_figure(marks: Sequence[Mark], axis_title: str, value_title: str) -> bytes:
    """Draw values with intervals over whole numbers, the labels; a line per group."""
    figure, (axis,) = _panels([3.4])
    for group in dict.fromkeys(mark.group for mark in marks):
        mine = [mark for mark in marks if mark.group == group]
        axis.errorbar(
            [int(mark.label) for mark in mine], [mark.value for mark in mine],
            yerr=np.array([mark.whiskers for mark in mine]).T, fmt="o", color=mine[0].colour,
            capsize=4, label=group, linestyle="--" if mine[0].control else "-",
        )  # fmt: skip
    axis.axhline(0, color="#777777", linewidth=1)
    axis.set_xticks(sorted({int(mark.label) for mark in marks}))
    axis.set_xlabel(axis_title, fontsize=13)
    axis.set_ylabel(value_title, fontsize=13)
    axis.legend(frameon=False, fontsize=12)
    _plain(axis)
    return _png(figure)


def matrix_figure(marks: Sequence[Mark], value_title: str) -> bytes:
    """Draw changes of shares as coloured cells, blue for better and red for worse.

    Labels are columns and groups are lines; a star marks an interval that excludes no change.
    """
    columns = list(dict.fromkeys(mark.label for mark in marks))
    lines = list(dict.fromkeys(mark.group for mark in marks))
    known = {(mark.group, mark.label): mark for mark in marks}
    values = np.array([[100 * known[line, column].value for column in columns] for line in lines])
    figure = Figure(figsize=(_WIDTH, 1.6 + 0.55 * len(lines)), dpi=_DPI, layout="constrained")
    axis = figure.subplots()
    largest = max(float(np.abs(values).max()), 1.0)
    image = axis.imshow(values, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
    for (line, column), value in np.ndenumerate(values):
        mark = known[lines[line], columns[column]]
        star = " *" if mark.low > 0 or mark.high < 0 else ""
        axis.annotate(
            f"{value:+.1f}{star}", (column, line), ha="center", va="center", fontsize=12,
            color="white" if abs(value) > 0.6 * largest else "black",
        )  # fmt: skip
    axis.set_xticks(range(len(columns)), list(map(visible, columns)), fontsize=12)
    axis.set_yticks(range(len(lines)), list(map(visible, lines)), fontsize=12)
    figure.colorbar(image, ax=axis, label=value_title)
    return _png(figure)


class SweepPoint(Protocol):
    """What the sweep picture needs of one tried setting."""

    @property
    def label(self) -> str:
        """Which vector, scope and layers."""

    @property
    def strength(self) -> float:
        """Signed strength."""

    @property
    def success(self) -> float:
        """Mean success on dev."""

    @property
    def capability(self) -> Mapping[str, float]:
        """Accuracy per capability category."""

    @property
    def is_control(self) -> bool:
        """Whether it is a random vector."""


def sweep_figure(
    points: Sequence[SweepPoint],
    unsteered: float,
    unsteered_capability: Mapping[str, float],
    budget: float,
    chosen: SweepPoint | None = None,
) -> bytes:
    """Success, and every capability, against the signed strength; controls are dashed.

    Only the chosen vector and the control are drawn as lines; other settings are single points,
    the best seven kinds of them.

    Args:
        points: The settings that were tried, strength 0 not among them.
        unsteered: Success without steering, the grey line and the point at strength 0.
        unsteered_capability: Accuracy without steering per capability category.
        budget: Loss that is still allowed, drawn as a shaded band.
        chosen: The setting that was picked, marked with a star.
    """
    measures = ["success", *unsteered_capability]
    figure, axes = _panels([3.2] * len(measures), margin=1.4)
    best_first = sorted(points, key=lambda p: (p != chosen, not p.is_control, -p.success))
    labels = list(dict.fromkeys(point.label for point in best_first))[: len(_LINES)]
    for axis, measure in zip(axes, measures, strict=True):
        base = unsteered if measure == "success" else unsteered_capability[measure]
        lowest = base
        for colour, label in zip(_LINES, labels, strict=False):
            mine = [point for point in points if point.label == label]
            known = [(p.strength, v) for p in mine if (v := _value(p, measure)) is not None]
            # Only these two were run at every strength; between other points nothing is known.
            whole = mine[0].is_control or (chosen is not None and label == chosen.label)
            line = sorted([*known, (0.0, base)] if whole else known)
            lowest = min([lowest, *(value for _, value in known)])
            axis.plot(
                [strength for strength, _ in line],
                [100 * value for _, value in line],
                color=colour,
                linestyle="--" if mine[0].is_control else "-" if whole else "",
                marker="o",
                markersize=5,
                label=label,
            )
        axis.axhline(100 * base, color="#777777", linewidth=1)
        if measure != "success":
            axis.axhspan(100 * (base - budget), 100 * base, color=GREEN, alpha=0.25)
            # Room enough that a fraction of a point does not look like a collapse.
            axis.set_ylim(100 * min(lowest, base - 0.1) - 2, 102)
        if chosen is not None and (value := _value(chosen, measure)) is not None:
            axis.plot(
                [chosen.strength], [100 * value], "*", markersize=18, color=YELLOW,
                markeredgecolor="black", label="chosen",
            )  # fmt: skip
        axis.set_ylabel(_wrapped(f"{measure.replace('_', ' ')}, %", _LETTERS_BESIDE), fontsize=13)
        _plain(axis)
    axes[-1].set_xlabel("strength (signed)", fontsize=13)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper center", ncols=min(len(names), 2), fontsize=11,
        frameon=False,
    )  # fmt: skip
    return _png(figure)


def _value(point: SweepPoint, measure: str) -> float | None:
    return point.success if measure == "success" else point.capability.get(measure)


def _panels(
    heights: Sequence[float], *, margin: float = 1.2, sharex: bool = True
) -> tuple[Figure, Any]:
    """Return a figure with axes of these heights (inches) one above the other."""
    figure = Figure(figsize=(_WIDTH, margin + sum(heights)), dpi=_DPI, layout="constrained")
    axes = figure.subplots(
        len(heights), 1, squeeze=False, sharex=sharex, gridspec_kw={"height_ratios": heights}
    )
    return figure, axes[:, 0]


def _plain(axis: Any) -> None:
    """Give an axis the look that all pictures share."""
    axis.tick_params(labelsize=12)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#dddddd")
    axis.set_axisbelow(True)


def _png(figure: Figure) -> bytes:
    """Draw a figure; the same numbers give the same bytes."""
    # Hence without a date and a version in it.
    buffer = BytesIO()
    for text in figure.findobj(Label):  # names from anywhere, in which a dollar is no formula
        text.set_parse_math(False)
        text.set_text(visible(text.get_text()))
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
