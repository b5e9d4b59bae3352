"""LangSmith: runs as the client's JSON writes them, and feedback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

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
)
from steerable_llm.logs.importers.traces import (
    Span,
    asked_of,
    documents_of,
    model_span,
    other_span,
    question_of,
    score_span,
    step_of,
    usage,
)


def langsmith_records(record: Record) -> list[tuple[str, Any]]:
    """Return runs and feedback each by itself, out of pages and of runs with their children."""
    found: list[tuple[str, Any]] = []
    for where, one in page(record, "runs", "feedback", "feedbacks", "data", "results"):
        if isinstance(one, Mapping) and "run_type" in one:
            found += _runs(one, where)
        else:
            found.append((where, one))
    return found


def langsmith(record: Record) -> list[Span]:
    """Read a run, or one piece of feedback."""
    if "run_type" in record:
        return [_span(record)]
    if "run_id" in record and "key" in record:
        return [_feedback(record)]
    raise UnusableRecord("it is neither a run (run_type) nor feedback (run_id and key)")


def _runs(run: Record, where: str, trace: object = None) -> Iterator[tuple[str, Any]]:
    whole = run.get("trace_id") or trace or run.get("parent_run_id") or run.get("id")
    children = decoded(run.get("child_runs"))
    yield where, {**{k: v for k, v in run.items() if k != "child_runs"}, "trace_id": whole}
    for place, child in enumerate(children if isinstance(children, list) else (), start=1):
        inside = " ".join(filter(None, (where, f"child run {place}")))
        if isinstance(child, Mapping) and "run_type" in child:
            yield from _runs({"parent_run_id": run.get("id"), **child}, inside, whole)
        elif not isinstance(child, str):  # the id of one that stands elsewhere
            yield inside, child


def _span(run: Record) -> Span:
    named, trace = needed(run, "id"), needed(run, "trace_id")
    inputs, outputs = decoded(run.get("inputs")) or {}, decoded(run.get("outputs")) or {}
    time, kind = iso(run.get("start_time")), run["run_type"]
    if kind in ("llm", "chat_model"):
        return model_span(named, trace, time, lambda: _answer(run, inputs, outputs))
    found = documents_of(outputs) if kind == "retriever" else None
    # Only the outermost run knows the question; those inside may hold a rewritten one.
    question = None if run.get("parent_run_id") else question_of(inputs)
    return other_span(named, trace, time, documents=found, question=question)


def _answer(run: Record, inputs: Any, outputs: Any) -> dict[str, Any]:
    if run.get("error") or str(run.get("status")).lower() == "error":
        raise UnusableRecord("its run failed")
    answer = spoken(outputs)
    if answer is None:
        raise UnusableRecord("its answer is empty")
    made = _told_beside(outputs)
    extra = mapping(run.get("extra"))
    metadata, settings = mapping(extra.get("metadata")), mapping(extra.get("invocation_params"))
    told = mapping(made.get("response_metadata"))
    used = mapping(made.get("usage_metadata")) or mapping(mapping(outputs).get("usage_metadata"))
    steering = decoded(told.get("steering"))
    return {
        "messages": prompt(asked_of(inputs)),
        "answer": answer,
        "step": text(told.get("step")) or step_of(metadata),
        "model": text(
            told.get("model_name"),
            metadata.get("ls_model_name"),
            settings.get("model"),
            settings.get("model_name"),
        ),
        "revision": text(settings.get("revision")),
        "steering": steering if isinstance(steering, list) else [],
        "usage": usage(
            used.get("input_tokens") or run.get("prompt_tokens"),
            used.get("output_tokens") or run.get("completion_tokens"),
        ),
    }


def _told_beside(outputs: Any) -> Record:
    """Return what the message of the first answer tells beside its text."""
    made = mapping(outputs).get("generations")
    while isinstance(made, list) and made:
        made = made[0]
    inside = mapping(mapping(made or outputs).get("message"))
    return mapping(inside.get("kwargs") or inside.get("data") or inside)


def _feedback(record: Record) -> Span:
    given = decoded(record.get("correction"))
    if isinstance(given, Mapping):
        given = text(*given.values())
    source = mapping(record.get("feedback_source"))
    key, score, word = str(record["key"]), record.get("score"), text(record.get("value"))
    passed = None
    if isinstance(score, bool):
        good = yes_is_good(key)
        passed, score = None if good is None else score == good, None
    config = mapping(record.get("feedback_config"))
    low, high = number(config.get("min")), number(config.get("max"))
    judgement = Judgement(
        name=key,
        score=number(score),
        label=word or (key if score is None and passed is None else None),
        passed=passed,
        comment=text(record.get("comment")),
        correction=spoken(given) if given else None,
        # What the application's own users and reviewers send comes through the app or the API.
        human=source.get("type") != "model",
        reviewer=text(source.get("user_name"), source.get("user_id")),
        time=iso(record.get("modified_at"), record.get("created_at")),
        scale=(low, high) if low is not None and high is not None and low < high else None,
    )
    trace = text(record.get("trace_id"))
    return score_span(
        judgement, record=record, trace_id=trace, target=text(record.get("run_id"), trace)
    )
