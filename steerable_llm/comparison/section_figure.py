"""The picture of one section of a comparison: success over contenders that differ in one thing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from steerable_llm.evaluation.figures import plain, png
from steerable_llm.evaluation.verdict import Row
from steerable_llm.metrics import Estimate

_WIDTH, _DPI = 12.0, 100  # inches and dots per inch: 1200 pixels
_SUCCESS, _KEPT, _REFERENCE = "#0072B2", "#009E73", "#999999"


def section_figure(
    rows: Sequence[Row],
    variants: Sequence[str],
    contenders: Sequence[str],
    labels: Sequence[str],
    axis_title: str = "",
) -> bytes:
    """Draw one panel per variant: a point with its 95 % interval per contender.

    The unsteered model is a grey band, the strict instruction a dashed line where it took part;
    single runs of a contender are small dots beside its point.

    Args:
        rows: Of all contenders and variants.
        variants: The target, then the capabilities.
        contenders: Names, from left to right.
        labels: What the axis calls them.
        axis_title: What they differ in.
    """
    heights = [3.4] + [2.0] * (len(variants) - 1)
    figure = Figure(figsize=(_WIDTH, 1.2 + sum(heights)), dpi=_DPI, layout="constrained")
    axes = figure.subplots(
        len(variants), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    by_name = {(row.condition, row.variant): row for row in rows}
    for axis, variant in zip(axes, variants, strict=True):
        _panel(axis, by_name, variant, contenders)
    axes[-1].set_xticks(range(len(labels)), labels, rotation=30 if len(labels) > 6 else 0)
    # Room on the right for the words at the unsteered model's line.
    axes[-1].set_xlim(-0.6, max(len(labels), 1) - 0.4 + 0.08 * len(labels))
    axes[-1].set_xlabel(axis_title, fontsize=13)
    return png(figure)


def _panel(
    axis: Any, by_name: dict[tuple[str, str], Row], variant: str, contenders: Sequence[str]
) -> None:
    plain(axis)
    unsteered = by_name["none", variant]
    axis.axhline(100 * unsteered.main.value, color=_REFERENCE, linewidth=1.2)
    axis.axhspan(100 * unsteered.main.low, 100 * unsteered.main.high, color=_REFERENCE, alpha=0.2)
    axis.annotate(
        "unsteered", (1, 100 * unsteered.main.value), xycoords=("axes fraction", "data"),
        ha="right", va="bottom", fontsize=11, color="#555555",
    )  # fmt: skip
    if ("prompt", variant) in by_name and "prompt" not in contenders:
        strict = by_name["prompt", variant].main.value
        axis.axhline(100 * strict, color="#E69F00", linestyle="--", linewidth=1.2)
        axis.annotate(
            "strict instruction", (0, 100 * strict), xycoords=("axes fraction", "data"),
            va="bottom", fontsize=11, color="#E69F00",
        )  # fmt: skip
    colour = _KEPT if unsteered.capability else _SUCCESS
    for place, name in enumerate(contenders):
        row = by_name[name, variant]
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
        by_name[x, variant] for x in ("none", "prompt", *contenders) if (x, variant) in by_name
    ]
    lowest = min(100 * row.main.low for row in shown)
    axis.set_ylim(max(0.0, lowest - 3) if unsteered.capability else 0, 103)
    axis.set_ylabel(f"{variant.replace('_', ' ')}, %\n(n = {unsteered.n})", fontsize=12)


def _whiskers(e: Estimate) -> tuple[float, float]:
    return max(100 * (e.value - e.low), 0.0), max(100 * (e.high - e.value), 0.0)
