"""LangSmith: runs as the client's JSON writes them, and feedback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from steerable_llm.logs.importers.judgement import Judgement
from steerable_llm.logs.importers.records import (
    Record,
    UnusableRecord,
    content_text,
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


def langsmith(record: Record) -> list[Span]:
    """Read a run, with its child runs if it carries them, or one piece of feedback."""
    if "run_type" in record:
        return list(_runs(record))
    if "run_id" in record and "key" in record:
        return [_feedback(record)]
    raise UnusableRecord("it is neither a run (run_type) nor feedback (run_id and key)")


def _runs(run: Record, trace: str | None = None) -> Iterator[Span]:
    named = needed(run, "id")
    whole = text(run.get("trace_id"), trace, run.get("parent_run_id"), named) or named
    yield _span(run, named, whole)
    for child in run.get("child_runs") or ():
        if isinstance(child, Mapping):
            yield from _runs(child, whole)


def _span(run: Record, named: str, trace: str) -> Span:
    inputs, outputs = run.get("inputs") or {}, run.get("outputs") or {}
    time, kind = iso(run.get("start_time")), run["run_type"]
    if kind in ("llm", "chat_model"):
        return model_span(named, trace, time, lambda: _answer(run, inputs, outputs))
    found = documents_of(outputs) if kind == "retriever" else None
    # Only the outermost run knows the question; those inside may hold a rewritten one.
    question = None if run.get("parent_run_id") else question_of(inputs)
    return other_span(named, trace, time, documents=found, question=question)


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
    return {
        "messages": prompt(given),
        "answer": made["text"],
        "step": text(told.get("step")) or step_of(metadata),
        "model": text(
            told.get("model_name"),
            metadata.get("ls_model_name"),
            settings.get("model"),
            settings.get("model_name"),
        ),
        "revision": text(settings.get("revision")),
        "steering": list(told.get("steering") or ()),
        "usage": usage(
            used.get("input_tokens") or run.get("prompt_tokens"),
            used.get("output_tokens") or run.get("completion_tokens"),
        ),
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
        answer = text(made.get("text"), made.get("output"), made.get("content"))
    if answer is None:
        raise UnusableRecord("its answer is empty")
    return {**told, "text": answer}


def _feedback(record: Record) -> Span:
    given = record.get("correction")
    if isinstance(given, Mapping):
        given = text(*given.values())
    source = mapping(record.get("feedback_source"))
    score, label = record.get("score"), text(record.get("value"))
    judgement = Judgement(
        name=str(record["key"]),
        score=number(score),
        label=label or (str(record["key"]) if score is None else None),
        comment=text(record.get("comment")),
        correction=text(content_text(given)) if given else None,
        # What the application's own users and reviewers send comes through the app or the API.
        human=source.get("type") != "model",
        reviewer=text(source.get("user_name"), source.get("user_id")),
        time=iso(record.get("modified_at"), record.get("created_at")),
    )
    trace = text(record.get("trace_id"))
    return score_span(
        judgement, record=record, trace_id=trace, target=text(record.get("run_id"), trace)
    )
