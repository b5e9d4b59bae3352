"""OpenInference spans as Phoenix exports them, and Phoenix's annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steerable_llm.logs.importers.judgement import Judgement
from steerable_llm.logs.importers.records import (
    Record,
    UnusableRecord,
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
        return [model_span(named, trace, time, lambda: _answer(nested, attributes))]
    found = documents_of(attributes.get("retrieval")) if kind == "RETRIEVER" else None
    asked = None if nested.get("parent_id") else _value(attributes, "input")
    question = question_of(mapping(decoded(asked)) or asked)
    return [other_span(named, trace, time, documents=found, question=question)]


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
    llm = mapping(attributes.get("llm"))
    given = [_inside(entry) for entry in llm.get("input_messages") or ()]
    made = "".join(said(_inside(entry)) for entry in llm.get("output_messages") or ())
    messages = prompt(given or _value(attributes, "input"))
    answer = text(made, _value(attributes, "output"))
    if answer is None:
        raise UnusableRecord("it has no answer")
    counts = mapping(llm.get("token_count"))
    return {
        "messages": messages,
        "answer": answer,
        "model": text(llm.get("model_name")),
        "step": step_of(mapping(decoded(attributes.get("metadata")))),
        "usage": usage(counts.get("prompt"), counts.get("completion")),
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
    image = mapping(mapping(part).get("image")).get("image")
    return {"type": "image", "url": image.get("url")} if isinstance(image, Mapping) else part


def _value(attributes: Record, name: str) -> str | None:
    return text(mapping(attributes.get(name)).get("value"))


def _annotation(record: Record) -> Span:
    result = mapping(record.get("result"))
    trace, span = text(record.get("trace_id")), text(record.get("span_id"))
    judgement = Judgement(
        name=str(record.get("name", "")),
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
