"""Importing files into an answer log: streamed, in batches that are kept whole, and resumable."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from steerable_llm.errors import InvalidInputError
from steerable_llm.logs.answer_log import BATCH, AnswerLog
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.logs.database import (
    UNSTORABLE,
    database_errors,
    imports,
    storable,
    to_row,
    writing,
)
from steerable_llm.logs.importers.evaluations import deepeval, ragas
from steerable_llm.logs.importers.langfuse import langfuse
from steerable_llm.logs.importers.langsmith import langsmith
from steerable_llm.logs.importers.openinference import openinference
from steerable_llm.logs.importers.preferences import openai, trl
from steerable_llm.logs.importers.reading import Read, check_file, read_records
from steerable_llm.logs.importers.records import (
    Draft,
    ImportReport,
    Record,
    Rules,
    SkippedLine,
    UnusableRecord,
    judge,
)
from steerable_llm.logs.importers.traces import Span, join_staged, stage
from steerable_llm.logs.queries import add_rows

T = TypeVar("T")


def _own(record: Record) -> list[Draft]:
    """Read a logged answer as this package writes it."""
    try:
        return [Draft(LoggedAnswer.model_validate(record))]
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "it"
        raise UnusableRecord(f"{place}: {problem['msg']}") from None


_FLAT: dict[str, Callable[[Record], list[Draft]]] = {
    "answers": _own,
    "deepeval": deepeval,
    "openai": openai,
    "ragas": ragas,
    "trl": trl,
}
_TRACES: dict[str, Callable[[Record], list[Span]]] = {
    "langfuse": langfuse,
    "langsmith": langsmith,
    "phoenix": openinference,
}
#: The logs that can be imported; "answers" is this package's own export.
IMPORTERS = tuple(sorted([*_FLAT, *_TRACES]))


def check_kind(kind: str) -> None:
    """Refuse a log that cannot be imported.

    Raises:
        InvalidInputError: It is none of `IMPORTERS`.
    """
    if kind not in IMPORTERS:
        raise InvalidInputError(f"{kind!r} cannot be imported: one of {', '.join(IMPORTERS)}")


def import_files(
    log: AnswerLog,
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    kind: str,
    *,
    rules: Rules | None = None,
    on_skip: Callable[[SkippedLine], None] | None = None,
    again: bool = False,
) -> ImportReport:
    """Import files into a log; a line that cannot be taken never stops the rest.

    Files are JSON lines, or a JSON array of records. Lines are read one at a time, and each
    batch of some hundred is kept together with how far the file was read: an import that was
    killed goes on there, and what a file holds is never added twice. A file that has grown is read
    from where it ended. Lines of a trace (LangSmith, Langfuse, Phoenix) wait in the log until all
    files are read, and are then joined: they may come in any order, in any of the files. Other
    files may be imported at the same time.

    Args:
        log: Where to.
        paths: One file or several.
        kind: Which log they are from; one of `IMPORTERS`.
        rules: How scores become verdicts.
        on_skip: Called with every line that is not taken; the report names only the first hundred.
        again: Read the files from the start, whatever was read before.

    Raises:
        InvalidInputError: An unknown kind, or a file that is not there.
        AnswerLogError: The database failed; the batches before that are kept.
    """
    check_kind(kind)
    named = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    files = [Path(path) for path in named]
    for file in files:
        check_file(file)
    rules = rules or Rules()
    report = ImportReport(on_skip=on_skip)
    for file in files:
        key = {
            "path": str(file.resolve()),
            "kind": kind,
            "settings": json.dumps(asdict(rules), sort_keys=True) if kind in _FLAT else "",
        }
        _import_file(log, file, kind, rules, report, key, again)
    if kind in _TRACES:
        join_staged(log, [_source(kind, file) for file in files], rules, report)
    return report


def _import_file(
    log: AnswerLog,
    file: Path,
    kind: str,
    rules: Rules,
    report: ImportReport,
    key: dict[str, str],
    again: bool,
) -> None:
    before = None if again else _progress(log, key)
    reading = read_records(file, **before) if before else read_records(file)
    first = True
    for batch in _batches(reading):
        if first and before and batch[0].number > before["lines"]:
            report.lines_before += before["lines"]
        first = False
        report.lines += len(batch)
        with writing(log.engine) as connection:
            if kind in _FLAT:
                _add(connection, _FLAT[kind], batch, file, rules, report)
            else:
                _stage(connection, kind, batch, file, report)
            if batch[-1].position > 0:
                _keep_progress(connection, key, batch[-1])
    if first and before:
        report.lines_before += before["lines"]


def _add(
    connection: Connection,
    reader: Callable[[Record], list[Draft]],
    batch: Sequence[Read],
    file: Path,
    rules: Rules,
    report: ImportReport,
) -> None:
    rows: dict[str, dict[str, Any]] = {}
    for read in batch:
        for draft in _read(reader, read, file, report):
            try:
                row = to_row(judge(draft.answer, draft.judgements, rules))
            except InvalidInputError:
                report.skip(f"{file.name}:{read.number}", f"it {UNSTORABLE}")
                continue
            if row["verdict"] == "bad" and row["reason"] is None:
                row["reason"] = rules.reason
            report.known += row["id"] in rows
            rows.setdefault(row["id"], row)
    new = add_rows(connection, list(rows.values()))
    report.added += new
    report.known += len(rows) - new


def _stage(
    connection: Connection, kind: str, batch: Sequence[Read], file: Path, report: ImportReport
) -> None:
    spans = []
    for read in batch:
        place = f"{file.name}:{read.number}"
        for span in _read(_TRACES[kind], read, file, report):
            if not storable([span.span_id, span.trace_id, span.target]):
                report.skip(place, "its ids hold characters that no database stores")
            elif span.kind in ("llm", "score") and not storable(span.content):
                report.skip(place, f"it {UNSTORABLE}")
            else:  # a retrieval waits as it is: without it answers would have other passages
                spans.append((span, place))
    stage(connection, _source(kind, file), spans)


def _source(kind: str, file: Path) -> str:
    """Name whose waiting lines are whose: another process may be reading another file."""
    return f"{kind}:{file.resolve()}"


def _read(
    reader: Callable[[Record], list[T]], read: Read, file: Path, report: ImportReport
) -> list[T]:
    """Read one record; whatever is wrong with it is said of this line and of no other."""
    try:
        if read.record is None:
            raise UnusableRecord(read.problem)
        return reader(read.record)
    except UnusableRecord as problem:
        report.skip(f"{file.name}:{read.number}", str(problem))
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError):
        # Exports come in more shapes than anyone has seen; a field of a wrong type ends up here.
        report.skip(f"{file.name}:{read.number}", "its fields do not have the shape expected")
    return []


def _progress(log: AnswerLog, key: dict[str, str]) -> dict[str, Any] | None:
    found = select(imports.c.position, imports.c.digest, imports.c.lines).filter_by(**key)
    with database_errors(log.engine), log.engine.connect() as connection:
        row = connection.execute(found).mappings().first()
    return None if row is None else dict(row)


def _keep_progress(connection: Connection, key: dict[str, str], last: Read) -> None:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    values = {"position": last.position, "digest": last.digest, "lines": last.number}
    statement = insert(imports).values(**key, **values)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["path", "kind", "settings"], set_=values)
    )


def _batches(reading: Iterable[Read]) -> Iterator[list[Read]]:
    source = iter(reading)
    while batch := list(islice(source, BATCH)):
        yield batch
