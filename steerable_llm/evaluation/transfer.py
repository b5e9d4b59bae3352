"""What a vector for one behaviour does to the others: a matrix of changes.

A vector that makes answers faithful may also make them rude, or more truthful, or shorter. Every
vector is run, as calibrated, on every category of every set; each cell is the change of success
against the unsteered model on the same prompts, with its interval. Nothing is chosen here, so test
sets may be given.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from pydantic import BaseModel

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import UNSTEERED, arm_of, check_fits
from steerable_llm.evaluation.overlap import HeldOut, overlap, past_of
from steerable_llm.evaluation.rows import Row, rows_of, run_arms
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet, check_judged
from steerable_llm.evaluation.settings import DEFAULTS, Changes, EvaluationSettings
from steerable_llm.reports import numbers
from steerable_llm.reports.figures import Mark, matrix_figure
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Code, Heading, Part, Picture, Table, Text, numeric
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.lora import Lora
from steerable_llm.vector.vector import SteeringVector


class Transfer(BaseModel, frozen=True, extra="forbid"):
    """Every vector on every kind of prompt.

    Attributes:
        model: The model's id with a short hash.
        vectors: Name to fingerprint, in order.
        sets: Name to SHA-256 of the prompts, in order.
        rows: One per vector (and for the unsteered model) and category, called `SET/CATEGORY`.
        command: What to run to get this again.
    """

    model: str
    vectors: dict[str, str]
    sets: dict[str, str]
    rows: tuple[Row, ...]
    command: str = ""

    @property
    def categories(self) -> tuple[str, ...]:
        """The kinds of prompts, in order."""
        return tuple(dict.fromkeys(row.category for row in self.rows))

    def row(self, vector: str, category: str) -> Row:
        """One cell; the unsteered model is called "none".

        Raises:
            InvalidInputError: There is no such cell.
        """
        for row in self.rows:
            if (row.arm, row.category) == (vector, category):
                return row
        raise InvalidInputError(
            f"there is no cell for {vector!r} on {category!r}; vectors are "
            f"{', '.join(self.vectors)}, categories {', '.join(self.categories)}"
        )

    def cell(self, vector: str, category: str) -> str:
        """The change in points with its interval; a star where the interval excludes no change."""
        change = self.row(vector, category).change
        assert change is not None, "every steered row has a change"
        star = " *" if change.low > 0 or change.high < 0 else ""
        return numbers.change(change) + star

    def table(self) -> Page:
        """The matrix, for a console."""
        return Page("Change of success in points", [self._table(), Text(self._caption + ".")])

    def _table(self) -> Table:
        lines = []
        for category in self.categories:
            plain = self.row("none", category)
            before = numbers.percent(plain.main.value)
            cells = [self.cell(vector, category) for vector in self.vectors]
            lines.append([category, str(plain.n), before, *cells])
        return Table(["prompts", *numeric("n", "unsteered", *self.vectors)], lines)

    @property
    def _caption(self) -> str:
        cells = len(self.vectors) * len(self.categories)
        return (
            f"* the 95 % interval excludes no change; of {cells} cells without any effect about "
            f"{0.05 * cells:.1f} would be expected to have one"
        )

    def page(self) -> Page:
        """The matrix as a table and a picture."""
        introduction = (
            f"{self.model}. Change of success in points against the unsteered model on the same "
            "prompts, every vector as calibrated, with 95 % bootstrap intervals over prompts."
        )
        prints = [[name, fingerprint] for name, fingerprint in self.vectors.items()]
        digests = [[name, digest[:12]] for name, digest in self.sets.items()]
        parts: list[Part] = [
            Text(introduction),
            Picture("matrix", self.figure, "Change of success per vector and kind of prompt"),
            self._table(),
            Text(self._caption + "."),
            Heading("What was run"),
            Table(["vector", "fingerprint"], prints),
            Table(["prompts", "sha256"], digests),
        ]
        if self.command:
            parts.append(Code(self.command))
        return Page("What each vector does to the other behaviours", parts)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `.md` (its picture beside it), `.html` or `.json`.

        Raises:
            InvalidInputError: Another suffix.
        """
        return self.page().save(path, lambda: self.model_dump_json(indent=2), "a transfer matrix")

    def figure(self) -> bytes:
        """The matrix as coloured cells, blue for better and red for worse (PNG)."""
        marks = [
            Mark(row.arm, row.change.value, row.change.low, row.change.high, group=row.category)
            for row in self.rows
            if row.change is not None
        ]
        return matrix_figure(marks, "points")


def transfer(
    llm: HookedModel,
    vectors: Sequence[SteeringVector | Lora],
    sets: Sequence[EvaluationSet],
    *,
    categories: Mapping[str, Sequence[str]] | None = None,
    settings: EvaluationSettings = DEFAULTS,
    **changes: Unpack[Changes],
) -> Transfer:
    """Run every vector on every set.

    Args:
        llm: The model.
        vectors: Calibrated vectors, or LoRAs, with different names.
        sets: Prompts of the behaviours, with different names, that no build and no calibration has
            seen.
        categories: Per set's name the categories to run; all of a set that is not named.
        settings: How answers are made, and the command for the report.
        **changes: Single settings in place of those in `settings`.

    Raises:
        InvalidInputError: No vector or set, two of one name, a vector without calibration, prompts
            that are not held out, or an unknown category.
        ModelMismatchError: A vector of another model.
    """
    settings = replace(settings, **changes)
    for what, names in (
        ("vector", [vector.name for vector in vectors]),
        ("evaluation set", [items.name for items in sets]),
    ):
        if not names:
            raise InvalidInputError(f"there is no {what} to run: give at least one")
        double = [name for name in names if names.count(name) > 1]
        if double:
            raise InvalidInputError(f"two of the {what}s are called {double[0]!r}: rename one")
    if "none" in [vector.name for vector in vectors]:
        raise InvalidInputError("a vector must not be called 'none', the unsteered model is")
    for vector in vectors:
        check_fits(vector, llm, settings.force)
    arms = [UNSTEERED, *(arm_of(vector, settings) for vector in vectors)]
    chosen = [
        items.category(*categories[items.name])
        if categories and items.name in categories
        else items
        for items in sets
    ]
    past = [saw for vector in vectors for saw in past_of(vector)]
    asked: list[EvaluationItem] = []
    for group in chosen:
        check_judged(group)
        overlap([HeldOut.of(llm, group)], past)
        asked += [
            item.model_copy(
                update={name: f"{group.name}/{getattr(item, name)}" for name in ("id", "category")}
            )
            for item in group
        ]
    outcomes = run_arms(llm, arms, asked, settings, "transfer")
    return Transfer(
        model=llm.fingerprint.short,
        vectors={vector.name: vector.fingerprint_id for vector in vectors},
        sets={group.name: group.digest for group in chosen},
        rows=tuple(rows_of(outcomes, asked, set(), settings.seed)),
        command=settings.command,
    )
