"""Ctrl-C in the middle of what takes long: one line, exit code 130, and nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Steerable, steerable
from forked import interrupted

from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.pairs.pair import Pairs, PreferencePair

__all__ = ["steerable"]

pytest.importorskip("pty")

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
    code, said = interrupted(words, "━".encode(), patience=60)
    assert code == 130, said
    assert "Traceback" not in said
    assert said.endswith("steerable: interrupted\r\n")
    assert said.count("steerable:") == 1
    assert {file: file.read_bytes() for file in Path().iterdir()} == before
