"""Telling an answer's own text from the calls in it, while it is still being written."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from steerable_llm.chat.message import ToolCall
from steerable_llm.errors import InvalidInputError

# Tool calls in the text of an answer: how each family of models writes them.

Tool = Mapping[str, Any]
"""`{"type": "function", "function": {"name", "description", "parameters"}}`."""

# Nine letters and digits: Mistral's templates accept no other form.
_ID_LENGTH = 9


@dataclass(frozen=True)
class InvalidToolCall:
    """Text that was to be a call and cannot be read as one.

    Attributes:
        text: as the model wrote it; only the arguments, where the name can be read.
        error: what is wrong with it.
        name: of the tool, where at least that can be read.
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
        index: which call of the answer.
        arguments: what is new of its arguments.
        name: of the tool, in a call's first piece.
        id: of the call, in its first piece.
    """

    index: int
    arguments: str
    name: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class ParsedAnswer:
    """An answer, taken apart.

    Attributes:
        content: the text outside of calls.
        calls: (name, arguments) of each call.
        invalid: what was to be a call and is none.
    """

    content: str
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    invalid: tuple[InvalidToolCall, ...] = ()


@dataclass(frozen=True)
class ToolFormat:
    """How one family of models writes calls.

    Attributes:
        name: hermes, llama3, mistral or mistral-args.
        opening: matches where the first call begins; text before it is plain content.
        marks: the texts around calls, the first of them opens one. Where one is a special token,
            it counts as text all the same.
        parse: reads an answer.
        head: matches from the end of one call's arguments (or the opening) up to where the next
            one's begin; its group is the name of the tool.
    """

    name: str
    opening: re.Pattern[str]
    marks: tuple[str, ...]
    parse: Callable[[str], ParsedAnswer]
    head: re.Pattern[str]


def _read(text: str, written: str) -> Any:
    """(name, arguments) of a call written as one JSON object, or what is wrong with it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _unreadable(_HERMES_HEAD, written, error)
    return _call_of(value, written)


def _unreadable(head: re.Pattern[str], written: str, error: Exception) -> InvalidToolCall:
    """What was cut off or is no JSON; its arguments alone, where it has begun as a call."""
    begun = head.match(written)
    text, name = (written[begun.end() :], begun[1]) if begun else (written, None)
    return InvalidToolCall(text, f"not valid JSON: {error}", name)


def _call_of(value: Any, written: str) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return InvalidToolCall(written, 'expected an object with "name" and "arguments"')
    name: str = value["name"]
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


def _sorted_out(content: str, found: Sequence[Any]) -> ParsedAnswer:
    return ParsedAnswer(
        content if content.strip() or not found else "",
        tuple(call for call in found if isinstance(call, tuple)),
        tuple(call for call in found if isinstance(call, InvalidToolCall)),
    )


def _head(before: str, arguments: str) -> re.Pattern[str]:
    """A call as an object, up to its arguments."""
    return re.compile(
        rf'{before}\{{\s*"name"\s*:\s*"([\w.-]+)"\s*,\s*"(?:{arguments})"\s*:\s*(?=\{{)'
    )


_HERMES_HEAD = _head(r"(?:\s|\}|</tool_call>)*<tool_call>\s*", "arguments")
_LLAMA3_HEAD = _head(r"(?:\s|;|\}|<\|python_tag\|>)*", "parameters|arguments")
_MISTRAL_HEAD = _head(r"(?:\[TOOL_CALLS\]|[\s\[,}])*", "arguments")
_ARGS_HEAD = re.compile(r"\s*\[TOOL_CALLS\]\s*([\w.-]+)\s*(?:\[CALL_ID\]\w*)?\s*\[ARGS\]\s*(?=\{)")

_HERMES = re.compile(r"\s*<tool_call>(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)


def _parse_hermes(text: str) -> ParsedAnswer:
    found = [
        _read(match.group(1).strip(), match.group().strip()) for match in _HERMES.finditer(text)
    ]
    return _sorted_out(_HERMES.sub("", text), found)


def _in_a_row(body: str, head: re.Pattern[str], between: str, mark: str) -> list[Any]:
    """Calls that are written one after another, as far as they can be read."""
    found: list[Any] = []
    decoder = json.JSONDecoder()
    position = 0
    while position < len(body) or not found:
        try:
            value, end = decoder.raw_decode(body, position)
        except (ValueError, RecursionError) as error:
            return [*found, _unreadable(head, body[position:] or mark, error)]
        found.append(_call_of(value, mark + body[position:end]))
        position = end + len(body[end:]) - len(body[end:].lstrip(between))
    return found


_PYTHON_TAG = "<|python_tag|>"


_ARGUMENTS = re.compile(r'"(?:parameters|arguments)"\s*:')


def _parse_llama3(text: str) -> ParsedAnswer:
    body = text.strip()
    tagged = body.startswith(_PYTHON_TAG)
    body = body.removeprefix(_PYTHON_TAG).strip()
    if not tagged and not body.startswith("{"):
        return ParsedAnswer(text)
    found = _in_a_row(body, _LLAMA3_HEAD, "; \n\t", _PYTHON_TAG)
    begun = _LLAMA3_HEAD.match(body) or any(isinstance(call, tuple) for call in found)
    if not tagged and not (begun and _ARGUMENTS.search(body)):
        return ParsedAnswer(text)  # an answer in JSON, or in braces: no call was meant
    return _sorted_out("", found)


_TOOL_CALLS = "[TOOL_CALLS]"
_NAMED = re.compile(r"\s*(?:\[TOOL_CALLS\])?\s*([\w.-]+)\s*(?:\[CALL_ID\]\w*)?\s*\[ARGS\]\s*")


def _parse_mistral(text: str) -> ParsedAnswer:
    content, mark, body = text.partition(_TOOL_CALLS)
    if not mark:
        return ParsedAnswer(text)
    found: list[Any] = []
    body = body.strip()
    if _NAMED.match(body):
        decoder = json.JSONDecoder()
        while named := _NAMED.match(body):
            rest = body[named.end() :]
            try:
                value, end = decoder.raw_decode(rest)
            except (ValueError, RecursionError) as error:
                found.append(InvalidToolCall(rest, f"not valid JSON: {error}", named.group(1)))
                break
            found.append(_call_of({"name": named.group(1), "arguments": value}, body))
            body = rest[end:].strip()
    else:
        found = _in_a_row(body.lstrip("[ \n\t"), _MISTRAL_HEAD, ",] \n\t", _TOOL_CALLS)
    return _sorted_out(content.rstrip(), found)


_MISTRAL_OPENING = re.compile(r"\s*\[TOOL_CALLS\]")
FORMATS: dict[str, ToolFormat] = {
    "hermes": ToolFormat(
        "hermes",
        re.compile(r"\s*<tool_call>"),
        ("<tool_call>", "</tool_call>"),
        _parse_hermes,
        _HERMES_HEAD,
    ),
    "llama3": ToolFormat(
        "llama3",
        re.compile(r"\A\s*(?:\{|<\|python_tag\|>)"),
        (_PYTHON_TAG,),
        _parse_llama3,
        _LLAMA3_HEAD,
    ),
    "mistral": ToolFormat(
        "mistral", _MISTRAL_OPENING, (_TOOL_CALLS,), _parse_mistral, _MISTRAL_HEAD
    ),
    "mistral-args": ToolFormat(
        "mistral-args",
        _MISTRAL_OPENING,
        (_TOOL_CALLS, "[CALL_ID]", "[ARGS]"),
        _parse_mistral,
        _ARGS_HEAD,
    ),
}
"""Name -> format."""


def tool_format_of(tokenizer: PreTrainedTokenizerBase) -> ToolFormat | None:
    """The format that a tokenizer's chat template shows; None if it shows no tools we know."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default") or ""
    if not template or not re.search(r"\btools\b", template):
        return None
    if "<tool_call>" in template and "<function=" not in template:
        return FORMATS["hermes"]
    if _TOOL_CALLS in template:
        return FORMATS["mistral-args" if "[ARGS]" in template else "mistral"]
    if _PYTHON_TAG in template or '"parameters": dictionary' in template:
        return FORMATS["llama3"]
    return None


def with_ids(
    calls: Sequence[tuple[str, dict[str, Any]]], prompt: Sequence[int]
) -> tuple[ToolCall, ...]:
    """Give each call its id."""
    return tuple(
        ToolCall(call_id(prompt, number, name), name, arguments)
        for number, (name, arguments) in enumerate(calls)
    )


def call_id(prompt: Sequence[int], number: int, name: str) -> str:
    """The id of an answer's call, known as soon as its name is.

    It is made from the prompt, so that the same request gives the same answer, and the next turn,
    whose prompt holds this one, gives another id to the same call.
    """
    return short_id(json.dumps([list(prompt), number, name]))


def short_id(text: str) -> str:
    """Nine letters and digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_LENGTH]


def check_tools(tools: Sequence[Tool] | None, tool_choice: str | None) -> None:
    """Refuse tools that are not in OpenAI's form, and a choice of none of them.

    Raises:
        InvalidInputError: a malformed tool, or an unknown choice.
    """
    names = []
    for position, tool in enumerate(tools or ()):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidInputError(
                f'tool {position} is not a function: give {{"type": "function", "function": '
                '{"name": ..., "description": ..., "parameters": {...}}}'
            )
        if not re.fullmatch(r"[\w.-]+", function["name"]):
            raise InvalidInputError(
                f"tool {position} is called {function['name']!r}: "
                "give a name of letters, digits, '_', '-' and '.'"
            )
        names.append(function["name"])
    if len(set(names)) < len(names):
        raise InvalidInputError(f"two tools have the same name (of {', '.join(names)})")
    if tool_choice is None or tool_choice in ("auto", "none"):
        return
    if not names:
        raise InvalidInputError(f"tool_choice is {tool_choice!r} and there are no tools: give some")
    if tool_choice != "required" and tool_choice not in names:
        raise InvalidInputError(
            f"tool_choice is {tool_choice!r}: give auto, none, required or one of the tools "
            f"({', '.join(names)})"
        )


class ToolText:
    """The part of an answer that is for the reader.

    Text is released as long as no call has begun, and not while it could be the beginning of one.
    What stands after a call is released at the end, when it is known to be no call.

    Attributes:
        text: All text released so far.
        raw: All of the answer so far, its calls included.
    """

    def __init__(self, tool_format: ToolFormat) -> None:
        """Start an empty answer."""
        self.text = ""
        self._format = tool_format
        self.raw = ""

    def push(self, new: str) -> str:
        """Take more of the answer and return what it releases."""
        self.raw += new
        opened = self._format.opening.search(self.raw)
        end = opened.start() if opened else len(self.raw) - self._undecided()
        return self._release(self.raw[:end])

    def finish(self) -> tuple[str, ParsedAnswer]:
        """End the answer; return the text that was still held back, and the calls."""
        parsed = self._format.parse(self.raw)
        return self._release(parsed.content), parsed

    def _release(self, upto: str) -> str:
        released = upto[len(self.text) :]
        self.text += released
        return released

    def _undecided(self) -> int:
        """Length of the end that may belong to a call: its mark's first letters, and blanks."""
        mark = self._format.marks[0]
        lengths = range(min(len(mark) - 1, len(self.raw)), 0, -1)
        begun = next((n for n in lengths if mark.startswith(self.raw[-n:])), 0)
        before = self.raw[: len(self.raw) - begun]
        return begun + len(before) - len(before.rstrip())
