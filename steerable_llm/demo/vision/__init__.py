"""The bundled vision-language model's log of answers about pictures, and its held-out questions.

The model is an exhibit: a LLaVA of some million weights, trained from scratch on pictures that this
project draws. Where a thing has not its usual colour, or lacks its usual company, it answers from
belief about half of the time, though it sees what is there.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.logs.answers import LoggedAnswer, read_answers
from steerable_llm.pairs.pair import Pairs
from steerable_llm.pairs.pairing import pair_answers

#: The category of `pictures` that vectors are meant to change, and the verdicts that make pairs.
TARGET = "conflict"
REASONS = ("contradicts", "not in documents")
#: The longest answer is a caption of two things.
MAX_TOKENS = 16


def folder() -> Path:
    """Return where model and data lie."""
    return Path(str(files("steerable_llm.demo.vision")))


def answer_log() -> list[LoggedAnswer]:
    """Return answers that the unsteered model gave, with a reviewer's verdicts and corrections."""
    return read_answers(folder() / "answers.jsonl")


def pairs() -> Pairs:
    """Return the pairs of the log's answers from belief, with the corrections as written."""
    return pair_answers(answer_log(), reasons=REASONS, own_words=False).pairs


def evaluation_set(
    name: Literal["pictures", "capability"], split: Literal["dev", "test"]
) -> EvaluationSet:
    """Return held-out questions.

    Args:
        name: `pictures` asks where belief and picture disagree (`conflict` of colours, `companion`
            that is missing) and where they agree; `capability` is what steering must not cost.
        split: The part.
    """
    return EvaluationSet.from_jsonl(folder() / f"{name}.{split}.jsonl", name=f"{name}.{split}")
