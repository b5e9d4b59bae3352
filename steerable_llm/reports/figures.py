"""Pictures of an evaluation and of a sweep, as PNG bytes, 1200 pixels wide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, Protocol

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from steerable_llm.evaluation.verdict import Row
from steerable_llm.metrics import Estimate

_WIDTH, _DPI = 12.0, 100  # inches and dots per inch: 1200 pixels
_CATEGORIES_PER_PANEL = 4
# Okabe and Ito's colours, which people with colour blindness tell apart.
_COLOURS = {
    "steered": "#0072B2",
    "none": "#999999",
    "prompt": "#E69F00",
    "random": "#CC79A7",
    "sign_flipped": "#D55E00",
    "shuffled": "#F0E442",
}
_LINES = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_CONTROLS = frozenset({"random", "sign_flipped", "shuffled"})


def comparison_figure(
    rows: Sequence[Row], categories: Sequence[str], titles: Mapping[str, str]
) -> bytes:
    """Bars per arm, grouped by category, with 95 % intervals; controls are hatched."""
    panels = [
        categories[i : i + _CATEGORIES_PER_PANEL]
        for i in range(0, len(categories), _CATEGORIES_PER_PANEL)
    ]
    arms = list(dict.fromkeys(row.arm for row in rows))
    by_name = {(row.arm, row.category): row for row in rows}
    figure = Figure(figsize=(_WIDTH, 1.2 + 3.6 * len(panels)), dpi=_DPI, layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    width = 0.84 / len(arms)
    for axis, names in zip(axes, panels, strict=True):
        for place, arm in enumerate(arms):
            _bars(axis, by_name, arm, names, width, place - (len(arms) - 1) / 2, titles)
        axis.set_xticks(range(len(names)), [_category_label(by_name, name) for name in names])
        # All panels have the same room, so that their bars are equally wide.
        axis.set_xlim(-0.5, min(len(categories), _CATEGORIES_PER_PANEL) - 0.5)
        axis.set_ylim(0, 112)
        axis.set_yticks(range(0, 101, 20))
        axis.set_ylabel("success, %", fontsize=13)
        plain(axis)
    handles, labels = axes[0].get_legend_handles_labels()
    columns = min(len(labels), 3 if len(labels) > 4 else 4)  # more do not fit the width
    figure.legend(
        handles, labels, loc="outside upper center", ncols=columns, fontsize=13, frameon=False
    )
    return png(figure)


def _bars(
    axis: Any,
    by_name: Mapping[tuple[str, str], Row],
    arm: str,
    categories: Sequence[str],
    width: float,
    offset: float,
    titles: Mapping[str, str],
) -> None:
    present = [(i, by_name[arm, v]) for i, v in enumerate(categories) if (arm, v) in by_name]
    places = [i + offset * width for i, _ in present]
    estimates = [row.main for _, row in present]
    bars = axis.bar(
        places,
        [100 * e.value for e in estimates],
        width * 0.92,
        color=_COLOURS.get(arm, "#56B4E9"),
        edgecolor="white",
        hatch="//" if arm in _CONTROLS else None,
        yerr=_whiskers(estimates),
        capsize=3,
        error_kw={"elinewidth": 1.2},
        label=titles.get(arm, arm),
    )
    for bar, e in zip(bars, estimates, strict=True):
        axis.annotate(
            f"{100 * e.value:.0f}",
            (bar.get_x() + bar.get_width() / 2, 100 * e.high),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=11,
        )


def _whiskers(estimates: Sequence[Estimate]) -> list[list[float]]:
    low = [max(100 * (e.value - e.low), 0.0) for e in estimates]
    high = [max(100 * (e.high - e.value), 0.0) for e in estimates]
    return [low, high]


def _category_label(by_name: Mapping[tuple[str, str], Row], category: str) -> str:
    row = next(row for (_, name), row in by_name.items() if name == category)
    return f"{category.replace('_', ' ')}\n(n = {row.n})"


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
    figure = Figure(figsize=(_WIDTH, 1.4 + 3.2 * len(measures)), dpi=_DPI, layout="constrained")
    axes = figure.subplots(len(measures), 1, squeeze=False, sharex=True)[:, 0]
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
            axis.axhspan(100 * (base - budget), 100 * base, color="#009E73", alpha=0.25)
            # Room enough that a fraction of a point does not look like a collapse.
            axis.set_ylim(100 * min(lowest, base - 0.1) - 2, 102)
        if chosen is not None and (value := _value(chosen, measure)) is not None:
            axis.plot(
                [chosen.strength], [100 * value], "*", markersize=18, color="#F0E442",
                markeredgecolor="black", label="chosen",
            )  # fmt: skip
        axis.set_ylabel(f"{measure.replace('_', ' ')}, %", fontsize=13)
        plain(axis)
    axes[-1].set_xlabel("strength (signed)", fontsize=13)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper center", ncols=min(len(names), 2), fontsize=11,
        frameon=False,
    )  # fmt: skip
    return png(figure)


def _value(point: SweepPoint, measure: str) -> float | None:
    return point.success if measure == "success" else point.capability.get(measure)


def plain(axis: Any) -> None:
    """Give an axis the look that all pictures share."""
    axis.tick_params(labelsize=12)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#dddddd")
    axis.set_axisbelow(True)


def png(figure: Figure) -> bytes:
    """Draw a figure; the same numbers give the same bytes."""
    # Hence without a date and a version in it.
    buffer = BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
