"""What is found where an answer calls tools: calls, and what was to be one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from steerable_llm.chat.tools import InvalidToolCall, ParsedAnswer

Found: TypeAlias = tuple[str, dict[str, Any]] | InvalidToolCall
"""(name, arguments) of a call, or what was to be one."""

Write: TypeAlias = Callable[[Sequence[tuple[str, dict[str, Any]]]], str]
"""Writes calls, (name, arguments) each."""

CUT = "the call is cut off"
NAME = r"[\w.-]+"

_DECODER = json.JSONDecoder()


def call_of(value: Any, written: str) -> Found:
    """Return a call out of its JSON, whichever of the usual names its parts have."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    name = None
    if isinstance(value, dict):
        name = next((value[key] for key in ("name", "tool_name") if key in value), None)
    if not isinstance(name, str):
        return InvalidToolCall(written, 'expected an object with "name" and "arguments"')
    arguments: Any = next((value[key] for key in ("arguments", "parameters") if key in value), {})
    if isinstance(arguments, str):  # some models write the arguments as JSON within JSON
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            return InvalidToolCall(arguments, f"arguments are not valid JSON: {error}", name)
    if not isinstance(arguments, dict):
        shown = json.dumps(arguments, ensure_ascii=False)
        return InvalidToolCall(shown, "the arguments are not a JSON object", name)
    return name, arguments


def json_at(text: str, place: int) -> tuple[Any, int] | str:
    """Return the JSON value that begins at a place, and where it ends; or what is wrong with it."""
    try:
        return _DECODER.raw_decode(text, place)
    except (ValueError, RecursionError) as error:
        return f"not valid JSON: {error}"


def sorted_out(content: str, found: Sequence[Found]) -> ParsedAnswer:
    """Return an answer, taken apart."""
    return ParsedAnswer(
        content if content.strip() or not found else "",
        tuple(call for call in found if isinstance(call, tuple)),
        tuple(call for call in found if isinstance(call, InvalidToolCall)),
    )


def as_json(value: Any) -> str:
    """Return a value as models write it."""
    return json.dumps(value, ensure_ascii=False)
