"""What the answer log asks its database: filters, the queries of pairs, and writing rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    ScalarSelect,
    Select,
    Table,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from steerable_llm.errors import InvalidInputError
from steerable_llm.logs.answers import REASONS
from steerable_llm.logs.database import answers

_SPACES = "".join(filter(str.isspace, map(chr, range(0x3001))))
VERDICTS = ("good", "bad", "none")
_FILLED = ", ".join(f'"{c.name}"' for c in answers.c if c.name != "seq")
_INSERT_JSON = text(
    f"INSERT INTO answers ({_FILLED}) SELECT {_FILLED} "
    "FROM json_populate_recordset(NULL::answers, CAST(:rows AS json)) "
    "ON CONFLICT (id) DO NOTHING"
)


def conditions(**filters: Any) -> list[ColumnElement[bool]]:
    """Return the filters of `AnswerLog.answers` as conditions for reading answers in their order.

    The numbers of the answers are found first, in an index, and only then the answers are read:
    else SQLite sorts whole answers, or reads the whole log in order rather than sort.

    Raises:
        InvalidInputError: An unknown verdict or reason, or a time without a zone.
    """
    within = answers.alias("within")
    found = matching(within, **filters)
    return [answers.c.seq.in_(select(within.c.seq).where(*found))] if found else []


def matching(
    table: FromClause,
    *,
    verdict: str | None = None,
    reason: str | Sequence[str] | None = None,
    step: str | None = None,
    model: str | None = None,
    trace_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[ColumnElement[bool]]:
    """Return the filters of `AnswerLog.answers` as conditions on a table of answers."""
    reasons = listed(reason)
    check_filters(verdict=verdict, reasons=reasons)
    for time in (since, until):
        if time is not None and time.tzinfo is None:
            raise InvalidInputError(f"the time {time} has no zone: give one, such as +00:00")
    c = table.c
    found: list[ColumnElement[bool]] = []
    if verdict is not None:
        found.append(c.verdict.is_(None) if verdict == "none" else c.verdict == verdict)
    if reasons:
        found.append(c.reason == reasons[0] if len(reasons) == 1 else c.reason.in_(reasons))
        # Only bad answers have reasons, and the index has the verdict first.
        found += [] if verdict else [c.verdict == "bad"]
    found += [
        column == value
        for column, value in ((c.step, step), (c.model, model), (c.trace_id, trace_id))
        if value is not None
    ]
    found += [] if since is None else [c.time >= since]
    found += [] if until is None else [c.time < until]
    return found


def pairing_query(**filters: Any) -> Select[Any]:
    """Return the query of bad answers, each with the first good one to the same prompt.

    One that is blank or the bad answer once more only counts where there is no other.
    """
    good = answers.alias("good")
    text, bad = _stripped(good.c.answer), _stripped(answers.c.answer)

    def first(*where: ColumnElement[bool]) -> ScalarSelect[Any]:
        same = good.c.prompt_key == answers.c.prompt_key
        query = select(good.c.answer).where(same, good.c.verdict == "good", *where)
        return query.order_by(good.c.seq).limit(1).correlate(answers).scalar_subquery()

    praised = func.coalesce(first(text != "", text != bad), first()).label("praised")
    chosen = conditions(**{**filters, "verdict": "bad"})
    return select(answers, praised).where(*chosen).order_by(answers.c.seq)


def unpaired_query(**filters: Any) -> Select[Any]:
    """Return the query of each prompt's first good answer, for prompts without bad ones."""
    if wrong := sorted({"verdict", "reason"} & set(filters)):
        raise InvalidInputError(f"good answers are not chosen by {', '.join(wrong)}: leave it out")
    other = answers.alias("other")
    same = other.c.prompt_key == answers.c.prompt_key
    bad = select(other.c.seq).where(same, other.c.verdict == "bad")
    good = (same, other.c.verdict == "good", _stripped(other.c.answer) != "")
    first = select(func.min(other.c.seq)).where(*good).scalar_subquery()
    chosen = conditions(**filters, verdict="good")
    query = select(answers).where(*chosen, ~bad.exists(), answers.c.seq == first)
    return query.order_by(answers.c.seq)


def _stripped(column: ColumnElement[str]) -> ColumnElement[str]:
    """What Python's `strip` makes of a text."""
    return func.trim(column, _SPACES)


def add_rows(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert rows, leave out those whose id is there, and return how many were new."""
    if not rows:
        return 0
    if connection.dialect.name == "postgresql":
        # One parameter for all rows: thousands of them, one for each value, take ten times as long.
        content = json.dumps(rows, default=datetime.isoformat)
        return connection.execute(_INSERT_JSON, {"rows": content}).rowcount
    insert = sqlite.insert(answers).on_conflict_do_nothing(index_elements=["id"])
    return connection.execute(insert, list(rows)).rowcount


def put_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; one whose key is there takes the place of the other."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table)
    newer = {c.name: statement.excluded[c.name] for c in table.c if not c.primary_key}
    keys = list(table.primary_key)
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=newer), list(rows))


def review_row(connection: Connection, answer_id: str, values: Mapping[str, Any]) -> bool:
    """Change the judgement of one answer; return whether there is such an answer."""
    statement = update(answers).where(answers.c.id == answer_id).values(**values)
    return connection.execute(statement).rowcount > 0


def listed(reason: str | Sequence[str] | None) -> list[str]:
    """Return one reason or several as a list."""
    if reason is None:
        return []
    return [reason] if isinstance(reason, str) else list(reason)


def check_filters(verdict: str | None, reasons: Sequence[str]) -> None:
    """Make sure that a verdict and reasons exist.

    Raises:
        InvalidInputError: One does not.
    """
    if verdict is not None and verdict not in VERDICTS:
        raise InvalidInputError(f"{verdict!r} is no verdict: one of {', '.join(VERDICTS)}")
    for reason in reasons:
        if reason not in REASONS:
            raise InvalidInputError(f"{reason!r} is no reason: one of {', '.join(REASONS)}")
