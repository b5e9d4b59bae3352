"""Calls that are XML in outline, their arguments plain text: Qwen3-Coder and GLM."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import regex

from steerable_llm.chat.tool_formats.argument import properties_of, typed
from steerable_llm.chat.tool_formats.found import CUT, NAME, Found, Write, as_json, sorted_out
from steerable_llm.chat.tools import InvalidToolCall, ParsedAnswer, Tool, ToolFormat


def _xml(
    name: str,
    opening: str,
    header: str,
    argument: str,
    tag: str,
    ends: str,
    closing: str,
    marks: tuple[str, ...],
    write: Write,
) -> ToolFormat:
    """Make the format of such calls.

    Args:
        name: Of the format.
        opening: Matches the mark of a call.
        header: Matches a call up to its arguments; its group is the tool's name.
        argument: Matches up to an argument's value; its group is the argument's name.
        tag: Of an argument's value.
        ends: Matches what ends a value.
        closing: Matches what closes a call.
        marks: As for the format.
        write: As for the format.
    """
    opens = regex.compile(rf"\s*{opening}")
    heads, begins, finishes, closes = (
        re.compile(x) for x in (header, rf"\s*{argument}", ends, rf"\s*{closing}")
    )

    def read(text: str, place: int, tools: Sequence[Tool]) -> tuple[Found, int]:
        after = opens.search(text, opens.match(text, place).end())
        rest = after.start() if after else len(text)
        head = heads.match(text, place)
        if head is None:
            return InvalidToolCall(text[place:rest].strip(), "expected the tool's name"), rest
        root = _parameters(tools, head[1])
        schemas = properties_of(root)
        arguments: dict[str, Any] = {}
        at = head.end()
        while begun := begins.match(text, at):
            # A value may quote a call: whatever is opened in it is closed in it, too.
            ends = finishes.finditer(text, begun.end())
            values = ((text[begun.end() : end.start()], end.end()) for end in ends)
            whole = (x for x in values if x[0].count(f"<{tag}") <= x[0].count(f"</{tag}>"))
            value, at = next(whole, (None, at))
            if value is None:
                return InvalidToolCall(text[head.end() : rest], CUT, head[1]), rest
            arguments[begun[1]] = typed(value, schemas.get(begun[1]), root)
        closed = closes.match(text, at)
        if closed is None:
            why = "expected an argument, or the end of the call" if text[at:rest].strip() else CUT
            rest = max(rest, at)
            return InvalidToolCall(text[head.end() : rest], why, head[1]), rest
        return (head[1], arguments), closed.end()

    def parse(text: str, tools: Sequence[Tool] = ()) -> ParsedAnswer:
        content, place = "", 0
        found: list[Found] = []
        while opened := opens.search(text, place):
            content += text[place : opened.start()]
            call, place = read(text, opened.start(), tools)
            found.append(call)
        return sorted_out(content + text[place:], found)

    return ToolFormat(name, opens, marks, parse, write)


def _parameters(tools: Sequence[Tool], name: str) -> Mapping[str, Any]:
    functions = (tool["function"] for tool in tools)
    found = next((x.get("parameters") for x in functions if x["name"] == name), None)
    return found if isinstance(found, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else as_json(value)


def _qwen3_coder(calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
    made = []
    for name, arguments in calls:
        inside = "".join(
            f"<parameter={key}>\n{_text(value)}\n</parameter>\n" for key, value in arguments.items()
        )
        made.append(f"<tool_call>\n<function={name}>\n{inside}</function>\n</tool_call>")
    return "\n".join(made)


def _glm(calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
    made = []
    for name, arguments in calls:
        inside = "".join(
            f"<arg_key>{key}</arg_key>\n<arg_value>{_text(value)}</arg_value>\n"
            for key, value in arguments.items()
        )
        made.append(f"<tool_call>{name}\n{inside}</tool_call>")
    return "\n".join(made)


_MARKS = ("<tool_call>", "</tool_call>")
XML_CALLS = (
    _xml(
        "qwen3-coder",
        # The outer mark is left out now and then.
        rf"(?:<tool_call>(?:\s*<function={NAME}>)?|<function={NAME}>)",
        rf"\s*(?:<tool_call>\s*)?<function=({NAME})>",
        r"<parameter=([^>\n]+)>\n?",
        "parameter",
        r"\n?</parameter>(?=\s*(?:<parameter=[^>\n]+>|</function>))",
        r"</function>(?:\s*</tool_call>)?",
        _MARKS,
        _qwen3_coder,
    ),
    _xml(
        "glm",
        "<tool_call>",
        rf"\s*<tool_call>\s*({NAME})",
        r"<arg_key>(.*?)</arg_key>\s*<arg_value>",
        "arg_value",
        r"</arg_value>(?=\s*(?:<arg_key>|</tool_call>))",
        "</tool_call>",
        (*_MARKS, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        _glm,
    ),
)
