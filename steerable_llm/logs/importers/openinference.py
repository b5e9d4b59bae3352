"""OpenInference spans as Phoenix exports them, and Phoenix's annotations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from steerable_llm.logs.importers.records import (
    Judgement,
    Record,
    UnusableRecord,
    iso,
    message,
    needed,
    number,
    said,
    text,
)
from steerable_llm.logs.importers.traces import Span, documents_of, question_of, score_span


def openinference(record: Record) -> list[Span]:
    """Read a span, with its attributes nested or dotted, or an annotation of one."""
    if "result" in record or "annotator_kind" in record:
        return [_annotation(record)]
    nested = nest(record)
    attributes = nested.get("attributes")
    attributes = attributes if isinstance(attributes, Mapping) else nested
    context = nested.get("context")
    context = context if isinstance(context, Mapping) else nested
    kind = attributes.get("openinference", {}).get("span", {}).get("kind")
    kind = str(kind or nested.get("span_kind") or "").upper()
    if not kind:
        raise UnusableRecord("it is neither a span (openinference.span.kind) nor an annotation")
    named, trace = needed(context, "span_id"), needed(context, "trace_id")
    time = iso(nested.get("start_time"))
    if kind == "LLM":
        try:
            return [Span(named, trace, "llm", _answer(nested, attributes), time)]
        except UnusableRecord as problem:
            return [Span(named, trace, "llm", {"problem": str(problem)}, time)]
    if kind == "RETRIEVER":
        documents = documents_of(attributes.get("retrieval"))
        if documents is not None:
            return [Span(named, trace, "retriever", {"documents": documents}, time)]
    outermost = not nested.get("parent_id")
    told = {"question": _question(attributes)} if outermost else {}
    return [Span(named, trace, "chain", told, time)]


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
    if inside and all(name.isdigit() for name in inside):
        return [inside[name] for name in sorted(inside, key=int)]
    return inside


def _answer(span: Record, attributes: Record) -> dict[str, Any]:
    if str(span.get("status_code", "")).upper() == "ERROR":
        raise UnusableRecord("its span failed")
    llm = attributes.get("llm")
    llm = llm if isinstance(llm, Mapping) else {}
    given = [message(_inside(e)).model_dump() for e in llm.get("input_messages") or ()]
    if not given:
        asked = _value(attributes, "input")
        given = [{"role": "user", "content": asked}] if asked else []
    if not given:
        raise UnusableRecord("it has no prompt")
    answers = [said(_inside(entry)) for entry in llm.get("output_messages") or ()]
    answer = text("".join(answers)) or _value(attributes, "output")
    if answer is None:
        raise UnusableRecord("it has no answer")
    counts = llm.get("token_count")
    counts = counts if isinstance(counts, Mapping) else {}
    usage = {
        "prompt_tokens": counts.get("prompt"),
        "completion_tokens": counts.get("completion"),
    }
    metadata = _decoded(attributes.get("metadata"))
    return {
        "messages": given,
        "answer": answer,
        "model": text(llm.get("model_name")),
        "step": text(metadata.get("steer_step")) or text(metadata.get("langgraph_node")),
        "usage": {n: int(c) for n, v in usage.items() if (c := number(v)) is not None},
    }


def _inside(entry: Any) -> Mapping[str, Any]:
    """Return a message in OpenAI's form, its calls but for their wrapping."""
    inside = entry.get("message") if isinstance(entry, Mapping) else None
    if not isinstance(inside, Mapping):
        raise UnusableRecord("a message is not an object with message.role and message.content")
    blocks = inside.get("contents")
    if isinstance(blocks, list) and not inside.get("content"):
        parts = [b.get("message_content") if isinstance(b, Mapping) else b for b in blocks]
        inside = {**inside, "content": [_part(part) for part in parts]}
    return inside


def _part(part: Any) -> Any:
    image = part.get("image") if isinstance(part, Mapping) else None
    image = image.get("image") if isinstance(image, Mapping) else None
    return {"type": "image", "url": image.get("url")} if isinstance(image, Mapping) else part


def _question(attributes: Record) -> str | None:
    value = _value(attributes, "input")
    return question_of(_decoded(value) or value)


def _value(attributes: Record, name: str) -> str | None:
    inside = attributes.get(name)
    return text(inside.get("value")) if isinstance(inside, Mapping) else None


def _decoded(value: object) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, Mapping) else {}


def _annotation(record: Record) -> Span:
    result = record.get("result")
    result = result if isinstance(result, Mapping) else {}
    judgement = Judgement(
        name=str(record.get("name", "")),
        score=number(result.get("score")),
        label=text(result.get("label")),
        comment=text(result.get("explanation")),
        human=record.get("annotator_kind") == "HUMAN",
        reviewer=text(record.get("user_id")),
        time=iso(record.get("updated_at")) or iso(record.get("created_at")),
    )
    return score_span(
        judgement,
        record=record,
        trace_id=text(record.get("trace_id")),
        target=text(record.get("span_id"))
        or (None if text(record.get("trace_id")) else needed(record, "span_id")),
    )
