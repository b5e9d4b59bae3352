"""The tables of the answer log, and how an answer becomes a row and a row an answer."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    RowMapping,
    Table,
    Text,
    TypeDecorator,
)

from steerable_llm.errors import InvalidInputError
from steerable_llm.logs.answers import LoggedAnswer

#: The migrations, oldest first; a test holds them against the migrations themselves.
VERSIONS = ("0001",)
#: Why an answer is refused, wherever in it that is.
UNSTORABLE = (
    "holds a zero character, half of a surrogate pair or a number that is not finite, "
    "which no database stores"
)


class UtcTime(TypeDecorator[datetime]):
    """A time in UTC; SQLite has no zones, so none is stored."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Drop the zone, once the time is in UTC."""
        del dialect
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Say again that it is UTC."""
        del dialect
        return None if value is None else value.replace(tzinfo=UTC)


metadata = MetaData()
# SQLite counts a row up by itself only where the key is a plain INTEGER.
_Counter = BigInteger().with_variant(Integer, "sqlite")

answers = Table(
    "answers",
    metadata,
    Column("seq", _Counter, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("question", Text, nullable=False),
    Column("passages", JSON, nullable=False),
    Column("messages", JSON, nullable=False),
    Column("answer", Text, nullable=False),
    Column("verdict", Text),
    Column("reason", Text),
    Column("correction", Text),
    Column("comment", Text),
    Column("step", Text),
    Column("model", Text),
    Column("reference", Text),
    Column("revision", Text),
    Column("steering", JSON, nullable=False),
    Column("usage", JSON, nullable=False),
    Column("score", Float),
    Column("label_source", Text),
    Column("reviewer", Text),
    Column("time", UtcTime),
    Column("reviewed", UtcTime),
    Column("trace_id", Text),
    Column("prompt_key", Text, nullable=False),
    Index("answers_by_verdict", "verdict", "reason", "seq"),
    Index("answers_by_prompt", "prompt_key", "verdict", "seq"),
    Index("answers_by_step", "step", "verdict", "seq"),
    Index("answers_by_model", "model", "verdict", "seq"),
    Index("answers_by_time", "time"),
    Index("answers_by_trace", "trace_id", "seq"),
)

# How far each file was read, so that an import that was killed goes on where it was.
imports = Table(
    "imports",
    metadata,
    Column("path", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("settings", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("lines", BigInteger, nullable=False),
)

# Lines of a trace that wait for the other lines of their trace; empty between imports.
spans = Table(
    "spans",
    metadata,
    Column("source", Text, primary_key=True),
    Column("span_id", Text, primary_key=True),
    Column("trace_id", Text),
    Column("target", Text),
    Column("kind", Text, nullable=False),
    Column("time", Text),
    Column("place", Text, nullable=False),
    Column("content", JSON, nullable=False),
    Index("spans_by_trace", "source", "trace_id"),
)

_COLUMNS = [column for column in answers.c if column.name not in ("seq", "prompt_key")]


def to_row(answer: LoggedAnswer) -> dict[str, Any]:
    """Return an answer as a row of the table ``answers``.

    Raises:
        InvalidInputError: A text, also one of a passage or a message, holds what PostgreSQL cannot
            store (a zero character, or half of a surrogate pair), or what was applied is no JSON;
            SQLite refuses it as well, so that a log can move.
    """
    row: dict[str, Any] = {column.name: getattr(answer, column.name) for column in _COLUMNS}
    # By hand: pydantic's dump of everything takes twice as long, and imports are long.
    row["passages"] = [{"id": p.id, "text": p.text} for p in answer.passages]
    row["messages"] = [{"role": m.role, "content": m.content} for m in answer.messages]
    row["steering"] = list(answer.steering)
    for name, value in row.items():
        if not isinstance(value, datetime) and not storable(value):
            raise InvalidInputError(
                f"the answer {answer.id!r} {UNSTORABLE}: remove it from its {name}"
            )
    row["prompt_key"] = prompt_key(answer)
    return row


def from_row(row: RowMapping | Mapping[str, Any]) -> LoggedAnswer:
    """Return a row of the table ``answers`` as an answer."""
    return LoggedAnswer.model_validate({c.name: row[c.name] for c in _COLUMNS})


def prompt_key(answer: LoggedAnswer) -> str:
    """Return what two answers share if they were asked the same over the same passages."""
    prompt = [
        [[message.role, message.content] for message in answer.messages],
        [[passage.id, passage.text] for passage in answer.passages],
    ]
    return hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:32]


def storable(value: object) -> bool:
    """Return whether every database stores a value of JSON.

    No text in it has a zero character or half of a surrogate pair, and every number is finite.
    """
    if isinstance(value, str):
        try:
            return b"\x00" not in value.encode()
        except UnicodeEncodeError:
            return False
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and storable(name) for name in value) and all(
            map(storable, value.values())
        )
    if isinstance(value, list | tuple):
        return all(map(storable, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, int)
