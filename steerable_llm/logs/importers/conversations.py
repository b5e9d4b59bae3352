"""Conversations that were evaluated as a whole: RAGAS' multi-turn samples and DeepEval's.

They are cut into the answers in them, each with the turns before it as its prompt. What a metric
says of a conversation with one answer, it says of that answer. Of several it names none, so that
none gets a verdict from it. What a conversation was expected to come to is no answer either, and is
left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic.alias_generators import to_snake

from steerable_llm.logs.answers import LoggedAnswer, Passage, asked
from steerable_llm.logs.importers.judgement import Judgement
from steerable_llm.logs.importers.messages import prompt, said, speaker
from steerable_llm.logs.importers.records import (
    ImportedAnswer,
    UnusableRecord,
    content_id,
    decoded,
    listed,
    mapping,
    rendered,
    text,
)

#: The name in a record of one answer under which stands how many its conversation has.
ANSWERS = "answers in the conversation"


def each_answer(records: Sequence[tuple[str, Any]], name: str) -> list[tuple[str, Any]]:
    """Return records, with each conversation among them cut into one record for each answer.

    Args:
        records: Records and their places.
        name: Under which a conversation has its turns.
    """
    return [
        (", ".join(filter(None, (place, turn))), one)
        for place, record in records
        for turn, one in _cut(record, name)
    ]


def _cut(record: Any, name: str) -> list[tuple[str, Any]]:
    turns = decoded(record.get(name)) if isinstance(record, Mapping) else None
    if not isinstance(turns, list):
        return [("", record)]
    roles = [speaker(turn) for turn in turns]
    # A greeting before anything was asked answers nothing.
    first = roles.index("user") if "user" in roles else len(turns)
    answers = [n for n in range(first, len(turns)) if roles[n] == "assistant" and _says(turns[n])]
    cut = [(f"turn {n + 1}", {**record, name: turns[: n + 1], ANSWERS: len(answers)})
           for n in answers]  # fmt: skip
    return cut or [("", record)]


def _says(turn: Mapping[str, Any]) -> bool:
    """Whether a message says something, and goes on to call no tool."""
    return bool(text(turn.get("content"))) and not turn.get("tool_calls")


def last_answer(
    kind: str, turns: Sequence[Any], found: tuple[Passage, ...], judgements: tuple[Judgement, ...]
) -> ImportedAnswer:
    """Return the answer that a conversation ends with.

    Args:
        kind: Where it is from.
        turns: The conversation, in the form of its tool.
        found: What was retrieved for the answer.
        judgements: What was said of it.
    """
    if not turns or speaker(turns[-1]) != "assistant" or not _says(turns[-1]):
        raise UnusableRecord("it is a conversation without an answer of the assistant")
    *before, last = [told for turn in turns for told in _with_tools(turn)]
    messages = prompt(before)
    question = asked(None, messages)
    if not question:
        raise UnusableRecord("it is a conversation in which the user asks nothing")
    if found:
        place = max(n for n, message in enumerate(messages) if message.role == "user")
        shown = rendered(messages[place].content, found)
        messages = (*messages[:place], *shown, *messages[place + 1 :])
    answer = said(last)
    logged = LoggedAnswer(
        id=content_id(kind, [message.key for message in messages], answer),
        question=question,
        passages=found,
        messages=messages,
        answer=answer,
    )
    return ImportedAnswer(logged, judgements)


def _with_tools(turn: Any) -> Iterator[Any]:
    """Yield a turn, after the calls and results of the tools that DeepEval names in it."""
    plain = {to_snake(name): value for name, value in mapping(turn).items()}
    if plain.get("mcp_tools_called") or plain.get("mcp_resources_called"):
        raise UnusableRecord("a turn of it rests on calls of MCP, which cannot be taken")
    called = [
        {to_snake(name): value for name, value in mapping(one).items()}
        for one in listed(plain.get("tools_called"), "tools called")
    ]
    called = [one for one in called if one.get("output") is not None]
    if called:
        calls = [
            {"name": one.get("name"), "args": one.get("input_parameters") or {}} for one in called
        ]
        yield {"role": "assistant", "content": "", "tool_calls": calls}
    for one in called:
        result = one["output"]
        if not isinstance(result, str):
            result = json.dumps(result, ensure_ascii=False, default=str)
        yield {"role": "tool", "name": one.get("name"), "content": result}
    yield turn
