"""Calls that name the tool in words of their own, and only its arguments are JSON.

DeepSeek, the channels of gpt-oss (harmony), and the newer models of Mistral.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
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
from steerable_llm.chat.tool_formats.json_calls import marked, objects
from steerable_llm.chat.tools import InvalidToolCall, ParsedAnswer, Tool, ToolFormat


def named_parser(opening: Any, header: Any, tail: Any) -> Callable[..., ParsedAnswer]:
    """Return what reads such calls.

    Args:
        opening: Matches where a call begins.
        header: Matches up to the arguments; its group is the name.
        tail: Matches what closes a call.
    """

    def parse(text: str, _tools: Sequence[Tool] = ()) -> ParsedAnswer:
        content, place = "", 0
        found: list[Found] = []
        while opened := (found and header.match(text, place)) or opening.search(text, place):
            content += text[place : opened.start()]
            head = header.match(text, opened.start())
            start = head.end() if head else opened.start()
            read = json_at(text, start) if head else "expected the tool's name and its arguments"
            if isinstance(read, str):
                after = opening.search(text, max(start, opened.end()))
                place = after.start() if after else len(text)
                written = text[start:place].strip()
                found.append(InvalidToolCall(written, read, head[1] if head else None))
                continue
            value, end = read
            found.append(call_of({"name": head[1], "arguments": value}, text[start:end]))
            place = tail.match(text, end).end()
        return sorted_out(content + text[place:], found)

    return parse


def named(
    name: str,
    opening: str,
    marks: tuple[str, ...],
    header: str,
    tail: str,
    write: Write,
) -> ToolFormat:
    """Make such a format; `opening`, `header` and `tail` are patterns as for `named_parser`."""
    opens = regex.compile(rf"\s*{opening}")
    parse = named_parser(opens, regex.compile(rf"\s*{header}"), regex.compile(tail))
    head = regex.compile(rf"{tail}\s*{header}(?=\{{)")
    return ToolFormat(name, opens, marks, parse, write, head)


# DeepSeek: one block of calls, each with its marks; up to V3 and R1 the arguments are fenced.

_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_ONE, _SEP, _OVER = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_DEEPSEEK = (
    "<｜tool▁calls?▁begin｜>",
    (_BEGIN, _END, _ONE, _SEP, _OVER),
    rf"(?:{_BEGIN})?\s*{_ONE}\s*"
    rf"(?|function{_SEP}\s*({NAME})\s*```(?:json)?\s*|({NAME})\s*{_SEP}\s*)",
    rf"\s*(?:```)?\s*(?:{_OVER})?\s*(?:{_END})?",
)


def _deepseek_v3(calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
    written = (
        f"{_ONE}function{_SEP}{name}\n```json\n{as_json(arguments)}\n```{_OVER}"
        for name, arguments in calls
    )
    return _BEGIN + "\n".join(written) + _END


def _deepseek(calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
    written = (f"{_ONE}{name}{_SEP}{as_json(arguments)}{_OVER}" for name, arguments in calls)
    return _BEGIN + "".join(written) + _END


# gpt-oss: every message of an answer says in its header which channel it is in, and whom it is to.

_TURN = r"(?:<\|start\|>assistant)?\s*"
_TO = rf"to=(?:functions\.)?({NAME})"
_CONTENT = r"\s*(?:<\|constrain\|>)?\s*\w*\s*<\|message\|>\s*"
_HARMONY_HEADER = (
    rf"(?|{_TURN}<\|channel\|>\w+\s+{_TO}{_CONTENT}|{_TURN}{_TO}\s*<\|channel\|>\w+{_CONTENT})"
)
_HARMONY_OPENING = (
    rf"(?:{_TURN}<\|channel\|>\w+\s+to=|(?:\A\s*|<\|start\|>assistant\s*)to=functions\.)"
)
_CHANNEL = regex.compile(
    r"(?:<\|start\|>assistant)?\s*<\|channel\|>(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"(.*?)(?:<\|end\|>|<\|return\|>|(?=<\|start\|>)|(?=<\|channel\|>)|\Z)",
    regex.DOTALL,
)
# The start of a mark that may still become one.
_MARK_BEGUN = regex.compile(r"<(?:\|(?:\w+(?:\|)?)?)?\Z")
_HEADERS = ("<|channel|>", "<|start|>")


def _spoken(text: str, ended: bool = False) -> str:
    """Return what of some channels is for the reader: all but the analysis.

    A text without channels is one.
    """
    begun = text.lstrip()
    if not begun.startswith(_HEADERS):
        held = begun and any(header.startswith(begun) for header in _HEADERS)
        return "" if held and not ended else text
    said = "".join(body for channel, body in _CHANNEL.findall(text) if channel != "analysis")
    return said if ended else _MARK_BEGUN.sub("", said)


def _harmony() -> ToolFormat:
    marks = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>", "<|call|>", "<|end|>")
    plain = named(
        "harmony",
        _HARMONY_OPENING,
        (*marks, "<|return|>"),
        _HARMONY_HEADER,
        r"\s*(?:<\|call\|>|<\|end\|>)?",
        lambda calls: "<|start|>assistant".join(
            f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
            f"{as_json(arguments)}<|call|>"
            for name, arguments in calls
        ),
    )

    def parse(text: str, tools: Sequence[Tool] = ()) -> ParsedAnswer:
        read = plain.parse(text, tools)
        return replace(read, content=_spoken(read.content, ended=True))

    return replace(plain, parse=parse, shown=_spoken)


# Mistral: a list of objects in the older models, a name and its arguments in the newer.

_MARK = "[TOOL_CALLS]"
_NAMED = rf"\s*({NAME})\s*(?:\[CALL_ID\]\w*)?\s*\[ARGS\]\s*"

_listed = marked(
    "mistral",
    regex.escape(_MARK),
    (_MARK,),
    lambda calls: f"{_MARK}[{', '.join(objects(calls))}]",
)
_by_name = named(
    "mistral-args",
    regex.escape(_MARK),
    (_MARK, "[CALL_ID]", "[ARGS]"),
    rf"(?:{regex.escape(_MARK)})?{_NAMED}",
    r"\s*",
    lambda calls: "".join(f"{_MARK}{name}[ARGS]{as_json(given)}" for name, given in calls),
)


def _mistral(text: str, tools: Sequence[Tool] = ()) -> ParsedAnswer:
    """Read an answer in either form, since some models write that of others."""
    new = regex.search(regex.escape(_MARK) + _NAMED, text)
    return (_by_name if new else _listed).parse(text, tools)


NAMED_CALLS = (
    named("deepseek-v3", *_DEEPSEEK, _deepseek_v3),
    named("deepseek-v3.1", *_DEEPSEEK, _deepseek),
    _harmony(),
    replace(_listed, parse=_mistral),
    replace(_by_name, parse=_mistral),
)
