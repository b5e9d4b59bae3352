"""One answer as a RAG application logged it, and the JSONL file that holds many."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, AwareDatetime, BaseModel, FiniteFloat

from steerable_llm.chat.context import question_text
from steerable_llm.chat.message import Message, read_beside, written_beside
from steerable_llm.errors import EmptyLogError
from steerable_llm.files import read_json_lines, write_json_lines

Reason = Literal[
    "not in documents",
    "contradicts",
    "missed the answer",
    "should have refused",
    "rude",
    "untrue",
    "wrong retrieval",
]
REASONS: tuple[str, ...] = get_args(Reason)
#: Names under which chains take their question.
QUESTION_KEYS = ("question", "query", "input", "user_input")


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC it lies outside the years 1 to 9999") from None


#: A time with a zone, kept in UTC.
Time = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class Passage(BaseModel, frozen=True, extra="forbid"):
    """A retrieved passage that the answer was to rest on.

    Attributes:
        id: The document it comes from; splits never let one cross.
        text: What the model was shown.
    """

    id: str
    text: str


class LoggedAnswer(BaseModel, frozen=True, extra="forbid"):
    """One logged answer.

    Attributes:
        id: Names the answer; unique within a log.
        question: What the user asked.
        passages: What retrieval gave.
        messages: The prompt exactly as the application sent it, before the chat template.
        answer: What the model said, without its reasoning.
        verdict: A reviewer's judgement; None while nobody has looked.
        reason: What is wrong with a bad answer.
        correction: What should have been said, in the reviewer's words.
        comment: Anything else the reviewer wrote.
        step: The chain step that asked.
        model: The model that answered.
        reference: The answer that a test set expects; nobody wrote it for this answer.
        revision: The revision of the model.
        steering: What was applied: one entry for each vector, as the answer reported it, and for a
            contrast and an instruction that came beside the messages.
        usage: Tokens, such as ``{"prompt_tokens": 80, "completion_tokens": 7}``.
        score: A metric's value for the answer, on the metric's own scale.
        label_source: Who or what judged: "human", a metric's name, or "preference pair" when the
            correction and the answer came as a pair.
        reviewer: The person who judged.
        time: When the answer was given.
        reviewed: When it was judged.
        trace_id: The run of the whole chain that the answer is part of.
        reasoning: What the model thought before it answered.
        chat_template_kwargs: What the chat template was given beside the messages.
    """

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
    reference: str | None = None
    revision: str | None = None
    steering: tuple[dict[str, Any], ...] = ()
    usage: dict[str, int] = {}
    score: FiniteFloat | None = None
    label_source: str | None = None
    reviewer: str | None = None
    time: Time | None = None
    reviewed: Time | None = None
    trace_id: str | None = None
    reasoning: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def prompt_key(self) -> str:
        """What two answers share if they were asked the same over the same passages."""
        prompt: list[Any] = [
            [message.key for message in self.messages],
            [[passage.id, passage.text] for passage in self.passages],
        ]
        if self.chat_template_kwargs:
            prompt.append(json.dumps(self.chat_template_kwargs, sort_keys=True))
        return hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:32]


def asked(question: str | None, messages: Sequence[Message]) -> str:
    """Return the question of an answer: the chain's own, or else the last user message's.

    What was retrieved is not part of it, unless nothing else is there.
    """
    users = [message.content for message in messages if message.role == "user"]
    return question or question_text(messages) or (users[-1] if users else "")


def stream_answers(path: str | os.PathLike[str]) -> Iterator[LoggedAnswer]:
    """Yield the answers of such a file one at a time, for one that does not fit into memory.

    Raises:
        InvalidInputError: There is no such file, or a line is not a logged answer.
    """
    has = "a logged answer has id, question, messages and answer"
    parse = read_beside(path, LoggedAnswer.model_validate)
    return read_json_lines(path, parse, "answer log", has)


def read_answers(path: str | os.PathLike[str]) -> list[LoggedAnswer]:
    """Read a log of answers, one JSON object per line; blank lines are skipped.

    Raises:
        InvalidInputError: There is no such file, or a line is not a logged answer.
        EmptyLogError: The file holds no answers.
    """
    answers = list(stream_answers(path))
    if not answers:
        raise EmptyLogError(f"the answer log {path} is empty: log some answers first")
    return answers


def write_answers(path: str | os.PathLike[str], answers: Iterable[LoggedAnswer]) -> Path:
    """Write answers one per line; the file appears whole or not at all.

    The answers are written as they come, so that a long log need not fit into memory.
    """
    write_json_lines(path, written_beside(path, answers, mode="json", exclude_defaults=True))
    return Path(path)
