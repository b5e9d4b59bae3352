"""One answer as a RAG application logged it, and the JSONL file that holds many."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from steerable_llm.errors import EmptyLogError, InvalidInputError
from steerable_llm.files import write_whole
from steerable_llm.pairs import Message

Reason = Literal[
    "not in documents",
    "contradicts",
    "missed the answer",
    "should have refused",
    "rude",
    "untrue",
    "wrong retrieval",
]


class Passage(BaseModel):
    """A retrieved passage that the answer was to rest on.

    Attributes:
        id: The document it comes from; splits never let one cross.
        text: What the model was shown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    text: str


class LoggedAnswer(BaseModel):
    """One logged answer.

    Attributes:
        id: Names the answer; unique within a log.
        question: What the user asked.
        passages: What retrieval gave.
        messages: The prompt exactly as the model got it, before the chat template.
        answer: What the model said.
        verdict: A reviewer's judgement; None while nobody has looked.
        reason: What is wrong with a bad answer.
        correction: What should have been said, in the reviewer's words.
        comment: Anything else the reviewer wrote.
        step: The chain step that asked.
        model: The model that answered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    question: str
    passages: tuple[Passage, ...] = ()
    messages: tuple[Message, ...]
    answer: str
    verdict: Literal["good", "bad"] | None = None
    reason: Reason | None = None
    correction: str | None = None
    comment: str | None = None
    step: str | None = None
    model: str | None = None


def read_answers(path: str | os.PathLike[str]) -> list[LoggedAnswer]:
    """Read a log of answers, one JSON object per line; blank lines are skipped.

    Raises:
        InvalidInputError: There is no such file, or a line is not a logged answer.
        EmptyLogError: The file holds no answers.
    """
    source = Path(path)
    if not source.is_file():
        raise InvalidInputError(f"there is no answer log {source}: give the path of a JSONL file")
    answers = []
    for number, line in enumerate(source.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            answers.append(LoggedAnswer.model_validate_json(line))
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"])) or "the line"
            raise InvalidInputError(
                f"{source}, line {number}: {where}: {problem['msg']}; "
                "a logged answer has id, question, messages and answer"
            ) from None
    if not answers:
        raise EmptyLogError(f"the answer log {source} is empty: log some answers first")
    return answers


def write_answers(path: str | os.PathLike[str], answers: Sequence[LoggedAnswer]) -> Path:
    """Write answers one per line; the file appears whole or not at all."""
    return write_whole(path, "".join(_lines(answers)))


def _lines(answers: Iterable[LoggedAnswer]) -> Iterable[str]:
    for answer in answers:
        yield json.dumps(answer.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        yield "\n"
