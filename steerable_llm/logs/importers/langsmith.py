"""LangSmith: runs as the client's JSON writes them, and feedback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


def langsmith(record: Record) -> list[Span]:
    """Read a run, with its child runs if it carries them, or one piece of feedback."""
    if "run_type" in record:
        return list(_runs(record))
    if "run_id" in record and "key" in record:
        return [_feedback(record)]
    raise UnusableRecord("it is neither a run (run_type) nor feedback (run_id and key)")


def _runs(run: Record, trace: str | None = None) -> Iterator[Span]:
    named = needed(run, "id")
    whole = text(run.get("trace_id")) or trace or text(run.get("parent_run_id")) or named
    kind, content = _content(run)
    # Only the outermost run knows the question; those inside may hold a rewritten one.
    if kind == "chain" and run.get("parent_run_id"):
        content = {}
    yield Span(named, whole, kind, content, iso(run.get("start_time")))
    for child in run.get("child_runs") or ():
        if isinstance(child, Mapping):
            yield from _runs(child, whole)


def _content(run: Record) -> tuple[Any, dict[str, Any]]:
    inputs, outputs = run.get("inputs") or {}, run.get("outputs") or {}
    if run["run_type"] == "retriever":
        documents = documents_of(outputs)
        return ("chain", {}) if documents is None else ("retriever", {"documents": documents})
    if run["run_type"] not in ("llm", "chat_model"):
        return "chain", {"question": question_of(inputs)}
    try:
        return "llm", _answer(run, inputs, outputs)
    except UnusableRecord as problem:
        return "llm", {"problem": str(problem)}


def _answer(run: Record, inputs: Record, outputs: Record) -> dict[str, Any]:
    if run.get("error"):
        raise UnusableRecord("its run failed")
    given = inputs.get("messages") or inputs.get("prompts") or inputs.get("prompt")
    # LangChain traces a batch, of which there is one.
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], list | str):
        given = given[0]
    made = _generation(outputs)
    extra = run.get("extra") or {}
    metadata, settings = extra.get("metadata") or {}, extra.get("invocation_params") or {}
    told = made.get("response_metadata") or {}
    used = made.get("usage_metadata") or {}
    usage = {
        "prompt_tokens": used.get("input_tokens") or run.get("prompt_tokens"),
        "completion_tokens": used.get("output_tokens") or run.get("completion_tokens"),
    }
    return {
        "messages": [m.model_dump() for m in prompt(given)],
        "answer": made["text"],
        "step": text(told.get("step") or metadata.get("steer_step"))
        or text(metadata.get("langgraph_node")),
        "model": text(told.get("model_name") or metadata.get("ls_model_name"))
        or text(settings.get("model") or settings.get("model_name")),
        "revision": text(settings.get("revision")),
        "steering": list(told.get("steering") or ()),
        "usage": {name: count for name, count in usage.items() if isinstance(count, int)},
    }


def _generation(outputs: Record) -> dict[str, Any]:
    """Return the first answer: its text, and what its message tells beside it."""
    made = outputs.get("generations")
    while isinstance(made, list) and made:
        made = made[0]
    choices = outputs.get("choices")
    if made is None and isinstance(choices, list) and choices:
        made = choices[0]
    if made is None:
        made = {"message": outputs["message"]} if "message" in outputs else outputs
    if not isinstance(made, Mapping):
        raise UnusableRecord("its outputs hold no answer")
    inside = made.get("message")
    if isinstance(inside, Mapping):
        told = inside.get("kwargs") or inside.get("data") or inside
        # Reading it as a message refuses calls of tools.
        known = {"role": "assistant", **inside} if "role" not in inside else inside
        answer = text(said(known) if "content" in told else made.get("text"))
    else:
        told = {}
        answer = text(made.get("text")) or text(made.get("output")) or text(made.get("content"))
    if answer is None:
        raise UnusableRecord("its answer is empty")
    return {**told, "text": answer}


def _feedback(record: Record) -> Span:
    given = record.get("correction")
    if isinstance(given, Mapping):
        given = next((value for value in given.values() if text(value)), None)
    source = record.get("feedback_source")
    source = source if isinstance(source, Mapping) else {}
    value = record.get("value")
    label = value if isinstance(value, str) else None
    judgement = Judgement(
        name=str(record["key"]),
        score=number(record.get("score")),
        label=label or str(record["key"]) if record.get("score") is None else label,
        comment=text(record.get("comment")),
        correction=text(content_text(given)) if given else None,
        # What the application's own users and reviewers send comes through the app or the API.
        human=source.get("type") != "model",
        reviewer=text(source.get("user_name")) or text(source.get("user_id")),
        time=iso(record.get("modified_at")) or iso(record.get("created_at")),
    )
    trace = text(record.get("trace_id"))
    return score_span(
        judgement, record=record, trace_id=trace, target=text(record.get("run_id")) or trace
    )
