"""LangSmith: runs, feedback and results of experiments, as client, API and exports write them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from steerable_llm.logs.importers.judgement import Judgement, yes_is_good
from steerable_llm.logs.importers.messages import prompt, spoken
from steerable_llm.logs.importers.records import (
    Record,
    UnusableRecord,
    content_id,
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
    root_span,
    score_span,
    step_of,
    usage,
)


def langsmith_records(record: Record) -> list[tuple[str, Any]]:
    """Return runs and feedback each by itself, out of pages, experiments and runs with children."""
    found: list[tuple[str, Any]] = []
    names = ("runs", "feedback", "feedbacks", "data", "results", "items")
    # An example of a data set has its runs beside what they should have answered.
    rows = [("", record)] if _is_example(record) else page(record, *names)
    for where, one in rows:
        if not isinstance(one, Mapping):
            found.append((where, one))
            continue
        for inside, run in _of_experiment(one):
            place = " ".join(filter(None, (where, inside)))
            found += _runs(run, place) if "run_type" in run else [(place, run)]
    return found


def langsmith(record: Record) -> list[Span]:
    """Read a run with the account of its feedback, or one piece of feedback."""
    if "run_type" in record:
        return [_span(record), *_feedback_stats(record)]
    if "run_id" in record and "key" in record:
        return [_feedback(record)]
    if _is_example(record):
        raise UnusableRecord("it is an example of a data set, which holds no answer of a run")
    raise UnusableRecord("it is neither a run (run_type) nor feedback (run_id and key)")


def _is_example(record: Record) -> bool:
    return "run_type" not in record and "inputs" in record and "outputs" in record


def _of_experiment(record: Record) -> Iterator[tuple[str, Record]]:
    """Yield the runs and feedback in a row of an experiment; any other record as it is."""
    run, example = mapping(record.get("run")), mapping(record.get("example"))
    if "inputs" in run:
        results = mapping(record.get("evaluation_results")).get("results")
        yield "run", {"run_type": "chain", **run, "reference": example.get("outputs")}
        for place, result in enumerate(results if isinstance(results, list) else (), start=1):
            if isinstance(result, Mapping):
                about = result.get("target_run_id") or run.get("id")
                told = {"feedback_source": {"type": "model"}, **result, "run_id": about}
                yield f"result {place}", {"trace_id": run.get("trace_id"), **told}
        return
    if any(name.startswith("outputs.") for name in record):
        yield from _of_table(record)
        return
    runs = decoded(record.get("runs"))
    if not (_is_example(record) and isinstance(runs, list) and runs):
        yield "", record
    for place, one in enumerate(runs if _is_example(record) and isinstance(runs, list) else (), 1):
        if isinstance(one, Mapping):
            whole = {"run_type": "chain", "inputs": record["inputs"], **one}
            yield f"run {place}", {**whole, "reference": record["outputs"]}


def _of_table(row: Record) -> Iterator[tuple[str, Record]]:
    """Yield the run and the feedback in a row of an experiment's table."""
    told: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in row.items():
        kind, dot, inside = name.partition(".")
        if dot:
            told[kind][inside] = value
    named = text(row.get("id")) or content_id("langsmith", row)
    yield (
        "",
        {
            "id": named,
            "run_type": "chain",
            "error": row.get("error"),
            **{name: told.get(name) for name in ("inputs", "outputs", "reference")},
        },
    )
    for key, value in told.get("feedback", {}).items():
        score = number(value)
        said = {"value": value} if score is None else {"score": score}
        yield key, {"run_id": named, "key": key, "feedback_source": {"type": "model"}, **said}


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
    time, kind = iso(run.get("start_time")), str(run["run_type"]).lower()
    if kind in ("llm", "chat_model"):
        return model_span(named, trace, time, lambda: _answer(run, inputs, outputs))
    if kind == "retriever":
        return other_span(named, trace, time, documents=documents_of(outputs))
    if run.get("parent_run_id") or decoded(run.get("parent_run_ids")):
        # Only the outermost run knows the question; those inside may hold a rewritten one.
        return other_span(named, trace, time, documents=None)
    failed = _failed(run)
    return root_span(named, trace, time, inputs, outputs, failed, run.get("reference"))


def _failed(run: Record) -> bool:
    return bool(text(run.get("error"))) or str(run.get("status")).lower() == "error"


def _answer(run: Record, inputs: Any, outputs: Any) -> dict[str, Any]:
    if _failed(run):
        raise UnusableRecord("its run failed")
    answer = spoken(outputs)
    if answer is None:
        raise UnusableRecord("its answer is empty")
    made = _told_beside(outputs)
    extra = mapping(run.get("extra"))
    metadata = {**mapping(extra.get("metadata")), **mapping(run.get("metadata"))}
    settings = mapping(extra.get("invocation_params"))
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


def _feedback_stats(run: Record) -> Iterator[Span]:
    """Yield what a run tells of its feedback, one judgement for every key."""
    for key, stats in mapping(run.get("feedback_stats")).items():
        told = mapping(stats)
        words = mapping(told.get("values"))
        comments = told.get("comments")
        judgement = Judgement(
            name=key,
            score=number(told.get("avg")),
            label=next(iter(words)) if len(words) == 1 else None,
            comment=text(*comments) if isinstance(comments, list) else None,
            human=any(source in _PEOPLE for source in told.get("sources") or ()),
        )
        if judgement.score is not None or judgement.label or judgement.comment:
            named = {"id": f"stats:{run.get('id')}:{key}"}
            trace, target = needed(run, "trace_id"), needed(run, "id")
            yield score_span(judgement, record=named, trace_id=trace, target=target)


# The application's own users and reviewers speak through these; a judge's feedback says "model".
_PEOPLE = ("api", "app")


def _feedback(record: Record) -> Span:
    if record.get("error") or mapping(record.get("extra")).get("error"):
        raise UnusableRecord("its evaluator failed, and says nothing of the answer")
    source = mapping(record.get("feedback_source"))
    human = source.get("type") not in ("model", "auto_eval")
    human = human and "__run" not in mapping(source.get("metadata"))
    key, score, word = str(record["key"]), record.get("score"), _word(record.get("value"))
    given = decoded(record.get("correction"))
    if isinstance(given, Mapping):
        if given.keys() & {"score", "value"}:  # a reviewer's, of a judge
            score, word, human = given.get("score"), _word(given.get("value")), True
            given = None
        else:
            given = text(*given.values())
    if score is None and not isinstance(word, str):
        score, word = word, None
    passed = None
    if isinstance(score, bool):
        good = yes_is_good(key)
        passed, score = None if good is None else score == good, None
    config = mapping(record.get("feedback_config"))
    low, high = number(config.get("min")), number(config.get("max"))
    categories = config.get("categories")
    scored = number(score) is not None
    for category in categories if scored and isinstance(categories, list) else ():
        if isinstance(category, Mapping) and number(category.get("value")) == number(score):
            word = word or text(category.get("label"))
    judgement = Judgement(
        name=key,
        score=number(score),
        label=text(word) or (key if score is None and passed is None else None),
        passed=passed,
        comment=text(record.get("comment")),
        correction=spoken(given) if given else None,
        human=human,
        reviewer=text(source.get("user_name"), source.get("user_id")),
        time=iso(record.get("modified_at"), record.get("created_at")),
        scale=(low, high) if low is not None and high is not None and low < high else None,
    )
    trace = text(record.get("trace_id"))
    return score_span(
        judgement, record=record, trace_id=trace, target=text(record.get("run_id"), trace)
    )


def _word(value: object) -> object:
    """A category, also out of an object that holds it."""
    value = decoded(value)
    if isinstance(value, Mapping):
        return next(
            (v for k in ("label", "value", "score") if (v := value.get(k)) is not None), None
        )
    return value if isinstance(value, str | bool | int | float) else None
