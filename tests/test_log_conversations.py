"""Conversations of RAGAS and DeepEval are imported as the answers in them, each with its prompt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.logs.importers import ImportReport, import_files

Import = Callable[..., tuple[ImportReport, list[LoggedAnswer]]]
HOURS = "The shop opens at ten."


@pytest.fixture
def imported(tmp_path: Path) -> Import:
    """Imports a document into a new log; returns what was said of it and its answers."""

    def run(content: Any, kind: str) -> tuple[ImportReport, list[LoggedAnswer]]:
        file = tmp_path / "log.json"
        file.write_text(json.dumps(content), encoding="utf-8")
        with AnswerLog(f"sqlite:///{tmp_path / 'a.db'}") as log:
            return import_files(log, file, kind), list(log.answers())

    return run


def human(text: str) -> dict[str, Any]:
    return {"content": text, "metadata": None, "type": "human"}


def ai(text: str, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"content": text, "metadata": None, "type": "ai", "tool_calls": list(calls) or None}


BOOKING = [
    human("A table for two."),
    ai("Let me look.", {"name": "tables", "args": {"seats": 2}}),
    {"content": "Free at eight.", "metadata": None, "type": "tool"},
    ai("There is one at eight."),
]


def spoken(entry: LoggedAnswer) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in entry.messages]


def test_a_ragas_conversation_with_one_answer_takes_what_its_metric_says(imported: Import) -> None:
    talk = {"user_input": BOOKING, "reference": "A table is booked.", "agent_goal_accuracy": 0}
    report, [entry] = imported([talk], "ragas")
    assert not report.skipped
    assert (entry.question, entry.answer) == ("A table for two.", "There is one at eight.")
    assert (entry.verdict, entry.label_source) == ("bad", "agent_goal_accuracy")
    assert spoken(entry) == [
        ("user", "A table for two."),
        ("assistant", "Let me look."),
        ("tool", "Free at eight."),
    ]
    [call] = entry.messages[1].tool_calls
    assert (call.name, call.arguments, call.id) == (
        "tables",
        {"seats": 2},
        entry.messages[2].tool_call_id,
    )
    # What should come of a conversation is no answer that could be learnt from.
    assert entry.reference is None


def test_of_several_answers_none_gets_the_verdict_of_the_whole(imported: Import) -> None:
    talk = [*BOOKING, human("Book it."), ai("It is booked."), human("Thanks!")]
    report, entries = imported({"samples": [{"user_input": talk, "faithfulness": 0.0}]}, "ragas")
    assert [entry.answer for entry in entries] == ["There is one at eight.", "It is booked."]
    assert [entry.question for entry in entries] == ["A table for two.", "Book it."]
    assert [entry.verdict for entry in entries] == [None, None]
    assert [entry.score for entry in entries] == [None, None]
    assert [len(entry.messages) for entry in entries] == [3, 5]
    [why] = report.ignored
    assert "'faithfulness' judges a conversation of several answers" in why


def test_a_conversation_that_python_printed_is_read(imported: Import) -> None:
    _, [entry] = imported([{"user_input": str(BOOKING), "faithfulness": 1.0}], "ragas")
    assert (entry.answer, entry.verdict) == ("There is one at eight.", "good")


@pytest.mark.parametrize(
    "talk",
    [
        [human("Hi.")],
        [ai("Welcome!"), human("Hi.")],
        BOOKING[:2],
        [human("Hi."), ai(" ")],
    ],
)
def test_a_conversation_without_an_answer_is_told(imported: Import, talk: Any) -> None:
    report, entries = imported([{"user_input": talk}], "ragas")
    assert entries == []
    assert list(report.skipped) == ["it is a conversation without an answer of the assistant"]


def test_a_bad_turn_costs_the_answers_after_it_and_no_other(imported: Import) -> None:
    odd = {"type": "human", "content": 5}
    talk = [human("Hi."), ai("Hello."), odd, ai("What?")]
    report, [entry] = imported([{"user_input": talk}, {"user_input": BOOKING}][:1], "ragas")
    assert entry.answer == "Hello."
    assert [line.place for line in report.examples] == ["log.json:1 (turn 4)"]


def turn(role: str, content: str, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, "order": 0, **fields}


def case(*turns: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": "t", "turns": list(turns), "expectedOutcome": "It is told.", **fields}


def test_a_deepeval_conversation_is_read_with_what_each_turn_retrieved(imported: Import) -> None:
    failed = {"name": "Turn Faithfulness", "score": 0.1, "success": False, "reason": "No."}
    turns = (
        turn("user", "When does it open?"),
        turn("assistant", "At nine.", retrievalContext=[HOURS], comments="Look it up."),
    )
    run = {"conversationalTestCases": [case(*turns, success=False, metricsData=[failed])]}
    _, [entry] = imported({"testRunData": run}, "deepeval")
    assert (entry.question, entry.answer) == ("When does it open?", "At nine.")
    assert [passage.text for passage in entry.passages] == [HOURS]
    assert spoken(entry) == [("user", f"Documents:\n[1] {HOURS}\n\nQuestion: When does it open?")]
    assert (entry.verdict, entry.score) == ("bad", 0.1)
    assert entry.comment == "No.\nLook it up."
    assert entry.reference is None


def test_each_answer_of_a_deepeval_conversation_has_its_own_passages(imported: Import) -> None:
    turns = (
        turn("assistant", "Welcome!"),
        turn("user", "When does it open?"),
        turn("assistant", "At ten.", retrieval_context=[HOURS]),
        turn("user", "And what does it sell?"),
        turn("assistant", "Tea.", retrieval_context=["It sells tea."]),
    )
    report, entries = imported([case(*turns, success=True)], "deepeval")
    assert [entry.answer for entry in entries] == ["At ten.", "Tea."]
    assert [[p.text for p in entry.passages] for entry in entries] == [[HOURS], ["It sells tea."]]
    # The documents stand where the question does, after the turns before it.
    assert spoken(entries[1])[:3] == [
        ("assistant", "Welcome!"),
        ("user", "When does it open?"),
        ("assistant", "At ten."),
    ]
    assert spoken(entries[1])[3][1].startswith("Documents:\n[1] It sells tea.")
    assert [entry.verdict for entry in entries] == [None, None]
    assert len(report.ignored) == 1


def test_the_tools_of_a_deepeval_turn_stand_before_its_answer(imported: Import) -> None:
    tool = {"name": "hours", "inputParameters": {"day": "Monday"}, "output": {"opens": 10}}
    turns = (turn("user", "When?"), turn("assistant", "At ten.", toolsCalled=[tool]))
    _, [entry] = imported([case(*turns, success=True)], "deepeval")
    assert (entry.answer, entry.verdict) == ("At ten.", "good")
    assert spoken(entry) == [("user", "When?"), ("assistant", ""), ("tool", '{"opens": 10}')]
    assert entry.messages[1].tool_calls[0].arguments == {"day": "Monday"}


def test_a_deepeval_conversation_that_was_not_held_yet_is_told(imported: Import) -> None:
    report, entries = imported({"goldens": [{"scenario": "A guest books a table."}]}, "deepeval")
    assert entries == []
    assert list(report.skipped) == ["it is a conversation without an answer of the assistant"]


def test_the_same_conversation_again_adds_nothing(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.json", "b.json")]
    for file in files:
        file.write_text(json.dumps([{"user_input": BOOKING}]), encoding="utf-8")
    with AnswerLog(f"sqlite:///{tmp_path / 'a.db'}") as log:
        assert import_files(log, files, "ragas").added == 1


STEPS = ["Nine and two are eleven.", "So it closes at eleven."]


@pytest.mark.parametrize(
    ("labels", "verdict"), [([True, True], "good"), ([True, False], "bad"), ("[1, 0]", "bad")]
)
def test_an_answer_is_good_whose_steps_all_are(imported: Import, labels: Any, verdict: str) -> None:
    row = {"prompt": "When does it close?", "completions": STEPS, "labels": labels}
    _, [entry] = imported([row], "trl")
    assert (entry.answer, entry.verdict) == ("\n".join(STEPS), verdict)
    assert entry.label_source == "steps"


@pytest.mark.parametrize("labels", [[True], [True, "perhaps"], None, [True, True, True]])
def test_steps_without_a_label_each_are_told(imported: Import, labels: Any) -> None:
    row = {"prompt": "When does it close?", "completions": STEPS, "labels": labels}
    report, entries = imported([row], "trl")
    assert entries == []
    assert list(report.skipped) == [
        "its labels are not one true or false for each of its completions"
    ]
