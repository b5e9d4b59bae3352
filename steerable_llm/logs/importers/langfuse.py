"""Langfuse: observations and scores, as its API and its exports write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from steerable_llm.logs.importers.records import (
    Judgement,
    Record,
    UnusableRecord,
    content_text,
    iso,
    needed,
    number,
    prompt,
    said,
    text,
)
from steerable_llm.logs.importers.traces import Span, documents_of, question_of, score_span


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
    told = {"question": question_of(_decoded(record.get("input")))}
    spans = [Span(f"trace:{named}", named, "chain", told, iso(record.get("timestamp")))]
    for inside in record.get("observations") or ():
        if isinstance(inside, Mapping):
            spans.append(_observation({"traceId": named, **inside}))
    for inside in record.get("scores") or ():
        if isinstance(inside, Mapping):
            spans.append(_score({"traceId": named, **inside}))
    return spans


def _observation(record: Record) -> Span:
    named = needed(record, "id")
    trace = text(record.get("traceId")) or needed(record, "trace_id")
    time = iso(record.get("startTime")) or iso(record.get("start_time"))
    kind = str(record["type"]).upper()
    given, said = _decoded(record.get("input")), _decoded(record.get("output"))
    if kind == "GENERATION":
        try:
            return Span(named, trace, "llm", _answer(record, given, said), time)
        except UnusableRecord as problem:
            return Span(named, trace, "llm", {"problem": str(problem)}, time)
    documents = documents_of(said) if kind in ("RETRIEVER", "SPAN") else None
    if documents:
        return Span(named, trace, "retriever", {"documents": documents}, time)
    outermost = not record.get("parentObservationId")
    return Span(named, trace, "chain", {"question": question_of(given)} if outermost else {}, time)


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
    metadata = _decoded(record.get("metadata"))
    metadata = metadata if isinstance(metadata, Mapping) else {}
    used = record.get("usageDetails") or record.get("usage") or {}
    usage = {"prompt_tokens": used.get("input"), "completion_tokens": used.get("output")}
    return {
        "messages": [m.model_dump() for m in prompt(given)],
        "answer": answer,
        "model": text(record.get("model")) or text(record.get("providedModelName")),
        "step": text(metadata.get("steer_step")) or text(metadata.get("langgraph_node")),
        "usage": {name: count for name, count in usage.items() if isinstance(count, int)},
    }


def _score(record: Record) -> Span:
    kind = str(record.get("dataType", "")).upper()
    value = record.get("value")
    word = text(record.get("stringValue")) or text(value)
    subject = record.get("subject")
    subject = subject if isinstance(subject, Mapping) else {}
    trace = text(subject.get("traceId")) or text(record.get("traceId"))
    target = text(subject.get("id")) or text(record.get("observationId"))
    judgement = Judgement(
        name=str(record.get("name", "")),
        # The number of a category or of a correction is a place in a list, or nothing.
        score=None if kind in ("CATEGORICAL", "CORRECTION", "TEXT") else number(value),
        label=word if kind not in ("CORRECTION", "TEXT", "BOOLEAN") else None,
        comment=text(record.get("comment")) or (word if kind == "TEXT" else None),
        correction=text(content_text(word)) if kind == "CORRECTION" and word else None,
        human=record.get("source") == "ANNOTATION" or kind == "CORRECTION",
        reviewer=text(record.get("authorUserId")),
        time=iso(record.get("updatedAt")) or iso(record.get("timestamp")),
    )
    return score_span(judgement, record=record, trace_id=trace or target, target=target)


def _decoded(value: object) -> Any:
    """Return what a JSON text holds; exports write inputs and outputs as text."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
