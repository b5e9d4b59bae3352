"""Langfuse: observations and scores, as its API and its exports write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steerable_llm.logs.importers.judgement import Judgement
from steerable_llm.logs.importers.records import (
    Record,
    UnusableRecord,
    content_text,
    decoded,
    iso,
    mapping,
    needed,
    number,
    prompt,
    said,
    text,
)
from steerable_llm.logs.importers.traces import (
    Span,
    documents_of,
    model_span,
    other_span,
    question_of,
    score_span,
    step_of,
    usage,
)


def langfuse(record: Record) -> list[Span]:
    """Read an observation, a score, or a trace with its observations and scores inside."""
    if "dataType" in record or ("value" in record and "name" in record):
        return [_score(record)]
    if "type" in record and ("traceId" in record or "trace_id" in record):
        return [_observation(record)]
    if "observations" in record or ("input" in record and "output" in record):
        return _trace(record)
    raise UnusableRecord(
        "it is neither an observation (type, traceId), a score (name, value) nor a trace"
    )


def _trace(record: Record) -> list[Span]:
    named = needed(record, "id")
    asked, time = question_of(decoded(record.get("input"))), iso(record.get("timestamp"))
    spans = [other_span(f"trace:{named}", named, time, documents=None, question=asked)]
    for name, read in (("observations", _observation), ("scores", _score)):
        for inside in record.get(name) or ():
            if isinstance(inside, Mapping):
                spans.append(read({"traceId": named, **inside}))
    return spans


def _observation(record: Record) -> Span:
    named = needed(record, "id")
    trace = text(record.get("traceId")) or needed(record, "trace_id")
    time = iso(record.get("startTime"), record.get("start_time"))
    kind = str(record["type"]).upper()
    given, made = decoded(record.get("input")), decoded(record.get("output"))
    if kind == "GENERATION":
        return model_span(named, trace, time, lambda: _answer(record, given, made))
    found = documents_of(made) if kind in ("RETRIEVER", "SPAN") else None
    question = None if record.get("parentObservationId") else question_of(given)
    # A span is a retrieval only if it gave documents.
    return other_span(named, trace, time, documents=found or None, question=question)


def _answer(record: Record, given: Any, made: Any) -> dict[str, Any]:
    if record.get("level") == "ERROR":
        raise UnusableRecord("its generation failed")
    if isinstance(given, Mapping):
        given = given.get("messages") or given.get("prompt") or question_of(given)
    if isinstance(made, Mapping) and isinstance(made.get("choices"), list) and made["choices"]:
        made = made["choices"][0].get("message")
    if isinstance(made, list) and len(made) == 1:
        made = made[0]
    if isinstance(made, Mapping):
        role = {} if "role" in made or "type" in made else {"role": "assistant"}
        made = said({**role, **made})
    answer = text(made)
    if answer is None:
        raise UnusableRecord("it has no answer")
    used = record.get("usageDetails") or record.get("usage") or {}
    return {
        "messages": prompt(given),
        "answer": answer,
        "model": text(record.get("model"), record.get("providedModelName")),
        "step": step_of(mapping(decoded(record.get("metadata")))),
        "usage": usage(used.get("input"), used.get("output")),
    }


def _score(record: Record) -> Span:
    kind = str(record.get("dataType", "")).upper()
    value = record.get("value")
    word = text(record.get("stringValue"), value)
    subject = mapping(record.get("subject"))
    trace = text(subject.get("traceId"), record.get("traceId"))
    target = text(subject.get("id"), record.get("observationId"))
    judgement = Judgement(
        name=str(record.get("name", "")),
        # The number of a category or of a correction is a place in a list, or nothing.
        score=None if kind in ("CATEGORICAL", "CORRECTION", "TEXT") else number(value),
        label=word if kind not in ("CORRECTION", "TEXT", "BOOLEAN") else None,
        comment=text(record.get("comment"), word if kind == "TEXT" else None),
        correction=text(content_text(word)) if kind == "CORRECTION" and word else None,
        human=record.get("source") == "ANNOTATION" or kind == "CORRECTION",
        reviewer=text(record.get("authorUserId")),
        time=iso(record.get("updatedAt"), record.get("timestamp")),
    )
    return score_span(judgement, record=record, trace_id=trace or target, target=target)
