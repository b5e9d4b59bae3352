"""What the tour of SmolLM2 is about: a handbook, its logged answers, and held-out questions.

The answers are SmolLM2's own, given without steering. `python -m experiments.demo` takes them and
the questions out of the data of the experiments; the handbook is written by hand.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.logs.answers import LoggedAnswer, read_answers


def folder() -> Path:
    """Return where the files lie."""
    return Path(str(files("steerable_llm.demo.smollm2")))


def handbook() -> dict[str, str]:
    """Return the pages of the handbook by their headings."""
    text = (folder() / "handbook.md").read_text(encoding="utf-8")
    pages = {}
    for page in text.split("\n## ")[1:]:
        name, _, body = page.partition("\n")
        pages[name] = " ".join(body.split())
    return pages


def answer_log() -> list[LoggedAnswer]:
    """Return answers that the unsteered model gave, with verdicts and brief corrections."""
    return read_answers(folder() / "answers.jsonl")


def evaluation_set(split: Literal["dev", "test"]) -> EvaluationSet:
    """Return held-out questions over documents: `conflict` with memory, and `gold`, in accord."""
    return EvaluationSet.from_jsonl(
        folder() / f"documents.{split}.jsonl", name=f"documents.{split}"
    )


def capability() -> EvaluationSet:
    """Return questions without any document, which a step for documents does not touch."""
    return EvaluationSet.from_jsonl(folder() / "capability.test.jsonl", name="capability.test")
