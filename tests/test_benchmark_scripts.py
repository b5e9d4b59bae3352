"""The scripts in benchmarks/ run to their end; what they measure is not asserted here."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gguf_models import write_gguf

ROOT = Path(__file__).resolve().parent.parent


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
    ],
    ids=["build", "decode", "log"],
)
def test_a_script_measures_every_row(words: list[str], row: str, tmp_path: Path) -> None:
    assert row in run(words, tmp_path)


def test_loading_is_measured_beside_transformers(tiny_llm: Any, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llm.model, tiny_llm.tokenizer)
    said = run(["load.py", "--file", str(file), "--repeats", "1"], tmp_path)
    assert "from_pretrained" in said
    assert "transformers" in said


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / words[0]), *words[1:]],
        capture_output=True, text=True, cwd=folder, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
