"""Langfuse: observations and scores, as its API and its exports write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.alias_generators import to_snake

from steerable_llm.logs.importers.judgement import Judgement, yes_is_good
from steerable_llm.logs.importers.messages import prompt, spoken
from steerable_llm.logs.importers.records import (
    Record,
    UnusableRecord,
    decoded,
    iso,
    mapping,
    needed,
    number,
    page,
    text,
    yes_or_no,
)
from steerable_llm.logs.importers.traces import (
    Span,
    asked_of,
    documents_of,
    model_span,
    other_span,
    root_span,
    score_span,
    step_of,
    usage,
)


def langfuse_records(record: Record) -> list[tuple[str, Any]]:
    """Return observations and scores each by itself, out of traces, pages and downloads."""
    trace = decoded(record.get("trace"))
    if isinstance(trace, Mapping):
        record = {**record, **trace, **{n: record[n] for n in _INSIDE if n in record}}
    found = []
    for where, one in page(record, "data", "traces"):
        if isinstance(one, Mapping) and not _is_score(one):
            found += _scores_of_row(where, one)
        if not isinstance(one, Mapping) or _is_score(one) or _is_observation(one):
            found.append((where, one))
            continue
        inside = {name: decoded(one.get(name)) for name in _INSIDE}
        # A list of traces names its observations and scores by their ids alone.
        held = [
            (name, place, entry)
            for name, entries in inside.items()
            for place, entry in enumerate(entries if isinstance(entries, list) else (), start=1)
            if not isinstance(entry, str)
        ]
        if "id" in one or not held:
            found.append((where, {k: v for k, v in one.items() if k not in _INSIDE}))
        for name, place, entry in held:
            if isinstance(entry, Mapping) and "id" in one and not entry.get("trace_id"):
                entry = {"traceId": one["id"], **entry}
            found.append((" ".join(filter(None, (where, name, str(place)))), entry))
    return found


_INSIDE = ("observations", "scores")
# Columns of the UI's tables that may hold a list and are no score.
_LISTS = {*_INSIDE, "tags", "traceTags", "trace_tags", "input", "output", "metadata",
          "toolCalls", "toolCallNames", "toolDefinitions"}  # fmt: skip


def _scores_of_row(where: str, row: Record) -> list[tuple[str, Any]]:
    """Return what a row of the UI's tables was scored: a column a name, with a list of values."""
    told = {name: decoded(value) for name, value in row.items() if name not in _LISTS}
    scores = decoded(row.get("scores"))
    told.update(scores if isinstance(scores, Mapping) else {})
    own = {"observationId": row.get("id")} if _is_observation(row) else {}
    trace = _either(row, "traceId") if own else row.get("id")
    return [
        (
            " ".join(filter(None, (where, str(name)))),
            {"name": name, "traceId": trace, **own, "value": value, "dataType": kind},
        )
        for name, values in told.items()
        if isinstance(trace, str | int) and isinstance(values, list)
        for value in values
        if isinstance(value, str | int | float)
        for kind in ["CATEGORICAL" if number(value) is None else "NUMERIC"]
    ]


def langfuse(record: Record) -> list[Span]:
    """Read an observation, a score, or a trace."""
    if _is_score(record):
        return [_score(record)]
    if _is_observation(record):
        return [_observation(record)]
    if "id" in record and record.keys() & {"input", "output", "timestamp", "sessionId", "userId"}:
        return [_trace(record)]
    raise UnusableRecord(
        "it is neither an observation (type, traceId), a score (name, value) nor a trace"
    )


def _is_score(record: Record) -> bool:
    return bool(record.keys() & {"dataType", "data_type"}) or {"value", "name"} <= record.keys()


def _is_observation(record: Record) -> bool:
    return "type" in record and bool(record.keys() & {"traceId", "trace_id"})


def _trace(record: Record) -> Span:
    named = needed(record, "id")
    time, failed = iso(record.get("timestamp")), _failed(record)
    given, made = decoded(record.get("input")), decoded(record.get("output"))
    return root_span(f"trace:{named}", named, time, given, made, failed)


def _either(record: Record, name: str) -> Any:
    """A value by its name in the API, or by that in exports of the storage."""
    found = record.get(name)
    return record.get(to_snake(name)) if found is None else found


def _observation(record: Record) -> Span:
    named = needed(record, "id")
    trace = text(record.get("traceId")) or needed(record, "trace_id")
    time = iso(_either(record, "startTime"))
    kind = str(record["type"]).upper()
    given, made = record.get("input"), record.get("output")
    if kind == "GENERATION":
        return model_span(named, trace, time, lambda: _answer(record, given, made))
    found = documents_of(made) if kind in ("RETRIEVER", "SPAN", "TOOL") and made else None
    # A span is a retrieval only if it gave documents.
    if found or _either(record, "parentObservationId"):
        return other_span(named, trace, time, documents=found or None)
    return root_span(named, trace, time, decoded(given), decoded(made), _failed(record))


def _failed(record: Record) -> bool:
    return str(record.get("level")).upper() == "ERROR"


def _answer(record: Record, given: Any, made: Any) -> dict[str, Any]:
    if _failed(record):
        raise UnusableRecord("its generation failed")
    answer = spoken(_with_role(decoded(made)))
    if answer is None:
        raise UnusableRecord("it has no answer")
    used = mapping(_either(record, "usageDetails") or record.get("usage"))
    return {
        "messages": prompt(asked_of(given)),
        "answer": answer,
        "model": text(
            record.get("model"),
            _either(record, "providedModelName"),
        ),
        "step": step_of(mapping(record.get("metadata"))),
        "usage": usage(
            _count(used, "input", "prompt_tokens", "promptTokens"),
            _count(used, "output", "completion_tokens", "completionTokens"),
        ),
    }


def _count(used: Record, *names: str) -> object:
    return next((used[name] for name in names if used.get(name) is not None), None)


def _with_role(made: Any) -> Any:
    """An answer's message with its role, which some integrations leave out."""
    if isinstance(made, Mapping) and "content" in made and not made.keys() & {"role", "type"}:
        return {"role": "assistant", **made}
    return made


def _score(record: Record) -> Span:
    kind = str(_either(record, "dataType") or "").upper()
    name, value = str(record.get("name", "")), record.get("value")
    word = text(_either(record, "stringValue"), value)
    subject = mapping(record.get("subject"))
    trace = text(subject.get("traceId"), _either(record, "traceId"))
    target = text(subject.get("id"), _either(record, "observationId"))
    # The number of a category or of a correction is a place in a list, or nothing.
    score = None if kind in ("CATEGORICAL", "CORRECTION", "TEXT") else number(value)
    passed = None
    if kind == "BOOLEAN":
        yes, good = yes_or_no(value if value is not None else word), yes_is_good(name)
        passed, score = None if yes is None or good is None else yes == good, None
    elif kind == "NUMERIC" or kind == "":
        word = None if number(word) is not None else word
    judgement = Judgement(
        name=name,
        score=score,
        label=word if kind not in ("CORRECTION", "TEXT", "BOOLEAN") else None,
        passed=passed,
        comment=text(record.get("comment"), word if kind == "TEXT" else None),
        correction=spoken(word) if kind == "CORRECTION" and word else None,
        human=record.get("source") == "ANNOTATION" or kind == "CORRECTION",
        reviewer=text(_either(record, "authorUserId")),
        time=iso(_either(record, "updatedAt"), record.get("timestamp")),
    )
    if not (trace or target):
        raise UnusableRecord("it judges a whole session, and no answer")
    return score_span(judgement, record=record, trace_id=trace or target, target=target)
