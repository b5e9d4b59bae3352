"""The answer log: a database of what a RAG application answered and what people said of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Self

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Engine, Select, func, select

from steerable_llm.errors import EmptyLogError, InvalidInputError, PairError, first_problem
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.logs.database import (
    answers,
    database_errors,
    from_row,
    open_database,
    to_row,
    writing,
)
from steerable_llm.logs.queries import (
    add_rows,
    check_filters,
    conditions,
    listed,
    matching,
    pairing_query,
    review_row,
    unpaired_query,
)
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.pairs.pairing import Draft, PairingReport, draft_pairs, pair_drafts

#: Answers that are written, or read ahead, at once.
BATCH = 500
#: What a review tells of an answer.
REVIEW = tuple("verdict reason correction comment score label_source reviewer reviewed".split())
_SAID = {"verdict", "reason", "correction"}


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

    def __exit__(self, *error: object) -> None:
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
                ``label_source``, which is "human" for what a verdict, a reason or a correction
                says unless given, ``reviewer`` and ``reviewed``, the time, which is now unless
                given. What is not named stays as it is.

        Raises:
            InvalidInputError: No answer has the id, or a field or value is wrong.
            AnswerLogError: The database failed.
        """
        if wrong := sorted(set(judgement) - set(REVIEW)):
            raise InvalidInputError(
                f"a review has no {', '.join(wrong)}: give any of {', '.join(REVIEW)}"
            )
        check_filters(verdict=judgement.get("verdict"), reasons=listed(judgement.get("reason")))
        # Else what a metric said before would pass for the source of a person's verdict.
        said = {"label_source": "human"} if judgement.keys() & _SAID else {}
        judgement = {"reviewed": datetime.now(UTC), **said, **judgement}
        try:
            # What a logged answer refuses would leave a log that cannot be read again.
            checked = LoggedAnswer(id=answer_id, question="", messages=(), answer="", **judgement)
        except ValidationError as error:
            raise InvalidInputError(f"the review's {first_problem(error)}") from None
        row = to_row(checked)
        values = {name: row[name] for name in judgement}
        with writing(self.engine) as connection:
            if not review_row(connection, answer_id, values):
                raise _no_answer(answer_id)

    def get(self, answer_id: str) -> LoggedAnswer:
        """Return one answer.

        Raises:
            InvalidInputError: No answer has the id.
        """
        with database_errors(self.engine), self.engine.connect() as connection:
            query = select(answers).where(answers.c.id == answer_id)
            row = connection.execute(query).mappings().first()
        if row is None:
            raise _no_answer(answer_id)
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
        query = select(answers).where(*conditions(**filters)).order_by(answers.c.seq)
        if limit is not None:
            query = query.limit(min(limit, 2**63 - 1))  # the largest number that databases take
        for row in self._rows(query):
            yield from_row(row)

    def count(self, **filters: Any) -> int:
        """Return how many answers there are; the filters are those of `answers`."""
        query = select(func.count()).select_from(answers).where(*matching(answers, **filters))
        with database_errors(self.engine), self.engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def pairs(
        self,
        *,
        reason: str | Sequence[str] | None = None,
        own_words: bool = True,
        **filters: Any,
    ) -> Pairs:
        """Return the preference pairs in the log; see `pairing` for how they come about."""
        return self.pairing(reason=reason, own_words=own_words, **filters).pairs

    def pairing(
        self,
        *,
        reason: str | Sequence[str] | None = None,
        own_words: bool = True,
        **filters: Any,
    ) -> PairingReport:
        """Pair every bad answer with a good one to the same prompt, and never invent one.

        Args:
            reason: Only bad answers with this reason, or one of these; None takes every reason.
            own_words: Make the good answer by the smallest edit of the bad one where that can be
                told (`smallest_edit`); False takes every good answer as it was written.
            **filters: As in `answers`, for the bad ones.

        Raises:
            EmptyLogError: The log is empty.
            PairError: No bad answer can be paired.
        """
        drafts = self.drafts(reason=reason, own_words=own_words, **filters)
        return pair_drafts(drafts, reasons=listed(reason))

    def drafts(
        self,
        *,
        reason: str | Sequence[str] | None = None,
        own_words: bool = True,
        **filters: Any,
    ) -> Iterator[Draft]:
        """Yield every bad answer with its good twin if there is one, for `curate`.

        Raises:
            EmptyLogError: The log is empty.
        """
        self._refuse_empty()
        rows = self._rows(pairing_query(reason=reason, **filters))
        bad = ((from_row(row), row["praised"]) for row in rows)
        return draft_pairs(bad, own_words=own_words)

    def unpaired(self, **filters: Any) -> Pairs:
        """Return good answers without a bad one to the same prompt, for `objective="likelihood"`.

        Each prompt gives the first of its good answers, in a pair whose bad answer is None.

        Args:
            **filters: As in `answers`, but for verdict and reason.

        Raises:
            EmptyLogError: The log is empty.
            PairError: There is no such answer.
        """
        self._refuse_empty()
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

    def _refuse_empty(self) -> None:
        if not self.count():
            raise EmptyLogError("the answer log is empty: log some answers first")

    def _rows(self, query: Select[Any]) -> Iterator[Mapping[str, Any]]:
        with database_errors(self.engine), self.engine.connect() as connection:
            streamed = connection.execution_options(yield_per=BATCH)
            # Whoever stops reading half-way leaves no cursor behind.
            with streamed.execute(query) as result:
                yield from (row._asdict() for row in result)


def _no_answer(answer_id: str) -> InvalidInputError:
    return InvalidInputError(
        f"the log has no answer {answer_id!r}: `steerable log show` lists them"
    )
