"""What a benchmark found: data, a console table, a Markdown page and an HTML page."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import TITLES
from steerable_llm.evaluation.benchmarks.benchmark import Benchmark
from steerable_llm.metrics import Estimate, difference, estimate, fixed, ratio, regressed
from steerable_llm.reports import numbers
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import (
    Code,
    Ending,
    Facts,
    Head,
    Heading,
    Mono,
    Part,
    Table,
    Text,
    Words,
    numeric,
)

_HEAD: Head = ("arm", *numeric("n", "score [95 %]", "change, points", "KL/token", "worse", "fixed"))


class ItemRow(BaseModel, frozen=True, extra="forbid"):
    """One question under one arm.

    Attributes:
        id: The question's place in the data, from 0.
        group: Such as a subject.
        arm: See `BenchmarkReport`.
        run: Which of several random vectors, from 0.
        question: The end of the prompt.
        expected: What would have been right.
        answer: The likeliest choice, or what was written.
        score: In [0, 1].
        kl_per_token: Nats per token; 0 for the unsteered model.
        log_probs: Per choice, as normalised; empty where answers are written.
        facts: What else is told of it in numbers, by the benchmark's own names.
        judgement: What a judge wrote of the answer.
    """

    id: str
    group: str
    arm: str
    run: int
    question: str
    expected: str
    answer: str
    score: float
    kl_per_token: float
    log_probs: tuple[float, ...] = ()
    facts: dict[str, float] = {}
    judgement: str = ""


class ScoreRow(BaseModel, frozen=True, extra="forbid"):
    """One arm over all questions, or over those of one group.

    Attributes:
        arm: See `BenchmarkReport`.
        group: None for all questions.
        n: How many questions.
        score: Mean of the benchmark's metric with a bootstrap interval over questions.
        change: Paired difference to the unsteered model on the same questions.
        kl_per_token: Mean divergence from the unsteered model, nats per token.
        regressed: Share of questions that were right without steering and are wrong with it;
            right means a score above one half.
        fixed: The opposite share.
        runs: The score of each random vector, where several were averaged.
    """

    arm: str
    group: str | None = None
    n: int
    score: Estimate
    change: Estimate | None = None
    kl_per_token: Estimate
    regressed: float | None = None
    fixed: float | None = None
    runs: tuple[float, ...] = ()


class FigureRow(BaseModel, frozen=True, extra="forbid"):
    """One figure beside the score, of one arm.

    Attributes:
        name: What it is called, such as precision.
        arm: See `BenchmarkReport`.
        group: None for all questions.
        value: With a bootstrap interval over questions; None where nothing can be divided by.
        change: Paired difference to the unsteered model on the same questions.
        is_share: Whether it is told in per cent.
    """

    name: str
    arm: str
    group: str | None = None
    value: Estimate | None
    change: Estimate | None = None
    is_share: bool = True

    @property
    def words(self) -> list[str]:
        """Its value and its change, as tables have them."""
        if self.is_share:
            return [numbers.share(self.value), numbers.change(self.change)]
        return [numbers.interval(self.value, 2), numbers.interval(self.change, 2, signed=True)]


class BenchmarkReport(BaseModel, frozen=True, extra="forbid"):
    """One benchmark on one model, with and without steering.

    Arms are called as in an evaluation: "none", "steered", "random", "sign_flipped". With
    several vectors or strengths, those that belong to a vector carry its label, as in
    "faithfulness +0.08: random", and the steered one is the label alone.

    Attributes:
        benchmark: Its name.
        title: For people.
        paper: Who proposed it.
        metric: What the score is.
        model: The model's id with a short hash.
        data: Where the questions come from.
        data_digest: SHA-256 over the rows that were asked.
        total: How many rows the data has; as many or fewer were asked.
        left_out: Places in the data of questions that do not fit the context window.
        seed: Of the draw, the random vectors and the intervals.
        settings: How it was asked and scored.
        subjects: What was compared with the unsteered model: label to strength, scope, layers and
            fingerprint of a vector; nothing of what is none.
        rows: Per arm over all questions, the unsteered model first.
        group_rows: The same per group; empty where there is one group only.
        figures: What is told beside the score, per figure and arm.
        items: Every question under every arm.
        library_version: Of this package.
        command: What to run to get this again.
    """

    benchmark: str
    title: str
    paper: str
    metric: str
    model: str
    data: str
    data_digest: str
    total: int
    left_out: tuple[str, ...] = ()
    seed: int
    settings: dict[str, str]
    subjects: dict[str, dict[str, Any]]
    rows: tuple[ScoreRow, ...]
    group_rows: tuple[ScoreRow, ...] = ()
    figures: tuple[FigureRow, ...] = ()
    items: tuple[ItemRow, ...]
    library_version: str
    command: str = ""

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that were run, the unsteered model first."""
        return tuple(row.arm for row in self.rows)

    def row(self, arm: str) -> ScoreRow:
        """Return one arm over all questions.

        Raises:
            InvalidInputError: It was not run; the message lists those that were.
        """
        for row in self.rows:
            if row.arm == arm:
                return row
        raise InvalidInputError(f"the report has no arm {arm!r}; it has {', '.join(self.arms)}")

    def figure(self, name: str, arm: str, group: str | None = None) -> FigureRow:
        """Return a figure of one arm.

        Raises:
            InvalidInputError: There is none of that name.
        """
        for row in self.figures:
            if (row.name, row.arm, row.group) == (name, arm, group):
                return row
        known = ", ".join(dict.fromkeys(row.name for row in self.figures)) or "none"
        raise InvalidInputError(f"the report has no figure {name!r} of {arm!r}; it has {known}")

    @property
    def regressions(self) -> list[tuple[ItemRow, ItemRow]]:
        """What was right without steering and is wrong with a subject: before, after."""
        before = {item.id: item for item in self.items if item.arm == "none"}
        return [
            (before[item.id], item)
            for item in self.items
            if item.arm in self.subjects
            if before[item.id].score > 0.5 >= item.score
        ]

    def page(self) -> Page:
        """Return the tables, and what was made worse."""
        parts: list[Part] = [Facts(self._facts())]
        if number := len(self.left_out):
            said = f"{number} question(s) do not fit the model's context window and were left out."
            parts.append(Text(said))
        parts += [Heading("Results"), self._table(), Text(_EXPLAINED)]
        if self.figures:
            parts += [Heading("Figures"), self._figure_table()]
        if self.group_rows:
            parts += [Heading("By group"), self._group_table()]
        worse: Part = Text("No question that was right without steering is wrong with it.")
        if self.regressions:
            worse = Table(
                ["", "group", "question", "unsteered", "steered", "by"],
                [
                    [a.id, a.group, Ending(a.question), b.answer, a.answer, a.arm]
                    for b, a in self.regressions
                ],
            )
        parts += [Heading("Made worse"), worse]
        subjects = json.dumps(self.subjects, indent=2, sort_keys=True, default=str)
        parts += [Heading("What steered"), Code(subjects, "json")]
        parts += [Heading("Reproduce"), Text(f"Seed {self.seed}."), Code(self.command)]
        return Page(self.title, parts)

    def table(self) -> Page:
        """Return the arms alone, for a console."""
        parts: list[Part] = [self._table(), Text(self.metric)]
        if self.figures:
            parts.append(self._figure_table())
        return Page(f"{self.title}, {self.data}", parts)

    def _table(self) -> Table:
        return Table(
            _HEAD,
            [
                [
                    title_of(row.arm),
                    str(row.n),
                    numbers.share(row.score, row.runs),
                    numbers.change(row.change),
                    numbers.number(row.kl_per_token),
                    numbers.percent(row.regressed),
                    numbers.percent(row.fixed),
                ]
                for row in self.rows
            ],
        )

    def _figure_table(self) -> Table:
        return Table(
            ["figure", "arm", *numeric("value [95 %]", "change")],
            [
                [row.name, title_of(row.arm), *row.words]
                for row in self.figures
                if row.group is None
            ],
        )

    def _group_table(self) -> Table:
        rows = []
        plain = dict.fromkeys(row.name for row in self.figures if not row.is_share)
        for group in dict.fromkeys(row.group for row in self.group_rows):
            mine = {row.arm: row for row in self.group_rows if row.group == group}
            scores = [numbers.share(mine[arm].score, interval=False) for arm in self.arms]
            rows.append([str(group), str(mine["none"].n), *scores])
            for name in plain:
                own = [self.figure(name, arm, group).value for arm in self.arms]
                rows.append([f"{group}: {name}", "", *(numbers.number(x, 2) for x in own)])
        return Table(["group", *numeric("n", *map(title_of, self.arms))], rows)

    def _facts(self) -> list[tuple[str, Words]]:
        asked = f"{self.rows[0].n} of {self.total}, {self.data} (sha256 "
        return [
            ("Model", Mono(self.model)),
            ("Questions", (asked, Mono(self.data_digest[:12]), ")")),
            ("Score", self.metric),
            *((name.capitalize(), value) for name, value in self.settings.items()),
            ("Benchmark", self.paper),
            ("Library", f"steerable-llm {self.library_version}"),
        ]

    def to_json(self) -> str:
        """Return everything, every question included."""
        return self.model_dump_json(indent=2)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it in the form that the suffix names: `.md`, `.html` or `.json`.

        Raises:
            InvalidInputError: Another suffix.
        """
        return self.page().save(path, self.to_json, "a benchmark report")


_EXPLAINED = (
    "Scores are means over questions, with 95 % bootstrap intervals over questions; change is "
    "paired with the unsteered model on the same questions. KL per token is taken along what the "
    "unsteered model chose or wrote. Worse: share of questions that were right and are wrong now, "
    "fixed the opposite; right means a score above one half."
)


def title_of(arm: str) -> str:
    """Return what an arm is called in a table."""
    label, colon, kind = arm.rpartition(": ")
    return f"{label}{colon}{TITLES.get(kind, kind)}"


def figure_rows(
    benchmark: Benchmark, items: Sequence[ItemRow], seed: int, group: str | None = None
) -> list[FigureRow]:
    """Return what a benchmark tells beside its score, per figure and arm."""
    by_arm: dict[str, dict[int, list[ItemRow]]] = {}
    for item in items:
        if group in (None, item.group):
            by_arm.setdefault(item.arm, {}).setdefault(item.run, []).append(item)

    def sums(arm: str, fact: str | None) -> list[float]:
        runs = by_arm[arm].values()
        return [
            float(np.mean([1.0 if fact is None else item.facts[fact] for item in same]))
            for same in zip(*runs, strict=True)
        ]

    found = []
    for name, facts in benchmark.figures.items():
        top, bottom = facts[0], facts[1] if len(facts) > 1 else None
        is_share = name not in benchmark.plain
        before = sums("none", top), sums("none", bottom)
        for arm in by_arm:
            mine = sums(arm, top), sums(arm, bottom)
            found.append(
                FigureRow(
                    name=name,
                    arm=arm,
                    group=group,
                    value=ratio(*mine, seed, is_share=is_share),
                    change=None if arm == "none" else ratio(*mine, seed, before, is_share),
                    is_share=is_share,
                )
            )
    return found


def score_rows(items: Sequence[ItemRow], seed: int, group: str | None = None) -> list[ScoreRow]:
    """Return a row per arm over all questions, in one order per arm, or over those of a group."""
    found: dict[str, dict[int, list[ItemRow]]] = {}
    for item in items:
        if group in (None, item.group):
            found.setdefault(item.arm, {}).setdefault(item.run, []).append(item)
    rows: list[ScoreRow] = []
    before = [item.score for item in found["none"][0]]
    was_right = [float(score > 0.5) for score in before]
    for arm, runs in found.items():
        scores = np.array([[item.score for item in run] for run in runs.values()])
        divergences = np.array([[item.kl_per_token for item in run] for run in runs.values()])
        # Whether a question is right is told per run: a mean of several runs is neither.
        right = (scores > 0.5).mean(axis=0).tolist()
        compared = arm != "none"
        rows.append(
            ScoreRow(
                arm=arm,
                group=group,
                n=len(before),
                score=estimate(scores.mean(axis=0), seed),
                change=difference(scores.mean(axis=0).tolist(), before, seed) if compared else None,
                kl_per_token=estimate(divergences.mean(axis=0), seed, within=None),
                regressed=regressed(right, was_right) if compared else None,
                fixed=fixed(right, was_right) if compared else None,
                runs=tuple(scores.mean(axis=1).tolist()) if len(scores) > 1 else (),
            )
        )
    return rows
