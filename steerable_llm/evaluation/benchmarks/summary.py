"""From what the model did on each question to the rows of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steerable_llm.evaluation.benchmarks.benchmark import Question
from steerable_llm.evaluation.benchmarks.measure import Reading
from steerable_llm.evaluation.benchmarks.result import ItemRow, ScoreRow
from steerable_llm.metrics import difference, estimate, fixed, regressed

_SHOWN = 300  # characters of a prompt's end that a report keeps

Found = Mapping[str, Sequence[Sequence[Reading]]]
"""Per arm its runs, each with a reading per question; "none" among them."""


def score_rows(
    found: Found, questions: Sequence[Question], seed: int, group: str | None = None
) -> list[ScoreRow]:
    """A row per arm over all questions, or over those of a group."""
    return [_row(arm, group, found, questions, seed) for arm in found]


def item_rows(found: Found, questions: Sequence[Question]) -> list[ItemRow]:
    """A row per arm, run and question."""
    return [
        ItemRow(
            id=question.item.id,
            group=question.item.category,
            arm=arm,
            run=number,
            question=question.item.question[-_SHOWN:],
            expected=question.expected,
            answer=reading.answer,
            score=reading.score,
            kl_per_token=reading.kl_per_token,
            log_probs=reading.log_probs,
        )
        for arm, runs in found.items()
        for number, run in enumerate(runs)
        for question, reading in zip(questions, run, strict=True)
    ]


def _row(
    arm: str,
    group: str | None,
    found: Found,
    questions: Sequence[Question],
    seed: int,
) -> ScoreRow:
    places = [i for i, q in enumerate(questions) if group in (None, q.item.category)]
    runs = [[run[i] for i in places] for run in found[arm]]
    unsteered = [found["none"][0][i] for i in places]
    scores = _means([[reading.score for reading in run] for run in runs])
    before = [reading.score for reading in unsteered]
    # Whether a question is right is told per run: a mean of several runs is neither.
    right = _means([[float(reading.score > 0.5) for reading in run] for run in runs])
    right_before = [float(score > 0.5) for score in before]
    compared = arm != "none"
    return ScoreRow(
        arm=arm,
        group=group,
        n=len(places),
        score=estimate(scores, seed),
        change=difference(scores, before, seed) if compared else None,
        kl_per_token=estimate(
            _means([[reading.kl_per_token for reading in run] for run in runs]), seed, within=None
        ),
        regressed=regressed(right, right_before) if compared else None,
        fixed=fixed(right, right_before) if compared else None,
        runs=tuple(
            sum(reading.score for reading in run) / len(run) for run in runs if len(runs) > 1
        ),
    )


def _means(runs: Sequence[Sequence[float]]) -> list[float]:
    """Per question, the mean over the runs of a arm."""
    return [sum(values) / len(values) for values in zip(*runs, strict=True)]
