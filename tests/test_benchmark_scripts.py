"""The scripts in benchmarks/ run to their end; what they measure is not asserted here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "row"),
    [
        (["build.py", "--model", "demo", "--pairs", "2", "--repeats", "1"], "captum"),
        (["log.py", "--rows", "300"], "read all"),
    ],
    ids=["build", "log"],
)
def test_a_script_measures_every_row(words: list[str], row: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / words[0]), *words[1:]],
        capture_output=True, text=True, cwd=tmp_path, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert row in done.stdout
