"""Evaluation sets: RAGAS samples and results, DeepEval test cases and results.

Conversations of both arrive here cut into their answers; see `conversations`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic.alias_generators import to_snake

from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.logs.importers.conversations import ANSWERS, each_answer, last_answer
from steerable_llm.logs.importers.judgement import Judgement
from steerable_llm.logs.importers.messages import answer_text
from steerable_llm.logs.importers.records import (
    ImportedAnswer,
    Record,
    UnusableRecord,
    content_id,
    decoded,
    listed,
    mapping,
    needed,
    number,
    page,
    passages,
    rendered,
    text,
    yes_or_no,
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
    "reference_tool_calls",
    "reference_topics",
    ANSWERS,
}


# What RAGAS 0.1 called them, and what the experiments in its guides do.
_RAGAS_ELSE = {
    "question": "user_input",
    "query": "user_input",
    "contexts": "retrieved_contexts",
    "answer": "response",
    "ground_truth": "reference",
    "ground_truths": "reference",
    "expected_output": "reference",
    "expected_answer": "reference",
}
# How Python prints the result of a metric, as a table of an experiment may have it.
_PRINTED = re.compile(r"MetricResult\(value=(.*?)(?:, reason=(.*))?\)", re.DOTALL)


def ragas_records(record: Record) -> list[tuple[str, Any]]:
    """Return the samples in a file of several, also where a metric's have notes of a person."""
    found = []
    for name, entries in record.items():
        for place, one in enumerate(entries if isinstance(entries, list) else (), start=1):
            if isinstance(one, Mapping) and isinstance(sample := one.get("metric_input"), Mapping):
                target, given = one.get("target"), one.get("metric_output")
                noted = {name: given if target is None else target}
                found.append((f"{name} {place}", {**sample, **noted}))
    pages = ("samples", "data", "rows", "dataset", "results", "examples")
    return each_answer(found or page(record, *pages), "user_input")


def ragas(record: Record) -> list[ImportedAnswer]:
    """Read a RAGAS sample; metrics that are known by name judge it."""
    # Of two spellings of a name the present one counts.
    plain = {_RAGAS_ELSE.get(name, name): value for name, value in record.items()} | {
        name: record[name] for name in _RAGAS_FIELDS & record.keys()
    }
    found = passages(plain.get("retrieved_contexts"), plain.get("retrieved_context_ids"))
    judgements = tuple(
        judgement
        for name, value in plain.items()
        if name not in _RAGAS_FIELDS and (judgement := _ragas_judgement(name, value, plain))
    )
    asked = decoded(plain.get("user_input"))
    if isinstance(asked, list):
        return [last_answer("ragas", asked, found, _of_whole(record, judgements))]
    question, answer = needed(plain, "user_input"), answer_text(plain.get("response"), "response")
    expected = decoded(plain.get("reference"))
    reference = text(*expected) if isinstance(expected, list) else text(expected)
    return [_draft("ragas", question, found, answer, reference, judgements)]


def _ragas_judgement(name: str, value: object, sample: Record) -> Judgement | None:
    """Return what a metric said: a number, "pass" or "fail", or one of these with its reason."""
    told = value
    if isinstance(value, str) and value.lstrip()[:1] == "{":  # a cell of a table
        with contextlib.suppress(UnusableRecord):
            told = listed(f"[{value}]", name)[0]
    reason: object = sample.get(f"{name}_reason")
    if isinstance(value, str) and (printed := _PRINTED.fullmatch(value.strip())):
        told = {"value": printed[1], "reason": (printed[2] or "").strip("'\"")}
    if isinstance(told, Mapping) and "reason" in told:
        value, reason = told.get("value", told.get("result")), told["reason"]
    score = number(value)
    passed = _PASSED.get(value.strip().lower()) if isinstance(value, str) else None
    if score is None and passed is None:
        return None
    return Judgement(name=name, score=score, passed=passed, comment=text(reason))


_PASSED = {"pass": True, "passed": True, "fail": False, "failed": False}


def _of_whole(record: Record, judgements: tuple[Judgement, ...]) -> tuple[Judgement, ...]:
    """What was said of the conversation that a record is from."""
    return tuple(replace(one, answers=record.get(ANSWERS, 1)) for one in judgements)


def deepeval_records(record: Record) -> list[tuple[str, Any]]:
    """Return the test cases in a run, in results, or in a data set."""
    names = ("testRunData", "test_run_data", "testCases", "test_cases", "testResults")
    more = ("test_results", "conversationalTestCases", "conversational_test_cases", "goldens")
    return each_answer(page(record, *names, *more, "data", "results"), "turns")


def deepeval(record: Record) -> list[ImportedAnswer]:
    """Read a DeepEval test case or test result; its metrics say themselves what passed."""
    plain = _snake(record)
    judgements = _deepeval_judgements(plain)
    turns = decoded(plain.get("turns"))
    if turns or yes_or_no(plain.get("conversational")) or "scenario" in plain:
        turns = listed(turns, "turns")
        last = {
            to_snake(name): value for name, value in mapping(turns[-1] if turns else None).items()
        }
        told = _of_whole(record, judgements)
        if comment := text(last.get("comments")):
            told = (*told, Judgement(comment=comment))
        return [last_answer("deepeval", turns, passages(last.get("retrieval_context")), told)]
    question = needed(plain, "input")
    answer = answer_text(plain.get("actual_output"), "actual_output")
    contexts = decoded(plain.get("retrieval_context"))
    if isinstance(contexts, str) and not contexts.lstrip().startswith("["):
        contexts = contexts.split("|")  # as its tables have several
    reference = text(plain.get("expected_output"))
    return [_draft("deepeval", question, passages(contexts), answer, reference, judgements)]


def _snake(record: Record) -> dict[str, Any]:
    """Return a record with its names in one of DeepEval's two spellings."""
    return {to_snake(name): value for name, value in record.items()}


def _deepeval_judgements(plain: Record) -> tuple[Judgement, ...]:
    judgements = [
        Judgement(
            name=str(metric.get("name") or metric.get("metric") or ""),
            score=number(metric.get("score")),
            passed=yes_or_no(metric.get("success")),
            comment=text(metric.get("reason")),
        )
        for metric in listed(plain.get("metrics_data"), "metrics")
        # One that broke down failed itself, and not the answer.
        if isinstance(metric, Mapping) and not metric.get("error") and not metric.get("skipped")
    ]
    if not plain.get("metrics_data") and (passed := yes_or_no(plain.get("success"))) is not None:
        judgements.append(Judgement(name="test case", passed=passed))
    if comment := text(plain.get("comments")):
        judgements.append(Judgement(comment=comment))
    return tuple(judgements)


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
