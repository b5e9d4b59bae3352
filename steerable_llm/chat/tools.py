"""Tools and the calls of an answer, whichever way a family of models writes them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from steerable_llm.chat.message import ToolCall
from steerable_llm.errors import wrong_value

Tool: TypeAlias = Mapping[str, Any]
"""`{"type": "function", "function": {"name", "description", "parameters"}}`."""

# Nine letters and digits: Mistral's templates accept no other form.
_ID_LENGTH = 9


@dataclass(frozen=True)
class InvalidToolCall:
    """Text that was to be a call and cannot be read as one.

    Attributes:
        text: As the model wrote it; only the arguments, where the name can be read.
        error: What is wrong with it.
        name: Of the tool, where at least that can be read.
    """

    text: str
    error: str
    name: str | None = None


@dataclass(frozen=True)
class CallPiece:
    """Some more of a call, while the model still writes it.

    The arguments of all pieces with one index, put together, are the JSON of a call's arguments. A
    call that turns out to be none ends in a bracket that fits nothing: it can never be read as
    one, not even by who mends JSON that is cut off.

    Attributes:
        index: Which call of the answer.
        arguments: What is new of its arguments.
        name: Of the tool, in a call's first piece.
        id: Of the call, in its first piece.
    """

    index: int
    arguments: str
    name: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class ParsedAnswer:
    """An answer, taken apart.

    Attributes:
        content: The text outside of calls.
        calls: (name, arguments) of each call.
        invalid: What was to be a call and is none.
    """

    content: str
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    invalid: tuple[InvalidToolCall, ...] = ()


@dataclass(frozen=True)
class ToolFormat:
    """How one family of models writes calls.

    Attributes:
        name: Of the family, as in the table of formats, or "response template".
        opening: Matches where the first call begins; text before it is plain content. A pattern
            of the module `regex`, which can tell what may still become a match.
        marks: The texts around calls, the first of them opens one. Where one is a special token,
            it counts as text all the same.
        parse: Reads an answer, knowing the tools that were offered.
        write: Writes calls, (name, arguments) each, as the family does.
        head: Matches from the end of one call's arguments (or the opening) up to where the next
            one's begin; its group is the name of the tool. Without one, calls are told whole.
        shown: From text without calls, and whether it has ended, to what of it is for the reader;
            None where that is all.
    """

    name: str
    opening: Any
    marks: tuple[str, ...]
    parse: Callable[..., ParsedAnswer]
    write: Callable[[Sequence[tuple[str, dict[str, Any]]]], str]
    head: Any = None
    shown: Callable[..., str] | None = None


# The calls of an answer get ids.


def with_ids(
    calls: Sequence[tuple[str, dict[str, Any]]], prompt: Sequence[int]
) -> tuple[ToolCall, ...]:
    """Give each call its id."""
    return tuple(
        ToolCall(call_id(prompt, number, name), name, arguments)
        for number, (name, arguments) in enumerate(calls)
    )


def call_id(prompt: Sequence[int], number: int, name: str) -> str:
    """Return the id of an answer's call, known as soon as its name is.

    It is made from the prompt, so that the same request gives the same answer, and the next turn,
    whose prompt holds this one, gives another id to the same call.
    """
    return short_id(json.dumps([list(prompt), number, name]))


def short_id(text: str) -> str:
    """Return nine letters and digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_LENGTH]


def check_tools(tools: Sequence[Tool] | None, tool_choice: str | None) -> None:
    """Refuse tools that are not in OpenAI's form, and a choice of none of them.

    Raises:
        InvalidInputError: A malformed tool, or an unknown choice.
    """
    names = []
    for position, tool in enumerate(tools or ()):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise wrong_value(
                "tools",
                f'tool {position} is not a function: give {{"type": "function", "function": '
                '{"name": ..., "description": ..., "parameters": {...}}}',
            )
        if not re.fullmatch(r"[\w.-]+", function["name"]):
            raise wrong_value(
                "tools",
                f"tool {position} is called {function['name']!r}: "
                "give a name of letters, digits, '_', '-' and '.'",
            )
        names.append(function["name"])
    if len(set(names)) < len(names):
        raise wrong_value("tools", f"two tools have the same name (of {', '.join(names)})")
    if tool_choice is None or tool_choice in ("auto", "none"):
        return
    if not names:
        raise wrong_value(
            "tool_choice", f"tool_choice is {tool_choice!r} and there are no tools: give some"
        )
    if tool_choice != "required" and tool_choice not in names:
        raise wrong_value(
            "tool_choice",
            f"tool_choice is {tool_choice!r}: give auto, none, required or one of the tools "
            f"({', '.join(names)})",
        )


class ToolText:
    """The part of an answer that is for the reader, while the answer is still being written.

    Text is released as long as no call has begun, and not while it could be the beginning of one.
    What stands after a call is released at the end, when it is known to be no call.

    Attributes:
        text: All text released so far.
        raw: All of the answer so far, its calls included.
    """

    def __init__(self, tool_format: ToolFormat, tools: Sequence[Tool] = ()) -> None:
        """Start an empty answer.

        Args:
            tool_format: How its calls are written.
            tools: What was offered.
        """
        self.text = ""
        self.raw = ""
        self._format = tool_format
        self._tools = tools

    def push(self, new: str) -> str:
        """Take more of the answer and return what it releases."""
        self.raw += new
        opened = self._format.opening.search(self.raw, partial=True)
        text = self.raw[: opened.start()] if opened else self.raw
        return self._release(self._format.shown(text) if self._format.shown else text)

    def finish(self) -> tuple[str, ParsedAnswer]:
        """End the answer; return the text that was still held back, and the calls."""
        parsed = self._format.parse(self.raw, self._tools)
        # A response template may leave out what is already told, such as thoughts.
        told = parsed.content.startswith(self.text)
        return self._release(parsed.content if told else self.text), parsed

    def _release(self, upto: str) -> str:
        released = upto[len(self.text) :]
        self.text += released
        return released
