"""What an import took and left, and why."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ValidationError

from steerable_llm.chat.message import Message, as_messages
from steerable_llm.errors import InvalidInputError, first_problem
from steerable_llm.logs.answers import REASONS, LoggedAnswer, Passage

# What people and metrics said of an answer, and the verdict that follows from it.

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
        if self.reason is not None and self.reason not in REASONS:
            raise InvalidInputError(f"{self.reason!r} is no reason: one of {', '.join(REASONS)}")


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


def number(value: object) -> float | None:
    """Return a score as a number; True is 1, and what is no finite number is None."""
    if not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # JSON knows no largest integer
        return None
    return found if math.isfinite(found) else None


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


# What importers share: reading the pieces of a record, and saying why one cannot be taken.

Record = Mapping[str, Any]
_ROLES = {
    **dict.fromkeys(("system", "developer", "SystemMessage"), "system"),
    **dict.fromkeys(("user", "human", "HumanMessage", "HumanMessageChunk"), "user"),
    **dict.fromkeys(("assistant", "ai", "model", "AIMessage", "AIMessageChunk"), "assistant"),
    **dict.fromkeys(("tool", "ToolMessage", "ToolMessageChunk"), "tool"),
}


class UnusableRecord(InvalidInputError):
    """A record from which no answer can be taken; the message says why."""


@dataclass(frozen=True)
class Draft:
    """An answer from another log, not judged yet, and what that log says of it."""

    answer: LoggedAnswer
    judgements: tuple[Judgement, ...] = ()


def content_id(kind: str, *parts: object) -> str:
    """Return an id made from content, for records that have none: the same again gives the same."""
    told = json.dumps(parts, sort_keys=True, default=str)
    return f"{kind}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def text(value: object) -> str | None:
    """Return a text that says something, else None."""
    return value if isinstance(value, str) and value.strip() else None


def needed(record: Record, name: str) -> str:
    """Return a text that a record must have."""
    found = text(record.get(name))
    if found is None:
        raise UnusableRecord(f"it has no {name}")
    return found


def iso(value: object) -> str | None:
    """Return a time as ISO 8601 in UTC, which sorts as text; None if it is no time."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
        # Exports that leave the zone out mean UTC.
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return found.isoformat(timespec="microseconds")


def content_text(content: object) -> str:
    """Return the text of a message: a string, or blocks of text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        pieces = []
        for block in content:
            if isinstance(block, str):
                pieces.append(block)
            elif isinstance(block, Mapping) and isinstance(block.get("text"), str):
                pieces.append(block["text"])
            else:
                kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
                raise UnusableRecord(f"a message holds {kind}, and only text can be taken")
        return "".join(pieces)
    raise UnusableRecord("the content of a message is neither text nor blocks of text")


def message(value: object) -> Message:
    """Return one message out of OpenAI's form or one of LangChain's."""
    if not isinstance(value, Mapping):
        raise UnusableRecord("a message is not an object with role and content")
    body = value
    role = value.get("role") or value.get("type")
    if isinstance(value.get("kwargs"), Mapping):  # LangChain's dump of a constructor call
        body = value["kwargs"]
        role = (value.get("id") or [""])[-1]
    elif isinstance(value.get("data"), Mapping):  # LangChain's message_to_dict
        body = value["data"]
    if role not in _ROLES:
        raise UnusableRecord(
            f"a message has the role {role!r}; only system, user, assistant and tool can be taken"
        )
    told: dict[str, Any] = {"role": _ROLES[role], "content": body.get("content") or ""}
    told["name"] = text(body.get("name"))
    if told["role"] == "assistant":
        told["tool_calls"] = _calls(body)
    if told["role"] == "tool":
        told["tool_call_id"] = body.get("tool_call_id")
    try:
        made = Message.model_validate(told)
    except ValidationError as error:
        raise UnusableRecord(f"a message cannot be read: {first_problem(error)}") from error
    if not all(image.is_public for image in made.images):
        # Whoever writes to a log must not read the files of whoever imports it.
        raise UnusableRecord("a message names an image by a path: give its data or a http(s) URL")
    return made


def said(value: object) -> str:
    """Return the text of the message that is an answer."""
    answer = message(value)
    if answer.tool_calls and not answer.content.strip():
        raise UnusableRecord("a message calls a tool instead of saying something")
    return answer.content


def _calls(body: Record) -> Any:
    """Return a message's tool calls in OpenAI's form, out of LangChain's or OpenInference's."""
    more = body.get("additional_kwargs")
    found = body.get("tool_calls") or (more.get("tool_calls") if isinstance(more, Mapping) else ())
    if not isinstance(found, Sequence):
        return found
    calls = []
    for entry in found:
        call = entry.get("tool_call", entry) if isinstance(entry, Mapping) else entry
        if isinstance(call, Mapping) and "args" in call:
            function = {"name": call.get("name"), "arguments": call["args"]}
            call = {"id": call.get("id"), "function": function}
        calls.append(call)
    return calls


def prompt(value: object) -> tuple[Message, ...]:
    """Return a prompt: a text is one user message."""
    if isinstance(value, str) and value.strip():
        return (Message(role="user", content=value),)
    if isinstance(value, Sequence) and value and not isinstance(value, str):
        return as_messages([message(entry) for entry in value])
    raise UnusableRecord("it has no prompt")


def answer_text(value: object, name: str) -> str:
    """Return an answer: a text, or a list with the one message that it is."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 1 or message(value[0]).role != "assistant":
            raise UnusableRecord(f"its {name} is not one message of the assistant")
        value = said(value[0])
    found = text(value)
    if found is None:
        raise UnusableRecord(f"it has no {name}")
    return found


def passages(texts: Iterable[object], ids: Sequence[object] = ()) -> tuple[Passage, ...]:
    """Return retrieved texts as passages; without an id, equal texts share one made from them.

    So the parts of a split never share a document, whatever the log calls it.
    """
    found = []
    for place, entry in enumerate(texts):
        if not isinstance(entry, str):
            raise UnusableRecord("a retrieved context is not text")
        named = str(ids[place]) if place < len(ids) else content_id("passage", entry)
        found.append(Passage(id=named, text=entry))
    return tuple(found)


def rendered(question: str, found: Sequence[Passage]) -> tuple[Message, ...]:
    """Return a prompt for a question over passages, for logs that did not keep theirs."""
    if not found:
        return (Message(role="user", content=question),)
    numbered = "\n".join(f"[{i}] {passage.text}" for i, passage in enumerate(found, start=1))
    shown = f"Documents:\n{numbered}\n\nQuestion: {question}"
    return (Message(role="user", content=shown),)


#: Lines that a report names one by one; all of them are counted.
NAMED = 100


@dataclass(frozen=True)
class SkippedLine:
    """One line that was not taken.

    Attributes:
        place: File and line, as in ``runs.jsonl:12``.
        why: In words.
    """

    place: str
    why: str


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        lines: Lines read now.
        lines_before: Lines of the same files that an earlier import had read.
        added: Answers that are new in the log.
        known: Answers and judgements that the log already had.
        judged: Answers on which a judgement was put or changed.
        context: Lines that only told what was asked or retrieved.
        skipped: Lines that were not taken, by reason.
        examples: The first hundred of them, by file and line.
        first: The file and line that was the first one, by reason.
    """

    lines: int = 0
    lines_before: int = 0
    added: int = 0
    known: int = 0
    judged: int = 0
    context: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: list[SkippedLine] = field(default_factory=list)
    first: dict[str, str] = field(default_factory=dict)
    on_skip: Callable[[SkippedLine], None] | None = field(default=None, repr=False)

    def skip(self, place: str, why: str) -> None:
        """Note a line that was not taken."""
        line = SkippedLine(place, why)
        self.skipped[why] += 1
        self.first.setdefault(why, place)
        if len(self.examples) < NAMED:
            self.examples.append(line)
        if self.on_skip is not None:
            self.on_skip(line)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "lines": self.lines,
            "lines_before": self.lines_before,
            "added": self.added,
            "known": self.known,
            "judged": self.judged,
            "context": self.context,
            "skipped": dict(self.skipped.most_common()),
            "examples": [{"place": line.place, "why": line.why} for line in self.examples],
        }
