"""Logs are read in every layout that their tools write, and what is not understood is told."""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from steerable_llm.errors import InvalidInputError
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.logs.importers import ImportReport, Rules, import_files
from steerable_llm.logs.importers.messages import prompt, spoken
from steerable_llm.logs.importers.records import UnusableRecord, iso, listed, number

HOURS = "The shop opens at ten."
TEA = "It sells tea."
Import = Callable[..., tuple[ImportReport, list[LoggedAnswer]]]


@pytest.fixture
def imported(tmp_path: Path) -> Iterator[Import]:
    """Imports a document (JSON, or what a file holds) into a new log; returns its answers."""
    made = 0

    def run(
        content: Any, kind: str, name: str = "log.json", rules: Rules | None = None
    ) -> tuple[ImportReport, list[LoggedAnswer]]:
        nonlocal made
        made += 1
        file = tmp_path / str(made) / name
        file.parent.mkdir()
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        with AnswerLog(f"sqlite:///{file.parent / 'a.db'}") as log:
            return import_files(log, file, kind, rules=rules), list(log.answers())

    return run


def sample(**fields: Any) -> dict[str, Any]:
    asked = {"user_input": "When does it open?", "retrieved_contexts": [HOURS, TEA]}
    return {**asked, "response": "At nine.", **fields}


# What a text holds.


@pytest.mark.parametrize(
    "contexts",
    [
        [HOURS, TEA],
        json.dumps([HOURS, TEA]),
        json.dumps(json.dumps([HOURS, TEA])),
        str([HOURS, TEA]),  # as pandas reads a cell of its own table
        f"['{HOURS}' '{TEA}']",  # as numpy prints it
        f"['{HOURS}'\n '{TEA}']",
    ],
)
@pytest.mark.parametrize("kind", ["ragas", "deepeval"])
def test_passages_are_a_list_also_where_the_list_is_kept_as_text(
    imported: Import, contexts: Any, kind: str
) -> None:
    case = {"input": "When?", "actual_output": "At nine.", "retrieval_context": contexts}
    record = sample(retrieved_contexts=contexts) if kind == "ragas" else case
    _, [entry] = imported([record], kind)
    assert [passage.text for passage in entry.passages] == [HOURS, TEA]


def test_a_plain_text_is_one_passage_and_half_a_list_is_told(imported: Import) -> None:
    records = [sample(retrieved_contexts=HOURS), sample(retrieved_contexts="['cut, 'off]")]
    report, [entry] = imported(records, "ragas")
    assert [passage.text for passage in entry.passages] == [HOURS]
    assert list(report.skipped) == [
        "its retrieved contexts is the text of a list that cannot be read"
    ]
    assert listed("[1] It opens at ten, see [2].", "x") == ["[1] It opens at ten, see [2]."]


def test_ids_of_passages_are_no_letters_of_a_text(imported: Import) -> None:
    _, [entry] = imported([sample(retrieved_context_ids="['a.md', 'b.md']")], "ragas")
    assert [passage.id for passage in entry.passages] == ["a.md", "b.md"]


ASSISTANT = {"role": "assistant", "content": "At ten."}


@pytest.mark.parametrize(
    "made",
    [
        "At ten.",
        ASSISTANT,
        [ASSISTANT],
        {"choices": [{"index": 0, "message": ASSISTANT, "finish_reason": "stop"}]},
        {"generations": [[{"text": "At ten.", "message": {"kwargs": {"content": "At ten."},
                           "id": ["langchain", "schema", "AIMessage"], "type": "constructor"}}]]},
        {"messages": [{"type": "human", "content": "When?"}, {"type": "ai", "content": "At ten."}]},
        {"output": [{"type": "reasoning", "summary": []},
                    {"type": "message", "role": "assistant",
                     "content": [{"type": "output_text", "text": "At ten."}]}]},
        {"role": "assistant", "content": [{"type": "text", "text": "At ten."}]},
        {"candidates": [{"content": {"role": "model", "parts": [{"text": "At ten."}]}}]},
        {"message": {"role": "assistant", "blocks": [{"block_type": "text", "text": "At ten."}]}},
        {"role": "MessageRole.ASSISTANT", "content": "At ten."},
        {"text": "At ten."},
    ],
)  # fmt: skip
@pytest.mark.parametrize("times", [0, 1, 2])
def test_an_answer_is_its_text_whatever_holds_it_and_however_often_that_was_written_as_json(
    made: Any, times: int
) -> None:
    for _ in range(times):
        made = made if made in ("At ten.", {"text": "At ten."}) else json.dumps(made)
    assert spoken(made) == "At ten."


def test_an_answer_that_is_json_itself_stays_as_the_model_wrote_it() -> None:
    assert spoken('{"price": 10}') == '{"price": 10}'
    assert spoken('["ten", "nine"]') == '["ten", "nine"]'
    with pytest.raises(UnusableRecord, match="no answer in a form that is known"):
        spoken({"price": 10})


@pytest.mark.parametrize("kind", ["trl", "openai"])
def test_preferences_may_be_kept_as_text(imported: Import, kind: str) -> None:
    asked = [{"role": "user", "content": "When?"}]
    good, bad = (json.dumps([{"role": "assistant", "content": c}]) for c in ("At ten.", "Nine."))
    record = {
        "trl": {"prompt": json.dumps(asked), "chosen": good, "rejected": bad},
        "openai": {"input": json.dumps({"messages": asked}), "preferred_output": good,
                   "non_preferred_output": bad},
    }[kind]  # fmt: skip
    _, [entry] = imported([record], kind)
    assert (entry.question, entry.correction, entry.answer) == ("When?", "At ten.", "Nine.")


# Scores.


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ({"faithfulness": "0.1"}, "bad"),
        ({"faithfulness": " 9e-1 "}, "good"),
        ({"faithfulness": "nan"}, None),
        ({"latency_s": 0.01, "index": 0, "cost": 1}, None),
        ({"faithfulness": 0.9, "latency_s": 0.01}, "good"),
        ({"noise_sensitivity(mode=relevant)": 0.9}, "bad"),
        ({"noise_sensitivity_irrelevant": 0.1}, "good"),
        ({"factual_correctness(mode=f1)": 0.1}, "bad"),
        ({"llm_context_precision_without_reference": 0.1}, "bad"),
        ({"rating": 1}, None),
        ({"helpfulness": 5}, None),
        ({"faithfulness": 4}, None),
        ({"is_cached": True}, None),
    ],
)
def test_a_number_is_a_verdict_if_its_metric_is_known_and_within_its_scale(
    imported: Import, scores: dict[str, Any], verdict: str | None
) -> None:
    _, [entry] = imported([sample(**scores)], "ragas")
    assert entry.verdict == verdict


def test_a_low_rating_is_not_good_because_another_one_shows_its_scale(imported: Import) -> None:
    report, entries = imported(
        [sample(response=str(n), correctness=n, faithfulness=0.9) for n in (1, 5)], "ragas"
    )
    assert [(entry.verdict, entry.label_source) for entry in entries] == [
        ("good", "faithfulness"),
        ("good", "faithfulness"),
    ]
    [why] = report.ignored
    assert "scores of 'correctness' lie outside 0 to 1: give its scale" in why
    feedback = [
        {"id": f"f{n}", "run_id": f"r{n}", "trace_id": f"r{n}", "key": "correctness", "score": n}
        for n in (1, 2, 5)
    ]
    runs = [run(f"r{n}", "llm", n, outputs={"generations": [[{"text": "x"}]]}) for n in (1, 2, 5)]
    for one in runs:
        one["trace_id"] = one["id"]
    report, entries = imported([*feedback, *runs], "langsmith")
    assert [entry.verdict for entry in entries] == [None] * 3
    assert sum(report.skipped.values()) == 3


@pytest.mark.parametrize(
    ("name", "score", "verdict"),
    [("rating", 1, "bad"), ("rating", 5, "good"), ("rating", 3, None), ("rating", 7, None),
     ("correctness", 1, "bad"), ("toxicity", 1, "good"), ("toxicity", 5, "bad")],
)  # fmt: skip
def test_a_declared_scale_makes_a_number_a_verdict(
    imported: Import, name: str, score: float, verdict: str | None
) -> None:
    rules = Rules(scales={name: (1, 5)})
    _, [entry] = imported([sample(**{name: score})], "ragas", rules=rules)
    assert entry.verdict == verdict
    assert entry.score == (None if score == 7 else score)


def test_a_scale_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="scale of 'rating' goes from 5 to 1"):
        Rules(scales={"rating": (5, 1)})


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0.5", 0.5), ("1_000", None), ("٣", None), ("1e999", None), (True, 1.0), ("", None),
     (10**400, None), ("0x1", None), (".5", 0.5), ("9" * 5000, None),
     ("0,25", 0.25),
     ("4,5", 4.5), ("1,000", None)],
)  # fmt: skip
def test_numbers_are_read_out_of_texts(value: Any, expected: float | None) -> None:
    assert number(value) == expected


def test_what_passed_is_told_by_a_text_and_a_metric_that_broke_down_judges_nothing(
    imported: Import,
) -> None:
    def case(answer: str, **metric: Any) -> dict[str, Any]:
        data = [{"name": "Faithfulness", **metric}]
        return {"input": "When?", "actualOutput": answer, "metricsData": data, "success": False}

    cases = [
        case("a", score="0.9", success="True"),
        case("b", score=None, success=False, error="the judge did not answer"),
        case("c", score=0.1, success=False),
    ]
    _, entries = imported({"testCases": cases}, "deepeval")
    assert [entry.verdict for entry in entries] == ["good", None, "bad"]


# Traces.


def run(name: str, kind: str, at: Any, **fields: Any) -> dict[str, Any]:
    inputs = {"messages": [[{"type": "human", "content": "When?"}]]} if kind == "llm" else {}
    common = {"id": name, "run_type": kind, "trace_id": "root", "start_time": at}
    parent = None if name == "root" else "root"
    return {**common, "parent_run_id": parent, "inputs": inputs, "outputs": {}, **fields}


def langsmith_trace(times: list[Any]) -> list[dict[str, Any]]:
    """Two questions of one trace, each with a retrieval and its answer."""

    def found(name: str, at: Any, text: str) -> dict[str, Any]:
        return run(name, "retriever", at, outputs={"documents": [{"page_content": text}]})

    made = [{"text": "At ten."}]
    return [
        run("root", "chain", times[0], inputs={"question": "When does it open?"}),
        found("first", times[1], HOURS),
        run("a1", "llm", times[2], outputs={"generations": [made]}),
        found("second", times[3], TEA),
        run("a2", "llm", times[4], outputs={"generations": [made]}),
    ]


SECONDS = 1_769_860_800  # 2026-01-31 12:00 UTC


@pytest.mark.parametrize(
    "time",
    [
        lambda n: SECONDS + n,
        lambda n: SECONDS + n + 0.25,
        lambda n: (SECONDS + n) * 1000,
        lambda n: (SECONDS + n) * 10**6,
        lambda n: (SECONDS + n) * 10**9,
        lambda n: str((SECONDS + n) * 10**9),
        lambda n: f"2026-01-31T12:00:0{n}.000Z",
        lambda n: f"2026-01-31 12:00:0{n}.000000",
        lambda n: f"2026-01-31 12:00:0{n} UTC",
        lambda n: f"Sat, 31 Jan 2026 12:00:0{n} GMT",
    ],
)
def test_answers_are_joined_with_what_was_retrieved_before_them_however_times_are_written(
    imported: Import, time: Callable[[int], Any]
) -> None:
    _, entries = imported(langsmith_trace([time(n) for n in range(5)]), "langsmith")
    passages = {entry.id: [passage.text for passage in entry.passages] for entry in entries}
    assert passages == {"a1": [HOURS], "a2": [HOURS, TEA]}
    assert entries[0].time is not None
    assert entries[0].time.replace(microsecond=0) == datetime(2026, 1, 31, 12, 0, 2, tzinfo=UTC)


def test_without_times_an_answer_has_what_its_prompt_quotes(imported: Import) -> None:
    runs = langsmith_trace([None] * 5)
    runs[2]["inputs"] = {"messages": [[{"type": "human", "content": f"{HOURS} When?"}]]}
    _, entries = imported(runs, "langsmith")
    passages = {entry.id: [passage.text for passage in entry.passages] for entry in entries}
    assert passages == {"a1": [HOURS], "a2": []}


@pytest.mark.parametrize("value", ["soon", True, {}, -5, 10**30, "9" * 40, None])
def test_what_is_no_time_is_none(value: Any) -> None:
    assert iso(value) is None


def span(**fields: Any) -> dict[str, Any]:
    return {
        "context": {"trace_id": "t", "span_id": "a"},
        "start_time": SECONDS * 1000,
        "attributes": {
            "openinference.span.kind": "LLM",
            "input.value": "When?",
            "output.value": "At ten.",
        },
        **fields,
    }


@pytest.mark.parametrize(
    ("kind", "failed"),
    [
        ("phoenix", span(status_code="ERROR")),
        ("phoenix", span(status={"status_code": "ERROR", "description": "timeout"})),
        ("phoenix", span(status={"code": 2})),
        ("phoenix", span(status={"code": "STATUS_CODE_ERROR"})),
        ("phoenix", span(status_code="StatusCode.ERROR")),
        ("langsmith", run("a", "llm", 1, outputs={"text": "half"}, error="Timeout()")),
        ("langsmith", run("a", "llm", 1, outputs={"text": "half"}, status="error")),
        ("langfuse", {"id": "a", "type": "GENERATION", "traceId": "t", "input": "When?",
                      "output": "half", "level": "ERROR", "statusMessage": "timeout"}),
        ("langfuse", {"id": "a", "type": "GENERATION", "trace_id": "t", "input": "When?",
                      "output": {"error": "timeout"}}),
    ],
)  # fmt: skip
def test_what_failed_is_no_answer(imported: Import, kind: str, failed: dict[str, Any]) -> None:
    report, entries = imported([failed], kind)
    assert entries == []
    assert sum(report.skipped.values()) == 1
    assert report.nothing


def otlp_value(value: Any) -> dict[str, Any]:
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"stringValue": value}


def otlp(attributes: dict[str, Any], name: str, at: int, **fields: Any) -> dict[str, Any]:
    return {
        "traceId": "t",
        "spanId": name,
        "startTimeUnixNano": str((SECONDS + at) * 10**9),
        "attributes": [{"key": k, "value": otlp_value(v)} for k, v in attributes.items()],
        **fields,
    }


OPENINFERENCE = {
    "openinference.span.kind": "LLM",
    "llm.input_messages.0.message.role": "user",
    "llm.input_messages.0.message.content": "When?",
    "llm.output_messages.0.message.role": "assistant",
    "llm.output_messages.0.message.content": "At ten.",
    "llm.token_count.prompt": 9,
}
CONVENTIONS = {
    "gen_ai.operation.name": "chat",
    "gen_ai.input.messages": json.dumps(
        [{"role": "user", "parts": [{"type": "text", "content": "When?"}]}]
    ),
    "gen_ai.output.messages": json.dumps(
        [{"role": "assistant", "parts": [{"type": "text", "content": "At ten."}]}]
    ),
    "gen_ai.usage.input_tokens": 9,
}
BEFORE = {
    "gen_ai.prompt.0.role": "user",
    "gen_ai.prompt.0.content": "When?",
    "gen_ai.completion.0.role": "assistant",
    "gen_ai.completion.0.content": "At ten.",
    "gen_ai.usage.input_tokens": 9,
}


@pytest.mark.parametrize("attributes", [OPENINFERENCE, CONVENTIONS, BEFORE])
def test_otlp_is_read_in_batches_with_its_retrievals(
    imported: Import, attributes: dict[str, Any]
) -> None:
    documents = {
        "openinference.span.kind": "RETRIEVER",
        "retrieval.documents.0.document.content": HOURS,
    }
    spans = [
        otlp(documents, "search", 1),
        otlp(attributes, "a", 2),
        otlp(attributes, "failed", 3, status={"code": 2}),
    ]
    batch = {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": spans}]}]}
    for content in (batch, [batch], {"data": spans}):
        report, [entry] = imported(content, "phoenix")
        assert (entry.id, entry.question, entry.answer) == ("a", "When?", "At ten.")
        assert [passage.text for passage in entry.passages] == [HOURS]
        assert entry.usage == {"prompt_tokens": 9}
        assert list(report.skipped) == ["its span failed"]


def test_the_content_of_a_json_output_is_the_answer(imported: Import) -> None:
    completion = {"choices": [{"message": ASSISTANT}], "model": "m"}
    _, [entry] = imported([span(attributes={
        "openinference.span.kind": "LLM",
        "input.value": json.dumps({"messages": [{"role": "user", "content": "When?"}]}),
        "output.value": json.dumps(completion),
        "output.mime_type": "application/json",
    })], "phoenix")  # fmt: skip
    assert (entry.question, entry.answer) == ("When?", "At ten.")


def test_a_table_of_spans_is_read_by_columns_or_rows(imported: Import) -> None:
    row = {
        "context.span_id": "a",
        "context.trace_id": "t",
        "span_kind": "LLM",
        "parent_id": None,
        "start_time": SECONDS * 1000,
        "status_code": "OK",
        "attributes.llm.input_messages": [{"message.role": "user", "message.content": "When?"}],
        "attributes.llm.output_messages": [
            {"message.role": "assistant", "message.content": "At ten."}
        ],
    }
    columns = {name: {"0": value} for name, value in row.items()}
    split = {"columns": list(row), "index": [0], "data": [list(row.values())]}
    for content in ([row], columns, split, {"schema": {}, "data": [row]}):
        _, [entry] = imported(content, "phoenix")
        assert (entry.question, entry.answer) == ("When?", "At ten.")


GENERATION = {
    "id": "a",
    "type": "GENERATION",
    "startTime": "2026-01-31T12:00:02Z",
    "input": json.dumps([{"role": "user", "content": "When?"}]),
    "output": json.dumps(ASSISTANT),
}
SEARCH = {
    "id": "s",
    "type": "RETRIEVER",
    "startTime": "2026-01-31T12:00:01Z",
    "output": json.dumps([{"page_content": HOURS}]),
}
TRACE = {
    "id": "t",
    "timestamp": "2026-01-31T12:00:00Z",
    "input": json.dumps({"question": "When does it open?"}),
    "output": json.dumps("At ten."),
}
SCORE = {"id": "x", "traceId": "t", "name": "faithfulness", "value": "0.1", "dataType": "NUMERIC"}
SNAKE = [
    {"id": "a", "trace_id": "t", "type": "GENERATION", "parent_observation_id": "c",
     "start_time": "2026-01-31 12:00:02.000000", "input": GENERATION["input"],
     "output": GENERATION["output"], "provided_model_name": "m"},
    {"id": "s", "trace_id": "t", "type": "RETRIEVER", "parent_observation_id": "c",
     "start_time": "2026-01-31 12:00:01.000000", "output": SEARCH["output"]},
    {"id": "c", "trace_id": "t", "type": "SPAN", "start_time": "2026-01-31 12:00:00.000000",
     "input": TRACE["input"], "output": ""},
    {"id": "x", "trace_id": "t", "name": "faithfulness", "value": 0.1, "data_type": "NUMERIC",
     "string_value": None, "observation_id": "a"},
]  # fmt: skip
FLAT = [{**one, "traceId": "t"} for one in (GENERATION, SEARCH)]


@pytest.mark.parametrize(
    "content",
    [
        {"trace": TRACE, "observations": [GENERATION, SEARCH], "scores": [SCORE]},
        {"trace": {**TRACE, "scores": [SCORE]}, "observations": [GENERATION, SEARCH]},
        {**TRACE, "observations": [GENERATION, SEARCH], "scores": [SCORE]},
        {"data": [{**TRACE, "observations": [GENERATION, SEARCH], "scores": [SCORE]}],
         "meta": {"page": 1}},
        [{"data": [{**TRACE, "observations": ["a", "s"], "scores": ["x"]}], "meta": {}},
         {"data": FLAT, "meta": {"cursor": None}}, {"data": [SCORE], "meta": {}}],
        {**TRACE, "observations": json.dumps([GENERATION, SEARCH]), "scores": [SCORE]},
        SNAKE,
    ],
)  # fmt: skip
def test_langfuse_is_read_as_downloaded_as_paged_and_as_stored(
    imported: Import, content: Any
) -> None:
    report, [entry] = imported(content, "langfuse")
    assert (entry.id, entry.question, entry.answer) == ("a", "When does it open?", "At ten.")
    assert [passage.text for passage in entry.passages] == [HOURS]
    assert (entry.verdict, entry.reason, entry.score) == ("bad", "not in documents", 0.1)
    assert not report.skipped


def test_one_observation_of_a_trace_costs_no_other(imported: Import) -> None:
    trace = {**TRACE, "observations": [{"type": "GENERATION"}, 5, GENERATION], "scores": None}
    report, [entry] = imported([trace], "langfuse")
    assert entry.answer == "At ten."
    assert [line.place for line in report.examples] == [
        "log.json:1 (observations 1)",
        "log.json:1 (observations 2)",
    ]


def test_langsmith_is_read_in_pages_and_with_its_columns_as_text(imported: Import) -> None:
    runs = langsmith_trace(list(range(SECONDS, SECONDS + 5)))
    as_text = [
        {**one, **{name: json.dumps(one[name]) for name in ("inputs", "outputs")}} for one in runs
    ]
    root, *children = runs
    for content in (
        {"runs": runs, "cursors": {"next": None}},
        as_text,
        {**root, "child_runs": [{k: v for k, v in c.items() if k != "trace_id"} for c in children]},
    ):
        _, entries = imported(content, "langsmith")
        assert [entry.id for entry in entries] == ["a1", "a2"]
        assert entries[0].question == "When does it open?"
        assert [passage.text for passage in entries[0].passages] == [HOURS]


# Evaluation sets and preferences.


def test_ragas_of_before_is_read(imported: Import) -> None:
    old = {"question": "When?", "contexts": [HOURS], "answer": "At nine.", "faithfulness": 0.1}
    _, [entry] = imported([{**old, "ground_truth": "At ten."}], "ragas")
    assert (entry.question, entry.answer, entry.reference) == ("When?", "At nine.", "At ten.")
    assert (entry.verdict, [p.text for p in entry.passages]) == ("bad", [HOURS])
    _, [entry] = imported([{**old, "ground_truths": ["At ten."]}], "ragas")
    assert entry.reference == "At ten."
    columns = {name: {"0": value, "1": value} for name, value in old.items()}
    columns["answer"]["1"] = "Late."
    _, entries = imported(columns, "ragas")
    assert [entry.answer for entry in entries] == ["At nine.", "Late."]


CASE = {"input": "When?", "actualOutput": "At nine.", "retrievalContext": [HOURS], "success": False}


@pytest.mark.parametrize(
    "content",
    [
        {"testCases": [CASE], "metricsScores": []},
        {"testRunData": {"testCases": [CASE]}, "testRunLink": None},
        {"test_results": [{"input": "When?", "actual_output": "At nine.", "success": False,
                           "retrieval_context": [HOURS], "conversational": False}]},
        [CASE],
    ],
)  # fmt: skip
def test_deepeval_is_read_as_runs_results_and_cases(imported: Import, content: Any) -> None:
    report, [entry] = imported(content, "deepeval")
    assert (entry.answer, entry.verdict) == ("At nine.", "bad")
    assert [passage.text for passage in entry.passages] == [HOURS]
    assert not report.skipped


USER = {"role": "user", "content": "When?"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("At ten.", "At nine."))
CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
TALK = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: When?\n\nAssistant: At "


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "When?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"chosen": TALK + "ten.", "rejected": TALK + "nine."},
        {"rows": [{"row_idx": 0, "row": {"prompt": "When?", "chosen": "At ten.",
                                         "rejected": "At nine."}}], "features": []},
        {"prompt": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "name": "look", "content": "Ten."}],
         "chosen": [GOOD], "rejected": [BAD], "tools": []},
    ],
)  # fmt: skip
def test_trl_is_read_with_and_without_a_prompt_of_its_own(imported: Import, record: Any) -> None:
    report, [entry] = imported(record, "trl")
    assert not report.skipped
    assert entry.question == "When?"
    assert (entry.correction, entry.answer, entry.verdict) == ("At ten.", "At nine.", "bad")


def test_trl_answers_over_several_turns_are_told(imported: Import) -> None:
    records = [
        {"chosen": TALK + "ten.\n\nHuman: Why?\n\nAssistant: So.", "rejected": TALK + "nine."},
        {"chosen": "At ten.", "rejected": "At nine."},
        {"prompt": [USER], "chosen": [GOOD, USER, GOOD], "rejected": [BAD]},
    ]
    report, entries = imported(records, "trl")
    assert entries == []
    assert len(report.skipped) == 3


def test_unpaired_labels_are_read_out_of_texts_and_numbers(imported: Import) -> None:
    labels = (True, "False", 1, 0, "yes")
    rows = [{"prompt": "When?", "completion": str(n), "label": v} for n, v in enumerate(labels)]
    report, entries = imported(rows, "trl")
    assert [entry.verdict for entry in entries] == ["good", "bad", "good", "bad"]
    assert list(report.skipped) == ["its label is neither true nor false"]


def test_calls_and_results_of_tools_are_read_in_the_forms_of_others() -> None:
    expected = [("user", "When?"), ("assistant", ""), ("tool", "Ten."), ("user", "And?")]
    claude = [
        USER,
        {"role": "assistant", "content": [
            {"type": "tool_use", "id": "1", "name": "look", "input": {"a": 1}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "1", "content": "Ten."},
            {"type": "text", "text": "And?"}]},
    ]  # fmt: skip
    responses = [
        USER,
        {"type": "function_call", "call_id": "1", "name": "look", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "1", "output": "Ten."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And?"}]},
    ]
    old = [
        USER,
        {"role": "assistant", "content": None,
         "function_call": {"name": "look", "arguments": '{"a": 1}'}},
        {"role": "function", "name": "look", "content": "Ten."},
        {"role": "user", "content": "And?"},
    ]  # fmt: skip
    for form in (claude, responses, old):
        made = prompt(form)
        assert [(one.role, one.content) for one in made] == expected
        [call] = made[1].tool_calls
        assert (call.name, call.arguments) == ("look", {"a": 1})
        assert made[2].tool_call_id == call.id


# Files.

ROWS = [sample(response=f"“{n}” — {HOURS}") for n in range(3)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
PRETTY = json.dumps(ROWS, indent=2, ensure_ascii=False)


@pytest.mark.parametrize("text", [LINES, PRETTY, "\n".join(json.dumps(r, indent=1) for r in ROWS)])
@pytest.mark.parametrize(
    "written",
    [
        str.encode,
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-be"),
        lambda text: gzip.compress(text.encode()),
        lambda text: gzip.compress(text.encode("utf-16")),
        lambda text: text.replace("\n", "\r\n").encode(),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_file_is_read_whatever_its_form_encoding_and_name(
    imported: Import, text: str, written: Callable[[str], bytes], name: str
) -> None:
    _, entries = imported(written(text), "ragas", name)
    assert [entry.answer for entry in entries] == [row["response"] for row in ROWS]


def test_a_single_object_is_a_file(imported: Import) -> None:
    for text in (json.dumps(sample()), json.dumps(sample(), indent=2)):
        _, [entry] = imported(text.encode(), "ragas")
        assert entry.answer == "At nine."


def test_a_table_is_read_with_its_lists_and_numbers(imported: Import) -> None:
    table = (
        "user_input,retrieved_contexts,response,faithfulness,latency_s\n"
        f'"When, then?","[\'{HOURS}\', \'{TEA}\']","At\nnine.",0.1,3\n'
    )
    for name, content in (
        ("a.csv", table.encode()),
        ("a.csv.gz", gzip.compress(table.encode())),
        ("a.csv", table.encode("utf-16")),
    ):
        _, [entry] = imported(content, "ragas", name)
        assert (entry.question, entry.answer) == ("When, then?", "At\nnine.")
        assert (entry.verdict, [p.text for p in entry.passages]) == ("bad", [HOURS, TEA])


def item(text: str) -> str:
    return json.dumps(sample()).replace('"At nine."', text)


BROKEN = [
    item("NaN"),
    item("9" * 5000),
    item('"\\ud83d"'),
    item("[" * 30_000 + "]" * 30_000),
    item('{"a": ' * 200 + "1" + "}" * 200),
    item('"\\u0000"'),
    '"text"',
    "null",
]


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("form", ["lines", "array"])
def test_one_record_costs_no_other_in_lines_and_in_arrays(
    imported: Import, broken: str, form: str
) -> None:
    rest = [json.dumps(row) for row in ROWS]
    parts = [rest[0], broken, *rest[1:]]
    text = "\n".join(parts) + "\n" if form == "lines" else "[" + ",\n".join(parts) + "]"
    report, entries = imported(text.encode(), "ragas")
    assert len(entries) == 3
    assert [line.place for line in report.examples] == ["log.json:2"]


def test_deep_texts_and_names_within_a_record_cost_only_it(imported: Import) -> None:
    deep = "[" * 900 + "]" * 900
    bad = [
        {"id": "a", "traceId": "t", "type": "RETRIEVER", "output": deep},
        {**GENERATION, "traceId": "t"},
    ]
    _, [entry] = imported(bad, "langfuse")
    assert entry.answer == "At ten."
    report, [entry] = imported([{"a." * 29_000 + "b": 1}, span()], "phoenix")
    assert list(report.skipped) == ["the name of an attribute goes deeper than any"]


def test_a_file_that_is_cut_short_within_its_compression_is_told(imported: Import) -> None:
    packed = gzip.compress(b"".join(json.dumps(sample(response=str(n))).encode() + b"\n"
                                    for n in range(5_000)))  # fmt: skip
    report, entries = imported(packed[:-3000], "ragas")
    assert 0 < len(entries) < 5_000
    assert report.skipped["the file is damaged or cut short within its compression"] == 1


def test_what_is_no_text_is_named(imported: Import) -> None:
    with pytest.raises(InvalidInputError, match="is a zip archive: unpack it first"):
        imported(b"PK\x03\x04" + b"\0" * 50, "ragas")


def test_reasons_are_short_and_few(imported: Import) -> None:
    def asked(role: str) -> dict[str, Any]:
        return {"prompt": [{"role": role, "content": "x"}], "completion": "y", "label": True}

    report, _ = imported([asked(f"{n}" * 3000) for n in range(100, 300)], "trl")
    assert len(report.skipped) <= 51
    assert sum(report.skipped.values()) == 200
    assert max(map(len, report.skipped)) <= 200
    assert max(len(line.why) for line in report.examples) <= 200


def test_a_printed_list_of_long_passages_is_read_and_one_of_countless_values_is_not():
    long = ['Lyon\'s "old" town, ' * 500 for _ in range(50)]
    assert listed(repr(long), "contexts") == long
    for countless in ("[" + "(),	" * 100_000 + "]", "[" + "'a'," * 100_000 + "]"):
        with pytest.raises(UnusableRecord, match="cannot be read"):
            listed(countless, "contexts")


# Other hands have been at it.


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"user_input": ["When does it open?"] * 2, "retrieved_contexts": [[HOURS, TEA]] * 2,
          "response": ["At nine.", "At nine."], "faithfulness": ["0.1", None]}, "log.json"),
        (f"user_input;retrieved_contexts;response;faithfulness\nWhen does it open?;"
         f"\"['{HOURS}', '{TEA}']\";At nine.;0,1\n".encode(), "log.csv"),
        (f"user_input\tretrieved_contexts\tresponse\tfaithfulness\nWhen does it open?\t"
         f"array(['{HOURS}', '{TEA}'], dtype=object)\tAt nine.\t0.1\n".encode(), "log.csv"),
    ],
)  # fmt: skip
def test_a_table_is_one_by_lists_and_with_other_delimiters(
    imported: Import, content: Any, name: str
) -> None:
    report, [entry] = imported(content, "ragas", name)
    assert [passage.text for passage in entry.passages] == [HOURS, TEA]
    assert (entry.verdict, entry.reason) == ("bad", "not in documents")
    assert not report.skipped


def test_conversations_of_one_length_are_no_columns(imported: Import) -> None:
    turns = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "At nine."}]
    other = [turns[0], {"role": "assistant", "content": "At ten."}]
    _, [entry] = imported([{"chosen": other, "rejected": turns}], "trl")
    assert (entry.question, entry.correction) == ("When?", "At ten.")


@pytest.mark.parametrize("empty", ["conversationalTestCases", "goldens", "data"])
def test_an_empty_list_beside_records_hides_none(imported: Import, empty: str) -> None:
    case = {"input": "When?", "actualOutput": "At nine."}
    _, [entry] = imported({"testCases": [case], empty: []}, "deepeval")
    assert entry.answer == "At nine."


@pytest.mark.parametrize("told", [str, json.dumps])
def test_messages_that_were_printed_are_messages(
    imported: Import, told: Callable[[Any], str]
) -> None:
    pair = {
        "prompt": told([{"role": "user", "content": "It's open, isn't it?"}]),
        "chosen": told([{"role": "assistant", "content": "At ten."}]),
        "rejected": told({"role": "assistant", "content": "At nine."}),
    }
    _, [entry] = imported([pair], "trl")
    assert (entry.question, entry.answer) == ("It's open, isn't it?", "At nine.")
    assert entry.correction == "At ten."


@pytest.mark.parametrize("name", ["prompt", "question"])
@pytest.mark.parametrize("system", ["system", "system_prompt"])
def test_what_the_system_was_told_is_part_of_the_prompt(
    imported: Import, name: str, system: str
) -> None:
    pair = {system: "Be kind.", name: "When?", "chosen": "At ten.", "rejected": "Go away."}
    _, [entry] = imported([pair], "trl")
    assert [(m.role, m.content) for m in entry.messages] == [
        ("system", "Be kind."),
        ("user", "When?"),
    ]


def test_ids_may_be_numbers(imported: Import) -> None:
    score = {"id": 3, "traceId": 7, "observationId": 1, "name": "faithfulness", "value": 0.1}
    records = [{**GENERATION, "id": 1, "traceId": 7}, {**SEARCH, "id": 2, "traceId": 7}, score]
    report, [entry] = imported(records, "langfuse")
    assert (entry.id, entry.verdict) == ("1", "bad")
    assert [passage.text for passage in entry.passages] == [HOURS]
    assert not report.skipped


def test_an_answer_may_come_as_its_blocks_and_a_prompt_as_pairs(imported: Import) -> None:
    blocks = [{"type": "text", "text": "At "}, {"type": "text", "text": "ten."}]
    asked = {"messages": [["system", "Be brief."], ["human", "When?"]]}
    _, [entry] = imported([{**FLAT[0], "input": asked, "output": blocks}], "langfuse")
    assert entry.answer == "At ten."
    assert [m.content for m in entry.messages] == ["Be brief.", "When?"]


@pytest.mark.parametrize("score", ["[0.1]", '["0.1"]', "[0.1, 0.2]"])
def test_scores_in_the_columns_of_langfuses_tables_judge_their_rows(
    imported: Import, score: str
) -> None:
    cell = score.replace('"', '""')
    table = f'id,input,output,tags,faithfulness\nt,When?,At nine.,"[""a""]","{cell}"\n'
    report, [entry] = imported(table.encode(), "langfuse", "traces.csv")
    assert (entry.verdict, entry.reason) == ("bad", "not in documents")
    assert not report.skipped


@pytest.mark.parametrize(
    ("text", "name", "encoding"),
    [
        ("user_input,response\nWann öffnet es?,Um neun.\nWhen?,At nine.\n", "log.csv", "cp1252"),
        ('{"user_input": "ö", "response": "x"}\n{"user_input": "When?", "response": "At nine."}\n',
         "log.jsonl", "latin-1"),
    ],
)  # fmt: skip
def test_a_row_or_line_in_another_encoding_is_told_and_not_read_with_wrong_letters(
    imported: Import, text: str, name: str, encoding: str
) -> None:
    report, [entry] = imported(text.encode(encoding), "ragas", name)
    assert entry.answer == "At nine."
    assert report.skipped == {"it is not UTF-8 (save the file as UTF-8)": 1}
    report, entries = imported(text.encode(), "ragas", name)
    assert len(entries) == 2
    assert not report.skipped


def test_what_separates_the_columns_of_a_table_is_told_where_it_is_not_known(
    imported: Import,
) -> None:
    report, _ = imported(b"user_input|response\nWhen?|At nine.\n", "ragas", "log.csv")
    assert report.skipped == {
        "its columns are separated by '|': separate them by commas, semicolons or tabs": 1
    }
