"""One line of a trace, in one form for all tools; what readers of traces make of a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from steerable_llm.logs.importers.judgement import Judgement
from steerable_llm.logs.importers.records import (
    Record,
    UnusableRecord,
    content_id,
    mapping,
    number,
    text,
)

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


def model_span(
    span_id: str, trace_id: str, time: str | None, read: Callable[[], Mapping[str, Any]]
) -> Span:
    """Return a model's answer as a line of its trace.

    Args:
        span_id: Its id.
        trace_id: Of the whole run.
        time: When it began.
        read: Returns the fields of a `LoggedAnswer`; what it raises is told once the trace is
            joined, since a later line of the same id may have the answer.
    """
    try:
        content = dict(read())
        content["messages"] = [message.model_dump() for message in content["messages"]]
    except UnusableRecord as problem:
        content = {"problem": str(problem)}
    return Span(span_id, trace_id, "llm", content, time)


def other_span(
    span_id: str,
    trace_id: str,
    time: str | None,
    *,
    documents: list[dict[str, str]] | None,
    question: str | None,
) -> Span:
    """Return a retrieval, or without documents another step of the chain, which may have asked."""
    if documents is not None:
        return Span(span_id, trace_id, "retriever", {"documents": documents}, time)
    return Span(span_id, trace_id, "chain", {"question": question} if question else {}, time)


def usage(prompt: object, completion: object) -> dict[str, int]:
    """Return counts of tokens; what is no number is left out."""
    counts = {"prompt_tokens": number(prompt), "completion_tokens": number(completion)}
    return {name: int(count) for name, count in counts.items() if count is not None}


def step_of(metadata: Record) -> str | None:
    """Return the step that a chain or LangGraph names."""
    return text(metadata.get("steer_step"), metadata.get("langgraph_node"))


def score_span(
    judgement: Judgement, *, record: Record, trace_id: str | None, target: str | None
) -> Span:
    """Return a judgement as a line of its trace."""
    named = text(record.get("id")) or content_id("score", dict(record))
    return Span(f"score:{named}", trace_id, "score", asdict(judgement), None, target)


def question_of(value: object) -> str | None:
    """Return the question in a chain's input."""
    if isinstance(value, Mapping):
        return text(*(value.get(key) for key in QUESTION_KEYS))
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
        metadata = mapping(body.get("metadata"))
        named = body.get("id") or metadata.get("id") or metadata.get("source")
        found.append({"id": str(named or content_id("passage", shown)), "text": shown})
    return found
