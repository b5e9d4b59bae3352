"""Ctrl-C in the middle of what takes long: one line, exit code 130, and nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Steerable, steerable

from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.pairs.pair import Pairs, PreferencePair

__all__ = ["steerable"]

pty = pytest.importorskip("pty")

MANY = 200


def _set(place: str) -> EvaluationSet:
    items = [
        EvaluationItem(
            id=str(number),
            category="conflict",
            messages=f"The {place} in street {number} opens at nine. When does it open?",
            good="At nine.",
            bad="At thirty.",
            reject=("thirty",),
        )
        for number in range(MANY)
    ]
    return EvaluationSet(place, items)


#: The command, which Ctrl-C reaches even where the tests run in the background of a shell.
HEARS_CTRL_C = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("steerable_llm", run_name="__main__")
"""


def _interrupted(words: list[str]) -> tuple[int, str]:
    """Run a command in a terminal of its own, press Ctrl-C once its progress is seen."""
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-c", HEARS_CTRL_C, *words], stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    said, pressed = b"", False
    try:
        while chunk := os.read(ours, 4096):
            said += chunk
            if not pressed and "━".encode() in said:
                running.send_signal(signal.SIGINT)
                pressed = True
    except OSError:  # how Linux tells that the other end is closed
        pass
    finally:
        os.close(ours)
    return running.wait(timeout=60), said.decode(errors="replace")


@pytest.mark.parametrize(
    "words",
    [
        ["build", "p.jsonl", "--out", "new.safetensors", "--heatmap", "new.html"],
        ["calibrate", "v.safetensors", "--dev", "dev.jsonl"],
        ["evaluate", "v.safetensors", "test.jsonl", "--strength", "0.1", "--report", "new.md",
         "--report", "new.json"],
        ["compare", "p.jsonl", "--dev", "dev.jsonl", "--test", "test.jsonl", "--report",
         "new.html", "--method", "caa"],
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_ctrl_c_leaves_one_line_and_no_half_written_file(
    steerable: Steerable, words: list[str]
) -> None:
    Pairs(
        PreferencePair(
            messages=f"The shop in Lyon opens at {number}. When does the shop open?",
            good=f"At {number}.",
            bad="As I recall, at thirty.",
        )
        for number in range(MANY)
    ).to_jsonl("p.jsonl")
    Pairs.from_jsonl("p.jsonl").sample(8, seed=0).to_jsonl("few.jsonl")
    _set("bar").to_jsonl("dev.jsonl")
    _set("inn").to_jsonl("test.jsonl")
    steerable("build", "few.jsonl", "--method", "caa", "--out", "v.safetensors")
    before = {file: file.read_bytes() for file in Path().iterdir()}
    code, said = _interrupted(words)
    assert code == 130, said
    assert "Traceback" not in said
    assert said.endswith("steerable: interrupted\r\n")
    assert said.count("steerable:") == 1
    assert {file: file.read_bytes() for file in Path().iterdir()} == before
