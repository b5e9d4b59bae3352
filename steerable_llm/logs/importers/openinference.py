"""OpenInference spans as Phoenix exports them, and Phoenix's annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.alias_generators import to_snake

from steerable_llm.json_records import DEEPEST
from steerable_llm.logs.importers.judgement import Judgement
from steerable_llm.logs.importers.messages import prompt, said, spoken
from steerable_llm.logs.importers.records import (
    Record,
    UnusableRecord,
    decoded,
    iso,
    listed,
    mapping,
    needed,
    number,
    page,
    text,
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


def openinference_records(record: Record) -> list[tuple[str, Any]]:
    """Return spans and annotations each by itself, out of pages and of OTLP's batches."""
    found: list[tuple[str, Any]] = []
    names = ("data", "spans", "resourceSpans", "resource_spans", "scopeSpans", "scope_spans")
    more = ("instrumentationLibrarySpans", "annotations", "span_annotations", "trace_annotations")
    for where, one in page(record, *names, *more):
        if isinstance(one, Mapping) and one is not record and one.keys() & {*names[1:], *more}:
            inside = openinference_records(one)
            found += [(" ".join(filter(None, (where, place))), span) for place, span in inside]
        else:
            found.append((where, one))
    return found


def openinference(record: Record) -> list[Span]:
    """Read a span, with its attributes nested, dotted or as in OTLP, or an annotation of one."""
    if not record.keys().isdisjoint({"result", "annotator_kind", "annotation_name"}):
        return [_annotation(record)]
    if any(str(name).startswith("result.") for name in record):
        return [_annotation(nest(record))]
    if isinstance(record.get("attributes"), list):
        record = _from_otlp(record)
    nested = nest(record)
    attributes = mapping(nested.get("attributes")) or nested
    context = mapping(nested.get("context")) or nested
    kind = mapping(mapping(attributes.get("openinference")).get("span")).get("kind")
    kind = str(kind or nested.get("span_kind") or "").upper()
    if not kind or kind in ("UNKNOWN", "INTERNAL", "SPAN_KIND_INTERNAL"):
        kind = _conventional(attributes) or kind
    if not kind:
        raise UnusableRecord("it is neither a span (openinference.span.kind) nor an annotation")
    named, trace = needed(context, "span_id"), needed(context, "trace_id")
    time = iso(nested.get("start_time"))
    if kind == "LLM":
        return [model_span(named, trace, time, lambda: _answer(nested, attributes))]
    if kind == "RETRIEVER" or nested.get("parent_id"):
        found = _documents(attributes) if kind == "RETRIEVER" else None
        return [other_span(named, trace, time, documents=found)]
    given, made = (_value(attributes, name) for name in ("input", "output"))
    return [root_span(named, trace, time, given, made, _failed(nested, attributes))]


def _documents(attributes: Record) -> list[dict[str, str]] | None:
    found = documents_of(attributes.get("retrieval"))
    return documents_of(_value(attributes, "output")) if found is None else found


def _conventional(attributes: Record) -> str | None:
    """Return the kind of a span of OpenTelemetry's own conventions for generative AI."""
    told = mapping(attributes.get("gen_ai"))
    operation = str(mapping(told.get("operation")).get("name") or "").lower()
    if operation in ("chat", "text_completion", "generate_content", "completion"):
        return "LLM"
    if operation == "retrieval" or "retrieval" in told:
        return "RETRIEVER"
    if told.keys() & {"completion", "output"}:
        return "LLM"
    return "CHAIN" if told else None


def _from_otlp(span: Record) -> Record:
    """Return a span of OTLP's JSON as one with names and values."""
    named = {to_snake(name): value for name, value in span.items()}
    status = mapping(named.get("status"))
    failed = status.get("code") in (2, "2", "STATUS_CODE_ERROR", "ERROR")
    return {
        "name": named.get("name"),
        "span_id": named.get("span_id"),
        "trace_id": named.get("trace_id"),
        "parent_id": named.get("parent_span_id") or None,
        "start_time": named.get("start_time_unix_nano") or named.get("start_time"),
        "status_code": "ERROR" if failed else "OK",
        "attributes": _pairs(named.get("attributes")),
    }


def _pairs(entries: object) -> dict[str, Any]:
    if not isinstance(entries, list):
        return {}
    return {
        str(entry["key"]): _any_value(entry.get("value"))
        for entry in entries
        if isinstance(entry, Mapping) and "key" in entry
    }


def _any_value(value: object) -> Any:
    """Return a value of OTLP, which says its type by its name."""
    if not isinstance(value, Mapping):
        return value
    for name, inside in value.items():
        kind = to_snake(name)
        if kind == "array_value":
            return [_any_value(one) for one in listed(mapping(inside).get("values"), "values")]
        if kind == "kvlist_value":
            return _pairs(mapping(inside).get("values"))
        if kind == "int_value":
            found = number(inside)
            return inside if found is None else int(found)
        return inside
    return None


def nest(value: Any) -> Any:
    """Return ``{"a.0.b": 1}`` as ``{"a": [{"b": 1}]}``, all the way down.

    Raises:
        UnusableRecord: One name is both a value and the start of others.
    """
    if isinstance(value, list):
        return [nest(entry) for entry in value]
    if not isinstance(value, Mapping):
        return value
    tree: dict[str, Any] = {}
    for name, inside in value.items():
        *path, last = str(name).split(".")
        if len(path) > DEEPEST:
            raise UnusableRecord("the name of an attribute goes deeper than any")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UnusableRecord(f"its attribute {name} contradicts another one")
        found = nest(inside)
        if isinstance(found, dict) and isinstance(place.get(last), dict):
            place[last].update(found)
        else:
            place[last] = found
    return _listed(tree)


def _listed(tree: Any) -> Any:
    """Turn objects whose names are 0, 1, ... into lists."""
    if not isinstance(tree, dict):
        return tree
    inside = {name: _listed(value) for name, value in tree.items()}
    if inside and all(name.isdecimal() and len(name) < 10 for name in inside):
        return [inside[name] for name in sorted(inside, key=int)]
    return inside


def _answer(span: Record, attributes: Record) -> dict[str, Any]:
    if _failed(span, attributes):
        raise UnusableRecord("its span failed")
    llm, told = mapping(attributes.get("llm")), mapping(attributes.get("gen_ai"))
    given = listed(llm.get("input_messages"), "messages") or _conversation(told, "input", "prompt")
    made = listed(llm.get("output_messages"), "messages") or _conversation(
        told, "output", "completion"
    )
    answer = "".join(said({"role": "assistant", **_inside(entry)}) for entry in made[:1]) or spoken(
        _value(attributes, "output")
    )
    if not answer or not answer.strip():
        raise UnusableRecord("it has no answer")
    counts, used = mapping(llm.get("token_count")), mapping(told.get("usage"))
    return {
        "messages": prompt([_inside(e) for e in given] or asked_of(_value(attributes, "input"))),
        "answer": answer,
        "model": text(
            llm.get("model_name"),
            mapping(told.get("response")).get("model"),
            mapping(told.get("request")).get("model"),
        ),
        "step": step_of(mapping(attributes.get("metadata"))),
        "usage": usage(
            counts.get("prompt", used.get("input_tokens")),
            counts.get("completion", used.get("output_tokens")),
        ),
    }


def _failed(span: Record, attributes: Record) -> bool:
    status = mapping(span.get("status"))
    codes = (span.get("status_code"), status.get("status_code"), status.get("code"))
    failed = any(str(code).upper().endswith("ERROR") or code == 2 for code in codes)
    return failed or bool(mapping(attributes.get("error")).get("type"))


def _conversation(told: Record, now: str, before: str) -> list[Any]:
    """Return the messages of OpenTelemetry's conventions, of today or of before."""
    found = listed(mapping(told.get(now)).get("messages"), "messages")
    if found and now == "input" and (system := told.get("system_instructions")):
        found = [{"role": "system", "parts": listed(system, "instructions")}, *found]
    return found or listed(told.get(before), "messages")


def _inside(entry: Any) -> Record:
    """Return a message out of its wrapping, whose own names may be dotted once more."""
    entry = nest(decoded(entry))
    inside = mapping(entry).get("message", entry)
    if not isinstance(inside, Mapping):
        raise UnusableRecord("a message is not an object with message.role and message.content")
    return inside


def _value(attributes: Record, name: str) -> Any:
    return decoded(mapping(attributes.get(name)).get("value"))


def _annotation(record: Record) -> Span:
    result = mapping(record.get("result"))
    context = mapping(record.get("context"))
    trace = text(record.get("trace_id"), context.get("trace_id"))
    span = text(record.get("span_id"), context.get("span_id"))
    if record.get("document_position") is not None:
        raise UnusableRecord("it judges what was retrieved, not an answer")
    judgement = Judgement(
        name=str(record.get("name") or record.get("annotation_name") or ""),
        score=number(result.get("score")),
        label=text(result.get("label")),
        comment=text(result.get("explanation")),
        human=record.get("annotator_kind") == "HUMAN",
        reviewer=text(record.get("user_id")),
        time=iso(record.get("updated_at"), record.get("created_at")),
    )
    # An annotation of a whole trace names no span.
    target = span if trace else needed(record, "span_id")
    return score_span(judgement, record=record, trace_id=trace, target=target)
