"""Imports take what other logs hold, line by line, once, and say what they left."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from command_line import Steerable, steerable
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.load import dumpd
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    messages_to_dict,
)
from langchain_core.outputs import ChatGeneration, LLMResult
from plugin import install
from sqlalchemy.exc import OperationalError

from steerable_llm.chat.message import as_messages
from steerable_llm.errors import AnswerLogError, InvalidInputError, SteerableError
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.answers import LoggedAnswer, write_answers
from steerable_llm.logs.exporters import export_pairs
from steerable_llm.logs.importers import IMPORTERS, Rules, import_files, importer
from steerable_llm.logs.importers.importer import GROUP
from steerable_llm.logs.importers.messages import prompt
from steerable_llm.logs.importers.openinference import nest
from steerable_llm.logs.importers.openinference import openinference as read_span
from steerable_llm.logs.importers.traces import stage
from steerable_llm.logs.queries import add_rows
from steerable_llm.pairs.pair import Pairs, PreferencePair

__all__ = ["steerable"]
HOURS = "The shop opens at ten."
Write = Callable[..., Path]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AnswerLog]:
    with AnswerLog(f"sqlite:///{tmp_path / 'answers.db'}") as opened:
        yield opened


@pytest.fixture(scope="module")
def empty_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a log whose tables are made; hypothesis needs a new one for each example."""
    path = tmp_path_factory.mktemp("log") / "empty.db"
    AnswerLog(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AnswerLog, Path]]:
    """A log for all examples of a property, and a file to import into it."""
    folder = tmp_path_factory.mktemp("shared")
    with AnswerLog(f"sqlite:///{folder / 'a.db'}") as opened:
        yield opened, folder / "log.jsonl"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(records: list[Any], name: str = "log.jsonl") -> Path:
        lines = (r if isinstance(r, str) else json.dumps(r, default=str) for r in records)
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return tmp_path / name

    return to_file


# Evaluation sets.


def ragas(**fields: Any) -> dict[str, Any]:
    return {
        "user_input": "When does the shop open?",
        "retrieved_contexts": [HOURS, "It sells tea."],
        "response": "At nine.",
        "reference": "At ten.",
        **fields,
    }


def test_a_ragas_sample_becomes_an_answer_with_its_metric_as_verdict(
    log: AnswerLog, write: Write
) -> None:
    good = ragas(response="At ten.", faithfulness=1.0)
    import_files(log, write([ragas(faithfulness=0.0), good, ragas(response="Late.")]), "ragas")
    bad, praised, unjudged = log.answers()
    assert (bad.verdict, bad.reason, bad.score) == ("bad", "not in documents", 0.0)
    assert bad.label_source == "faithfulness"
    assert bad.reference == "At ten."
    assert [p.text for p in bad.passages] == [HOURS, "It sells tea."]
    assert bad.messages[0].content.endswith("Question: When does the shop open?")
    assert f"[1] {HOURS}\n[2] It sells tea." in bad.messages[0].content
    # The same text is the same document, whichever sample holds it.
    assert praised.passages == bad.passages
    assert (praised.verdict, praised.reason) == ("good", None)
    assert unjudged.verdict is None
    assert [(p.good, p.bad) for p in log.pairs()] == [("At ten.", "At nine.")]


def test_ragas_ids_are_kept_and_other_samples_left(log: AnswerLog, write: Write) -> None:
    with_ids = ragas(retrieved_context_ids=["hours", 7])
    talk = ragas(user_input=[{"type": "human", "content": "hi"}])  # unanswered
    report = import_files(log, write([with_ids, talk, ragas(response=None)]), "ragas")
    (entry,) = log.answers()
    assert [p.id for p in entry.passages] == ["hours", "7"]
    assert list(report.skipped) == [
        "it is a conversation without an answer of the assistant",
        "it has no response",
    ]


def deepeval(camel: bool = False, **fields: Any) -> dict[str, Any]:
    names = ("actualOutput", "expectedOutput", "retrievalContext", "metricsData")
    if not camel:
        names = ("actual_output", "expected_output", "retrieval_context", "metrics_data")
    metrics = [
        {"name": "Faithfulness", "score": 0.3, "success": False, "reason": "It made that up."},
        {"name": "Answer Relevancy", "score": 1.0, "success": True, "reason": "It answers."},
    ]
    values = ("At nine.", "At ten.", [HOURS], metrics)
    return {"input": "When?", **dict(zip(names, values, strict=True)), **fields}


@pytest.mark.parametrize("camel", [False, True])
def test_a_deepeval_result_says_itself_what_failed(
    log: AnswerLog, write: Write, camel: bool
) -> None:
    import_files(log, write([deepeval(camel)]), "deepeval")
    (entry,) = log.answers()
    assert (entry.verdict, entry.reason) == ("bad", "not in documents")
    assert (entry.score, entry.label_source) == (0.3, "Faithfulness")
    assert entry.comment == "It made that up.\nIt answers."
    assert entry.reference == "At ten."


def test_deepeval_contexts_may_name_their_source(log: AnswerLog, write: Write) -> None:
    given = deepeval(retrieval_context=[{"context": HOURS, "source": "hours.md"}])
    report = import_files(log, write([given, {"turns": [1], "input": "x"}]), "deepeval")
    (entry,) = log.answers()
    assert [(p.id, p.text) for p in entry.passages] == [("hours.md", HOURS)]
    assert sum(report.skipped.values()) == 1


# Preference files.


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


TRL_PAIRS = {
    "text": {"prompt": "When?", "chosen": "At ten.", "rejected": "At nine."},
    "messages": {
        "prompt": [{"role": "user", "content": "When?"}],
        "chosen": said("At ten."),
        "rejected": said("At nine."),
    },
    "implicit prompt": {
        "chosen": [{"role": "user", "content": "When?"}, *said("At ten.")],
        "rejected": [{"role": "user", "content": "When?"}, *said("At nine.")],
    },
}


@pytest.mark.parametrize("form", TRL_PAIRS)
def test_every_form_of_a_trl_pair_is_a_preference_pair(
    log: AnswerLog, write: Write, form: str
) -> None:
    import_files(log, write([TRL_PAIRS[form]]), "trl", rules=Rules(reason="contradicts"))
    found = log.pairing(reason="contradicts")
    assert found.by_source == {"preference pair": 1}
    assert [(p.prompt, p.good, p.bad) for p in found.pairs] == [
        ([{"role": "user", "content": "When?"}], "At ten.", "At nine.")
    ]


def test_unpaired_trl_answers_have_verdicts(log: AnswerLog, write: Write) -> None:
    labels = (True, False)
    rows = [{"prompt": "When?", "completion": f"{label}", "label": label} for label in labels]
    report = import_files(log, write([*rows, {**rows[0], "label": "yes"}]), "trl")
    assert [(e.answer, e.verdict) for e in log.answers()] == [("True", "good"), ("False", "bad")]
    assert list(report.skipped) == ["its label is neither true nor false"]


def openai(**fields: Any) -> dict[str, Any]:
    return {
        "input": {"messages": [{"role": "user", "content": "When?"}], "tools": []},
        "preferred_output": said("At ten."),
        "non_preferred_output": said("At nine."),
        **fields,
    }


def test_an_openai_pair_is_a_preference_pair(log: AnswerLog, write: Write) -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "When?"}]}
    call = [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]
    lines = [
        openai(input={"messages": [{"role": "developer", "content": "Be kind."}, parts]}),
        openai(preferred_output=call),
        openai(non_preferred_output=said("At ten.")),
        openai(input={"messages": [{"role": "tool", "content": "x"}]}),
        openai(input="When?"),
    ]
    report = import_files(log, write(lines), "openai")
    (pair,) = log.pairs()
    assert pair.prompt == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "When?"},
    ]
    assert (pair.good, pair.bad) == ("At ten.", "At nine.")
    assert [example.place for example in report.examples] == [f"log.jsonl:{n}" for n in range(2, 6)]


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1)
roles = st.sampled_from(["system", "user", "assistant"])
turn = st.fixed_dictionaries({"role": roles, "content": words})
turns = st.lists(turn, min_size=1, max_size=3)


@pytest.mark.parametrize("kind", ["trl", "openai"])
def test_exported_pairs_come_back(
    tmp_path_factory: pytest.TempPathFactory, empty_log: Path, kind: str
) -> None:
    @settings(max_examples=30)
    @given(st.lists(st.tuples(turns, words, words), min_size=1, max_size=4))
    def check(drawn: list[Any]) -> None:
        given = {
            (json.dumps(prompt), good, bad): PreferencePair(prompt, good, bad)
            for prompt, good, bad in drawn
            if good.strip() and bad.strip() and good.strip() != bad.strip()
        }
        if not given:
            return
        folder = tmp_path_factory.mktemp("round")
        path = folder / "pairs.jsonl"
        assert export_pairs(path, given.values(), kind) == len(given)
        shutil.copy(empty_log, folder / "a.db")
        with AnswerLog(f"sqlite:///{folder / 'a.db'}") as log:
            report = import_files(log, path, kind)
            assert not report.skipped
            found = [(p.prompt, p.good, p.bad) for p in log.pairs()]
        assert found == [(p.prompt, p.good, p.bad) for p in given.values()]

    check()


CALL = {
    "id": "1",
    "type": "function",
    "function": {"name": "look", "arguments": '{"shop": "Köln"}'},
}
PICTURE = "data:image/png;base64," + base64.b64encode(b"\x89PNG picture").decode()
RICH = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": PICTURE}},
            {"type": "text", "text": "When does it open?"},
        ],
    },
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "name": "look", "content": "At ten."},
    {"role": "user", "content": "Where?"},
]


@pytest.mark.parametrize("kind", ["trl", "openai"])
def test_tool_turns_and_images_are_exported_and_come_back(
    log: AnswerLog, tmp_path: Path, kind: str
) -> None:
    pairs = Pairs([PreferencePair(RICH, "In Köln.", "In Lyon.")])
    export_pairs(tmp_path / "pairs.jsonl", pairs, kind)
    report = import_files(log, tmp_path / "pairs.jsonl", kind)
    assert not report.skipped
    [found] = log.pairs()
    assert found.messages == pairs[0].messages
    assert found.images[0].data == b"\x89PNG picture"


def test_the_images_of_an_exported_log_come_back_with_it(log: AnswerLog, tmp_path: Path) -> None:
    told = LoggedAnswer(id="a", question="Where?", messages=as_messages(RICH), answer="In Lyon.")
    (tmp_path / "elsewhere").mkdir()
    file = write_answers(tmp_path / "elsewhere" / "log.jsonl", [told])
    assert not import_files(log, file, "answers").skipped
    shutil.rmtree(file.parent)
    found = log.get("a")
    assert found == told
    assert found.messages[0].images[0].data == b"\x89PNG picture"


def test_openais_export_has_openais_form_and_trls_that_of_templates(tmp_path: Path) -> None:
    pairs = Pairs([PreferencePair(RICH, "In Köln.", "In Lyon.")])
    lines = {}
    for kind in ("openai", "trl"):
        export_pairs(tmp_path / kind, pairs, kind)
        lines[kind] = json.loads((tmp_path / kind).read_text())
    assert lines["openai"]["input"]["messages"] == RICH
    assert lines["trl"]["images"] == [PICTURE]
    assert lines["trl"]["prompt"][0]["content"][0] == {"type": "image"}
    call = lines["trl"]["prompt"][1]["tool_calls"][0]
    assert call["function"]["arguments"] == {"shop": "Köln"}


@pytest.mark.parametrize("url", ["/etc/passwd", "file:///etc/passwd", "images/a.png"])
def test_an_imported_log_names_no_files_of_this_machine(
    log: AnswerLog, write: Write, url: str
) -> None:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    named = openai(input={"messages": [{"role": "user", "content": content}]})
    report = import_files(log, write([named]), "openai")
    assert list(report.skipped) == [
        "a message names an image by a path: give its data or a http(s) URL"
    ]


@pytest.mark.parametrize("image", ["x" * 300, "a\0b", ["x" * 300], {"path": "x" * 300}])
def test_an_image_that_is_no_path_costs_no_other_row(
    log: AnswerLog, write: Write, image: object
) -> None:
    row = {"question": "What?", "chosen": "A.", "rejected": "B."}
    whole = {**row, "image": PICTURE}
    report = import_files(log, write([{**row, "image": image}, whole]), "trl")
    assert (sum(report.skipped.values()), len(log.pairs())) == (1, 1)


def test_unpaired_exports_come_back_as_verdicts(log: AnswerLog, tmp_path: Path) -> None:
    pairs = Pairs([PreferencePair("When?", "At ten.", "At nine."), PreferencePair("Who?", "Ana.")])
    assert export_pairs(tmp_path / "kto.jsonl", pairs, "trl-unpaired") == 3
    import_files(log, tmp_path / "kto.jsonl", "trl")
    assert [(e.answer, e.verdict) for e in log.answers()] == [
        ("At ten.", "good"),
        ("At nine.", "bad"),
        ("Ana.", "good"),
    ]


def test_a_failed_export_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no bad answer"):
        export_pairs(tmp_path / "x.jsonl", [PreferencePair("Who?", "Ana.", id="p1")], "trl")
    with pytest.raises(InvalidInputError, match="one of openai, trl, trl-unpaired"):
        export_pairs(tmp_path / "x.jsonl", [], "csv")
    assert list(tmp_path.iterdir()) == []


# Traces. Each of the three logs tells the same run: a question, a retrieval, a good answer to it
# after a first model call before the retrieval, and what a person said of the answer.

START = "2026-01-31T12:00:0"


def langsmith_run(name: str, kind: str, at: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "run_type": kind,
        "trace_id": "root",
        "parent_run_id": None if name == "root" else "root",
        "start_time": f"{START}{at}.000000+00:00",
        "dotted_order": f"{at}",
        "inputs": {},
        "outputs": {},
        "extra": {"metadata": {}},
        **fields,
    }


def langsmith_llm(name: str, at: int, asked: str, answer: str, **told: Any) -> dict[str, Any]:
    message = AIMessage(
        answer,
        usage_metadata={"input_tokens": 9, "output_tokens": 2, "total_tokens": 11},
        response_metadata=told,
    )
    result = LLMResult(generations=[[ChatGeneration(message=message)]])
    prompt = [dumpd(SystemMessage("Be brief.")), dumpd(HumanMessage(asked))]
    return langsmith_run(
        name,
        "llm",
        at,
        inputs={"messages": [prompt]},
        # As LangChain's tracer writes it: messages are dumped constructor calls.
        outputs={
            "generations": [
                [{**g.model_dump(exclude={"message"}), "message": dumpd(g.message)} for g in row]
                for row in result.generations
            ]
        },
        extra={"metadata": {"ls_model_name": "demo", "steer_step": "answer"}},
    )


def langsmith() -> tuple[list[Any], list[Any]]:
    document = dumpd(Document(HOURS, id="hours.md", metadata={"page": 1}))
    runs = [
        langsmith_run("root", "chain", 0, inputs={"question": "When does it open?"}),
        langsmith_llm("rewrite", 1, "When does it open?", "shop opening time"),
        langsmith_run("search", "retriever", 2, outputs={"documents": [document]}),
        langsmith_llm("final", 3, f"[1] {HOURS} When?", "At nine.", model_name="demo-model"),
    ]
    feedback = [
        {
            "id": "f1",
            "run_id": "final",
            "trace_id": "root",
            "key": "user_score",
            "score": 0,
            "comment": "It says ten.",
            "correction": {"answer": "At ten."},
            "feedback_source": {"type": "app", "user_name": "Ana"},
            "modified_at": f"{START}9.000000",
        },
        {"id": "f2", "run_id": "final", "trace_id": "root", "key": "contradicts", "score": None,
         "feedback_source": {"type": "app", "user_name": "Ana"}},
    ]  # fmt: skip
    return runs, feedback


def langfuse() -> tuple[list[Any], list[Any]]:
    def observation(name: str, kind: str, at: int, **fields: Any) -> dict[str, Any]:
        parent = None if name == "root" else "root"
        base = {"id": name, "traceId": "root", "parentObservationId": parent, "type": kind}
        return {**base, "name": name, "startTime": f"{START}{at}.000Z", "metadata": {}, **fields}

    def generation(name: str, at: int, asked: str, answer: object, **more: Any) -> dict[str, Any]:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": asked}]
        usage = {"input": 9, "output": 2, "total": 11}
        return observation(
            name, "GENERATION", at, input=messages, output=answer, usageDetails=usage,
            metadata={"steer_step": "answer"}, **more,
        )  # fmt: skip

    runs = [
        observation("root", "CHAIN", 0, input={"question": "When does it open?"}),
        generation("rewrite", 1, "When does it open?", "shop opening time", model="demo"),
        observation("search", "RETRIEVER", 2, output=json.dumps(
            [{"page_content": HOURS, "metadata": {"source": "hours.md"}}])),
        generation("final", 3, f"[1] {HOURS} When?", {"role": "assistant", "content": "At nine."},
                   model="demo-model"),
    ]  # fmt: skip
    subject = {"kind": "observation", "id": "final", "traceId": "root"}
    common = {"subject": subject, "source": "ANNOTATION", "authorUserId": "Ana"}
    scores = [
        {"id": "s1", "name": "verdict", "dataType": "CATEGORICAL", "value": "contradicts",
         "comment": "It says ten.", "updatedAt": f"{START}9.000Z", **common},
        {"id": "s2", "name": "output", "dataType": "CORRECTION", "value": "At ten.", **common},
        {"id": "s3", "name": "ok", "dataType": "BOOLEAN", "value": 0, **common},
    ]  # fmt: skip
    return runs, scores


def phoenix() -> tuple[list[Any], list[Any]]:
    def span(name: str, kind: str, at: int, **attributes: Any) -> dict[str, Any]:
        return {
            "name": name,
            "context": {"trace_id": "root", "span_id": name},
            "span_kind": kind,
            "parent_id": None if name == "root" else "root",
            "start_time": f"{START}{at}.000000+00:00",
            "status_code": "OK",
            "attributes": {"openinference.span.kind": kind, **attributes},
        }

    def llm(name: str, at: int, asked: str, answer: str, model: str) -> dict[str, Any]:
        messages = {
            "llm.input_messages.0.message.role": "system",
            "llm.input_messages.0.message.content": "Be brief.",
            "llm.input_messages.1.message.role": "user",
            "llm.input_messages.1.message.content": asked,
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.content": answer,
        }
        counts = {"llm.token_count.prompt": 9, "llm.token_count.completion": 2}
        step = {"metadata": json.dumps({"steer_step": "answer"})}
        return span(name, "LLM", at, **messages, **counts, **step, **{"llm.model_name": model})

    runs = [
        span("root", "CHAIN", 0, **{"input.value": json.dumps({"question": "When does it open?"})}),
        llm("rewrite", 1, "When does it open?", "shop opening time", "demo"),
        span("search", "RETRIEVER", 2, **{
            "retrieval.documents.0.document.id": "hours.md",
            "retrieval.documents.0.document.content": HOURS,
            "retrieval.documents.0.document.score": 0.9,
        }),
        llm("final", 3, f"[1] {HOURS} When?", "At nine.", "demo-model"),
    ]  # fmt: skip
    annotation = {
        "id": "a1",
        "span_id": "final",
        "name": "review",
        "annotator_kind": "HUMAN",
        "result": {"label": "contradicts", "score": 0.0, "explanation": "It says ten."},
        "user_id": "Ana",
        "updated_at": f"{START}9.000000+00:00",
    }
    return runs, [annotation]


TRACES = {"langsmith": langsmith, "langfuse": langfuse, "phoenix": phoenix}


def check_trace(log: AnswerLog, kind: str) -> None:
    rewrite, final = log.answers()
    assert (rewrite.id, rewrite.passages, rewrite.answer) == ("rewrite", (), "shop opening time")
    assert rewrite.verdict is None
    assert final.id == "final"
    assert final.question == "When does it open?"
    assert [(p.id, p.text) for p in final.passages] == [("hours.md", HOURS)]
    assert [(m.role, m.content) for m in final.messages] == [
        ("system", "Be brief."),
        ("user", f"[1] {HOURS} When?"),
    ]
    assert (final.answer, final.model, final.step) == ("At nine.", "demo-model", "answer")
    assert final.usage == {"prompt_tokens": 9, "completion_tokens": 2}
    assert final.trace_id == "root"
    assert final.time == datetime(2026, 1, 31, 12, 0, 3, tzinfo=UTC)
    assert (final.verdict, final.reason, final.label_source) == ("bad", "contradicts", "human")
    assert (final.comment, final.reviewer) == ("It says ten.", "Ana")
    assert final.reviewed == datetime(2026, 1, 31, 12, 0, 9, tzinfo=UTC)
    assert final.correction == (None if kind == "phoenix" else "At ten.")


@pytest.mark.parametrize("kind", TRACES)
def test_a_trace_becomes_its_answers_with_passages_and_judgement(
    log_url: str, write: Write, kind: str
) -> None:
    runs, judgements = TRACES[kind]()
    with AnswerLog(log_url) as log:
        report = import_files(log, write([*runs, *judgements]), kind)
        check_trace(log, kind)
    assert (report.added, report.judged, report.context) == (2, 1, 2)
    assert not report.skipped


@pytest.mark.parametrize("kind", TRACES)
def test_the_lines_of_a_trace_come_in_any_order_and_file(
    log: AnswerLog, write: Write, kind: str
) -> None:
    runs, judgements = TRACES[kind]()
    files = [write([*judgements, *runs[:0:-2]], "b.jsonl"), write(runs[2::-2], "a.jsonl")]
    import_files(log, files, kind)
    seqs = list(log.answers())
    assert {entry.id for entry in seqs} == {"rewrite", "final"}
    check_trace(log, kind)


@pytest.mark.parametrize("kind", TRACES)
def test_an_import_leaves_alone_what_another_one_has_read_half_of(
    log: AnswerLog, write: Write, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, judgements = TRACES[kind]()
    elsewhere = json.loads(json.dumps(runs[-1]).replace("root", "else").replace("final", "else1"))
    theirs, mine = write([*runs, *judgements], "theirs.jsonl"), write([elsewhere], "mine.jsonl")
    monkeypatch.setattr(importer, "BATCH", 3)
    batches = []

    def staged(*given: Any) -> None:
        stage(*given)
        batches.append(given)

    with monkeypatch.context() as watched:
        watched.setattr(importer, "stage", staged)
        reading = importer._batches

        def meanwhile(source: Any) -> Iterator[Any]:
            for batch in reading(source):
                if len(batches) == 1:  # the question and the passages wait for their answer
                    watched.setattr(importer, "_batches", reading)
                    assert import_files(log, mine, kind).added == 1
                yield batch

        watched.setattr(importer, "_batches", meanwhile)
        assert import_files(log, theirs, kind).added == 2
    assert [passage.text for passage in log.get("final").passages] == [HOURS]
    assert log.get("final").verdict == "bad"


@pytest.mark.parametrize("kind", TRACES)
def test_judgements_may_come_later_and_replace_earlier_ones(
    log: AnswerLog, write: Write, kind: str
) -> None:
    runs, judgements = TRACES[kind]()
    import_files(log, write(runs), kind)
    log.review("final", verdict="good")
    report = import_files(log, write(judgements, "later.jsonl"), kind)
    check_trace(log, kind)
    assert (report.added, report.judged) == (0, 1)
    again = import_files(log, write(judgements, "copy.jsonl"), kind)
    assert (again.added, again.judged, again.known) == (0, 0, len(judgements))


@pytest.mark.parametrize("kind", TRACES)
def test_a_judgement_of_the_whole_run_is_one_of_its_last_answer(
    log: AnswerLog, write: Write, kind: str
) -> None:
    runs, judgements = TRACES[kind]()
    whole = {
        "langsmith": {"run_id": "root"},
        "langfuse": {"subject": {"kind": "trace", "id": "root"}},
        "phoenix": {"span_id": "root"},
    }[kind]
    import_files(log, write([*runs, *({**j, **whole} for j in judgements)]), kind)
    check_trace(log, kind)


def guarded(kind: str, gave: str) -> tuple[list[Any], list[Any]]:
    """A run that gave a text, whose last model call looks at the answer; and its judgements."""
    runs, judgements = TRACES[kind]()
    told = {"answer": gave}
    given: dict[str, Any] = {
        "langsmith": {"outputs": told},
        "langfuse": {"output": told},
        "phoenix": {
            "attributes": {**runs[0].get("attributes", {}), "output.value": json.dumps(told)}
        },
    }[kind]
    guard = json.dumps(runs[3]).replace("final", "guard").replace("At nine.", "SAFE")
    guard = guard.replace(f"{START}3", f"{START}4")
    whole: dict[str, Any] = {
        "langsmith": {"run_id": "root"},
        "langfuse": {"subject": {"kind": "trace", "id": "root"}},
        "phoenix": {"span_id": "root", "trace_id": "root"},
    }[kind]
    lines = [{**runs[0], **given}, *runs[1:], json.loads(guard)]
    return lines, [{**judgement, **whole} for judgement in judgements]


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("kind", TRACES)
def test_a_judgement_of_the_whole_run_is_one_of_the_answer_that_it_gave(
    log: AnswerLog, write: Write, kind: str, later: bool
) -> None:
    runs, judgements = guarded(kind, " At  nine.")
    if later:
        import_files(log, write(runs), kind)
        import_files(log, write(judgements, "later.jsonl"), kind)
    else:
        import_files(log, write([*runs, *judgements]), kind)
    found = {answer.id: answer.verdict for answer in log.answers()}
    assert found == {"rewrite": None, "final": "bad", "guard": None}


@pytest.mark.parametrize("gave", ["At nine. Source: handbook.txt", '"At nine."', "**At nine.**"])
@pytest.mark.parametrize("kind", TRACES)
def test_a_judgement_of_a_run_that_put_more_around_an_answer_is_one_of_that_answer(
    log: AnswerLog, write: Write, kind: str, gave: str
) -> None:
    runs, judgements = guarded(kind, gave)
    import_files(log, write([*runs, *judgements]), kind)
    found = {answer.id: answer.verdict for answer in log.answers()}
    assert found == {"rewrite": None, "final": "bad", "guard": None}


@pytest.mark.parametrize("kind", TRACES)
def test_a_judgement_of_a_run_that_put_two_answers_together_is_left(
    log: AnswerLog, write: Write, kind: str
) -> None:
    runs, judgements = guarded(kind, "At nine. SAFE")
    report = import_files(log, write([*runs, *judgements]), kind)
    assert log.statistics().verdicts == {"none": 3}
    assert sum(report.skipped.values()) == len(judgements)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("kind", TRACES)
def test_a_judgement_of_a_run_that_gave_what_no_model_said_is_left(
    log: AnswerLog, write: Write, kind: str, later: bool
) -> None:
    runs, judgements = guarded(kind, "At nine, as the handbook says.")
    report = import_files(log, write([*runs, *([] if later else judgements)]), kind)
    if later:
        report = import_files(log, write(judgements, "later.jsonl"), kind)
    assert log.statistics().verdicts == {"none": 3}
    ((why, number),) = report.skipped.items()
    assert "another text than any of its models" in why
    assert number == len(judgements)


def test_a_judgement_of_a_call_without_an_answer_is_none_of_another_call(
    log: AnswerLog, write: Write
) -> None:
    runs, judgements = langsmith()
    runs[1] = {**runs[1], "outputs": {}}
    told = [{**judgement, "run_id": "rewrite"} for judgement in judgements]
    report = import_files(log, write([*runs, *told]), "langsmith")
    assert [(answer.id, answer.verdict) for answer in log.answers()] == [("final", None)]
    assert report.skipped["the log has no answer that it speaks of"] == 2


@pytest.mark.parametrize("kind", TRACES)
def test_a_judgement_of_nothing_known_or_of_a_retrieval_is_left(
    log: AnswerLog, write: Write, kind: str
) -> None:
    runs, judgements = TRACES[kind]()
    lost = {
        "langsmith": {"run_id": "gone", "trace_id": "gone"},
        "langfuse": {"subject": {"kind": "observation", "id": "gone", "traceId": "gone"}},
        "phoenix": {"span_id": "gone"},
    }[kind]
    search = {
        "langsmith": {"run_id": "search"},
        "langfuse": {"subject": {"kind": "observation", "id": "search", "traceId": "root"}},
        "phoenix": {"span_id": "search"},
    }[kind]
    lines = [*runs, {**judgements[0], **lost}, {**judgements[0], **search, "id": "other"}]
    report = import_files(log, write(lines), kind)
    assert report.skipped == {
        "the log has no answer that it speaks of": 1,
        "it judges what was retrieved, not an answer": 1,
    }
    assert {example.place for example in report.examples} == {"log.jsonl:5", "log.jsonl:6"}
    assert log.count(verdict="none") == 2


def test_a_langsmith_run_may_carry_its_children(log: AnswerLog, write: Write) -> None:
    (root, *children), feedback = langsmith()
    import_files(log, write([{**root, "child_runs": children}, *feedback]), "langsmith")
    check_trace(log, "langsmith")


def test_a_langfuse_trace_may_carry_observations_and_scores(log: AnswerLog, write: Write) -> None:
    observations, scores = langfuse()
    trace = {"id": "root", "input": {"question": "When does it open?"}, "output": "At nine."}
    whole = {**trace, "observations": observations[1:], "scores": scores}
    import_files(log, write([whole]), "langfuse")
    check_trace(log, "langfuse")


def test_phoenix_attributes_may_be_nested_or_columns(log: AnswerLog, write: Write) -> None:
    spans, annotations = phoenix()
    columns = [
        {
            **{k: v for k, v in span.items() if k not in ("attributes", "context")},
            **{f"context.{k}": v for k, v in span["context"].items()},
            **{f"attributes.{k}": v for k, v in span["attributes"].items()},
        }
        for span in spans[:2]
    ]
    nested = [nest(span) for span in spans[2:]]
    import_files(log, write([*columns, *nested, *annotations]), "phoenix")
    check_trace(log, "phoenix")


def test_failed_and_tool_calling_models_are_left_with_the_reason(
    log: AnswerLog, write: Write
) -> None:
    failed = {**langsmith_llm("failed", 1, "q", "a"), "error": "Timeout()"}
    call = AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}])
    calling = langsmith_llm("calling", 2, "q", "a")
    calling["outputs"]["generations"][0][0] = {"text": "", "message": dumpd(call)}
    report = import_files(log, write([failed, calling]), "langsmith")
    assert report.skipped == {
        "its run failed": 1,
        "a message calls a tool instead of saying something": 1,
    }


def test_tool_turns_and_images_of_langchains_and_openinferences_forms_are_read() -> None:
    image = {"type": "image", "base64": PICTURE.partition(",")[2], "mime_type": "image/png"}
    asked = [
        HumanMessage([image, {"type": "text", "text": "When does it open?"}]),
        AIMessage("", tool_calls=[{"name": "look", "args": {"shop": "Köln"}, "id": "1"}]),
        ToolMessage("At ten.", tool_call_id="1"),
        HumanMessage("Where?"),
    ]
    expected = as_messages(RICH)
    assert prompt([dumpd(message) for message in asked]) == expected
    assert prompt(messages_to_dict(asked)) == expected
    in_spans = {
        "0.message": {
            "role": "user",
            "contents": [
                {"message_content": {"type": "image", "image": {"image": {"url": PICTURE}}}},
                {"message_content": {"type": "text", "text": "When does it open?"}},
            ],
        },
        "1.message.role": "assistant",
        "1.message.tool_calls.0.tool_call.id": "1",
        "1.message.tool_calls.0.tool_call.function.name": "look",
        "1.message.tool_calls.0.tool_call.function.arguments": '{"shop": "Köln"}',
        "2.message": {"role": "tool", "tool_call_id": "1", "name": "look", "content": "At ten."},
        "3.message": {"role": "user", "content": "Where?"},
    }
    attributes = {
        "openinference.span.kind": "LLM",
        **{f"llm.input_messages.{name}": value for name, value in in_spans.items()},
        "llm.output_messages.0.message": {"role": "assistant", "content": "In Köln."},
    }
    [span] = read_span({"span_id": "a", "trace_id": "t", "attributes": attributes})
    assert as_messages(span.content["messages"]) == expected


# Verdicts.


@pytest.mark.parametrize(
    ("rules", "score", "verdict"),
    [
        (Rules(), 0.8, "good"),
        (Rules(), 0.79, None),
        (Rules(), 0.4, "bad"),
        (Rules(good_at=5, bad_at=2), 3, None),
        (Rules(good_at=5, bad_at=2), 2, "bad"),
        (Rules(score="helpfulness"), 0.0, None),
    ],
)
def test_scores_become_verdicts_by_the_rules(
    log: AnswerLog, write: Write, rules: Rules, score: float, verdict: str | None
) -> None:
    import_files(log, write([ragas(faithfulness=score)]), "ragas", rules=rules)
    (entry,) = log.answers()
    assert (entry.verdict, entry.score) == (verdict, score)


def test_people_outrank_metrics_and_bad_outranks_good(log: AnswerLog, write: Write) -> None:
    spans, (annotation,) = phoenix()
    machine = {**annotation, "id": "a2", "annotator_kind": "LLM", "name": "faithfulness"}
    machine = {**machine, "result": {"label": "hallucinated", "score": 0.0}}
    person = {**annotation, "result": {"label": "thumbs_up", "score": 1.0}}
    import_files(log, write([*spans, machine, person]), "phoenix")
    assert (log.get("final").verdict, log.get("final").reason) == ("good", None)


@pytest.mark.parametrize("by", ["import", "review"])
def test_a_metric_that_comes_later_does_not_outrank_a_person(
    log: AnswerLog, write: Write, by: str
) -> None:
    spans, (annotation,) = phoenix()
    machine = {**annotation, "id": "a2", "annotator_kind": "LLM", "name": "faithfulness"}
    machine = {**machine, "result": {"label": "factual", "score": 1.0}}
    told: dict[str, Any] = {"verdict": "bad", "comment": "the passage says ten", "reviewer": "Ana"}
    told["reviewed"] = datetime(2026, 1, 31, 12, tzinfo=UTC)
    import_files(log, write([*spans, *([annotation] if by == "import" else [])]), "phoenix")
    if by == "review":
        log.review("final", **told)
    before = log.get("final")
    report = import_files(log, write([machine], "metric.jsonl"), "phoenix")
    assert before.verdict == "bad"
    assert log.get("final") == before
    assert report.skipped == {"a person has judged the answer, and people outrank metrics": 1}
    person = {**annotation, "id": "a3", "result": {"label": "thumbs_up", "score": 1.0}}
    import_files(log, write([person], "person.jsonl"), "phoenix")
    assert log.get("final").verdict == "good"


def test_a_metric_does_not_outrank_a_person_who_corrected_a_metric(
    log: AnswerLog, write: Write
) -> None:
    spans, (annotation,) = phoenix()
    machine = {**annotation, "annotator_kind": "LLM", "name": "answer_relevancy", "user_id": None}
    first = {**machine, "id": "a2", "result": {"score": 0.9}}
    import_files(log, write([*spans, first]), "phoenix")
    assert log.get("final").label_source == "answer_relevancy"
    log.review("final", verdict="bad", correction="At ten.", reviewer="Ana")
    before = log.get("final")
    second = {**machine, "id": "a3", "result": {"score": 0.95}}
    import_files(log, write([second], "metric.jsonl"), "phoenix")
    assert log.get("final") == before


def test_a_note_beside_a_metric_does_not_let_it_outrank_a_person(
    log: AnswerLog, write: Write
) -> None:
    spans, (annotation,) = phoenix()
    import_files(log, write([*spans, annotation]), "phoenix")
    metric = {**annotation, "id": "a2", "annotator_kind": "LLM", "name": "faithfulness"}
    metric = {**metric, "result": {"score": 1.0}}
    note = {**annotation, "id": "a3", "user_id": "Bob", "result": {"explanation": "Look again."}}
    report = import_files(log, write([metric, note], "later.jsonl"), "phoenix")
    final = log.get("final")
    assert (final.verdict, final.reason, final.reviewer) == ("bad", "contradicts", "Ana")
    assert final.comment == "It says ten.\nLook again."
    assert report.skipped == {"a person has judged the answer, and people outrank metrics": 1}


@pytest.mark.parametrize("order", ["together", "bad first", "good first", "together, good first"])
def test_of_two_people_the_one_who_says_bad_counts_however_it_comes(
    log: AnswerLog, write: Write, order: str
) -> None:
    runs, (bad, _) = langsmith()
    good = {**bad, "id": "f3", "score": 1, "correction": None, "comment": None}
    good |= {"feedback_source": {"type": "app", "user_name": "Bob"}}
    good |= {"modified_at": f"{START}8.000000"}
    told = [good, bad] if "good first" in order else [bad, good]
    if order.startswith("together"):
        import_files(log, write([*runs, *told]), "langsmith")
    else:
        import_files(log, write([*runs, told[0]]), "langsmith")
        import_files(log, write([told[1]], "later.jsonl"), "langsmith")
    final = log.get("final")
    assert (final.verdict, final.reviewer, final.correction) == ("bad", "Ana", "At ten.")
    assert final.reviewed == datetime(2026, 1, 31, 12, 0, 9, tzinfo=UTC)


def test_whoever_changes_their_mind_is_followed_and_their_correction_goes(
    log: AnswerLog, write: Write
) -> None:
    runs, (bad, _) = langsmith()
    good = {**bad, "score": 1, "correction": None, "modified_at": "2026-02-01T12:00:00"}
    import_files(log, write([*runs, bad]), "langsmith")
    import_files(log, write([good], "later.jsonl"), "langsmith")
    final = log.get("final")
    assert (final.verdict, final.reviewer, final.correction) == ("good", "Ana", None)
    import_files(log, write([bad], "earlier.jsonl"), "langsmith")
    assert log.get("final") == final


@pytest.mark.parametrize("batch", [1, 500])
@pytest.mark.parametrize("scores", [(0.95, 0.1), (0.1, 0.95)])
def test_a_sample_that_comes_twice_is_as_bad_as_its_worse_score(
    log: AnswerLog,
    write: Write,
    scores: tuple[float, float],
    batch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importer, "BATCH", batch)
    path = write([ragas(faithfulness=score) for score in scores])
    report = import_files(log, path, "ragas")
    (entry,) = log.answers()
    assert (entry.verdict, entry.reason, entry.score) == ("bad", "not in documents", 0.1)
    assert report.added == 1
    again = import_files(log, path, "ragas", again=True)
    assert (again.judged, again.known) == (0, 2)
    assert list(log.answers()) == [entry]


def test_a_known_answer_takes_the_verdict_that_a_scale_gives(log: AnswerLog, write: Write) -> None:
    path = write([ragas(helpfulness=0.1), ragas(response="At ten.", helpfulness=0.9)])
    assert import_files(log, path, "ragas").ignored.total() == 2
    assert log.statistics().verdicts == {"none": 2}
    report = import_files(log, path, "ragas", rules=Rules(scales={"helpfulness": (0, 1)}))
    assert (report.added, report.judged, report.known) == (0, 2, 0)
    assert [entry.verdict for entry in log.answers()] == ["bad", "good"]


def test_a_person_outranks_the_metric_of_a_known_answer(log: AnswerLog, write: Write) -> None:
    import_files(log, write([ragas()]), "ragas")
    (entry,) = log.answers()
    log.review(entry.id, verdict="good", reviewer="Ana")
    report = import_files(log, write([ragas(faithfulness=0.0)], "metric.jsonl"), "ragas")
    assert (report.judged, report.known) == (0, 1)
    assert log.get(entry.id).verdict == "good"


def test_verdicts_that_were_filled_into_an_export_come_back(log: AnswerLog, write: Write) -> None:
    import_files(log, write([ragas(), ragas(response="Late.", faithfulness=0.9)]), "ragas")
    exported = write_answers(write([], "out.jsonl"), log.answers())
    filled = {"verdict": "bad", "reason": "contradicts", "correction": "At ten.", "reviewer": "Ana"}
    first, second = map(json.loads, exported.read_text().splitlines())
    del second["label_source"]
    told = write([{**first, **filled}, {**second, **filled}], "filled.jsonl")
    report = import_files(log, told, "answers")
    assert (report.added, report.judged, report.known) == (0, 2, 0)
    for entry in log.answers():
        assert {name: getattr(entry, name) for name in filled} == filled
    elsewhere = {**first, **filled, "verdict": "good", "answer": "Another one."}
    report = import_files(log, write([elsewhere], "other.jsonl"), "answers")
    assert (report.judged, report.known) == (0, 1)


def test_a_metric_replaces_an_earlier_metric(log: AnswerLog, write: Write) -> None:
    spans, (annotation,) = phoenix()
    machine = {**annotation, "annotator_kind": "LLM", "name": "faithfulness", "user_id": None}
    low = {**machine, "id": "a2", "result": {"label": "hallucinated", "score": 0.0}}
    high = {**machine, "id": "a3", "result": {"label": "factual", "score": 1.0}}
    import_files(log, write([*spans, low]), "phoenix")
    assert (log.get("final").verdict, log.get("final").reason) == ("bad", "not in documents")
    import_files(log, write([high], "again.jsonl"), "phoenix")
    assert (log.get("final").verdict, log.get("final").reason) == ("good", None)


Opinion = tuple[dict[str, Any], tuple[str | None, str | None]]

#: What each log writes of an answer, and the verdict and reason that follow.
OPINIONS: dict[str, list[Opinion]] = {
    "langsmith": [
        ({"key": "user_score", "score": 1}, ("good", None)),
        ({"key": "user_score", "score": 0.6}, (None, None)),
        ({"key": "user_score", "score": 0}, ("bad", None)),
        ({"key": "faithfulness", "score": 0.1}, ("bad", "not in documents")),
        ({"key": "hallucination", "score": 0.9}, ("bad", "not in documents")),
        ({"key": "hallucination", "score": 0.0}, ("good", None)),
        ({"key": "rude", "score": None}, ("bad", "rude")),
        ({"key": "note", "score": None, "value": "correct"}, ("good", None)),
        ({"key": "note", "score": None, "comment": "Hm."}, (None, None)),
    ],
    "langfuse": [
        ({"name": "faithfulness", "dataType": "NUMERIC", "value": 0.9}, ("good", None)),
        ({"name": "Toxicity", "dataType": "NUMERIC", "value": 0.9}, ("bad", "rude")),
        ({"name": "toxicity", "dataType": "NUMERIC", "value": 0.1}, ("good", None)),
        ({"name": "ok", "dataType": "BOOLEAN", "value": 1}, ("good", None)),
        ({"name": "ok", "dataType": "BOOLEAN", "value": 0}, ("bad", None)),
        # The number of a category is its place in a list, and no score.
        ({"name": "x", "dataType": "CATEGORICAL", "value": 0, "stringValue": "correct"},
         ("good", None)),
        ({"name": "x", "dataType": "CATEGORICAL", "value": 0, "stringValue": "hm"}, (None, None)),
        ({"name": "x", "dataType": "TEXT", "value": 0, "stringValue": "bad"}, (None, None)),
        ({"name": "x", "dataType": "CORRECTION", "value": "At ten."}, ("bad", None)),
    ],
    "phoenix": [
        # Phoenix's own evaluator gives 1 to what is hallucinated.
        ({"name": "hallucination", "result": {"label": "factual", "score": 0}}, ("good", None)),
        ({"name": "hallucination", "result": {"label": "hallucinated", "score": 1}},
         ("bad", "not in documents")),
        ({"name": "hallucination", "result": {"score": 1}}, ("bad", "not in documents")),
        ({"name": "correctness", "result": {"label": "incorrect"}}, ("bad", "untrue")),
        ({"name": "correctness", "result": {"label": "fine", "score": 1.0}}, ("good", None)),
        ({"name": "review", "result": {"explanation": "Hm."}}, (None, None)),
    ],
    "ragas": [
        ({"faithfulness": 0.95}, ("good", None)),
        ({"noise_sensitivity": 0.9}, ("bad", None)),
        ({"noise_sensitivity": 0.1}, ("good", None)),
        ({"context_recall": 0.0}, ("bad", "wrong retrieval")),
        ({"factual_correctness": 0.1}, ("bad", "untrue")),
        # Of several, the one that is bad counts.
        ({"faithfulness": 1.0, "answer_relevancy": 0.2}, ("bad", "missed the answer")),
        ({"faithfulness": float("nan")}, (None, None)),
    ],
    "deepeval": [
        # It says itself what passed, whatever the score.
        ({"metrics_data": [{"name": "Toxicity", "score": 0.5, "success": True}]}, ("good", None)),
        ({"metrics_data": [{"name": "Toxicity", "score": 0.1, "success": False}]},
         ("bad", "rude")),
        ({"metrics_data": [{"name": "Contextual Recall", "score": 0.1, "success": False}]},
         ("bad", "wrong retrieval")),
        # Of two that name no reason, the bad one counts, whichever comes first.
        ({"metrics_data": [{"name": "tone", "success": True}, {"name": "x", "success": False}]},
         ("bad", None)),
        ({"metrics_data": [], "success": True}, ("good", None)),
        ({"metrics_data": [], "success": False}, ("bad", None)),
        ({"metrics_data": []}, (None, None)),
    ],
}  # fmt: skip


def told_of(kind: str, number: int, opinion: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of one answer of its own and of what was said of it."""
    name = f"a{number}"
    if kind in ("ragas", "deepeval"):
        text = {"ragas": "response", "deepeval": "actual_output"}[kind]
        return [{**SAMPLES[kind], text: name, **opinion}]
    if kind == "phoenix":
        place = {"trace_id": name, "span_id": name}
        return [{**SAMPLES[kind], "context": place}, {"span_id": name, **opinion}]
    if kind == "langsmith":
        run = {**SAMPLES[kind], "id": name, "trace_id": name, "parent_run_id": None}
        source = {"feedback_source": {"type": "model"}}
        return [run, {"id": f"f{number}", "run_id": name, "trace_id": name, **source, **opinion}]
    subject = {"kind": "observation", "id": name, "traceId": name}
    return [
        {**SAMPLES[kind], "id": name, "traceId": name},
        {"id": f"s{number}", "subject": subject, "source": "EVAL", **opinion},
    ]


@pytest.mark.parametrize("kind", OPINIONS)
def test_each_log_says_in_its_own_way_what_is_good_and_bad(
    log: AnswerLog, write: Write, kind: str
) -> None:
    cases = OPINIONS[kind]
    lines = [line for n, (said_, _) in enumerate(cases) for line in told_of(kind, n, said_)]
    report = import_files(log, write(lines), kind)
    assert (report.added, dict(report.skipped)) == (len(cases), {})
    by_name = {e.id if e.id.startswith("a") else e.answer: e for e in log.answers()}
    found = [(by_name[f"a{n}"].verdict, by_name[f"a{n}"].reason) for n in range(len(cases))]
    assert found == [expected for _, expected in cases]


def test_wrong_rules_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="must be the lower one"):
        Rules(good_at=0.2)
    with pytest.raises(InvalidInputError, match="no reason"):
        Rules(reason="odd")


# Files: malformed lines, the same file twice, imports that were killed.

SAMPLES: dict[str, Any] = {
    "ragas": ragas(),
    "deepeval": deepeval(),
    "trl": TRL_PAIRS["messages"],
    "openai": openai(),
    "answers": {"id": "a", "question": "q", "answer": "x",
                "messages": [{"role": "user", "content": "q"}]},
    "langsmith": langsmith()[0][3],
    "langfuse": langfuse()[0][3],
    "phoenix": phoenix()[0][3],
}  # fmt: skip


@pytest.mark.parametrize("kind", IMPORTERS)
def test_malformed_lines_never_stop_the_rest(log: AnswerLog, write: Write, kind: str) -> None:
    bad = ["{", "[]", '"text"', "null", "\x00", "{}", '{"input": 5, "prompt": {}, "id": [1]}']
    path = write([*bad, SAMPLES[kind], ""])
    with path.open("ab") as file:
        file.write(b'{"latin": "\xe9"}\n')
    report = import_files(log, path, kind)
    assert report.added == 1
    assert sum(report.skipped.values()) == len(bad) + 1
    places = [example.place for example in report.examples]
    assert places == [f"log.jsonl:{n}" for n in (1, 2, 3, 4, 5, 6, 7, 10)]


def test_a_number_beyond_all_floats_is_no_score_and_stops_nothing(
    log: AnswerLog, write: Write
) -> None:
    path = write([json.dumps(ragas(faithfulness=0)).replace(": 0}", f": {'9' * 400}}}"), ragas()])
    assert "9" * 400 in path.read_text()
    assert import_files(log, path, "ragas").lines == 2
    (entry,) = log.answers(limit=1)
    assert (entry.verdict, entry.score) == (None, None)


@pytest.mark.parametrize("count", [float("nan"), float("inf"), None])
def test_a_token_count_that_is_no_number_costs_only_itself(
    log: AnswerLog, write: Write, count: float | None
) -> None:
    (span,) = [s for s in phoenix()[0] if s["context"]["span_id"] == "final"]
    span["attributes"]["llm.token_count.prompt"] = count
    span["attributes"]["llm.token_count.completion"] = 7
    report = import_files(log, write([span]), "phoenix")
    assert (report.added, report.skipped) == (1, {})
    assert log.get("final").usage == {"completion_tokens": 7}


def test_text_that_no_database_stores_costs_only_its_answer(log_url: str, write: Write) -> None:
    spans, (annotation,) = phoenix()
    zero = {**annotation, "result": {"label": "bad", "explanation": "zero \x00"}}
    with AnswerLog(log_url) as log:
        flat = [ragas(retrieved_contexts=["zero \x00"]), ragas()]
        report = import_files(log, write(flat, "flat.jsonl"), "ragas")
        assert (report.added, sum(report.skipped.values())) == (1, 1)
        report = import_files(log, write([*spans, zero], "spans.jsonl"), "phoenix")
        assert (report.added, report.judged) == (2, 0)
        assert [line.place for line in report.examples] == ["spans.jsonl:5"]
        report = import_files(log, write([annotation], "later.jsonl"), "phoenix")
        assert report.judged == 1


@pytest.mark.parametrize("kind", IMPORTERS)
@settings(max_examples=40)
@given(data=st.data())
def test_whatever_a_field_holds_it_costs_at_most_its_own_line(
    shared: tuple[AnswerLog, Path], kind: str, data: st.DataObject
) -> None:
    odd = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=4,
    )

    def spoil(value: Any) -> Any:
        """The sample with one place in it replaced."""
        if not isinstance(value, dict | list) or not value or data.draw(st.integers(0, 4)) == 0:
            return data.draw(odd)
        places = list(value) if isinstance(value, dict) else range(len(value))
        at = data.draw(st.sampled_from(places))
        if isinstance(value, dict):
            return {**value, at: spoil(value[at])}
        return [spoil(v) if i == at else v for i, v in enumerate(value)]

    log, file = shared
    spoilt = spoil(SAMPLES[kind])
    lines = [json.dumps(spoilt), json.dumps(SAMPLES[kind])]
    file.write_text("\n".join(lines) + "\n")
    report = import_files(log, file, kind, again=True)
    assert report.lines == 2
    assert report.added + report.known >= 1


def lines_of(number: int, start: int = 0) -> list[dict[str, Any]]:
    return [ragas(user_input=f"q{i}", response=f"a{i}") for i in range(start, start + number)]


def test_the_same_file_twice_adds_nothing(log: AnswerLog, write: Write) -> None:
    path = write(lines_of(1200))
    assert import_files(log, path, "ragas").added == 1200
    second = import_files(log, path, "ragas")
    assert (second.added, second.lines, second.lines_before) == (0, 0, 1200)
    again = import_files(log, path, "ragas", again=True)
    assert (again.added, again.known, again.lines) == (0, 1200, 1200)
    copied = import_files(log, write(lines_of(1200), "copy.jsonl"), "ragas")
    assert (copied.added, copied.known) == (0, 1200)


def test_a_file_that_has_grown_is_read_on_from_its_old_end(log: AnswerLog, write: Write) -> None:
    import_files(log, write(lines_of(700)), "ragas")
    report = import_files(log, write([*lines_of(700), *lines_of(3, start=700)]), "ragas")
    assert (report.lines_before, report.lines, report.added) == (700, 3, 3)


def test_a_file_that_was_replaced_is_read_from_the_start(log: AnswerLog, write: Write) -> None:
    import_files(log, write(lines_of(5)), "ragas")
    report = import_files(log, write(lines_of(9, start=3)), "ragas")
    assert (report.lines_before, report.lines, report.added, report.known) == (0, 9, 7, 2)


def test_a_line_that_is_still_being_written_waits(log: AnswerLog, write: Write) -> None:
    path = write(lines_of(2))
    whole = path.read_text()
    path.write_text(whole[:-30])
    first = import_files(log, path, "ragas")
    assert (first.added, first.examples[0].place) == (1, "log.jsonl:2")
    path.write_text(whole)
    assert import_files(log, path, "ragas").added == 1


def test_an_array_is_read_item_by_item(log: AnswerLog, tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text(json.dumps([*lines_of(3), 5], indent=1))
    report = import_files(log, path, "ragas")
    assert (report.added, report.examples[0].place) == (3, "export.json:4")
    path.write_text(json.dumps(lines_of(3, start=2))[:-5])
    report = import_files(log, path, "ragas")
    assert (report.added, report.known) == (1, 1)
    assert list(report.skipped) == ["the array is not JSON from here on"]


IMPORT = """
import sys, time
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.importers import import_files, importer, traces
from steerable_llm.logs.queries import add_rows as add

def add_rows(*given, batches=[]):
    batches.append(1)
    # Answers are added by the batch, and those of traces one by one, some traces together.
    if len(batches) == (traces.GROUP + 1 if kind == "langfuse" else 2):
        print("the first batch is in, the second is not", flush=True)
        time.sleep(600)
    return add(*given)

importer.add_rows = traces.add_rows = add_rows
log, file, kind = sys.argv[1:]
import_files(AnswerLog(log), file, kind)
"""


@pytest.mark.parametrize("kind", ["ragas", "langfuse"])
def test_an_import_that_was_killed_goes_on(log_url: str, write: Write, kind: str) -> None:
    number = 1200
    if kind == "ragas":
        lines = lines_of(number)
    else:
        generation = SAMPLES["langfuse"]
        lines = [{**generation, "id": f"g{i}", "traceId": f"t{i}"} for i in range(number)]
    path = write(lines)
    command = [sys.executable, "-c", IMPORT, log_url, str(path), kind]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline().startswith("the first batch is in")
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    with AnswerLog(log_url) as log:
        before = log.count()
        assert 0 < before < number
        report = import_files(log, path, kind)
        assert report.added == number - before
        if kind == "ragas":
            assert report.lines_before == before
        assert log.count() == number
        assert import_files(log, path, kind).added == 0


@pytest.mark.parametrize("kind", ["ragas", "langfuse"])
def test_a_batch_that_fails_is_read_again(
    log: AnswerLog, write: Write, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    generation = SAMPLES["langfuse"]
    lines = {
        "ragas": lines_of(1200),
        "langfuse": [{**generation, "id": f"g{i}", "traceId": f"t{i}"} for i in range(1200)],
    }[kind]
    path = write(lines)
    calls = 0

    def fails_in_the_third_batch(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OperationalError("INSERT", None, Exception("disk full"))
        return (add_rows if kind == "ragas" else stage)(*given)

    name = "add_rows" if kind == "ragas" else "stage"
    monkeypatch.setattr(importer, name, fails_in_the_third_batch)
    with pytest.raises(AnswerLogError, match="disk full"):
        import_files(log, path, kind)
    assert log.count() == (1000 if kind == "ragas" else 0)
    monkeypatch.undo()
    report = import_files(log, path, kind)
    assert (report.lines_before, report.lines) == (1000, 200)
    assert log.count() == 1200


def test_unknown_kinds_and_missing_files_are_refused(log: AnswerLog, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="one of answers, deepeval, langfuse"):
        import_files(log, tmp_path / "x", "csv")
    with pytest.raises(SteerableError, match=r"no file .*x\.jsonl"):
        import_files(log, tmp_path / "x.jsonl", "trl")


PLUGIN = """
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.logs.importers import ImportedAnswer, Importer, Judgement, UnusableRecord

def read(record):
    if "text" not in record:
        raise UnusableRecord("it has no text")
    messages = [{"role": "user", "content": record["q"]}]
    answer = LoggedAnswer(
        id=record["n"], question=record["q"], messages=messages, answer=record["text"]
    )
    return [ImportedAnswer(answer, (Judgement(name="faithfulness", score=record["score"]),))]

importer = Importer(read)
"""


def test_an_installed_package_adds_an_importer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: AnswerLog, steerable: Steerable
) -> None:
    lines = [{"n": "a", "q": "When?", "text": "At nine.", "score": 0.1}, {"n": "b"}, {"text": "x"}]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InvalidInputError, match="'mine' cannot be imported: one of answers, deep"):
        import_files(log, file, "mine")
    (tmp_path / "site").mkdir()
    entries = {"mine": "tiny_plugin:importer", "broken": "tiny_plugin:nothing"}
    install(tmp_path / "site", monkeypatch, GROUP, entries, PLUGIN)
    report = import_files(log, file, "mine")
    assert (report.added, dict(report.skipped)) == (
        1,
        {"it has no text": 1, "its fields do not have the shape expected": 1},
    )
    answer = log.get("a")
    assert (answer.verdict, answer.reason) == ("bad", "not in documents")
    said = steerable("log", "import", file, "--from", "mine", "--log", "other.db")
    assert "other.db: 1 answers added" in said
