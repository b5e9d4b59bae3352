"""Whether an arm is fit for use, decided from the rows of a report by fixed rules.

A vector, or another arm, is promoted when, on the target category of the test prompts,

1. it beats the unsteered model with intervals that do not overlap,
2. it beats the strict instruction in the same way,
3. the controls that were run (random, sign-flipped, shuffled labels) do not come as far,
4. every capability category keeps the budget, as far as its prompts can tell (`loss`),
5. and no other category falls for sure: its paired interval includes no change.

What was not measured counts as not shown.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from steerable_llm.evaluation.loss import rule_of
from steerable_llm.evaluation.rows import Row
from steerable_llm.reports.numbers import percent, points, share


class Verdict(BaseModel, frozen=True, extra="forbid"):
    """Promote or refuse, with the reasons in words.

    Attributes:
        promote: Whether every rule of this module holds.
        reasons: One sentence per rule, those that failed first.
        warnings: What else the rules do not cover and a reader should know.
    """

    promote: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The verdict in one line."""
        return f"{'PROMOTE' if self.promote else 'REFUSE'}: {self.reasons[0]}"


_NAMES = {
    "none": "the unsteered model",
    "prompt": "the strict instruction",
    "random": "random vectors of the same norms",
    "sign_flipped": "the sign-flipped vector",
    "shuffled": "vectors of shuffled labels",
}


def judge(
    rows: Sequence[Row],
    target: str,
    budget: float,
    arm: str = "steered",
    warnings: Sequence[str] = (),
) -> Verdict:
    """Apply the rules of this module to the rows of one evaluation.

    Args:
        rows: All rows; there must be one for the arm on the target.
        target: The category that the arm is meant to change.
        budget: Largest share of a capability that may be lost, such as 0.01.
        arm: What is judged.
        warnings: What else is known that a reader should know.
    """
    by_name = {(row.arm, row.category): row for row in rows}
    steered = by_name[arm, target]
    rules = rules_of(rows, target, budget, arm)
    told = list(warnings)
    if steered.regressed:
        told.append(f"{target}: {percent(steered.regressed)} of the prompts were made worse")
    told += _falls(rows, target, arm)[1]
    failed = [text for holds, text in rules if not holds]
    held = [text for holds, text in rules if holds]
    return Verdict(promote=not failed, reasons=(*failed, *held), warnings=tuple(told))


def rules_of(
    rows: Sequence[Row], target: str, budget: float, arm: str = "steered"
) -> list[tuple[bool, str]]:
    """Return for each rule of this module whether it holds, and how that came out in numbers.

    Arguments are those of `judge`.

    Raises:
        KeyError: No row for the arm on the target, or none for the unsteered model on a capability.
    """
    by_name = {(row.arm, row.category): row for row in rows}
    steered = by_name[arm, target]
    rules: list[tuple[bool, str]] = []
    for other, title in _NAMES.items():
        row = by_name.get((other, target))
        if row or other in ("none", "prompt"):  # no control must be there
            rules.append(_beats(steered, row, title))
    capability = [row for row in rows if row.capability and row.arm == arm]
    if not capability:
        rules.append((False, "capability was not measured, so a loss cannot be ruled out"))
    rules += [rule_of(row, by_name["none", row.category], budget) for row in capability]
    rules += [(False, text) for text in _falls(rows, target, arm)[0]]
    return rules


def _beats(steered: Row, other: Row | None, name: str) -> tuple[bool, str]:
    if other is None:
        return False, f"{name} was not measured, so nothing is shown to beat it"
    mine, its = steered.main, other.main
    measure = "" if steered.success is not None else " preferred"
    theirs = f"{share(its)} for {name}"
    numbers = f"{steered.category}: {share(mine)}{measure} {steered.arm} against {theirs}"
    if mine.above(its):
        return True, f"{numbers}: better, and the intervals do not overlap"
    if mine.value > its.value:
        return False, f"{numbers}: higher, but the intervals overlap"
    return False, f"{numbers}: no better"


def _falls(rows: Sequence[Row], target: str, arm: str) -> tuple[list[str], list[str]]:
    """Categories beside the target and the capabilities that fall: for sure, and perhaps."""
    sure, perhaps = [], []
    for row in rows:
        aside = row.arm == arm and row.category != target and not row.capability
        if aside and row.change is not None and row.change.value < 0:
            text = f"{row.category}: success falls by {points(-row.change.value)}"
            if row.change.high < 0:
                sure.append(f"{text} (the interval excludes no change)")
            else:
                perhaps.append(f"{text} (the interval includes no change)")
    return sure, perhaps
