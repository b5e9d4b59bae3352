"""The questions of the experiments: held out is held out, and prompts are what they say."""

from __future__ import annotations

from itertools import combinations

import pytest

from experiments.complaints import DEFLECTIONS, complaints, requests
from experiments.facts import Fact, Split, facts
from experiments.questions import DATA, REFUSAL, closed_book, prompts, unanswerable
from steerable_llm.chat.phrases import occurs
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.logs.answers import read_answers

SPLITS: tuple[Split, ...] = ("build", "dev", "test")


@pytest.fixture(scope="module")
def known() -> list[Fact]:
    """The facts that the committed files call known, and those of the build split."""
    asked = {
        item.id
        for split in ("dev", "test")
        for item in EvaluationSet.from_jsonl(DATA / f"capability.{split}.jsonl", name="capability")
    }
    every = facts()
    ids = {fact: item.id for split in SPLITS for fact in every if fact.split == split
           for item in closed_book(split, [fact])}  # fmt: skip
    return [fact for fact in every if ids[fact] in asked]


def test_no_subject_stands_in_two_splits() -> None:
    subjects = {split: {f.subject for f in facts() if f.split == split} for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not subjects[one] & subjects[other]
    assert all(len(subjects[split]) > 50 for split in SPLITS)


def test_no_message_stands_in_two_splits() -> None:
    said = {
        split: {*(complaint for complaint, _ in complaints(split)), *requests(split)}
        for split in SPLITS
    }
    for one, other in combinations(SPLITS, 2):
        assert not said[one] & said[other]


def test_civil_replies_deflect_nothing() -> None:
    for split in SPLITS:
        for _, reply in complaints(split):
            assert not any(occurs(phrase, reply) for phrase in DEFLECTIONS)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_the_committed_sets_are_what_is_written_from_the_facts(
    split: Split, known: list[Fact]
) -> None:
    written = [item for items in prompts(split, known).values() for item in items]
    assert list(EvaluationSet.from_jsonl(DATA / f"documents.{split}.jsonl", name="x")) == written


def test_the_documents_of_a_conflict_state_the_other_value_alone(known: list[Fact]) -> None:
    for split in ("dev", "test"):
        found = prompts(split, known)
        for item in [*found["conflict"], *found.get("other layout", [])]:
            [wanted], [remembered] = item.accept, item.reject
            shown = item.messages[-1].content
            assert occurs(wanted, shown), item.id
            assert not occurs(remembered, shown) or remembered in item.question, item.id


def test_no_document_answers_an_unanswerable_question(known: list[Fact]) -> None:
    for split in ("dev", "test"):
        mine = [fact for fact in facts() if fact.split == split]
        values = {unanswerable(fact, mine).id: fact for fact in mine}
        for item in prompts(split, known)["unanswerable"]:
            fact = values[item.id]
            documents = item.messages[-1].content.rsplit("Qu", 1)[0]
            assert not (occurs(fact.subject, documents) and occurs(fact.value, documents)), item.id


def test_the_log_holds_what_the_model_said_with_short_corrections() -> None:
    log = read_answers(DATA / "answers.jsonl")
    assert {entry.model for entry in log} == {"SmolLM2-135M-Instruct"}
    bad = [entry for entry in log if entry.verdict == "bad"]
    assert len(bad) > 200
    assert all(entry.correction for entry in bad if not entry.id.startswith("polite"))
    refused = [entry for entry in bad if entry.reason == "should have refused"]
    assert {entry.correction for entry in refused} == {REFUSAL}
