"""Lines of traces in one form for all tools, and how those of one trace are joined into answers.

The lines of a trace come in any order and in several files, so they wait until all are read.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Connection, RowMapping, delete, select, update

from steerable_llm.chat.message import Message
from steerable_llm.errors import InvalidInputError, first_problem
from steerable_llm.logs.answer_log import REVIEW, AnswerLog
from steerable_llm.logs.answers import QUESTION_KEYS, LoggedAnswer, Passage, asked
from steerable_llm.logs.database import (
    UNSTORABLE,
    answers,
    database_errors,
    from_row,
    spans,
    to_row,
    writing,
)
from steerable_llm.logs.importers.judgement import (
    Judgement,
    Rules,
    beyond_its_scale,
    judge,
    judged_by_person,
    unread,
    weighed,
)
from steerable_llm.logs.importers.messages import prompt, spoken
from steerable_llm.logs.importers.records import (
    ImportReport,
    Record,
    UnusableRecord,
    content_id,
    decoded,
    listed,
    mapping,
    number,
    rendered,
    text,
)
from steerable_llm.logs.queries import add_rows, put_rows, review_row

Kind = Literal["llm", "retriever", "chain", "score"]


@dataclass(frozen=True)
class Span:
    """One line of a trace.

    Attributes:
        span_id: Its id in the log it comes from.
        trace_id: The whole run; None where the log leaves it to the span it speaks of.
        kind: A model's answer, a retrieval, another step of the chain, or a judgement.
        content: What it tells: the fields of an answer, "documents", a "question" or a judgement.
        time: When it began, as ISO 8601 in UTC.
        target: The span that a judgement is about; None means the whole trace.
    """

    span_id: str
    trace_id: str | None
    kind: Kind
    content: Mapping[str, Any] = field(default_factory=dict)
    time: str | None = None
    target: str | None = None


def model_span(
    span_id: str, trace_id: str, time: str | None, read: Callable[[], Mapping[str, Any]]
) -> Span:
    """Return a model's answer as a line of its trace.

    Args:
        span_id: Its id.
        trace_id: Of the whole run.
        time: When it began.
        read: Returns the fields of a `LoggedAnswer`; what it raises is told once the trace is
            joined, since a later line of the same id may have the answer.
    """
    try:
        content = dict(read())
        content["messages"] = [message.model_dump() for message in content["messages"]]
    except InvalidInputError as problem:
        content = {"problem": str(problem)}
    return Span(span_id, trace_id, "llm", content, time)


def other_span(
    span_id: str, trace_id: str, time: str | None, *, documents: list[dict[str, str]] | None
) -> Span:
    """Return a retrieval, or without documents another step within the chain."""
    if documents is not None:
        return Span(span_id, trace_id, "retriever", {"documents": documents}, time)
    return Span(span_id, trace_id, "chain", {}, time)


def root_span(
    span_id: str,
    trace_id: str,
    time: str | None,
    given: object,
    made: object,
    failed: bool = False,
    reference: object = None,
) -> Span:
    """Return the outermost run of a chain, whose answer counts where no model's is told."""
    content: dict[str, Any] = {}
    if question := question_of(given) or _only_text(given):
        content["question"] = question
    if not made and not failed:
        return Span(span_id, trace_id, "chain", content, time)
    try:
        if failed:
            raise UnusableRecord("its run failed")
        content["answer"] = _answer_of(made)
        told = prompt(asked_of(given) or question)
        content["messages"] = [message.model_dump() for message in told]
        content["documents"] = _documents_beside(made)
    except InvalidInputError as problem:
        # What it gave tells which answer it came to, also where its prompt cannot be read.
        known = {"answer": content["answer"]} if "answer" in content else {}
        content = {"question": question, "problem": str(problem), **known}
        return Span(span_id, trace_id, "chain", content, time)
    with contextlib.suppress(UnusableRecord):
        content["reference"] = _answer_of(reference) if reference else None
    return Span(span_id, trace_id, "chain", content, time)


def _answer_of(made: object) -> str:
    """Return the answer in what a chain gave, which may stand under any name."""
    try:
        found = spoken(made)
    except UnusableRecord:
        if (found := _only_text(made)) is None:
            raise
    if found is None:
        raise UnusableRecord("its answer is empty")
    return found


def _documents_beside(made: object) -> list[dict[str, str]] | None:
    """Return the documents that a chain gave with its answer."""
    given = mapping(made)
    names = ("documents", "docs", "source_documents", "context", "contexts", "retrieved_contexts")
    return next((found for name in names if (found := documents_of(given.get(name)))), None)


def _only_text(value: object) -> str | None:
    """Return the one text in an object, under whatever name, that is no question and no error."""
    texts = [
        one
        for name, one in mapping(value).items()
        if isinstance(one, str) and one.strip() and name != "error"
    ]
    return texts[0] if len(texts) == 1 else None


def usage(prompt: object, completion: object) -> dict[str, int]:
    """Return counts of tokens; what is no number is left out."""
    counts = {"prompt_tokens": number(prompt), "completion_tokens": number(completion)}
    # More than any context holds is no count, and more than any database's integer.
    return {name: int(n) for name, n in counts.items() if n is not None and abs(n) < 2**53}


def step_of(metadata: Record) -> str | None:
    """Return the step that a chain or LangGraph names."""
    return text(metadata.get("steer_step"), metadata.get("langgraph_node"))


def score_span(
    judgement: Judgement, *, record: Record, trace_id: str | None, target: str | None
) -> Span:
    """Return a judgement as a line of its trace."""
    named = text(record.get("id")) or content_id("score", dict(record))
    return Span(f"score:{named}", trace_id, "score", asdict(judgement), None, target)


def question_of(value: object) -> str | None:
    """Return the question in a chain's input."""
    value = decoded(value)
    if isinstance(value, Mapping):
        return text(*(value.get(key) for key in QUESTION_KEYS))
    return text(value) if not isinstance(value, list) else None


def asked_of(value: object) -> Any:
    """Return what a model's input has as its prompt: messages, or a text."""
    value = decoded(value)
    if isinstance(value, Mapping) and not value.keys() & {"role", "kwargs"}:
        names = ("messages", "prompts", "prompt", "contents", *QUESTION_KEYS, "text")
        value = decoded(next((value[name] for name in names if value.get(name)), None))
    # LangChain traces a batch, of which there is one.
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list | str):
        value = decoded(value[0])
    return value


def documents_of(value: object) -> list[dict[str, str]] | None:
    """Return a retriever's output as passages; None if it holds no documents.

    Raises:
        UnusableRecord: It holds a list of documents that cannot be read.
    """
    value = decoded(value)
    if isinstance(value, Mapping):
        names = ("documents", "output", "nodes", "docs", "results", "source_documents")
        value = decoded(next((value[name] for name in names if value.get(name)), None))
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = listed(value, "documents")
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None
    found = []
    for entry in value:
        entry = decoded(entry)
        if isinstance(entry, str):
            found.append({"id": content_id("passage", entry), "text": entry})
            continue
        if not isinstance(entry, Mapping):
            return None
        body = entry.get("kwargs") or entry.get("document") or entry.get("node") or entry
        if not isinstance(body, Mapping):
            return None
        texts = ("page_content", "pageContent", "content", "text")
        shown = next((t for k in texts if (t := body.get(k))), None)
        if not isinstance(shown, str):
            return None
        metadata = mapping(body.get("metadata"))
        named = body.get("id") or body.get("id_") or metadata.get("id") or metadata.get("source")
        found.append({"id": str(named or content_id("passage", shown)), "text": shown})
    return found


#: Traces, or judgements that stand alone, that are joined in one transaction.
GROUP = 100
#: The source of what whole runs gave: it stays for judgements that come in a later import.
_GIVEN = ""


def stage(connection: Connection, source: str, found: Iterable[tuple[Span, str]]) -> None:
    """Keep lines of traces, each with its file and line, until their trace is whole."""
    rows = [
        {
            "source": source,
            "span_id": span.span_id,
            "trace_id": span.trace_id,
            "target": span.target,
            "kind": span.kind,
            "time": span.time,
            "place": place,
            "content": dict(span.content),
        }
        for span, place in found
    ]
    if rows:
        # A later line of the same id tells more: some logs write a run when it begins and ends.
        put_rows(connection, spans, rows)


def join_staged(log: AnswerLog, sources: Sequence[str], rules: Rules, report: ImportReport) -> None:
    """Turn the lines that wait into answers and judgements, some traces at a time.

    Args:
        log: Where they wait, and where the answers go.
        sources: Whose lines; those of other files may be half of what another process still reads.
        rules: How scores become verdicts.
        report: Counts what is done.
    """
    mine = spans.c.source.in_(sources)
    later = {source: place for place, source in enumerate(sources)}
    other = spans.alias("other")
    with writing(log.engine) as connection:
        # A judgement that names only a span belongs to that span's trace.
        trace = (
            select(other.c.trace_id)
            .where(other.c.source.in_(sources), other.c.span_id == spans.c.target)
            .limit(1)
            .correlate(spans)
            .scalar_subquery()
        )
        lone = (mine, spans.c.kind == "score", spans.c.trace_id.is_(None))
        connection.execute(update(spans).where(*lone).values(trace_id=trace))
    off_scale = _off_scale(log, mine, rules)
    traces = select(spans.c.trace_id).where(mine, spans.c.trace_id.is_not(None)).distinct()
    while named := _first(log, traces.order_by(spans.c.trace_id).limit(GROUP)):
        with writing(log.engine) as connection:
            together = (mine, spans.c.trace_id.in_(named))
            lines: dict[str, list[RowMapping]] = defaultdict(list)
            found = connection.execute(select(spans).where(*together)).mappings().all()
            # As within a file, a later line of the same id tells more.
            latest = {r["span_id"]: r for r in sorted(found, key=lambda r: later[r["source"]])}
            for row in latest.values():
                lines[row["trace_id"]].append(row)
            for trace_id in named:
                _join_trace(connection, trace_id, lines[trace_id], rules, off_scale, report)
            connection.execute(delete(spans).where(*together))
    single = select(spans.c.span_id).where(mine).order_by(spans.c.span_id).limit(GROUP)
    while named := _first(log, single):
        with writing(log.engine) as connection:
            chosen = (mine, spans.c.span_id.in_(named))
            rows = connection.execute(select(spans).where(*chosen)).mappings().all()
            _judge(connection, None, rows, rules, off_scale, report)
            connection.execute(delete(spans).where(*chosen))


def _off_scale(log: AnswerLog, mine: ColumnElement[bool], rules: Rules) -> set[str]:
    """Return the metrics with scores that lie outside the scale from 0 to 1."""
    query = select(spans.c.content).where(mine, spans.c.kind == "score")
    with database_errors(log.engine), log.engine.connect() as connection:
        told = connection.execution_options(yield_per=1000).execute(query).scalars()
        judgements = (Judgement(**content) for content in told)
        return {one.name for one in judgements if beyond_its_scale(one, rules)}


def _first(log: AnswerLog, query: Any) -> list[str]:
    with database_errors(log.engine), log.engine.connect() as connection:
        return list(connection.execute(query).scalars())


def _join_trace(
    connection: Connection,
    trace_id: str,
    rows: Sequence[RowMapping],
    rules: Rules,
    off_scale: Collection[str],
    report: ImportReport,
) -> None:
    found = []
    context = sum(row["kind"] in ("retriever", "chain") for row in rows)
    for row, answer in _answers(trace_id, rows):
        context -= row["kind"] == "chain"
        try:
            if isinstance(answer, LoggedAnswer):
                found.append(to_row(answer))
            else:
                report.skip(row["place"], answer)
        except InvalidInputError:
            report.skip(row["place"], f"it {UNSTORABLE}")
    new = add_rows(connection, found)
    report.added += new
    report.known += len(found) - new
    report.context += context
    _keep_given(connection, trace_id, rows)
    _judge(connection, trace_id, rows, rules, off_scale, report)


def _keep_given(connection: Connection, trace_id: str, rows: Sequence[RowMapping]) -> None:
    """Keep what the whole run gave, where that tells which of its answers it came to."""
    given = _in_order(
        row for row in rows if row["kind"] == "chain" and row["content"].get("answer")
    )
    if not given:
        return
    text = given[0]["content"]["answer"]
    told = connection.execute(select(answers.c.answer).where(answers.c.trace_id == trace_id))
    if all(_same_text(answer, text) for answer in told.scalars()):
        return
    kept = {**given[0], "source": _GIVEN, "span_id": trace_id, "target": None, "place": ""}
    put_rows(connection, spans, [{**kept, "content": {"answer": text}}])


def _in_order(rows: Iterable[RowMapping]) -> list[RowMapping]:
    return sorted(rows, key=lambda row: row["time"] or "")


def _answers(
    trace_id: str, rows: Sequence[RowMapping]
) -> Iterator[tuple[RowMapping, LoggedAnswer | str]]:
    """Yield each answer of a trace, with what was retrieved before it, or why there is none.

    Without any of a model, what the outermost run gave is the answer.
    """
    ordered = _in_order(rows)
    spoken_by = [row for row in ordered if row["kind"] == "llm"]
    if not spoken_by:
        whole = [row for row in ordered if row["content"].keys() & {"answer", "problem"}]
        spoken_by = sorted(whole, key=lambda row: "problem" in row["content"])[:1]
    question = next((q for row in ordered if (q := row["content"].get("question"))), None)
    retrievals = [row for row in ordered if row["kind"] == "retriever"]
    for row in spoken_by:
        content, time = dict(row["content"]), row["time"]
        if problem := content.get("problem"):
            yield row, problem
            continue
        try:
            messages = tuple(Message.model_validate(m) for m in content["messages"])
            # A chain's question comes before what it retrieves.
            until = time if row["kind"] == "llm" else ordered[-1]["time"]
            documents = [
                document
                for retrieval in _retrieved(retrievals, until, messages)
                for document in retrieval["content"]["documents"]
            ]
            beside = content.pop("documents", None) or []
            passages = [Passage.model_validate(one) for one in documents or beside]
            content.pop("question", None)
            if row["kind"] == "chain" and [one.role for one in messages] == ["user"]:
                messages = rendered(messages[0].content, passages)
            yield (
                row,
                LoggedAnswer(
                    **{**content, "messages": messages},
                    id=row["span_id"],
                    question=asked(question, messages),
                    passages=tuple(dict.fromkeys(passages)),
                    time=time,
                    trace_id=trace_id,
                ),
            )
        except ValidationError as error:
            yield row, f"it is not usable: {first_problem(error)}"
        except InvalidInputError as error:
            yield row, f"it is not usable: {error}"


def _retrieved(
    retrievals: Sequence[RowMapping], time: str | None, messages: Sequence[Message]
) -> list[RowMapping]:
    """Return what was retrieved for an answer: what came before it, as far as times tell.

    Where they do not, what the prompt quotes; a trace with one retrieval has no other to be taken
    for it.
    """
    known = [one for one in retrievals if one["time"] and time]
    before = [one for one in known if one["time"] <= (time or "")]
    untold = [one for one in retrievals if one not in known]
    if len(retrievals) > 1:
        shown = "\n".join(message.content for message in messages)
        untold = [
            one
            for one in untold
            if any(document["text"].strip() in shown for document in one["content"]["documents"])
        ]
    return before + untold


def _judge(
    connection: Connection,
    trace_id: str | None,
    rows: Sequence[RowMapping],
    rules: Rules,
    off_scale: Collection[str],
    report: ImportReport,
) -> None:
    """Put judgements on the answers they are about; all that speak of one are weighed together."""
    about: dict[str, list[tuple[str, Judgement]]] = defaultdict(list)
    found: dict[str, LoggedAnswer] = {}
    kinds = {row["span_id"]: row["kind"] for row in rows}
    for row in rows:
        if row["kind"] != "score":
            continue
        answer = _answer(connection, row["target"], trace_id, kinds.get(row["target"] or ""))
        if isinstance(answer, str):
            report.skip(row["place"], answer)
            continue
        judgement = Judgement(**row["content"])
        why = unread(judgement, rules, off_scale)
        if why and judgement == replace(judgement, label=None, comment=None, correction=None):
            report.skip(row["place"], why)
            continue
        found[answer.id] = answer
        about[answer.id].append((row["place"], judgement))
    for answer_id, told in about.items():
        before = found[answer_id]
        outranked = judged_by_person(before)
        for place, judgement in told:
            if outranked and not judgement.human:
                report.skip(place, "a person has judged the answer, and people outrank metrics")
        judgements = [one for _, one in told if one.human or not outranked]
        bare = before.model_copy(update=dict.fromkeys(REVIEW))
        after = weighed(before, judge(bare, judgements, rules, off_scale))
        if after == before:
            report.known += len(judgements)
            continue
        review_row(connection, answer_id, {name: getattr(after, name) for name in REVIEW})
        report.judged += 1


def _answer(
    connection: Connection, target: str | None, trace_id: str | None, kind: str | None
) -> LoggedAnswer | str:
    """Return the answer that a judgement is about, or why there is none.

    That is the answer of its span; or else the one that its whole run gave, which is the last one
    where nobody tells what that was.
    """
    if kind == "retriever":
        return "it judges what was retrieved, not an answer"
    exact = select(answers).where(answers.c.id == target)
    row = connection.execute(exact).mappings().first() if target else None
    if row is not None:
        return from_row(row)
    named = [name for name in (trace_id, target) if name]
    if kind == "llm" or not named:
        return _NO_ANSWER
    whole = select(answers).where(answers.c.trace_id.in_(named)).order_by(answers.c.seq.desc())
    kept = select(spans.c.content).where(spans.c.source == _GIVEN, spans.c.span_id.in_(named))
    given = connection.execute(kept).scalars().first()
    if given is None:
        row = connection.execute(whole.limit(1)).mappings().first()
        return _NO_ANSWER if row is None else from_row(row)
    every = [from_row(row) for row in connection.execute(whole).mappings()]
    same = [one for one in every if _same_text(one.answer, given["answer"])]
    # A chain may have taken the answer out of JSON, or put its sources behind it.
    within = [one for one in every if _holds(one.answer, given["answer"])]
    return same[0] if same else within[0] if len(within) == 1 else _OTHER_TEXT


_NO_ANSWER = "the log has no answer that it speaks of"
_OTHER_TEXT = (
    "it judges a whole run that gave another text than any of its models did: judge the model's "
    "answer itself"
)


def _same_text(one: str, other: str) -> bool:
    return one.split() == other.split()


def _holds(one: str, other: str) -> bool:
    """Tell whether one of two texts is a part of the other, and no part of a word."""
    short, long = sorted((" ".join(text.split()) for text in (one, other)), key=len)
    return bool(short) and re.search(rf"(?<!\w){re.escape(short)}(?!\w)", long) is not None
