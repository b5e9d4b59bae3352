"""Importing files into an answer log: streamed, in batches that are kept whole, and resumable.

A kind of log is an `Importer`. Other packages add one under the entry point group `GROUP`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, select

from steerable_llm.chat.message import read_from
from steerable_llm.errors import InvalidInputError, first_problem
from steerable_llm.logs.answer_log import BATCH, REVIEW, AnswerLog
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.logs.database import (
    UNSTORABLE,
    answers,
    database_errors,
    from_row,
    imports,
    storable,
    to_row,
    writing,
)
from steerable_llm.logs.importers.evaluations import (
    deepeval,
    deepeval_records,
    ragas,
    ragas_records,
)
from steerable_llm.logs.importers.judgement import (
    Judgement,
    Rules,
    beyond_its_scale,
    judge,
    unread,
    weighed,
)
from steerable_llm.logs.importers.langfuse import langfuse, langfuse_records
from steerable_llm.logs.importers.langsmith import langsmith, langsmith_records
from steerable_llm.logs.importers.openinference import openinference, openinference_records
from steerable_llm.logs.importers.preferences import (
    openai,
    preference_records,
    trl,
    with_pictures,
)
from steerable_llm.logs.importers.reading import WITHIN, Read, read_records
from steerable_llm.logs.importers.records import (
    ImportedAnswer,
    ImportReport,
    Record,
    SkippedLine,
    UnusableRecord,
    page,
)
from steerable_llm.logs.importers.traces import Span, join_staged, stage
from steerable_llm.logs.queries import add_rows, put_rows, review_row
from steerable_llm.plugins import Plugged

#: Entry points with the importers of other packages.
GROUP = "steerable_llm.importers"
_ID = re.compile(r"(?:^|_)id$|Id$")
_MISSHAPEN = (
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    InvalidInputError,
    ArithmeticError,
    RecursionError,
)


@dataclass(frozen=True)
class Importer:
    """How the records of one kind of log are read.

    Attributes:
        read: Returns what is in a record: answers of their own, or lines of traces. It raises
            `UnusableRecord` where there is nothing to take; what a wrong shape raises by itself,
            such as a `KeyError`, is told in general words.
        traces: Whether it returns lines of traces, which are joined once all files are read.
        inside: Returns the records that a line holds, each with its place in it: a page of an API,
            say, or a trace with all its parts. One that cannot be taken costs no other.
        beside: Returns a record with what it names of its file's folder, such as pictures.
    """

    read: Callable[[Record], Sequence[ImportedAnswer] | Sequence[Span]]
    traces: bool = False
    inside: Callable[[Record], Sequence[tuple[str, Any]]] = page
    beside: Callable[[Record, Path], Record] | None = None


def _own(record: Record) -> list[ImportedAnswer]:
    """Read a logged answer as this package writes it."""
    try:
        return [ImportedAnswer(LoggedAnswer.model_validate(record))]
    except ValidationError as error:
        raise UnusableRecord(first_problem(error)) from None


def _own_records(record: Record) -> list[tuple[str, Any]]:
    """Return the answers that `steerable log show --json` prints."""
    return page(record, "answers")


#: The logs that can be imported, by name; "answers" is this package's own export.
IMPORTERS: Mapping[str, Importer] = Plugged(
    GROUP,
    Importer,
    {
        "answers": Importer(_own, inside=_own_records),
        "deepeval": Importer(deepeval, inside=deepeval_records),
        "langfuse": Importer(langfuse, traces=True, inside=langfuse_records),
        "langsmith": Importer(langsmith, traces=True, inside=langsmith_records),
        "openai": Importer(openai, inside=preference_records),
        "phoenix": Importer(openinference, traces=True, inside=openinference_records),
        "ragas": Importer(ragas, inside=ragas_records),
        "trl": Importer(trl, inside=preference_records, beside=with_pictures),
    },
)


def importer_named(kind: str) -> Importer:
    """Return an importer by its name.

    Raises:
        InvalidInputError: There is none of that name.
    """
    if kind not in IMPORTERS:
        raise InvalidInputError(f"{kind!r} cannot be imported: one of {', '.join(IMPORTERS)}")
    return IMPORTERS[kind]


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

    Files are JSON lines, a JSON array, objects one after another, or a table (.csv), packed by gzip
    or not; records are also taken out of pages of an API. Lines are read one at a time, and each
    batch of some hundred is kept together with how far the file was read: an import that was
    killed goes on there, and what a file holds is never added twice. A file that has grown is read
    from where it ended. Lines of a trace (LangSmith, Langfuse, Phoenix) wait in the log until all
    files are read, and are then joined: they may come in any order, in any of the files. Other
    files may be imported at the same time.

    Args:
        log: Where to.
        paths: One file or several.
        kind: Which log they are from; see `importer_named`.
        rules: How scores become verdicts.
        on_skip: Called with every line that is not taken; the report names only the first hundred.
        again: Read the files from the start, whatever was read before.

    Raises:
        InvalidInputError: An unknown kind, or a file that is not there.
        AnswerLogError: The database failed; the batches before that are kept.
    """
    importer = importer_named(kind)
    named = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    files = [Path(path) for path in named]
    for file in files:
        if not file.is_file():
            raise InvalidInputError(
                f"there is no file {file} to import: give an export in JSON lines"
            )
    rules = rules or Rules()
    report = ImportReport(on_skip=on_skip)
    scales = _Scales(files, importer, rules)
    # The rules judge an answer when it is read, and a trace only when it is joined.
    settings = "" if importer.traces else json.dumps(asdict(rules), sort_keys=True)
    for file in files:
        key = {"path": str(file.resolve()), "kind": kind, "settings": settings}
        _import_file(log, file, importer, scales, report, key, again)
    if importer.traces:
        join_staged(log, [_source(kind, file) for file in files], rules, report)
    return report


def _import_file(
    log: AnswerLog,
    file: Path,
    importer: Importer,
    scales: _Scales,
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
            if importer.traces:
                found = _read_all(importer, batch, file, report)
                stage(connection, _source(key["kind"], file), _storable(found, report))
            else:
                _add(connection, _read_all(importer, batch, file, report), scales, report)
            if batch[-1].position > 0:
                last = batch[-1]
                done = {"position": last.position, "digest": last.digest, "lines": last.number}
                put_rows(connection, imports, [{**key, **done}])
    if first and before:
        report.lines_before += before["lines"]


class _Scales:
    """The metrics of an import that have scores outside the scale from 0 to 1.

    A file of ratings from 1 to 5 begins with a 1, perhaps, which only the others show to be low.
    """

    def __init__(self, files: Sequence[Path], importer: Importer, rules: Rules) -> None:
        self.rules = rules
        self._files, self._importer = files, importer

    @cached_property
    def off(self) -> frozenset[str]:
        """Their names, from all files; these are read once more, the first time that one asks."""
        report = ImportReport()
        return frozenset(
            judgement.name
            for file in self._files
            for batch in _batches(read_records(file))
            for found, _ in _read_all(self._importer, batch, file, report)
            for judgement in _judgements(found)
            if beyond_its_scale(judgement, self.rules)
        )


def _judgements(found: object) -> tuple[Judgement, ...]:
    return found.judgements if isinstance(found, ImportedAnswer) else ()


def _add(
    connection: Connection,
    found: Iterable[tuple[ImportedAnswer, str]],
    scales: _Scales,
    report: ImportReport,
) -> None:
    entries: dict[str, LoggedAnswer] = {}
    rows: dict[str, dict[str, Any]] = {}
    rules = scales.rules
    for imported, place in found:
        told = imported.judgements
        scored = any(one.score is not None and one.passed is None for one in told)
        off_scale = scales.off if scored else frozenset()
        for one in told:
            if why := unread(one, rules, off_scale):
                report.ignore(why)
        try:
            entry = judge(imported.answer, told, rules, off_scale)
            if entry.verdict == "bad" and entry.reason is None and rules.reason is not None:
                entry = entry.model_copy(update={"reason": rules.reason})
            before = entries.get(entry.id)
            entry = entry if before is None else _told_of(before, entry)
            row = to_row(entry)
        except InvalidInputError:
            report.skip(place, f"it {UNSTORABLE}")
            continue
        report.known += before is not None
        entries[entry.id], rows[entry.id] = entry, row
    new = add_rows(connection, list(rows.values()))
    report.added += new
    report.known += len(rows) - new
    if new < len(rows):
        _judge_known(connection, entries, report)


def _judge_known(
    connection: Connection, entries: Mapping[str, LoggedAnswer], report: ImportReport
) -> None:
    """Put what is said of answers on those that the log had before; what was just added says it."""
    told = [one.id for one in entries.values() if any(getattr(one, name) for name in REVIEW)]
    for start in range(0, len(told), BATCH):
        query = select(answers).where(answers.c.id.in_(told[start : start + BATCH]))
        for before in map(from_row, connection.execute(query).mappings().all()):
            after = _told_of(before, entries[before.id])
            if after != before:
                review_row(connection, before.id, {name: getattr(after, name) for name in REVIEW})
                report.judged += 1
                report.known -= 1


def _told_of(before: LoggedAnswer, entry: LoggedAnswer) -> LoggedAnswer:
    """Return a known answer with what is told of it now; its id may name another one elsewhere."""
    same = (before.question, before.answer) == (entry.question, entry.answer)
    return weighed(before, entry) if same else before


def _storable(
    found: Iterable[tuple[Span, str]], report: ImportReport
) -> Iterator[tuple[Span, str]]:
    for span, place in found:
        if not storable([span.span_id, span.trace_id, span.target]):
            report.skip(place, "its ids hold characters that no database stores")
        elif span.kind in ("llm", "score") and not storable(span.content):
            report.skip(place, f"it {UNSTORABLE}")
        else:  # a retrieval waits as it is: without it answers would have other passages
            yield span, place


def _source(kind: str, file: Path) -> str:
    """Name whose waiting lines are whose: another process may be reading another file."""
    return f"{kind}:{file.resolve()}"


def _read_all(
    importer: Importer, batch: Sequence[Read], file: Path, report: ImportReport
) -> Iterator[tuple[Any, str]]:
    """Yield what is in some records, each with its file and line."""
    for read in batch:
        place = f"{file.name}:{read.number}"
        if read.record is None:
            report.waiting += read.problem.endswith(WITHIN)
            report.skip(place, read.problem)
            continue
        for inside, record in _told(importer.inside, read.record, place, report):
            where = f"{place} ({inside})" if inside else place
            if isinstance(record, Mapping):
                record = {
                    # An id may be a number, where somebody counted.
                    name: str(value) if type(value) is int and _ID.search(name) else value
                    for name, value in record.items()
                }
                if importer.beside is not None:
                    record = importer.beside(record, file.parent)
                found = _told(importer.read, record, where, report)
                yield from ((_beside(file, one), where) for one in found)
            else:
                report.skip(where, "it is not a JSON object")


def _told(
    read: Callable[[Record], Sequence[Any]], record: Record, place: str, report: ImportReport
) -> Sequence[Any]:
    """Return what is in a record; whatever is wrong with it is said of its line and no other."""
    try:
        return list(read(record))
    except InvalidInputError as problem:
        report.skip(place, str(problem))
    except _MISSHAPEN:
        # Exports come in more shapes than anyone has seen; a field of a wrong type ends here.
        report.skip(place, "its fields do not have the shape expected")
    return []


def _beside(file: Path, one: Any) -> Any:
    """An answer whose images are looked for beside the file that names them."""
    if not isinstance(one, ImportedAnswer):
        return one
    messages = read_from(file.parent, one.answer.messages)
    return replace(one, answer=one.answer.model_copy(update={"messages": messages}))


def _progress(log: AnswerLog, key: dict[str, str]) -> dict[str, Any] | None:
    found = select(imports.c.position, imports.c.digest, imports.c.lines).filter_by(**key)
    with database_errors(log.engine), log.engine.connect() as connection:
        row = connection.execute(found).first()
    return None if row is None else row._asdict()


def _batches(reading: Iterable[Read]) -> Iterator[list[Read]]:
    source = iter(reading)
    while batch := list(islice(source, BATCH)):
        yield batch
