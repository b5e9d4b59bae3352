"""The scripts in benchmarks/ run to their end; what they measure is not asserted here."""

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_models import write_gguf

ROOT = Path(__file__).resolve().parent.parent
Run = Callable[..., str]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Run]:
    """Run a script as `python benchmarks/SCRIPT WORDS` would, in this process."""
    monkeypatch.chdir(tmp_path)

    def ran(script: str, *words: str) -> str:
        path = str(ROOT / "benchmarks" / script)
        monkeypatch.setattr(sys, "argv", [path, *words])
        runpy.run_path(path, run_name="__main__")
        return capsys.readouterr().out

    threads = torch.get_num_threads()
    yield ran
    torch.set_num_threads(threads)  # which a process of its own would not have to


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "row"),
    [
        (["build.py", "--model", "exhibit", "--pairs", "2", "--repeats", "1"], "captum"),
        (
            ["decode.py", "--model", "exhibit", "--rounds", "1", "--tokens", "6"],
            "bare loop steered",
        ),
        (["log.py", "--rows", "300"], "read all"),
        (
            ["serving.py", "--rounds", "1", "--tokens", "2", "--only", "one by one", "16 together"],
            "beside 16 answers",
        ),
    ],
    ids=["build", "decode", "log", "serving"],
)
def test_a_script_measures_every_row(run: Run, words: list[str], row: str) -> None:
    assert row in run(*words)


@pytest.mark.slow
@pytest.mark.allow_hosts(["127.0.0.1"])
def test_a_soak_reads_a_real_server_and_counts_what_it_answered(run: Run) -> None:
    said = run("soak.py", "--seconds", "2", "--clients", "2", "--prefix-cache-mb", "0")
    assert "--prefix-cache-mb 0" in said
    assert "2 clients: " in said


def test_loading_is_measured_beside_transformers(run: Run, tiny_llm: Any, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llm.model, tiny_llm.tokenizer)
    said = run("load.py", "--file", str(file), "--repeats", "1")
    assert "from_pretrained" in said
    assert "transformers" in said
