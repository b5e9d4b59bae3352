"""The verbs of the answer log: each is one call, and says its result as text or as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steerable_llm.cli import command as cli
from steerable_llm.logs.answer_log import AnswerLog

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


def test_every_line_that_was_not_taken_can_be_kept(tmp_path: Path) -> None:
    source, left = tmp_path / "pairs.jsonl", tmp_path / "left.jsonl"
    source.write_text("nonsense\n" * 150)
    log = tmp_path / "a.db"
    run("import", source, "--from", "trl", "--log", log, "--skipped", left)
    lines = [json.loads(line) for line in left.read_text().splitlines()]
    assert len(lines) == 150
    assert lines[-1] == {"place": "pairs.jsonl:150", "why": "it is not JSON"}


def test_each_reason_is_told_with_its_first_line_however_many_came_before(tmp_path: Path) -> None:
    source = tmp_path / "pairs.jsonl"
    source.write_text("nonsense\n" * 150 + "[]\n")
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
