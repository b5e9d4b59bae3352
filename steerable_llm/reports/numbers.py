"""How numbers are said, the same in every table and sentence; what was not measured is empty."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steerable_llm.metrics import Estimate


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share in per cent, such as "12.5 %"."""
    return "" if share is None else f"{100 * share:.{digits}f} %"


def points(difference: float, digits: int | None = 1) -> str:
    """Return the size of a difference of two shares, such as "1.5 points".

    Args:
        difference: Of two shares.
        digits: After the point; None for as few as there are, as a limit is said.
    """
    return f"{100 * difference:{'g' if digits is None else f'.{digits}f'}} points"


def signed_points(difference: float) -> str:
    """Return a difference of two shares in points with its sign, such as "+1.5"."""
    return f"{100 * difference:+.1f}"


def share(e: Estimate | None, runs: Sequence[float] = (), *, interval: bool = True) -> str:
    """Return a share with its interval, such as "12.5 % [10.0, 15.0]".

    The shares of single runs stand on a line below, in brackets.
    """
    if e is None:
        return ""
    said = percent(e.value)
    if interval:
        said += f" [{100 * e.low:.1f}, {100 * e.high:.1f}]"
    return said + (f"\n({', '.join(f'{100 * run:.1f}' for run in runs)})" if runs else "")


def change(e: Estimate | None) -> str:
    """Return a difference of two shares in points, such as "+2.5 [+0.5, +4.5]"."""
    if e is None:
        return ""
    return f"{signed_points(e.value)} [{signed_points(e.low)}, {signed_points(e.high)}]"


def ranges(numbers: Iterable[int]) -> str:
    """Return whole numbers such as layers in few words: 0, 1, 2, 5 as "0-2, 5"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def number(e: Estimate | None, digits: int = 3) -> str:
    """Return a mean as it is, such as "0.125"."""
    return "" if e is None else f"{e.value:.{digits}f}"


def interval(e: Estimate | None, digits: int = 3, *, signed: bool = False) -> str:
    """Return a mean as it is with its interval, such as "0.125 [0.100, 0.150]"."""
    if e is None:
        return ""
    form = f"{'+' if signed else ''}.{digits}f"
    return f"{e.value:{form}} [{e.low:{form}}, {e.high:{form}}]"
