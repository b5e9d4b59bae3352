"""Pictures: their size, and that they show what they are given."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from matplotlib import image

from steerable_llm.evaluation.verdict import Row
from steerable_llm.metrics import Estimate
from steerable_llm.reports.figures import comparison_figure, sweep_figure


def row(arm: str, category: str, value: float) -> Row:
    share = Estimate(value=value, low=max(value - 0.1, 0), high=min(value + 0.1, 1), n=9)
    return Row(arm=arm, category=category, n=9, success=share)


@dataclass(frozen=True)
class Point:
    label: str
    strength: float
    success: float
    capability: dict[str, float] = field(default_factory=dict)
    is_control: bool = False


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(image.imread(io.BytesIO(png)))[..., :3]


def share_of(picture: np.ndarray, colour: str) -> float:
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return float((np.abs(picture - wanted).max(-1) < 0.02).mean())


@pytest.mark.parametrize(("categories", "panels"), [(1, 1), (4, 1), (5, 2), (9, 3)])
def test_categories_that_do_not_fit_go_to_another_panel(categories: int, panels: int) -> None:
    names = [f"category {i}" for i in range(categories)]
    rows = [row(c, v, 0.5) for c in ("steered", "none") for v in names]
    shape = pixels(comparison_figure(rows, names, {})).shape
    assert shape == (120 + 360 * panels, 1200, 3)


def test_the_legend_of_every_arm_fits_the_width() -> None:
    titles = {c: f"{c} vectors (control)" for c in ("steered", "none", "prompt", "random")}
    titles |= {"sign_flipped": "sign-flipped (control)", "shuffled": "shuffled pairs (control)"}
    rows = [row(arm, "conflict", 0.5) for arm in titles]
    legend = pixels(comparison_figure(rows, ["conflict"], titles))[:60]
    assert (legend[:, :8] == 1).all()
    assert (legend[:, -8:] == 1).all()
    assert (legend < 0.5).any()


def test_a_bar_is_as_high_as_its_share() -> None:
    def blue(value: float) -> float:
        rows = [row("steered", "conflict", value), row("none", "conflict", 0.5)]
        return share_of(pixels(comparison_figure(rows, ["conflict"], {})), "#0072B2")

    # Beside the legend's small patch, the blue area grows with the share.
    legend = blue(0.0)
    assert (blue(0.8) - legend) / (blue(0.4) - legend) == pytest.approx(2, rel=0.05)


def test_a_arm_that_lacks_a_category_leaves_a_gap() -> None:
    rows = [row("steered", "a", 0.5), row("none", "a", 0.5), row("none", "b", 0.5)]
    assert pixels(comparison_figure(rows, ["a", "b"], {})).shape[1] == 1200


def sweep(points: list[Point], chosen: Point | None = None) -> np.ndarray:
    return pixels(sweep_figure(points, 0.4, {"closed_book": 1.0}, 0.01, chosen))


def points(label: str, is_control: bool = False) -> list[Point]:
    return [
        Point(label, s, 0.4 + 2 * s, {"closed_book": 1.0 - abs(s)}, is_control)
        for s in (-0.1, -0.05, 0.05, 0.1)
    ]


def test_the_sweep_has_a_panel_for_success_and_one_for_each_capability() -> None:
    assert sweep(points("mean")).shape == (140 + 320 * 2, 1200, 3)


def test_the_chosen_setting_carries_a_star() -> None:
    found = points("mean")
    yellow = "#F0E442"
    assert share_of(sweep(found), yellow) == 0
    assert share_of(sweep(found, chosen=found[-1]), yellow) > 0


def test_the_control_is_dashed_and_the_chosen_line_is_whole() -> None:
    # The same line has less ink when it is dashed, and least as single points.
    mean = points("mean")
    whole = share_of(sweep(mean, chosen=mean[-1]), "#0072B2")
    single = share_of(sweep(mean), "#0072B2")
    dashed = share_of(sweep([replace(p, is_control=True) for p in mean]), "#0072B2")
    assert single < dashed < whole


def test_a_crowd_of_settings_keeps_the_best() -> None:
    crowd = [Point(f"vector {i}", 0.1, i / 20, {"closed_book": 1.0}) for i in range(20)]
    assert sweep(crowd, chosen=crowd[-1]).shape[1] == 1200
