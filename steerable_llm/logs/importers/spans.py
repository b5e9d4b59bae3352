"""Lines of a trace in one form, and how the lines of one trace become answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from steerable_llm.logs.answers import LoggedAnswer, Passage
from steerable_llm.logs.importers.judgement import Judgement
from steerable_llm.logs.importers.records import Record, content_id, text
from steerable_llm.logs.open_traces import asked
from steerable_llm.pairs import Message

Kind = Literal["llm", "retriever", "chain", "score"]
#: Names under which chains take their question.
QUESTION_KEYS = ("question", "query", "input", "user_input")


@dataclass(frozen=True)
class Span:
    """One line of a trace.

    Attributes:
        span_id: Its id in the log it comes from.
        trace_id: The whole run; None where the log leaves it to the span it speaks of.
        kind: A model's answer, a retrieval, another step of the chain, or a judgement.
        content: What it tells: the fields of an answer, "documents", a "question" or a judgement.
        time: When it began, as ISO 8601 in UTC.
        target: The span that a judgement is about; None means the whole trace.
    """

    span_id: str
    trace_id: str | None
    kind: Kind
    content: Mapping[str, Any] = field(default_factory=dict)
    time: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class Joined:
    """What the lines of one trace come to.

    Attributes:
        answers: The answers, oldest first, each with the id of its span.
        unusable: Spans of models without a usable answer, and why.
        context: How many lines only told what was asked or retrieved.
    """

    answers: list[LoggedAnswer]
    unusable: list[tuple[str, str]]
    context: int


def join(trace_id: str, spans: Sequence[Span]) -> Joined:
    """Join a trace's answers with what was retrieved before them."""
    ordered = sorted(spans, key=lambda span: span.time or "")
    question = next((q for s in ordered if (q := s.content.get("question"))), None)
    retrievals = [span for span in ordered if span.kind == "retriever"]
    answers: list[LoggedAnswer] = []
    unusable: list[tuple[str, str]] = []
    for span in ordered:
        if span.kind != "llm":
            continue
        if problem := span.content.get("problem"):
            unusable.append((span.span_id, problem))
            continue
        # Without times nothing is known of the order, and everything counts.
        before = [r for r in retrievals if not (r.time and span.time) or r.time <= span.time]
        found: dict[tuple[str, str], Passage] = {}
        for retrieval in before:
            for document in retrieval.content["documents"]:
                passage = Passage.model_validate(document)
                found.setdefault((passage.id, passage.text), passage)
        try:
            messages = tuple(Message.model_validate(m) for m in span.content["messages"])
            answers.append(
                LoggedAnswer(
                    **{**span.content, "messages": messages},
                    id=span.span_id,
                    question=asked(question, messages),
                    passages=tuple(found.values()),
                    time=span.time,
                    trace_id=trace_id,
                )
            )
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"]))
            unusable.append((span.span_id, f"its {place} is not usable: {problem['msg']}"))
    context = sum(span.kind in ("retriever", "chain") for span in spans)
    return Joined(answers, unusable, context)


def score_span(
    judgement: Judgement, *, record: Record, trace_id: str | None, target: str | None
) -> Span:
    """Return a judgement as a line of its trace."""
    named = text(record.get("id")) or content_id("score", dict(record))
    return Span(f"score:{named}", trace_id, "score", asdict(judgement), None, target)


def question_of(value: object) -> str | None:
    """Return the question in a chain's input."""
    if isinstance(value, Mapping):
        return next((q for key in QUESTION_KEYS if (q := text(value.get(key)))), None)
    return text(value)


def documents_of(value: object) -> list[dict[str, str]] | None:
    """Return a retriever's output as passages; None if it holds no documents."""
    if isinstance(value, Mapping):
        value = value.get("documents") or value.get("output") or value.get("nodes")
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None
    found = []
    for entry in value:
        if isinstance(entry, str):
            found.append({"id": content_id("passage", entry), "text": entry})
            continue
        if not isinstance(entry, Mapping):
            return None
        body = entry.get("kwargs") or entry.get("document") or entry.get("node") or entry
        if not isinstance(body, Mapping):
            return None
        shown = next((t for k in ("page_content", "content", "text") if (t := body.get(k))), None)
        if not isinstance(shown, str):
            return None
        metadata = body.get("metadata")
        metadata = metadata if isinstance(metadata, Mapping) else {}
        named = body.get("id") or metadata.get("id") or metadata.get("source")
        found.append({"id": str(named or content_id("passage", shown)), "text": shown})
    return found
