"""What people and metrics said of an answer, and the verdict that follows from it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from steerable_llm.errors import InvalidInputError, brief
from steerable_llm.logs.answer_log import REVIEW
from steerable_llm.logs.answers import REASONS, LoggedAnswer
from steerable_llm.logs.queries import check_filters, listed

Verdict = Literal["good", "bad"]

_OF_DOCUMENTS, _OF_ANSWER, _OF_RETRIEVAL = (
    "not in documents",
    "missed the answer",
    "wrong retrieval",
)
#: What is wrong with an answer on which a metric from 0 to 1 is low, by the metric's name; None
#: where the metric does not say. A number of any other name is no verdict.
METRICS: dict[str, str | None] = {
    **dict.fromkeys(("faithfulness", "groundedness", "hallucination"), _OF_DOCUMENTS),
    **dict.fromkeys(("response_groundedness", "nv_response_groundedness"), _OF_DOCUMENTS),
    **dict.fromkeys(("faithfulness_with_hhem", "multi_modal_faithful_rate"), _OF_DOCUMENTS),
    **dict.fromkeys(("multi_modal_faithfulness", "faithful_rate"), _OF_DOCUMENTS),
    "quoted_spans_alignment": _OF_DOCUMENTS,
    **dict.fromkeys(("multi_modal_relevance", "relevance_rate"), _OF_ANSWER),
    **dict.fromkeys(("answer_relevancy", "answer_relevance", "response_relevancy"), _OF_ANSWER),
    "response_relevance": _OF_ANSWER,
    "agent_goal_accuracy": None,
    **dict.fromkeys(("answer_correctness", "factual_correctness", "correctness"), "untrue"),
    **dict.fromkeys(("answer_accuracy", "nv_accuracy", "qa_correctness"), "untrue"),
    "toxicity": "rude",
    **dict.fromkeys(("context_precision", "context_recall", "context_relevance"), _OF_RETRIEVAL),
    **dict.fromkeys(("context_relevancy", "nv_context_relevance"), _OF_RETRIEVAL),
    **dict.fromkeys(("contextual_precision", "contextual_recall"), _OF_RETRIEVAL),
    **dict.fromkeys(("contextual_relevancy", "context_entity_recall"), _OF_RETRIEVAL),
    **dict.fromkeys(
        (
            f"{judge}context_{what}{how}"
            for judge in ("llm_", "non_llm_", "")
            for what in ("precision", "recall")
            for how in ("", "_with_reference", "_without_reference")
        ),
        _OF_RETRIEVAL,
    ),
    **dict.fromkeys(("context_utilization", "id_based_context_precision"), _OF_RETRIEVAL),
    "id_based_context_recall": _OF_RETRIEVAL,
    **dict.fromkeys(("bias", "noise_sensitivity"), None),
    **dict.fromkeys(("noise_sensitivity_relevant", "noise_sensitivity_irrelevant"), None),
    # What applications call the thumb that their users turn up or down.
    **dict.fromkeys(("user_score", "user_feedback", "feedback", "thumbs", "thumbs_up"), None),
}
#: Metrics that are good when low: their scores are turned round.
LOW_IS_GOOD = {
    "hallucination",
    "toxicity",
    "bias",
    "noise_sensitivity",
    "noise_sensitivity_relevant",
    "noise_sensitivity_irrelevant",
}
# Names that say what is wrong: whether "yes" is good cannot be told of others like these.
_OF_FAULTS = re.compile(
    r"(^|_)(is_)?(un|in)?(toxic|bias|hallucinat|harm|malicious|rude|wrong|bad|error|fail|unsafe"
    r"|dislike|refus|pii|leak|offens|incorrect|inaccura|unfaithful|ungrounded|irrelevan|miss)"
)
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
        scales: The lowest and the highest score of a metric, by its name. Metrics that are well
            known reach from 0 to 1; a number of another name counts only with a scale.
    """

    score: str | None = None
    good_at: float = 0.8
    bad_at: float = 0.4
    reason: str | None = None
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InvalidInputError: A bad answer would be good as well, the reason is unknown, or a
                scale is upside down.
        """
        if not self.bad_at < self.good_at:
            raise InvalidInputError(
                f"scores up to {self.bad_at} are bad and from {self.good_at} on good: "
                "the first must be the lower one"
            )
        check_filters(verdict=None, reasons=listed(self.reason))
        for name, (low, high) in self.scales.items():
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise InvalidInputError(
                    f"the scale of {name!r} goes from {low} to {high}: the first must be the lower"
                )

    @property
    def raw(self) -> bool:
        """Whether `good_at` and `bad_at` are on a metric's own scale, and not from 0 to 1."""
        return not (0 <= self.bad_at and self.good_at <= 1)


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
        scale: The lowest and the highest score, where the log says so.
        answers: Of how many answers it was said at once: of several it is no verdict on any.
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
    scale: tuple[float, float] | None = None
    answers: int = 1


def judge(
    answer: LoggedAnswer,
    judgements: Sequence[Judgement],
    rules: Rules,
    off_scale: Collection[str] = (),
) -> LoggedAnswer:
    """Return an answer with what was said of it; what nobody spoke of stays as it is.

    People outrank metrics, and one that says "bad" outranks one that says "good".

    Args:
        answer: The answer.
        judgements: What was said of it.
        rules: How scores become verdicts.
        off_scale: Names of metrics with scores outside 0 to 1 elsewhere in the log, of which no
            score counts without a scale; see `beyond_its_scale`.
    """
    if not judgements:
        return answer
    judgements = [
        replace(judgement, score=None, passed=None)
        if unread(judgement, rules, off_scale)
        else judgement
        for judgement in judgements
    ]
    opinions = [(*_opinion(judgement, rules), judgement) for judgement in judgements]
    decided = [opinion for opinion in opinions if opinion[0] is not None]
    decided = [opinion for opinion in decided if opinion[2].human] or decided
    decided = [opinion for opinion in decided if opinion[0] == "bad"] or decided
    changes: dict[str, Any] = {}
    scored = voices = judgements
    if decided:
        # One that names a reason tells more.
        verdict, reason, source = next((o for o in decided if o[1]), decided[0])
        changes["verdict"] = verdict
        changes["reason"] = (reason or rules.reason) if verdict == "bad" else None
        changes["label_source"] = "human" if source.human else source.name or None
        scored = [source]
        # What contradicts the verdict has no part in it.
        voices = [source, *(j for said, _, j in opinions if said in (None, verdict))]
    scores = [judgement.score for judgement in scored if judgement.score is not None]
    comments = list(dict.fromkeys(j.comment for j in judgements if j.comment))
    told: dict[str, list[Any]] = {
        "score": scores,
        "comment": ["\n".join(comments)] if comments else [],
        "correction": [j.correction for j in voices if j.correction],
        "reviewer": [j.reviewer for j in voices if j.reviewer],
        "reviewed": [j.time for j in voices if j.time],
    }
    changes.update({field: values[0] for field, values in told.items() if values})
    return LoggedAnswer.model_validate({**answer.model_dump(), **changes})


def weighed(before: LoggedAnswer, told: LoggedAnswer) -> LoggedAnswer:
    """Return an answer with what was said of it before and what is told now, in any order.

    People outrank metrics, and "bad" outranks "good"; but whoever judges once more replaces what
    they said.

    Args:
        before: The answer with its judgement.
        told: The same answer with another one.
    """
    anew = False
    if told.verdict is None or before.verdict is None:
        first, second = (told, before) if before.verdict is None else (before, told)
    elif (later := _later(before, told)) is before or (
        judged_by_person(before) and not judged_by_person(told)
    ):
        return before
    else:
        anew = later is told
        first, second = (told, before) if anew or _outranks(told, before) else (before, told)
    filled = ["score", "comment"]
    if None in (first.verdict, second.verdict) or first.verdict == second.verdict:
        filled += ["reason", "correction", "reviewer", "reviewed"]
        filled += ["label_source"] if first.verdict is None else []
    changes = {name: getattr(first, name) for name in REVIEW}
    for name in filled:
        changes[name] = getattr(second, name) if changes[name] is None else changes[name]
    if first.verdict == "good":
        changes["reason"] = None
    of_one_kind = judged_by_person(first) == judged_by_person(second)
    if not anew and (of_one_kind or None in (first.verdict, second.verdict)):
        changes["comment"] = _both(before.comment, told.comment)
    return before.model_copy(update=changes)


def _later(before: LoggedAnswer, told: LoggedAnswer) -> LoggedAnswer | None:
    """Return the later judgement of one person or metric; None for those of two, or untold."""
    person = judged_by_person(told)
    source, other = (a.reviewer if person else a.label_source for a in (told, before))
    if source is None or source != other or person != judged_by_person(before):
        return None
    if told.reviewed and before.reviewed:
        return before if before.reviewed > told.reviewed else told
    # One measurement, perhaps by other rules.
    return told if not person and told.score is not None and told.score == before.score else None


def _outranks(told: LoggedAnswer, before: LoggedAnswer) -> bool:
    if judged_by_person(told) and not judged_by_person(before):
        return True
    if told.verdict != before.verdict:
        return told.verdict == "bad"
    return told.reason is not None and before.reason is None


def _both(before: str | None, told: str | None) -> str | None:
    if before is None or told is None or told in before:
        return told if before is None else before
    return told if before in told else f"{before}\n{told}"


def beyond_its_scale(judgement: Judgement, rules: Rules) -> bool:
    """Whether a score shows that its metric does not reach from 0 to 1, as metrics are taken to."""
    if judgement.score is None or judgement.passed is not None or rules.raw:
        return False
    return _scale(judgement, rules) is None and not 0 <= judgement.score <= 1


def unread(judgement: Judgement, rules: Rules, off_scale: Collection[str] = ()) -> str | None:
    """Return why a score is no verdict and cannot become one, or None if it can."""
    if judgement.answers > 1 and (judgement.score is not None or judgement.passed is not None):
        return (
            f"{brief(judgement.name)} judges a conversation of several answers, and does not say "
            "which it means"
        )
    if judgement.score is None or judgement.passed is not None:
        return None
    metric, named = metric_of(judgement.name), brief(judgement.name)
    scale = _scale(judgement, rules)
    if scale is not None:
        if not scale[0] <= judgement.score <= scale[1]:
            return f"a score of {named} lies outside its scale, {scale[0]:g} to {scale[1]:g}"
        return None
    if metric not in METRICS and judgement.name != rules.score:
        return (
            f"{named} is no metric that is known here: give its scale if it is one, as in "
            f"--scale '{_short(judgement.name)}=0:1'"
        )
    if rules.raw:
        if metric in LOW_IS_GOOD:
            return f"{named} is good when low, and turned round by its scale: give it with --scale"
        return None
    if judgement.name in off_scale or not 0 <= judgement.score <= 1:
        return (
            f"scores of {named} lie outside 0 to 1: give its scale, as in "
            f"--scale '{_short(judgement.name)}=1:5'"
        )
    return None


def metric_of(name: str) -> str:
    """Return a metric's name as the tables have it, without mode and spelling."""
    plain = re.sub(r"[(\[].*[)\]]", "", name)
    # "AnswerRelevancy" and "Answer Relevancy" are one.
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", plain)
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def _scale(judgement: Judgement, rules: Rules) -> tuple[float, float] | None:
    declared = rules.scales.get(judgement.name) or rules.scales.get(metric_of(judgement.name))
    return declared or judgement.scale


def _short(name: str) -> str:
    return name if len(name) <= 60 else "NAME"


def judged_by_person(answer: LoggedAnswer) -> bool:
    """Whether a person gave an answer its verdict, in another log or by `AnswerLog.review`."""
    named = answer.label_source == "human" or (not answer.label_source and answer.reviewer)
    return answer.verdict is not None and bool(named)


def _opinion(judgement: Judgement, rules: Rules) -> tuple[Verdict | None, str | None]:
    metric = metric_of(judgement.name)
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
    score = judgement.score
    low, high = _scale(judgement, rules) or (0.0, 1.0)
    if metric in LOW_IS_GOOD:
        score = low + high - score
    if not rules.raw:
        score = (score - low) / (high - low)
    if score >= rules.good_at:
        return "good", None
    return ("bad", usual) if score <= rules.bad_at else (None, None)


def yes_is_good(name: str) -> bool | None:
    """Whether "yes" to what a name asks of an answer is good; None if nobody can tell."""
    metric = metric_of(name)
    if metric in LOW_IS_GOOD:
        return False
    return None if _OF_FAULTS.search(metric) and metric not in METRICS else True
