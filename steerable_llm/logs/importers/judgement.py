"""What people and metrics said of an answer, and the verdict that follows from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steerable_llm.errors import InvalidInputError
from steerable_llm.logs.answers import REASONS, LoggedAnswer
from steerable_llm.logs.queries import check_filters, listed

Verdict = Literal["good", "bad"]

#: What is wrong with an answer on which a metric is low, by the metric's name.
METRICS = {
    "faithfulness": "not in documents",
    "groundedness": "not in documents",
    "hallucination": "not in documents",
    "response_groundedness": "not in documents",
    "answer_relevancy": "missed the answer",
    "answer_relevance": "missed the answer",
    "response_relevancy": "missed the answer",
    "answer_correctness": "untrue",
    "factual_correctness": "untrue",
    "correctness": "untrue",
    "toxicity": "rude",
    "context_precision": "wrong retrieval",
    "context_recall": "wrong retrieval",
    "contextual_precision": "wrong retrieval",
    "contextual_recall": "wrong retrieval",
    "contextual_relevancy": "wrong retrieval",
}
#: Metrics that are good when low: their scores are turned round, 1 - score.
LOW_IS_GOOD = {"hallucination", "toxicity", "bias", "noise_sensitivity"}
#: Words that evaluators and people use as labels.
LABELS: dict[str, tuple[Verdict, str | None]] = {
    **{word: ("good", None) for word in ("good", "correct", "factual", "grounded", "positive")},
    **{word: ("good", None) for word in ("faithful", "thumbs_up", "thumbs-up", "non-toxic")},
    **{word: ("bad", None) for word in ("bad", "negative", "thumbs_down", "thumbs-down")},
    "incorrect": ("bad", "untrue"),
    "hallucinated": ("bad", "not in documents"),
    "unfaithful": ("bad", "not in documents"),
    "ungrounded": ("bad", "not in documents"),
    "toxic": ("bad", "rude"),
    **{reason: ("bad", reason) for reason in REASONS},
}


@dataclass(frozen=True)
class Rules:
    """How scores become verdicts.

    Attributes:
        score: Only this metric's scores count; None takes every metric's.
        good_at: A score of so much or more is good.
        bad_at: A score of so much or less is bad; between the two there is no verdict.
        reason: What is wrong with bad answers where the log does not say.
    """

    score: str | None = None
    good_at: float = 0.8
    bad_at: float = 0.4
    reason: str | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InvalidInputError: A bad answer would be good as well, or the reason is unknown.
        """
        if not self.bad_at < self.good_at:
            raise InvalidInputError(
                f"scores up to {self.bad_at} are bad and from {self.good_at} on good: "
                "the first must be the lower one"
            )
        check_filters(verdict=None, reasons=listed(self.reason))


@dataclass(frozen=True)
class Judgement:
    """One thing that was said of an answer.

    Attributes:
        name: The metric, or the key of the feedback.
        score: A number, if there is one.
        label: A word, if there is one.
        passed: Whether it says outright that the answer is good.
        comment: What else was said.
        correction: What should have been answered.
        human: Whether a person said it; people outrank metrics.
        reviewer: Which person.
        time: When, as ISO 8601.
    """

    name: str = ""
    score: float | None = None
    label: str | None = None
    passed: bool | None = None
    comment: str | None = None
    correction: str | None = None
    human: bool = False
    reviewer: str | None = None
    time: str | None = None


def judge(answer: LoggedAnswer, judgements: Sequence[Judgement], rules: Rules) -> LoggedAnswer:
    """Return an answer with what was said of it; what nobody spoke of stays as it is.

    People outrank metrics, and one that says "bad" outranks one that says "good".
    """
    if not judgements:
        return answer
    opinions = [(*_opinion(judgement, rules), judgement) for judgement in judgements]
    decided = [opinion for opinion in opinions if opinion[0] is not None]
    decided = [opinion for opinion in decided if opinion[2].human] or decided
    decided = [opinion for opinion in decided if opinion[0] == "bad"] or decided
    changes: dict[str, Any] = {}
    scored: Sequence[Judgement] = judgements
    if decided:
        # One that names a reason tells more.
        verdict, reason, source = next((o for o in decided if o[1]), decided[0])
        changes["verdict"] = verdict
        changes["reason"] = (reason or rules.reason) if verdict == "bad" else None
        changes["label_source"] = "human" if source.human else source.name or None
        scored = [source]
    scores = [judgement.score for judgement in scored if judgement.score is not None]
    comments = list(dict.fromkeys(j.comment for j in judgements if j.comment))
    told: dict[str, list[Any]] = {
        "score": scores,
        "comment": ["\n".join(comments)] if comments else [],
        "correction": [j.correction for j in judgements if j.correction],
        "reviewer": [j.reviewer for j in judgements if j.reviewer],
        "reviewed": [j.time for j in judgements if j.time],
    }
    changes.update({field: values[0] for field, values in told.items() if values})
    return LoggedAnswer.model_validate({**answer.model_dump(), **changes})


def judged_by_person(answer: LoggedAnswer) -> bool:
    """Whether a person gave an answer its verdict, in another log or by `AnswerLog.review`."""
    named = answer.label_source == "human" or (not answer.label_source and answer.reviewer)
    return answer.verdict is not None and bool(named)


def _opinion(judgement: Judgement, rules: Rules) -> tuple[Verdict | None, str | None]:
    metric = re.sub(r"[^a-z0-9]+", "_", judgement.name.lower()).strip("_")
    usual = METRICS.get(metric)
    if judgement.passed is not None:
        return ("good", None) if judgement.passed else ("bad", usual)
    if judgement.correction:
        label = LABELS.get((judgement.label or "").strip().lower(), (None, None))
        return "bad", label[1] or usual
    if rules.score is not None and judgement.name != rules.score:
        return None, None
    if judgement.label and (found := LABELS.get(judgement.label.strip().lower())):
        return found[0], found[1] or (usual if found[0] == "bad" else None)
    if judgement.score is None:
        return None, None
    score = 1 - judgement.score if metric in LOW_IS_GOOD else judgement.score
    if score >= rules.good_at:
        return "good", None
    return ("bad", usual) if score <= rules.bad_at else (None, None)
