"""What a benchmark found: data, a console table, a Markdown page and an HTML page."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.report import ENVIRONMENT, TITLES
from steerable_llm.files import write_whole
from steerable_llm.metrics import Estimate, difference, estimate, fixed, regressed

COLUMNS = ("arm", "n", "score [95 %]", "change, points", "KL per token", "worse", "fixed")


class ItemRow(BaseModel):
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
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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


class ScoreRow(BaseModel):
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

    model_config = ConfigDict(frozen=True, extra="forbid")

    arm: str
    group: str | None = None
    n: int
    score: Estimate
    change: Estimate | None = None
    kl_per_token: Estimate
    regressed: float | None = None
    fixed: float | None = None
    runs: tuple[float, ...] = ()


class BenchmarkReport(BaseModel):
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
        vectors: What steered: label to strength, scope, layers and fingerprint.
        rows: Per arm over all questions, the unsteered model first.
        group_rows: The same per group; empty where there is one group only.
        items: Every question under every arm.
        library_version: Of this package.
        command: What to run to get this again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    vectors: dict[str, dict[str, Any]]
    rows: tuple[ScoreRow, ...]
    group_rows: tuple[ScoreRow, ...] = ()
    items: tuple[ItemRow, ...]
    library_version: str
    command: str = ""

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that were run, the unsteered model first."""
        return tuple(row.arm for row in self.rows)

    def row(self, arm: str) -> ScoreRow:
        """One arm over all questions.

        Raises:
            InvalidInputError: It was not run; the message lists those that were.
        """
        for row in self.rows:
            if row.arm == arm:
                return row
        raise InvalidInputError(f"the report has no arm {arm!r}; it has {', '.join(self.arms)}")

    @property
    def regressions(self) -> list[tuple[ItemRow, ItemRow]]:
        """Questions that were right without steering and are wrong with a vector: before, after."""
        before = {item.id: item for item in self.items if item.arm == "none"}
        return [
            (before[item.id], item)
            for item in self.items
            if item.arm in self.vectors
            if before[item.id].score > 0.5 >= item.score
        ]

    def cells(self, row: ScoreRow) -> list[str]:
        """One line of a table; the columns are `COLUMNS`."""
        runs = f" ({', '.join(f'{100 * run:.1f}' for run in row.runs)})" if row.runs else ""
        return [
            title_of(row.arm),
            str(row.n),
            _FILTERS["share"](row.score, with_interval=True) + runs,
            _FILTERS["share"](row.change, signed=True),
            _FILTERS["number"](row.kl_per_token),
            _FILTERS["percent"](row.regressed),
            _FILTERS["percent"](row.fixed),
        ]

    def group_table(self) -> list[list[str]]:
        """Scores per group: a heading, and a line per group."""
        lines = [["group", "n", *map(title_of, self.arms)]]
        for group in dict.fromkeys(row.group for row in self.group_rows):
            mine = {row.arm: row for row in self.group_rows if row.group == group}
            scores = [_FILTERS["share"](mine[arm].score) for arm in self.arms]
            lines.append([str(group), str(mine["none"].n), *scores])
        return lines if self.group_rows else []

    def table(self) -> Table:
        """The arms, for a rich console."""
        table = Table(title=f"{self.title}, {self.data}", caption=self.metric)
        for number, name in enumerate(COLUMNS):
            table.add_column(name, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*self.cells(row))
        return table

    def to_json(self) -> str:
        """Everything, every question included."""
        return self.model_dump_json(indent=2)

    def to_markdown(self) -> str:
        """The tables, and what was made worse."""
        text = ENVIRONMENT.get_template("benchmark.md.jinja").render(self._view())
        return text.rstrip() + "\n"

    def to_html(self) -> str:
        """The same as one page that needs no other file."""
        return ENVIRONMENT.get_template("benchmark.html.jinja").render(self._view())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes it in the form that the suffix names: `.md`, `.html` or `.json`.

        Raises:
            InvalidInputError: Another suffix.
        """
        check_suffix(path)
        content: str = WRITERS[Path(path).suffix](self)
        return write_whole(path, content)

    def _view(self) -> Mapping[str, Any]:
        return {
            "report": self,
            "columns": COLUMNS,
            "lines": [self.cells(row) for row in self.rows],
            "groups": self.group_table(),
            "title_of": title_of,
        }


#: How a report is written, by the file's suffix.
WRITERS: Mapping[str, Callable[[BenchmarkReport], str]] = {
    ".md": BenchmarkReport.to_markdown,
    ".html": BenchmarkReport.to_html,
    ".json": BenchmarkReport.to_json,
}
_FILTERS: Mapping[str, Callable[..., str]] = ENVIRONMENT.filters


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Refuses a file name that no report can have, before any work is done for it.

    Raises:
        InvalidInputError: Another suffix than those of `WRITERS`.
    """
    if Path(path).suffix not in WRITERS:
        raise InvalidInputError(
            f"cannot save a benchmark report as {Path(path).name!r}; use one of "
            f"{', '.join(WRITERS)}"
        )


def title_of(arm: str) -> str:
    """What a arm is called in a table."""
    label, colon, kind = arm.rpartition(": ")
    return f"{label}{colon}{TITLES.get(kind, kind)}"


def score_rows(items: Sequence[ItemRow], seed: int, group: str | None = None) -> list[ScoreRow]:
    """Return a row per arm over all questions, or over those of a group.

    Args:
        items: Every question under every arm, in one order of questions per arm.
        seed: Of the intervals.
        group: Only questions of this group.
    """
    found: dict[str, dict[int, list[ItemRow]]] = {}
    for item in items:
        if group in (None, item.group):
            found.setdefault(item.arm, {}).setdefault(item.run, []).append(item)
    return [
        _row(arm, group, list(runs.values()), found["none"][0], seed) for arm, runs in found.items()
    ]


def _row(
    arm: str,
    group: str | None,
    runs: Sequence[Sequence[ItemRow]],
    unsteered: Sequence[ItemRow],
    seed: int,
) -> ScoreRow:
    scores = _means([[item.score for item in run] for run in runs])
    before = [item.score for item in unsteered]
    # Whether a question is right is told per run: a mean of several runs is neither.
    right = _means([[float(item.score > 0.5) for item in run] for run in runs])
    right_before = [float(score > 0.5) for score in before]
    compared = arm != "none"
    divergences = _means([[item.kl_per_token for item in run] for run in runs])
    return ScoreRow(
        arm=arm,
        group=group,
        n=len(unsteered),
        score=estimate(scores, seed),
        change=difference(scores, before, seed) if compared else None,
        kl_per_token=estimate(divergences, seed, within=None),
        regressed=regressed(right, right_before) if compared else None,
        fixed=fixed(right, right_before) if compared else None,
        runs=tuple(sum(item.score for item in run) / len(run) for run in runs if len(runs) > 1),
    )


def _means(runs: Sequence[Sequence[float]]) -> list[float]:
    """Per question, the mean over the runs of an arm."""
    return [sum(values) / len(values) for values in zip(*runs, strict=True)]
