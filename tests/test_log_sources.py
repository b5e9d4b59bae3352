"""What LangSmith, RAGAS and TRL write today is read, by their own classes where these are here."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow
import pytest
from langsmith import schemas
from langsmith.evaluation import EvaluationResult
from langsmith.evaluation._runner import _flatten_experiment_results
from langsmith.types.run import Run as RunOfToday
from pyarrow import parquet

from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.logs.importers import ImportReport, import_files

HOURS = "The shop opens at ten."
START = datetime(2026, 1, 31, 12, tzinfo=UTC)
Import = Callable[..., tuple[ImportReport, list[LoggedAnswer]]]


@pytest.fixture
def imported(tmp_path: Path) -> Iterator[Import]:
    """Imports records, or a file, into a new log; returns its answers."""
    made = 0

    def run(content: Any, kind: str) -> tuple[ImportReport, list[LoggedAnswer]]:
        nonlocal made
        made += 1
        file = content
        if not isinstance(content, Path):
            file = tmp_path / f"{made}.jsonl"
            file.write_text("".join(json.dumps(one, default=str) + "\n" for one in content))
        with AnswerLog(f"sqlite:///{tmp_path / str(made)}.db") as log:
            return import_files(log, file, kind), list(log.answers())

    return run


# LangSmith.

ROOT, SEARCH, MODEL = (UUID(int=n) for n in (1, 2, 3))


def run(id: UUID, kind: str, at: int, **fields: Any) -> schemas.Run:
    start = START + timedelta(seconds=at)
    times = {"start_time": start, "end_time": start + timedelta(seconds=1)}
    return schemas.Run(id=id, name=kind, run_type=kind, trace_id=ROOT, **{**times, **fields})


def root(**fields: Any) -> schemas.Run:
    asked = {"inputs": {"question": "When does it open?"}, "outputs": {"answer": "At nine."}}
    return run(ROOT, "chain", 0, **{**asked, **fields})


def feedback(**fields: Any) -> dict[str, Any]:
    times = {"created_at": START, "modified_at": START}
    told = {"id": UUID(int=9), "run_id": ROOT, "trace_id": ROOT, "key": "correctness", **fields}
    return schemas.Feedback(**told, **times).model_dump(mode="json")


def test_the_outermost_run_is_the_answer_where_no_models_run_is_told(imported: Import) -> None:
    alone = root().model_dump(mode="json")
    searched = run(
        SEARCH, "retriever", 1, parent_run_id=ROOT, outputs={"documents": [{"page_content": HOURS}]}
    ).model_dump(mode="json")
    report, [entry] = imported([searched, alone], "langsmith")
    assert (entry.question, entry.answer) == ("When does it open?", "At nine.")
    assert [passage.text for passage in entry.passages] == [HOURS]
    assert HOURS in entry.messages[-1].content
    assert report.context == 1


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"input": "When?"}, {"input": "When?", "context": [{"page_content": HOURS}],
                              "answer": "At nine."}),
        ({"text": "When?"}, {"prediction": "At nine.", "contexts": [HOURS]}),
        ({"topic": "When?"}, {"output": "At nine.", "documents": [{"page_content": HOURS}]}),
        ({"messages": [{"type": "human", "content": "When?"}]},
         {"messages": [{"type": "ai", "content": "At nine."}], "context": [HOURS]}),
    ],
)  # fmt: skip
def test_a_chain_may_call_its_answer_and_documents_as_it_likes(
    imported: Import, inputs: Any, outputs: Any
) -> None:
    alone = root(inputs=inputs, outputs=outputs).model_dump(mode="json")
    _, [entry] = imported([alone], "langsmith")
    assert (entry.question, entry.answer) == ("When?", "At nine.")
    assert [passage.text for passage in entry.passages] == [HOURS]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"error": "ValueError('no')"}, "its run failed"),
        ({"outputs": {"rows": 3, "tables": [1]}},
         "its output holds no answer in a form that is known"),
        ({"inputs": {"n": 3}}, "it has no prompt"),
    ],
)  # fmt: skip
def test_a_chain_that_gave_no_answer_is_told(imported: Import, told: Any, why: str) -> None:
    report, entries = imported([root(**told).model_dump(mode="json")], "langsmith")
    assert (entries, list(report.skipped)) == ([], [why])
    assert report.nothing


def test_runs_of_the_newer_api_are_read(imported: Import) -> None:
    common = {"trace_id": str(ROOT), "start_time": START}
    runs = [
        RunOfToday(id=str(ROOT), run_type="CHAIN", is_root=True, parent_run_ids=[],
                   inputs={"question": "When does it open?"}, **common),
        RunOfToday(id=str(SEARCH), run_type="RETRIEVER", parent_run_ids=[str(ROOT)],
                   outputs={"documents": [{"page_content": HOURS}]}, **common),
        RunOfToday(id=str(MODEL), run_type="LLM", parent_run_ids=[str(ROOT)], status="SUCCESS",
                   metadata={"ls_model_name": "m", "langgraph_node": "answer"},
                   inputs={"messages": [{"role": "user", "content": "When?"}]},
                   outputs={"role": "assistant", "content": "At nine."}, **common),
    ]  # fmt: skip
    page = {"items": [one.model_dump(mode="json") for one in runs]}
    report, [entry] = imported([page], "langsmith")
    assert (entry.id, entry.question, entry.answer) == (
        str(MODEL),
        "When does it open?",
        "At nine.",
    )
    assert (entry.model, entry.step) == ("m", "answer")
    assert [passage.text for passage in entry.passages] == [HOURS]
    assert not report.skipped


def test_runs_tell_of_their_feedback_themselves(imported: Import) -> None:
    stats = {"n": 1, "avg": 0.0, "values": {}, "comments": ["It opens at ten."], "sources": ["app"]}
    judged = root(feedback_stats={"correctness": stats, "latency": {"n": 1, "avg": 3}})
    report, [entry] = imported([judged.model_dump(mode="json")], "langsmith")
    assert (entry.verdict, entry.reason, entry.score) == ("bad", "untrue", 0.0)
    assert (entry.comment, entry.label_source) == ("It opens at ten.", "human")
    assert sum(report.skipped.values()) == 1  # the latency


@pytest.mark.parametrize(
    ("told", "verdict", "source"),
    [
        ({"value": "correct"}, "good", "human"),
        ({"value": {"value": "incorrect"}}, "bad", "human"),
        ({"value": {"label": "incorrect", "value": 2}}, "bad", "human"),
        ({"value": 1}, "good", "human"),
        ({"value": False}, "bad", "human"),
        ({"score": True, "feedback_source": {"type": "model"}}, "good", "correctness"),
        ({"score": 0.1, "feedback_source": {"type": "auto_eval"}}, "bad", "correctness"),
        ({"score": 0.1, "feedback_source": {"type": "api", "metadata": {"__run": {"run_id": "r"}}}},
         "bad", "correctness"),
        # A reviewer corrects the score of a judge.
        ({"score": 0, "feedback_source": {"type": "model"},
          "correction": {"score": 1, "comment": "It is right."}}, "good", "human"),
    ],
)  # fmt: skip
def test_feedback_has_its_verdict_in_any_of_its_fields(
    imported: Import, told: Any, verdict: str, source: str
) -> None:
    alone = root().model_dump(mode="json")
    _, [entry] = imported([alone, feedback(**told)], "langsmith")
    assert (entry.verdict, entry.label_source) == (verdict, source)
    assert entry.correction is None


def test_the_label_of_a_category_counts_and_not_its_number(imported: Import) -> None:
    categories = [{"value": 0, "label": "good"}, {"value": 1, "label": "bad"}]
    told = {**feedback(key="quality", score=1), "feedback_config": {"categories": categories}}
    _, [entry] = imported([root().model_dump(mode="json"), told], "langsmith")
    assert entry.verdict == "bad"


def test_a_comment_alone_is_of_no_category(imported: Import) -> None:
    categories = [{"value": None, "label": "good"}, {"value": 1, "label": "bad"}]
    told = feedback(key="quality", score=None, comment="Hm.")
    told["feedback_config"] = {"categories": categories}
    _, [entry] = imported([root().model_dump(mode="json"), told], "langsmith")
    assert (entry.verdict, entry.comment) == (None, "Hm.")


def test_an_evaluator_that_failed_says_nothing(imported: Import) -> None:
    broken = feedback(comment="KeyError('x')", extra={"error": True})
    report, [entry] = imported([root().model_dump(mode="json"), broken], "langsmith")
    assert (entry.verdict, entry.comment) == (None, None)
    assert list(report.skipped) == ["its evaluator failed, and says nothing of the answer"]


def experiment() -> list[dict[str, Any]]:
    example = schemas.Example(
        id=UUID(int=5),
        inputs={"question": "When does it open?"},
        outputs={"answer": "At ten."},
    )
    results = [
        EvaluationResult(key="correctness", score=0.0, comment="It opens at ten."),
        EvaluationResult(key="length", score=8),
    ]
    return [
        {
            "run": root(reference_example_id=example.id),
            "example": example,
            "evaluation_results": {"results": results},
        }
    ]


def as_json(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": row["run"].model_dump(mode="json"),
        "example": row["example"].model_dump(mode="json"),
        "evaluation_results": {
            "results": [one.model_dump(mode="json") for one in row["evaluation_results"]["results"]]
        },
    }


def of_example(row: dict[str, Any]) -> dict[str, Any]:
    plain = as_json(row)
    stats = {"correctness": {"n": 1, "avg": 0.0}, "length": {"n": 1, "avg": 8.0}}
    return {**plain["example"], "runs": [{**plain["run"], "feedback_stats": stats}]}


@pytest.mark.parametrize("form", ["rows", "examples", "table", "cells"])
def test_an_experiment_is_read_with_its_references(
    imported: Import, tmp_path: Path, form: str
) -> None:
    rows = experiment()
    content: Any = {
        "rows": lambda: [as_json(one) for one in rows],
        "examples": lambda: [of_example(one) for one in rows],
        "table": lambda: _flatten_experiment_results(rows),
        "cells": lambda: written(tmp_path / "x.csv", _flatten_experiment_results(rows)),
    }[form]()
    report, [entry] = imported(content, "langsmith")
    assert (entry.question, entry.answer) == ("When does it open?", "At nine.")
    assert (entry.reference, entry.verdict, entry.reason) == ("At ten.", "bad", "untrue")
    assert entry.label_source == "correctness"
    [why] = report.skipped
    assert why.startswith("'length' is no metric that is known")


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_an_example_of_a_data_set_is_no_answer(imported: Import) -> None:
    [row] = experiment()
    report, entries = imported([as_json(row)["example"]], "langsmith")
    assert entries == []
    [why] = report.skipped
    assert "an example of a data set" in why


def test_bulk_exports_in_parquet_are_read(imported: Import, tmp_path: Path) -> None:
    runs = [root(), run(MODEL, "llm", 2, inputs={"prompt": "When?"}, outputs={"text": "At nine."})]
    rows = [
        {
            "id": str(one.id),
            "run_type": one.run_type,
            "trace_id": str(one.trace_id),
            "start_time": one.start_time,
            "inputs": json.dumps(one.inputs),
            "outputs": json.dumps(one.outputs),
            "error": None,
            "total_tokens": 12,
        }
        for one in runs
    ]
    file = tmp_path / "part-0.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    report, [entry] = imported(file, "langsmith")
    assert (entry.id, entry.question, entry.answer) == (
        str(MODEL),
        "When does it open?",
        "At nine.",
    )
    assert entry.time == START + timedelta(seconds=2)
    assert report.lines == 2


def test_damage_to_a_parquet_file_is_told(imported: Import, tmp_path: Path) -> None:
    file = tmp_path / "part-0.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"a": "b"}]), file)
    file.write_bytes(file.read_bytes()[:-9])
    report, _ = imported(file, "trl")
    assert list(report.skipped) == ["the Parquet file is damaged or cut short"]


@pytest.mark.parametrize("kind", ["langfuse", "phoenix"])
def test_other_traces_without_a_models_run_have_the_chains_answer(
    imported: Import, kind: str
) -> None:
    asked, given = (
        json.dumps({"question": "When does it open?"}),
        json.dumps({"answer": "At nine."}),
    )
    records = {
        "langfuse": [{"id": "t", "timestamp": str(START), "input": asked, "output": given}],
        "phoenix": [{
            "context": {"span_id": "a", "trace_id": "t"}, "parent_id": None, "span_kind": "CHAIN",
            "attributes": {"input": {"value": asked}, "output": {"value": given}},
        }],
    }[kind]  # fmt: skip
    _, [entry] = imported(records, kind)
    assert (entry.question, entry.answer, entry.trace_id) == ("When does it open?", "At nine.", "t")


# RAGAS.


@pytest.mark.parametrize(
    "told",
    [
        {"faithfulness": {"value": 0.1, "reason": "No."}},
        {"faithfulness": {"result": 0.1, "reason": "No."}},
        {"faithfulness": "MetricResult(value=0.1, reason='No.')"},
        {"accuracy": {"value": "fail", "reason": "No."}},
        {"accuracy": "MetricResult(value=fail, reason='No.')"},
        {"accuracy": "fail", "accuracy_reason": "No."},
        {"faithful_rate": 0.1, "faithful_rate_reason": "No."},
    ],
)
def test_rows_of_ragas_experiments_have_their_metrics_verdict(
    imported: Import, tmp_path: Path, told: dict[str, Any]
) -> None:
    row = {"query": "When?", "expected_output": "At ten.", "response": "At nine.", **told}
    row["retrieved_contexts"] = [HOURS]
    for content in ([row], written(tmp_path / "x.csv", [row])):
        _, [entry] = imported(content, "ragas")
        assert (entry.question, entry.answer) == ("When?", "At nine.")
        assert (entry.reference, entry.verdict) == ("At ten.", "bad")
        assert entry.comment == "No."
        assert [passage.text for passage in entry.passages] == [HOURS]


def test_what_a_person_noted_of_a_ragas_metric_counts_instead_of_it(imported: Import) -> None:
    noted = {
        "metric_input": {"user_input": "When?", "response": "At nine."},
        "metric_output": 1.0,
        "prompts": {},
        "is_accepted": False,
        "target": 0.0,
    }
    accepted = {**noted, "target": None, "metric_input": {"user_input": "And?", "response": "No."}}
    _, entries = imported([{"faithfulness": [noted, accepted]}], "ragas")
    assert [entry.verdict for entry in entries] == ["bad", "good"]


# TRL.

USER = {"role": "user", "content": "What color is the sky?"}
BLUE, GREEN = ({"role": "assistant", "content": f"It is {color}."} for color in ("blue", "green"))
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGA"
    "hKmMIQAAAABJRU5ErkJggg=="
)


@pytest.mark.parametrize(
    ("record", "asked", "answers"),
    [
        ({"chosen": "The sky is blue.", "rejected": "The sky is green.", "margin": 0.5},
         "The sky is", [" blue.", " green."]),
        ({"chosen": [USER, BLUE], "rejected": [USER, GREEN], "tools": []},
         USER["content"], ["It is blue.", "It is green."]),
        ({"completion": [USER, BLUE], "label": True}, USER["content"], [None, "It is blue."]),
        ({"completion": [{"from": "human", "value": "Sky?"}, {"from": "gpt", "value": "Blue."}],
          "label": False}, "Sky?", [None, "Blue."]),
    ],
)  # fmt: skip
def test_trls_implicit_prompts_are_read(
    imported: Import, record: Any, asked: str, answers: list[str | None]
) -> None:
    _, [entry] = imported([record], "trl")
    assert entry.question == asked
    assert [entry.correction, entry.answer] == answers


@pytest.mark.parametrize(
    "record",
    [
        # One of these may be the prompt.
        {"topic": "Color?", "chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"prompt": [USER], "completion": [BLUE]},
        {"messages": [USER, BLUE]},
        {"text": "The sky is blue."},
    ],
)
def test_what_is_no_preference_is_told(imported: Import, record: Any) -> None:
    report, entries = imported([record], "trl")
    assert entries == []
    [why] = report.skipped
    assert "it has no pre" in why or "it has no prompt" in why


@pytest.mark.parametrize(
    "prompt",
    [
        [USER],
        # As the rows of a table have it: every part and message with the fields of all.
        [{**USER, "tool_calls": None, "content": [
            {"type": "image", "text": None}, {"type": "text", "text": USER["content"]}]}],
        USER["content"],
    ],
)  # fmt: skip
def test_trls_images_take_their_places(imported: Import, prompt: Any) -> None:
    record = {"images": [PIXEL], "prompt": prompt, "chosen": [BLUE], "rejected": [GREEN]}
    _, [entry] = imported([record], "trl")
    assert [len(message.images) for message in entry.messages] == [1]
    assert entry.question == USER["content"]
