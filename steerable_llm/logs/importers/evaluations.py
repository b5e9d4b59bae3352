"""Evaluation sets: RAGAS samples and results, DeepEval test cases and results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.alias_generators import to_snake

from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.logs.importers.judgement import Judgement
from steerable_llm.logs.importers.records import (
    ImportedAnswer,
    Record,
    UnusableRecord,
    content_id,
    needed,
    number,
    passages,
    rendered,
    text,
)

_RAGAS_FIELDS = {
    "user_input",
    "retrieved_contexts",
    "retrieved_context_ids",
    "reference_contexts",
    "reference_context_ids",
    "response",
    "multi_responses",
    "reference",
    "rubrics",
    "persona_name",
    "query_style",
    "query_length",
}


def ragas(record: Record) -> list[ImportedAnswer]:
    """Read a RAGAS single-turn sample; other numbers beside its fields are metrics."""
    if isinstance(record.get("user_input"), list):
        raise UnusableRecord("it is a multi-turn sample; only single-turn samples can be taken")
    question, answer = needed(record, "user_input"), needed(record, "response")
    ids = record.get("retrieved_context_ids") or ()
    found = passages(record.get("retrieved_contexts") or (), ids)
    judgements = tuple(
        Judgement(name=name, score=score)
        for name, value in record.items()
        if name not in _RAGAS_FIELDS and (score := number(value)) is not None
    )
    reference = text(record.get("reference"))
    return [_draft("ragas", question, found, answer, reference, judgements)]


def deepeval(record: Record) -> list[ImportedAnswer]:
    """Read a DeepEval test case or test result; its metrics say themselves what passed."""
    if record.get("turns") or record.get("conversational"):
        raise UnusableRecord("it is a conversation; only single-turn test cases can be taken")
    plain = {to_snake(name): value for name, value in record.items()}
    question, answer = needed(plain, "input"), needed(plain, "actual_output")
    contexts, ids = [], []
    for entry in plain.get("retrieval_context") or ():
        if isinstance(entry, Mapping):
            contexts.append(entry.get("context"))
            ids.append(entry.get("source"))
        else:
            contexts.append(entry)
    found = passages(contexts, ids if len(ids) == len(contexts) else ())
    judgements = [
        Judgement(
            name=str(metric.get("name", "")),
            score=number(metric.get("score")),
            passed=metric["success"] if isinstance(metric.get("success"), bool) else None,
            comment=text(metric.get("reason")),
        )
        for metric in plain.get("metrics_data") or ()
        if isinstance(metric, Mapping)
    ]
    if not judgements and isinstance(plain.get("success"), bool):
        judgements.append(Judgement(name="test case", passed=plain["success"]))
    if comment := text(plain.get("comments")):
        judgements.append(Judgement(comment=comment))
    reference = text(plain.get("expected_output"))
    return [_draft("deepeval", question, found, answer, reference, tuple(judgements))]


def _draft(
    kind: str,
    question: str,
    found: Any,
    answer: str,
    reference: str | None,
    judgements: tuple[Judgement, ...],
) -> ImportedAnswer:
    logged = LoggedAnswer(
        id=content_id(kind, question, [passage.text for passage in found], answer),
        question=question,
        passages=found,
        messages=rendered(question, found),
        answer=answer,
        reference=reference,
    )
    return ImportedAnswer(logged, judgements)
