"""Pictures: their size, and that they show what they are given."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from matplotlib import image

from steerable_llm.reports.figures import (
    BLUE,
    GREY,
    DotPanel,
    Mark,
    bars_figure,
    dots_figure,
    matrix_figure,
    sweep_figure,
)


def mark(label: str, group: str, value: float, colour: str = GREY) -> Mark:
    return Mark(label, value, max(value - 0.1, 0), min(value + 0.1, 1), group, colour)


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
    marks = [mark(arm, name, 0.5) for arm in ("steered", "none") for name in names]
    shape = pixels(bars_figure(marks)).shape
    assert shape == (120 + 360 * panels, 1200, 3)


@pytest.mark.parametrize("categories", [2, 4])
def test_long_names_of_categories_do_not_touch(categories: int) -> None:
    names = [f"unanswerable, several passages of handbooks like {i}" for i in range(categories)]
    drawn = pixels(bars_figure([mark("steered", f"{name}\n(n = 84)", 0.5) for name in names]))
    dark = (drawn < 0.5).any(2)
    axis = np.flatnonzero(dark.mean(1) > 0.8)[-1]
    inked = np.flatnonzero(dark[axis + 8 :, 80:].any(0))
    # Between two names there is more room than between two words.
    assert (np.diff(inked) > 20).sum() == categories - 1


def test_long_names_of_what_must_not_be_lost_do_not_touch_beside_a_sweep() -> None:
    names = [f"unanswerable, several passages of handbooks like {i}" for i in range(4)]
    kept = dict.fromkeys(names, 0.5)
    sweep = [Point("steered", strength, 0.5, kept) for strength in (0.5, 1.0)]
    drawn = pixels(sweep_figure(sweep, 0.1, kept, 0.01))
    inked = np.flatnonzero((drawn[:, :40] < 0.5).any((1, 2)))
    assert (np.diff(inked) > 60).sum() == len(names) - 1


def test_the_legend_of_every_arm_fits_the_width() -> None:
    labels = [f"{arm} vectors (control)" for arm in ("steered", "none", "prompt", "random")]
    labels += ["sign-flipped (control)", "shuffled labels (control)"]
    legend = pixels(bars_figure([mark(label, "conflict", 0.5) for label in labels]))[:60]
    assert (legend[:, :8] == 1).all()
    assert (legend[:, -8:] == 1).all()
    assert (legend < 0.5).any()


def test_a_bar_is_as_high_as_its_share() -> None:
    def blue(value: float) -> float:
        marks = [mark("steered", "conflict", value, BLUE), mark("none", "conflict", 0.5)]
        return share_of(pixels(bars_figure(marks)), BLUE)

    # Beside the legend's small patch, the blue area grows with the share.
    legend = blue(0.0)
    assert (blue(0.8) - legend) / (blue(0.4) - legend) == pytest.approx(2, rel=0.05)


def test_an_arm_that_lacks_a_category_leaves_a_gap() -> None:
    marks = [mark("steered", "a", 0.5), mark("none", "a", 0.5), mark("none", "b", 0.5)]
    assert pixels(bars_figure(marks)).shape[1] == 1200


def test_dots_have_a_panel_for_each_kind_of_prompt() -> None:
    marks = [mark("a", "", 0.5, BLUE), mark("b", "", 0.9, BLUE)]
    panels = [
        DotPanel("success, %", marks, band=mark("unsteered", "", 0.4), line=mark("x", "", 0.6)),
        DotPanel("kept, %", marks, band=mark("unsteered", "", 0.9), whole=False),
    ]
    assert pixels(dots_figure(panels, "k")).shape == (120 + 340 + 200, 1200, 3)


def test_the_matrix_is_blue_for_better_and_red_for_worse() -> None:
    def cell(value: float) -> np.ndarray:
        picture = pixels(matrix_figure([mark("v", "set/a", value)], "points"))
        return picture[40, 500]

    assert cell(0.4)[2] > cell(0.4)[0]
    assert cell(-0.4)[0] > cell(-0.4)[2]


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
