"""The answer log: a database of what a RAG application answered and what people said of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from types import TracebackType
from typing import Any, Self

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    Select,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects import sqlite

from steerable_llm.errors import EmptyLogError, InvalidInputError, PairError
from steerable_llm.logs.answers import REASONS, LoggedAnswer
from steerable_llm.logs.database import database_errors, open_database, writing
from steerable_llm.logs.pairing import Draft, PairingReport, draft_pairs, pair_candidates
from steerable_llm.logs.schema import answers, from_row, to_row
from steerable_llm.pairs import Pairs, PreferencePair

#: Answers that are written, or read ahead, at once.
BATCH = 500
VERDICTS = ("good", "bad", "none")
_FILLED = ", ".join(f'"{c.name}"' for c in answers.c if c.name != "seq")
_INSERT_JSON = text(
    f"INSERT INTO answers ({_FILLED}) SELECT {_FILLED} "
    "FROM json_populate_recordset(NULL::answers, CAST(:rows AS json)) "
    "ON CONFLICT (id) DO NOTHING"
)
_REVIEW = ("verdict", "reason", "correction", "comment", "score", "label_source", "reviewer")


@dataclass(frozen=True)
class LogStatistics:
    """How much a log holds.

    Attributes:
        answers: All answers.
        verdicts: Answers by verdict; "none" counts those that nobody has judged.
        reasons: Bad answers by reason.
        steps: Answers by step; "none" counts those without one.
        models: Answers by model; likewise.
        first: The time of the earliest answer that has one.
        last: The time of the latest.
    """

    answers: int
    verdicts: dict[str, int]
    reasons: dict[str, int]
    steps: dict[str, int]
    models: dict[str, int]
    first: datetime | None
    last: datetime | None


class AnswerLog:
    """Logged answers in a database: one SQLite file, or PostgreSQL.

    Any number of threads and processes may read and write it at once. What `add` and `review` have
    returned from is kept, even if the process is killed in the next moment. ::

        pairs = AnswerLog("sqlite:///answers.db").pairs(reason="not in documents")

    Args:
        url: ``sqlite:///answers.db`` or ``postgresql://user@host/name``. A log that is not there
            yet is made, and an older one is brought up to date.

    Raises:
        InvalidInputError: The address names no database that can hold a log.
        MissingExtraError: PostgreSQL without psycopg.
        AnswerLogError: The database cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine: Engine = open_database(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.count()

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    def add(self, entries: Iterable[LoggedAnswer]) -> int:
        """Add answers; one whose id the log already has is left as it is.

        Each batch of some hundred is kept whole or not at all.

        Args:
            entries: The answers; they are taken as they come.

        Returns:
            How many were new.

        Raises:
            InvalidInputError: A text that no database stores.
            AnswerLogError: The database failed; batches before that are kept.
        """
        source, new = iter(entries), 0
        while batch := list(islice(source, BATCH)):
            rows = [to_row(entry) for entry in batch]
            with writing(self.engine) as connection:
                new += add_rows(connection, rows)
        return new

    def review(self, answer_id: str, **judgement: Any) -> None:
        """Keep what a reviewer said of an answer; an earlier judgement is replaced.

        Args:
            answer_id: Which answer.
            **judgement: ``verdict``, ``reason``, ``correction``, ``comment``, ``score``,
                ``label_source``, ``reviewer`` and ``reviewed``, the time, which is now unless
                given. What is not named stays as it is.

        Raises:
            InvalidInputError: No answer has the id, or a field or value is wrong.
            AnswerLogError: The database failed.
        """
        wrong = sorted(set(judgement) - {*_REVIEW, "reviewed"})
        if wrong:
            raise InvalidInputError(
                f"a review has no {', '.join(wrong)}: give any of {', '.join(_REVIEW)}"
            )
        _check(verdict=judgement.get("verdict"), reasons=_listed(judgement.get("reason")))
        values = {"reviewed": datetime.now(UTC), **judgement}
        with writing(self.engine) as connection:
            if not review_row(connection, answer_id, values):
                raise InvalidInputError(
                    f"the log has no answer {answer_id!r}: `steerable log show` lists them"
                )

    def get(self, answer_id: str) -> LoggedAnswer:
        """Return one answer.

        Raises:
            InvalidInputError: No answer has the id.
        """
        with database_errors(self.engine), self.engine.connect() as connection:
            query = select(answers).where(answers.c.id == answer_id)
            row = connection.execute(query).mappings().first()
        if row is None:
            raise InvalidInputError(
                f"the log has no answer {answer_id!r}: `steerable log show` lists them"
            )
        return from_row(row)

    def answers(self, *, limit: int | None = None, **filters: Any) -> Iterator[LoggedAnswer]:
        """Yield answers in the order they were logged, some hundred of them in memory at a time.

        Args:
            limit: At most so many.
            **filters: ``verdict`` ("good", "bad", or "none" for not judged), ``reason`` (one or
                several), ``step``, ``model``, ``trace_id``, ``since`` and ``until`` (times).

        Raises:
            InvalidInputError: An unknown filter or value.
            AnswerLogError: The database failed.
        """
        query = select(answers).where(*conditions(**filters)).order_by(answers.c.seq).limit(limit)
        for row in self._rows(query):
            yield from_row(row)

    def count(self, **filters: Any) -> int:
        """Return how many answers there are; the filters are those of `answers`."""
        query = select(func.count()).select_from(answers).where(*_matching(answers, **filters))
        with database_errors(self.engine), self.engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def pairs(self, *, reason: str | Sequence[str] | None = None, **filters: Any) -> Pairs:
        """Return the preference pairs in the log; see `pairing` for how they come about."""
        return self.pairing(reason=reason, **filters).pairs

    def pairing(
        self, *, reason: str | Sequence[str] | None = None, **filters: Any
    ) -> PairingReport:
        """Pair every bad answer with a good one to the same prompt, and never invent one.

        Args:
            reason: Only bad answers with this reason, or one of these; None takes every reason.
            **filters: As in `answers`, for the bad ones.

        Raises:
            EmptyLogError: The log is empty.
            PairError: No bad answer can be paired.
        """
        return pair_candidates(self._candidates(reason, filters), reasons=_listed(reason))

    def drafts(
        self, *, reason: str | Sequence[str] | None = None, **filters: Any
    ) -> Iterator[Draft]:
        """Yield every bad answer with its good twin if there is one, for `curate`.

        Args:
            reason: As in `pairing`.
            **filters: As in `answers`, for the bad ones.

        Raises:
            EmptyLogError: The log is empty.
        """
        return draft_pairs(self._candidates(reason, filters))

    def unpaired(self, **filters: Any) -> Pairs:
        """Return good answers without a bad one to the same prompt, for `objective="likelihood"`.

        Each prompt gives the first of its good answers, in a pair whose bad answer is None.

        Args:
            **filters: As in `answers`, but for verdict and reason.

        Raises:
            EmptyLogError: The log is empty.
            PairError: There is no such answer.
        """
        if not self.count():
            raise EmptyLogError("the answer log is empty: log some answers first")
        found = map(from_row, self._rows(unpaired_query(**filters)))
        pairs = Pairs(
            PreferencePair(
                messages=entry.messages,
                good=entry.answer,
                source="log/unpaired",
                document_ids=[passage.id for passage in entry.passages],
                id=entry.id,
            )
            for entry in found
            if entry.answer.strip()
        )
        if not pairs:
            raise PairError(
                "the log has no good answer to a prompt without a bad one: review some answers as "
                "good, or use the pairs of good and bad answers"
            )
        return pairs

    def statistics(self) -> LogStatistics:
        """Count the log's answers."""
        c = answers.c
        with database_errors(self.engine), self.engine.connect() as connection:

            def by(column: ColumnElement[Any], *where: ColumnElement[bool]) -> dict[str, int]:
                number = func.count()
                query = select(column, number).where(*where).group_by(column)
                found = connection.execute(query.order_by(number.desc(), column)).all()
                return {key or "none": int(count) for key, count in found}

            first, last = connection.execute(select(func.min(c.time), func.max(c.time))).one()
            verdicts = by(c.verdict)
            return LogStatistics(
                answers=sum(verdicts.values()),
                verdicts=verdicts,
                reasons=by(c.reason, c.verdict == "bad"),
                steps=by(c.step),
                models=by(c.model),
                first=first,
                last=last,
            )

    def _candidates(
        self, reason: str | Sequence[str] | None, filters: Mapping[str, Any]
    ) -> Iterator[tuple[LoggedAnswer, str | None]]:
        if not self.count():
            raise EmptyLogError("the answer log is empty: log some answers first")
        query = pairing_query(reason=reason, **filters)
        return ((from_row(row), row["praised"]) for row in self._rows(query))

    def _rows(self, query: Select[Any]) -> Iterator[Mapping[str, Any]]:
        with database_errors(self.engine), self.engine.connect() as connection:
            streamed = connection.execution_options(yield_per=BATCH)
            # Whoever stops reading half-way leaves no cursor behind.
            with streamed.execute(query) as result:
                yield from (dict(row) for row in result.mappings())


def conditions(**filters: Any) -> list[ColumnElement[bool]]:
    """Return the filters of `AnswerLog.answers` as conditions for reading answers in their order.

    The numbers of the answers are found first, in an index, and only then the answers are read:
    else SQLite sorts whole answers, or reads the whole log in order rather than sort.

    Raises:
        InvalidInputError: An unknown verdict or reason, or a time without a zone.
    """
    within = answers.alias("within")
    found = _matching(within, **filters)
    return [answers.c.seq.in_(select(within.c.seq).where(*found))] if found else []


def _matching(
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
    reasons = _listed(reason)
    _check(verdict=verdict, reasons=reasons)
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
    """Return the query of bad answers, each with the first good one to the same prompt."""
    good = answers.alias("good")
    praised = (
        select(good.c.answer)
        .where(good.c.prompt_key == answers.c.prompt_key, good.c.verdict == "good")
        .order_by(good.c.seq)
        .limit(1)
        .correlate(answers)
        .scalar_subquery()
        .label("praised")
    )
    chosen = conditions(**{**filters, "verdict": "bad"})
    return select(answers, praised).where(*chosen).order_by(answers.c.seq)


def unpaired_query(**filters: Any) -> Select[Any]:
    """Return the query of each prompt's first good answer, for prompts without bad ones."""
    if wrong := sorted({"verdict", "reason"} & set(filters)):
        raise InvalidInputError(f"good answers are not chosen by {', '.join(wrong)}: leave it out")
    other = answers.alias("other")
    same = other.c.prompt_key == answers.c.prompt_key
    bad = select(other.c.seq).where(same, other.c.verdict == "bad")
    first = select(func.min(other.c.seq)).where(same, other.c.verdict == "good").scalar_subquery()
    chosen = conditions(**filters, verdict="good")
    query = select(answers).where(*chosen, ~bad.exists(), answers.c.seq == first)
    return query.order_by(answers.c.seq)


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


def review_row(connection: Connection, answer_id: str, values: Mapping[str, Any]) -> bool:
    """Change the judgement of one answer; return whether there is such an answer."""
    statement = update(answers).where(answers.c.id == answer_id).values(**values)
    return connection.execute(statement).rowcount > 0


def _listed(reason: str | Sequence[str] | None) -> list[str]:
    if reason is None:
        return []
    return [reason] if isinstance(reason, str) else list(reason)


def _check(verdict: str | None, reasons: Sequence[str]) -> None:
    if verdict is not None and verdict not in VERDICTS:
        raise InvalidInputError(f"{verdict!r} is no verdict: one of {', '.join(VERDICTS)}")
    for reason in reasons:
        if reason not in REASONS:
            raise InvalidInputError(f"{reason!r} is no reason: one of {', '.join(REASONS)}")
