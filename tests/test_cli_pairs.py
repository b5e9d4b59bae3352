"""The verbs of pairs: from a log to files of pairs, proposals, modes and reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import Steerable, steerable
from failures import WordEmbedder, failure

from steerable_llm import embedding
from steerable_llm.cli import pairs as cli_pairs
from steerable_llm.errors import InvalidInputError, MissingExtraError
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.answers import read_answers, write_answers
from steerable_llm.pairs import modes as modes_module
from steerable_llm.pairs.pair import Pairs, PreferencePair

__all__ = ["steerable"]
EMBEDDER = cli_pairs._embedder


@pytest.fixture(autouse=True)
def _quick_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_pairs, "_embedder", WordEmbedder)
    monkeypatch.setattr(modes_module, "SentenceEmbedder", WordEmbedder)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_answers(
        tmp_path / "log.jsonl",
        [
            failure("kept", correction="It opens at ten."),
            failure("made-up", correction="It opens at noon in Rome.", question="And on Sunday?"),
            failure("open", question="What is the fee in June?"),
            failure("lost", reason="wrong retrieval"),
        ],
    )


def test_a_log_gives_pairs_a_report_and_the_failures_of_retrieval(
    steerable: Steerable, log: Path
) -> None:
    said = steerable(
        *("pairs", log, "-o", "pairs.jsonl", "--report", "report.md"),
        *("--wrong-retrieval", "lost.jsonl"),
    )
    assert [pair.id for pair in Pairs.from_jsonl("pairs.jsonl")] == ["kept"]
    assert [answer.id for answer in read_answers("lost.jsonl")] == ["lost"]
    assert "## Wrong retrieval" in Path("report.md").read_text()
    assert said.splitlines()[0] == "pairs.jsonl: 1 pairs (1 by correction)"
    assert "dropped 1 (good grounded, bad not): the good answer is not in the passages" in said
    assert "49 more pairs would make 50" in said


@pytest.mark.parametrize(
    ("correction", "helps", "not_meant"),
    [
        ("It opens at noon in Rome.", "--judge none", "--max-refusals"),
        ("I cannot find this in the documents.", "--max-refusals 1", "--judge none"),
        (None, "--propose", "loosen"),
    ],
)
def test_where_nothing_is_left_the_filter_that_dropped_it_is_the_one_to_loosen(
    steerable: Steerable, tmp_path: Path, correction: str | None, helps: str, not_meant: str
) -> None:
    log = write_answers(tmp_path / "log.jsonl", [failure("a", correction=correction)])
    said = steerable.error("pairs", log, "-o", "p.jsonl", "--as-written")
    assert helps in said
    assert not_meant not in said


def test_only_answers_of_a_step_become_pairs(steerable: Steerable, tmp_path: Path) -> None:
    entries = [failure(n, correction="It opens at ten.", step=n) for n in ("answer", "reply")]
    log = write_answers(tmp_path / "log.jsonl", entries)
    steerable("log", "import", log, "--from", "answers", "--log", "a.db")
    for source in (log, "a.db"):
        steerable("pairs", source, "-o", "p.jsonl", "--step", "reply")
        assert [pair.id for pair in Pairs.from_jsonl("p.jsonl")] == ["reply"]
        said = steerable.error("pairs", source, "-o", "q.jsonl", "--step", "condense")
        assert "no bad answer of the step 'condense'" in said
        assert "answer (1), reply (1)" in said


def test_the_long_form_and_a_database_do_the_same(steerable: Steerable, log: Path) -> None:
    with AnswerLog("sqlite:///a.db") as database:
        database.add(read_answers(log))
    short = steerable.json("pairs", log, "-o", "one.jsonl")
    long = steerable.json("pairs", "make", "a.db", "-o", "two.jsonl")
    assert Path("one.jsonl").read_text() == Path("two.jsonl").read_text()
    assert {**short, "file": ""} == {**long, "file": ""}
    assert (short["pairs"], short["wrong_retrieval"], short["failures"]) == (1, 1, 4)


def test_the_options_of_the_filters_reach_them(steerable: Steerable, log: Path) -> None:
    assert steerable.json("pairs", log, "-o", "p.jsonl", "--judge", "none")["pairs"] == 2
    loose = steerable.error("pairs", "-o", "p.jsonl", "--grounded-at", 0, log)
    assert "dropped 2 (good grounded, bad not): the bad answer is in the passages, too" in loose


def test_corrections_are_edits_unless_they_are_wanted_as_written(
    steerable: Steerable, tmp_path: Path
) -> None:
    entry = failure("a", "The shop opens at nine, like all shops in town.", correction="Ten!")
    log = write_answers(tmp_path / "short.jsonl", [entry])
    made = steerable.json("pairs", log, "-o", "p.jsonl")
    (pair,) = Pairs.from_jsonl("p.jsonl")
    assert (pair.good, pair.bad) == ("The shop opens at ten.", "The shop opens at nine.")
    assert made["edited"] == 1
    said = steerable("pairs", log, "-o", "p.jsonl")
    assert "1 good answers are the bad one with another value" in said
    steerable("pairs", log, "-o", "p.jsonl", "--as-written")
    assert Pairs.from_jsonl("p.jsonl")[0] == pair.as_written


def test_the_model_says_what_of_a_preference_is_length(
    steerable: Steerable, log: Path, monkeypatch: pytest.MonkeyPatch, tiny_llm: Any
) -> None:
    long = failure("long", "It opens at nine. " * 3 + "Come!", correction="At ten.", question="?")
    write_answers(log, [*read_answers(log), long])
    monkeypatch.setattr(cli_pairs, "load_model", lambda *_, **__: tiny_llm)
    words = ("pairs", log, "-o", "p.jsonl", "--as-written", "--max-length-ratio", 9)
    assert "mostly length" not in steerable(*words)
    said = steerable(*words, "--measure-length")
    assert "dropped 1 (preference, not length): its preference is mostly length" in said
    assert [pair.id for pair in Pairs.from_jsonl("p.jsonl")] == ["kept"]
    assert "mostly length" not in steerable(*words, "--measure-length", "--max-length-share", 1)


def all_but_nine(question: str, passages: Sequence[str], answer: str) -> float:
    return 0.0 if "nine" in answer else 1.0


def test_the_model_proposes_and_a_review_comes_next(
    steerable: Steerable, log: Path, monkeypatch: pytest.MonkeyPatch, tiny_llm: Any
) -> None:
    monkeypatch.setattr(cli_pairs, "load_model", lambda *_, **__: tiny_llm)
    said = steerable("pairs", log, "-o", "p.jsonl", "--propose", "new.jsonl")
    assert "next: steerable pairs review p.jsonl new.jsonl" in said
    (line,) = map(json.loads, Path("new.jsonl").read_text().splitlines())
    assert line["id"] == "open"
    assert "extracted sentence" in [option["kind"] for option in line["proposals"]]
    judge = f"{__name__}:all_but_nine"
    found = steerable.json("pairs", log, "-o", "p.jsonl", "--accept-proposals", "--judge", judge)
    assert (found["pairs"], found["proposed_pairs"], found["accepted"]) == (3, 1, 1)
    assert [pair.proposed for pair in Pairs.from_jsonl("p.jsonl")] == [False, False, True]


def test_personal_data_is_scrubbed_on_request(steerable: Steerable, tmp_path: Path) -> None:
    entry = failure("a", correction="It opens at ten, ask bob@example.com.")
    log = write_answers(tmp_path / "personal.jsonl", [entry])
    found = steerable.json("pairs", log, "-o", "p.jsonl", "--scrub", "--judge", "none")
    assert found["scrubbed"] == {"EMAIL_ADDRESS": 1}
    assert "bob@" not in Path("p.jsonl").read_text()


@pytest.mark.parametrize("error", [MissingExtraError("none"), InvalidInputError("not there")])
def test_without_an_embedding_model_duplicates_are_compared_exactly(
    steerable: Steerable, log: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def missing(name: str = "") -> None:
        raise error

    monkeypatch.setattr(embedding, "load_sentence_model", missing)
    monkeypatch.setattr(cli_pairs, "_embedder", EMBEDDER)
    said = steerable("pairs", log, "-o", "p.jsonl")
    assert "duplicates were compared exactly, not by meaning" in said


def many(steerable: Steerable) -> Path:
    kinds = {"what does the order of a lamp cost": "it is free", "who wrote this": "Homer did"}
    return Pairs(
        PreferencePair(f"{question} number {n}?", good="No.", bad=f"{answer} {n}")
        for question, answer in kinds.items()
        for n in range(12)
    ).to_jsonl("pairs.jsonl")


def test_each_mode_has_its_file_and_its_command(steerable: Steerable) -> None:
    found = steerable.json("pairs", "modes", many(steerable), "-o", "modes")
    assert [mode["pairs"] for mode in found["modes"]] == [12, 12]
    for mode in found["modes"]:
        assert len(Pairs.from_jsonl(mode["file"])) == 12
        vector = Path(mode["file"]).with_suffix(".safetensors")
        assert mode["build"] == f"steerable build {mode['file']} --out {vector}"
    said = steerable("pairs", "modes", "pairs.jsonl", "-o", "more", "--model", "org/some model")
    assert "--model 'org/some model'" in said
    assert "Failure modes" in said
    assert "# Failure modes" in Path("more/modes.md").read_text()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["none.jsonl", "-o", "p.jsonl"], "no answer log none.jsonl"),
        (["log.jsonl", "-o", "p.jsonl", "--judge", "human"], "is no judge"),
        (["log.jsonl", "-o", "p.jsonl", "--reason", "odd"], "is no reason"),
        (["log.jsonl", "-o", "p.jsonl", "--report", "r.txt"], "cannot save a report on pairs"),
        (["log.jsonl", "-o", "p.jsonl", "--max-refusals", "2"], "refusal_share is 2"),
        (["log.jsonl", "-o", "p.jsonl", "--vector", "v"], "--vector only goes with"),
        (
            ["log.jsonl", "-o", "p.jsonl", "--accept-proposals", "--judge", "none"],
            "needs a judge",
        ),
        (["log.jsonl", "-o", "p.jsonl", "--reason", "wrong retrieval"], "none of the 1 bad"),
        (["log.jsonl", "-o", "p.jsonl", "--reason", "rude"], "no bad answer of the reason 'rude'"),
        (["good.jsonl", "-o", "p.jsonl"], "no bad answer"),
        (["review", "log.jsonl"], "needs a terminal"),
        (["modes", "log.jsonl", "-o", "modes"], "line 1"),
        (["modes", "pairs.jsonl", "-o", "full"], "not an empty folder"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    steerable: Steerable, log: Path, words: list[str], problem: str
) -> None:
    write_answers("good.jsonl", [failure("g", verdict="good", reason=None)])
    many(steerable)
    Path("full").mkdir()
    Path("full/x").touch()
    before = sorted(Path().rglob("*"))
    assert problem in steerable.error("pairs", *words)
    assert sorted(Path().rglob("*")) == before


def test_a_review_does_not_overwrite_what_it_reviews(
    steerable: Steerable, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = many(steerable)
    monkeypatch.setattr(cli_pairs, "_is_terminal", lambda: True)
    assert "is what this command reads" in steerable.error("pairs", "review", file, "--out", file)
