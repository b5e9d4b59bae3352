"""The verbs of the answer log: each is one call, and says its result as text or as JSON."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from command_line import Steerable, steerable
from typer.testing import CliRunner

from steerable_llm.cli import command as cli
from steerable_llm.logs.answer_log import AnswerLog

__all__ = ["steerable"]
PAIR = {"prompt": "When?", "chosen": "At ten.", "rejected": "At nine."}


def run(*words: object) -> str:
    result = CliRunner().invoke(cli.app, ["log", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_files_are_imported_shown_counted_and_exported(tmp_path: Path) -> None:
    log, source = tmp_path / "a.db", tmp_path / "pairs.jsonl"
    source.write_text(json.dumps(PAIR) + "\nnonsense\n")
    said = run("import", source, "--from", "trl", "--log", log, "--reason", "contradicts")
    assert "1 answers added" in said
    assert "skipped 1: it is not JSON (first at pairs.jsonl:2)" in said
    shown = json.loads(run("show", "--log", log, "--reason", "contradicts", "--json"))
    (answer,) = shown["answers"]
    assert (answer["answer"], answer["correction"]) == ("At nine.", "At ten.")
    assert "bad (contradicts)  When? -> At nine." in run("show", "--log", log)
    assert "correction    At ten." in run("show", answer["id"], "--log", log)
    stats = json.loads(run("stats", "--log", log, "--json"))
    assert stats["reasons"] == {"contradicts": 1}
    assert "1  contradicts" in run("stats", "--log", log)
    out = tmp_path / "out.jsonl"
    found = json.loads(run("export", out, "--to", "openai", "--log", log, "--json"))
    assert found == {"file": str(out), "lines": 1}
    (line,) = map(json.loads, out.read_text().splitlines())
    assert line["preferred_output"] == [{"role": "assistant", "content": "At ten."}]


def test_importing_again_is_told(tmp_path: Path) -> None:
    log, source = tmp_path / "a.db", tmp_path / "pairs.jsonl"
    source.write_text(json.dumps(PAIR) + "\n")
    first = json.loads(run("import", source, "--from", "trl", "--log", log, "--json"))
    second = json.loads(run("import", source, "--from", "trl", "--log", log, "--json"))
    assert (first["added"], second["added"], second["lines_before"]) == (1, 0, 1)


def test_rules_for_a_trace_that_was_read_before_need_again_and_are_told_so(tmp_path: Path) -> None:
    log, source = tmp_path / "a.db", tmp_path / "runs.jsonl"
    run_ = {"id": "a", "trace_id": "t", "run_type": "llm", "inputs": {"prompt": "When?"}}
    run_ |= {"outputs": {"output": "At nine."}}
    rated = {"run_id": "a", "trace_id": "t", "key": "helpfulness", "score": 0.0}
    source.write_text(f"{json.dumps(run_)}\n{json.dumps(rated)}\n")
    words = ["import", source, "--from", "langsmith", "--log", log]
    assert "give its scale" in run(*words)
    words += ["--scale", "helpfulness=0:1"]
    assert "all lines were read before" in run(*words)
    said = run(*words, "--again")
    assert "1 judged" in said
    assert "read before" not in said


def test_every_line_that_was_not_taken_can_be_kept(tmp_path: Path) -> None:
    source, left = tmp_path / "pairs.jsonl", tmp_path / "left.jsonl"
    source.write_text("nonsense\n" * 150)
    log = tmp_path / "a.db"
    words = ["log", "import", source, "--from", "trl", "--log", log, "--skipped", left]
    CliRunner().invoke(cli.app, [str(word) for word in words])
    lines = [json.loads(line) for line in left.read_text().splitlines()]
    assert len(lines) == 150
    assert lines[-1] == {"place": "pairs.jsonl:150", "why": "it is not JSON"}


def test_each_reason_is_told_with_its_first_line_however_many_came_before(tmp_path: Path) -> None:
    source = tmp_path / "pairs.jsonl"
    source.write_text("nonsense\n" * 150 + "[]\n")
    source.write_text(source.read_text() + json.dumps(PAIR) + "\n")
    said = run("import", source, "--from", "trl", "--log", tmp_path / "a.db")
    assert "skipped 150: it is not JSON (first at pairs.jsonl:1)" in said
    assert "skipped 1: it is not a JSON object (first at pairs.jsonl:151)" in said


def test_a_log_moves_to_another_database_unchanged(tmp_path: Path) -> None:
    source, whole = tmp_path / "pairs.jsonl", tmp_path / "whole.jsonl"
    source.write_text(json.dumps(PAIR) + "\n" + json.dumps({**PAIR, "prompt": "Who?"}) + "\n")
    first, second = tmp_path / "a.db", f"sqlite:///{tmp_path / 'b.db'}"
    run("import", source, "--from", "trl", "--log", first)
    run("export", whole, "--to", "answers", "--log", first)
    run("import", whole, "--from", "answers", "--log", second)
    with AnswerLog(f"sqlite:///{first}") as a, AnswerLog(second) as b:
        assert list(a.answers()) == list(b.answers())


def test_pairs_are_made_from_a_log_too(tmp_path: Path) -> None:
    source, out = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps(PAIR) + "\n")
    run("import", source, "--from", "trl", "--log", tmp_path / "a.db")
    words = ["pairs", str(tmp_path / "a.db"), "--out", str(out), "--json"]
    result = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert json.loads(result.stdout)["by_source"] == {"preference pair": 1}


def test_good_answers_alone_make_a_vector_from_the_log_on(tmp_path: Path) -> None:
    log, source, out = (tmp_path / name for name in ("a.db", "good.jsonl", "pairs.jsonl"))
    cities = ("Lyon", "Rome", "Paris")
    rows = [
        {"prompt": f"Documents:\n[1] The shop in {city} opens at ten.\n\nQuestion: When?",
         "completion": "At ten.", "label": True}
        for city in cities
    ]  # fmt: skip
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("import", source, "--from", "trl", "--log", log)
    found = json.loads(run("export", out, "--to", "unpaired", "--log", log, "--json"))
    assert found["lines"] == 3
    vector = tmp_path / "v.safetensors"
    words = ["build", str(out), "--set", "objective=likelihood", "--out", str(vector), "--json"]
    result = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["provenance"]["pairs"], told["provenance"]["config"]["objective"]) == (
        3,
        "likelihood",
    )
    assert vector.is_file()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["show"], "no answer log"),
        (["show", "--log", "empty.jsonl"], "no answer log empty.jsonl"),
        (["import", "x.jsonl", "--from", "csv"], "'csv' cannot be imported: one of answers"),
        (["export", "out", "--to", "csv", "--log", "a.db"], "one of answers, openai, trl, trl-unp"),
        (["import", "x.jsonl", "--from", "trl", "--reason", "odd"], "no reason"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.jsonl").write_text("{}\n")
    Path("empty.jsonl").touch()
    before = sorted(Path().iterdir())
    monkeypatch.setattr("sys.argv", ["steerable", "log", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert problem in error
    assert error.count("\n") == 1
    # Nothing is made or filled.
    assert sorted(Path().iterdir()) == before
    assert Path("empty.jsonl").stat().st_size == 0


NOTHING = "nothing was imported from"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", NOTHING),
        ("nonsense\n{}\n", NOTHING),
        ('{"data": [], "meta": {}}', NOTHING),
        (json.dumps([{"prompt": "When?"}]), NOTHING),
    ],
)
def test_an_import_of_nothing_is_no_success(
    steerable: Steerable, content: str, problem: str
) -> None:
    Path("x.json").write_text(content)
    steerable("log", "import", "x.json", "--from", "trl", code=2)
    assert problem in steerable.stderr
    assert steerable.stderr.count("\n") == 1


def test_an_import_of_nothing_leaves_no_log(steerable: Steerable) -> None:
    Path("x.jsonl").write_text('{"a": 1}\n')
    Path("table.parquet").write_bytes(b"PAR1 and so on")
    steerable("log", "import", "x.jsonl", "--from", "answers", code=2)
    steerable("log", "import", "x.jsonl", "table.parquet", "--from", "trl", code=2)
    steerable("log", "import", "x.jsonl", "none.jsonl", "--from", "trl", code=2)
    assert not list(Path().glob("answers.db*"))


def test_a_file_without_news_is_a_success_and_one_of_bad_news_is_none(
    steerable: Steerable,
) -> None:
    source = Path("x.jsonl")
    source.write_text(json.dumps(PAIR) + "\n")
    for _ in range(2):
        steerable("log", "import", source, "--from", "trl")
    source.write_text(source.read_text() + '{"prompt": "cut')
    assert "the file ends within it" in steerable("log", "import", source, "--from", "trl")
    source.write_text(json.dumps(PAIR) + "\n" + "nonsense\n")
    steerable("log", "import", source, "--from", "trl", code=2)


def test_ratings_are_imported_with_their_scale(steerable: Steerable) -> None:
    row = {"user_input": "When?", "response": "At nine.", "rating": 1, "latency_s": 0.2}
    Path("x.jsonl").write_text(json.dumps(row) + "\n")
    command = ["log", "import", "x.jsonl", "--from", "ragas", "--again"]
    said = steerable(*command, "--scale", "rating=1:5")
    assert "left aside 1: 'latency_s' is no metric that is known here" in said
    assert json.loads(steerable("log", "stats", "--json"))["verdicts"] == {"bad": 1}
    for wrong in ("rating", "rating=1", "=1:5", "rating=a:b", "rating=5:1"):
        steerable.error(*command, "--scale", wrong)


def test_no_command_of_the_log_writes_over_what_it_reads_or_another_kind(
    steerable: Steerable,
) -> None:
    source = Path("x.jsonl")
    source.write_text(json.dumps(PAIR) + "\n")
    steerable("log", "import", source, "--from", "trl", "--log", "a.db")
    with sqlite3.connect("other.db") as other:
        other.execute("CREATE TABLE theirs (id)")
    Path("notes.md").write_text("# My notes\n\nMade with steerable-llm.\n")
    Path("package.json").write_text('{\n  "name": "theirs"\n}\n')
    Path("site.html").write_text("<!doctype html><p>Mine.</p>")
    before = {path: path.read_bytes() for path in Path().glob("*.*") if path.suffix != ".db-shm"}
    imported = ["log", "import", source, "--from", "trl"]
    for words in (
        [*imported, "--log", "a.db", "--skipped", "a.db"],
        [*imported, "--log", "a.db", "--skipped", source],
        [*imported, "--log", source],
        [*imported, "--log", "other.db"],
        ["log", "export", "a.db", "--to", "trl", "--log", "a.db"],
        ["log", "export", "other.db", "--to", "trl", "--log", "a.db"],
        ["log", "export", source, "--to", "answers", "--log", "a.db"],
        ["pairs", "a.db", "--out", "a.db"],
        ["pairs", "a.db", "--out", source],
        ["pairs", "a.db", "--out", "p.jsonl", "--propose", "p.jsonl"],
        ["pairs", "a.db", "--out", "p.jsonl", "--report", "a.db"],
        ["build", source, "--out", source],
        ["build", source, "--out", "a.db"],
        ["pairs", "a.db", "--out", "p.jsonl", "--report", "notes.md"],
        ["pairs", "a.db", "--out", "p.jsonl", "--report", "package.json"],
        ["pairs", "a.db", "--out", "p.jsonl", "--report", "site.html"],
    ):
        steerable.error(*words)
    assert {path: path.read_bytes() for path in before} == before


def test_what_a_log_says_does_not_steer_the_terminal(steerable: Steerable) -> None:
    evil = "At \x1b]0;title\x07\x9b31mnine\u202e."
    row = {"id": "\x1b[2J", "question": evil, "answer": evil, "step": f"{evil}" * 50}
    row["messages"] = [{"role": "user", "content": evil}]
    bad = {"id": "b", "question": "q", "answer": "x", "messages": [{"role": evil, "content": ""}]}
    Path("x.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(bad) + "\n")
    said = steerable("log", "import", "x.jsonl", "--from", "answers")
    for words in (
        ["show"],
        ["stats"],
        ["show", "--json"],
        ["stats", "--json"],
        ["show", row["id"]],
    ):
        said += steerable("log", *words)
    said += steerable.error("log", "show", "\x1b[2Jx")
    assert not set(said) & set("\x1b\x07\x9b\u202e")
    assert json.loads(steerable("log", "show", "--json"))["answers"][0]["answer"] == evil


def test_an_interrupted_command_is_one_line_and_130(
    steerable: Steerable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    Path("x.jsonl").write_text(json.dumps(PAIR) + "\n")
    steerable("log", "import", "x.jsonl", "--from", "trl")
    monkeypatch.setattr("steerable_llm.pairs.curate.run_filters", interrupted)
    assert steerable("pairs", "answers.db", "--out", "p.jsonl", code=130) == ""
    assert steerable.stderr.count("\n") == 1
    assert not Path("p.jsonl").exists()


@pytest.mark.parametrize(
    "words",
    [["log", "show", "--bogus"], ["log", "show", "--limit", "x"], ["log", "nothing"], ["nothing"],
     ["log", "import"], ["log", "import", "none.jsonl", "--from", "trl"], ["pairs", "none.db"],
     ["log", "show", "--since", "soon"], ["pairs", "make"]],
)  # fmt: skip
def test_every_wrong_argument_is_one_line_and_2(steerable: Steerable, words: list[str]) -> None:
    steerable.error(*words)
