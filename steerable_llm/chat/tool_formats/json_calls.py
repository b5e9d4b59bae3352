"""Calls that are JSON objects with a name and arguments, alone or in a list, behind a mark.

Hermes (Qwen2.5, Qwen3, Granite 4 and many more), Llama 3, Phi-4, Granite 3 and Command-R.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import regex

from steerable_llm.chat.tool_formats.found import (
    NAME,
    Found,
    Write,
    as_json,
    call_of,
    json_at,
    sorted_out,
)
from steerable_llm.chat.tools import InvalidToolCall, ParsedAnswer, Tool, ToolFormat

# What stands between calls; a brace too many is no call of its own.
_BETWEEN = re.compile(r"[\s\[\],;}]*")


def _begun(arguments: str = "arguments", name: str = "name", before: str = "") -> str:
    """Match a call that is an object, up to its arguments."""
    return rf'\{{\s*{before}"{name}"\s*:\s*"({NAME})"\s*,\s*"(?:{arguments})"\s*:\s*(?=\{{)'


def read_calls(
    text: str, place: int, mark: str, begun: Any, opening: Any = None, closing: Any = None
) -> tuple[list[Found], int]:
    """Read calls from behind their mark on, as far as they go; return where they end, too.

    What has no name is told with its mark: without it, it might look like a call's arguments.
    """
    found: list[Found] = []
    start = place
    while True:
        at = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]
        if closing is not None and (closed := closing.match(text, at)):
            place = closed.end()
            break
        if at == len(text) or (opening is not None and opening.match(text, at)):
            place = at
            break
        read = json_at(text, at)
        if isinstance(read, str):
            ends = [x.search(text, at) for x in (closing, opening) if x is not None]
            place = min((end.start() for end in ends if end), default=len(text))
            head = begun.match(text, at)
            written = text[head.end() : place] if head else mark + text[at:place]
            found.append(InvalidToolCall(written, read, head[1] if head else None))
        else:
            value, place = read
            found.append(call_of(value, mark + text[at:place]))
    if not found:
        written = mark + text[start:place].strip()
        found.append(InvalidToolCall(written, "no call follows its mark"))
    return found, place


def objects(
    calls: Sequence[tuple[str, dict[str, Any]]], key: str = "arguments", name: str = "name"
) -> list[str]:
    """Return calls, an object each."""
    return [as_json({name: called, key: arguments}) for called, arguments in calls]


def marked(
    name: str,
    opening: str,
    marks: tuple[str, ...],
    write: Write,
    closing: str | None = None,
    begun: str | None = None,
) -> ToolFormat:
    """Make the format of calls behind a mark.

    Args:
        name: Of the format.
        opening: Matches the mark.
        marks: As for the format.
        write: As for the format.
        closing: Matches what closes calls.
        begun: Matches a call up to its arguments.
    """
    opens, starts = regex.compile(rf"\s*{opening}"), re.compile(begun or _begun())
    closes = None if closing is None else re.compile(rf"\s*{closing}")

    def parse(text: str, _tools: Sequence[Tool] = ()) -> ParsedAnswer:
        content, found, place = "", [], 0
        while opened := opens.search(text, place):
            content += text[place : opened.start()]
            calls, place = read_calls(text, opened.end(), marks[0], starts, opens, closes)
            found += calls
        return sorted_out(content + text[place:], found)

    between = rf"(?:{_BETWEEN.pattern[:-1]}|{closing or opening}|{opening})*"
    return ToolFormat(name, opens, marks, parse, write, re.compile(between + starts.pattern))


# Llama 3: {"name": ..., "parameters": {...}}; {...}, with no mark or after <|python_tag|>

_PYTHON_TAG = "<|python_tag|>"
_LLAMA3_BEGUN = re.compile(_begun("parameters|arguments"))
_ARGUMENTS = re.compile(r'"(?:parameters|arguments)"\s*:')


def _parse_llama3(text: str, _tools: Sequence[Tool] = ()) -> ParsedAnswer:
    body = text.strip()
    tagged = body.startswith(_PYTHON_TAG)
    body = body.removeprefix(_PYTHON_TAG).strip()
    if not tagged and not body.startswith("{"):
        return ParsedAnswer(text)
    found, _ = read_calls(body, 0, _PYTHON_TAG, _LLAMA3_BEGUN)
    begun = _LLAMA3_BEGUN.match(body) or any(isinstance(call, tuple) for call in found)
    if not tagged and not (begun and _ARGUMENTS.search(body)):
        return ParsedAnswer(text)  # an answer in JSON, or in braces: no call was meant
    return sorted_out("", found)


def _fenced(calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
    return f"Action: ```json\n[{', '.join(objects(calls, 'parameters', 'tool_name'))}]```"


def _actions(calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
    listed = (
        as_json({"tool_call_id": str(i), "tool_name": name, "parameters": arguments})
        for i, (name, arguments) in enumerate(calls)
    )
    return f"<|START_ACTION|>[{', '.join(listed)}]<|END_ACTION|>"


_COMMAND_BEGUN = _begun("parameters", "tool_name", r'(?:"tool_call_id"\s*:\s*"[^"]*"\s*,\s*)?')

JSON_CALLS = (
    marked(
        "hermes",
        "<tool_call>",
        ("<tool_call>", "</tool_call>"),
        lambda calls: "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in objects(calls)),
        "</tool_call>",
    ),
    ToolFormat(
        "llama3",
        regex.compile(r"\A\s*(?:\{|<\|python_tag\|>)"),
        (_PYTHON_TAG,),
        _parse_llama3,
        lambda calls: "; ".join(objects(calls, "parameters")),
        re.compile(r"(?:\s|;|\}|<\|python_tag\|>)*" + _LLAMA3_BEGUN.pattern),
    ),
    marked(
        "phi4",
        r"<\|tool_call\|>",
        ("<|tool_call|>", "<|/tool_call|>"),
        lambda calls: f"<|tool_call|>[{', '.join(objects(calls))}]<|/tool_call|>",
        r"<\|/tool_call\|>",
    ),
    marked(
        "phi4-functools",
        r"functools\s*\[",
        ("functools",),
        lambda calls: f"functools[{', '.join(objects(calls))}]",
    ),
    marked(
        "granite",
        r"<\|?tool_call\|?>",
        ("<|tool_call|>",),
        lambda calls: f"<|tool_call|>[{', '.join(objects(calls))}]",
        r"</\|?tool_call\|?>",
    ),
    marked("command-r", r"Action:\s*```(?:json)?", ("Action:",), _fenced, "```", _COMMAND_BEGUN),
    marked(
        "command-r7b",
        r"<\|START_ACTION\|>",
        ("<|START_ACTION|>", "<|END_ACTION|>"),
        _actions,
        r"<\|END_ACTION\|>",
        _COMMAND_BEGUN,
    ),
)
