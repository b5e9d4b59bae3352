"""Tool calls in the text of an answer: how each family of models writes them, and their reading.

A family is told from its chat template. Where a tokenizer also brings a response template, which
says how answers are taken apart, transformers reads them by that.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import regex
from transformers import PreTrainedTokenizerBase

from steerable_llm.chat.message import ToolCall
from steerable_llm.errors import InvalidInputError

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


Found: TypeAlias = tuple[str, dict[str, Any]] | InvalidToolCall
"""(name, arguments) of a call, or what was to be one."""


@dataclass(frozen=True)
class ToolFormat:
    """How one family of models writes calls.

    Attributes:
        name: hermes, llama3, mistral, mistral-args, or "response template".
        opening: Matches where the first call begins; text before it is plain content. A pattern
            of the module `regex`, which can tell what may still become a match.
        marks: The texts around calls, the first of them opens one. Where one is a special token,
            it counts as text all the same.
        parse: Reads an answer, knowing the tools that were offered.
        head: Matches from the end of one call's arguments (or the opening) up to where the next
            one's begin; its group is the name of the tool. Without one, calls are told whole.
    """

    name: str
    opening: Any
    marks: tuple[str, ...]
    parse: Callable[..., ParsedAnswer]
    head: re.Pattern[str] | None = None


# Reading one call.


def _call_of(value: Any, written: str) -> Found:
    """Return a call out of its JSON, whichever of the usual names its parts have."""
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


def _unreadable(head: re.Pattern[str], written: str, error: Exception) -> InvalidToolCall:
    """Return what was cut off or is no JSON; its arguments alone, where it has begun as a call."""
    begun = head.match(written)
    text, name = (written[begun.end() :], begun[1]) if begun else (written, None)
    return InvalidToolCall(text, f"not valid JSON: {error}", name)


def _in_a_row(body: str, head: re.Pattern[str], between: str, mark: str) -> list[Found]:
    """Return calls that are written one after another, as far as they can be read."""
    found: list[Found] = []
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


def _sorted_out(content: str, found: Sequence[Found]) -> ParsedAnswer:
    return ParsedAnswer(
        content if content.strip() or not found else "",
        tuple(call for call in found if isinstance(call, tuple)),
        tuple(call for call in found if isinstance(call, InvalidToolCall)),
    )


def _head(before: str, arguments: str) -> re.Pattern[str]:
    """Match a call that is an object, up to its arguments."""
    return re.compile(
        rf'{before}\{{\s*"name"\s*:\s*"([\w.-]+)"\s*,\s*"(?:{arguments})"\s*:\s*(?=\{{)'
    )


# Hermes (Qwen2.5 and many more): <tool_call>{"name": ..., "arguments": {...}}</tool_call>

_HERMES = re.compile(r"\s*<tool_call>(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)
_HERMES_HEAD = _head(r"(?:\s|\}|</tool_call>)*<tool_call>\s*", "arguments")


def _parse_hermes(text: str, _tools: Sequence[Tool] = ()) -> ParsedAnswer:
    found: list[Found] = []
    for match in _HERMES.finditer(text):
        written = match.group().strip()
        try:
            found.append(_call_of(json.loads(match.group(1).strip()), written))
        except (ValueError, RecursionError) as error:
            found.append(_unreadable(_HERMES_HEAD, written, error))
    return _sorted_out(_HERMES.sub("", text), found)


# Llama 3: {"name": ..., "parameters": {...}}; {...}, with no mark or after <|python_tag|>

_PYTHON_TAG = "<|python_tag|>"
_LLAMA3_HEAD = _head(r"(?:\s|;|\}|<\|python_tag\|>)*", "parameters|arguments")
_ARGUMENTS = re.compile(r'"(?:parameters|arguments)"\s*:')


def _parse_llama3(text: str, _tools: Sequence[Tool] = ()) -> ParsedAnswer:
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


# Mistral: [TOOL_CALLS][{"name": ..., "arguments": {...}}], or [TOOL_CALLS]name[ARGS]{...}

_TOOL_CALLS = "[TOOL_CALLS]"
_MISTRAL_OPENING = regex.compile(r"\s*\[TOOL_CALLS\]")
_MISTRAL_HEAD = _head(r"(?:\[TOOL_CALLS\]|[\s\[,}])*", "arguments")
_NAMED = re.compile(r"\s*(?:\[TOOL_CALLS\])?\s*([\w.-]+)\s*(?:\[CALL_ID\]\w*)?\s*\[ARGS\]\s*")
_NAMED_HEAD = re.compile(r"\s*\[TOOL_CALLS\]\s*([\w.-]+)\s*(?:\[CALL_ID\]\w*)?\s*\[ARGS\]\s*(?=\{)")


def _parse_mistral(text: str, _tools: Sequence[Tool] = ()) -> ParsedAnswer:
    content, mark, body = text.partition(_TOOL_CALLS)
    if not mark:
        return ParsedAnswer(text)
    body = body.strip()
    if not _NAMED.match(body):
        found = _in_a_row(body.lstrip("[ \n\t"), _MISTRAL_HEAD, ",] \n\t", _TOOL_CALLS)
        return _sorted_out(content.rstrip(), found)
    found = []
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
    return _sorted_out(content.rstrip(), found)


FORMATS: dict[str, ToolFormat] = {
    made.name: made
    for made in (
        ToolFormat(
            "hermes",
            regex.compile(r"\s*<tool_call>"),
            ("<tool_call>", "</tool_call>"),
            _parse_hermes,
            _HERMES_HEAD,
        ),
        ToolFormat(
            "llama3",
            regex.compile(r"\A\s*(?:\{|<\|python_tag\|>)"),
            (_PYTHON_TAG,),
            _parse_llama3,
            _LLAMA3_HEAD,
        ),
        ToolFormat("mistral", _MISTRAL_OPENING, (_TOOL_CALLS,), _parse_mistral, _MISTRAL_HEAD),
        ToolFormat(
            "mistral-args",
            _MISTRAL_OPENING,
            (_TOOL_CALLS, "[CALL_ID]", "[ARGS]"),
            _parse_mistral,
            _NAMED_HEAD,
        ),
    )
}
"""Name -> format."""


def tool_format_of(tokenizer: PreTrainedTokenizerBase) -> ToolFormat | None:
    """Return the format that a tokenizer's templates show; None if they show no tools we know.

    Raises:
        InvalidInputError: It brings a response template that cannot be used.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default") or ""
    if not template or not re.search(r"\btools\b", template):
        return None
    ours = None
    if "<tool_call>" in template and "<function=" not in template:
        ours = FORMATS["hermes"]
    elif _TOOL_CALLS in template:
        ours = FORMATS["mistral-args" if "[ARGS]" in template else "mistral"]
    elif _PYTHON_TAG in template or '"parameters": dictionary' in template:
        ours = FORMATS["llama3"]
    return _by_response_template(tokenizer, ours)


# Response templates, by which transformers takes answers apart.


def _by_response_template(
    tokenizer: PreTrainedTokenizerBase, ours: ToolFormat | None
) -> ToolFormat | None:
    """Return a format that reads by the tokenizer's response template, if that tells of calls.

    What it does not tell (how calls are written, and where their arguments begin) stays ours.
    """
    spec = getattr(tokenizer, "response_template", None)
    field = (spec or {}).get("fields", {}).get("tool_calls")
    if not field:
        return ours

    def parse(text: str, tools: Sequence[Tool] = ()) -> ParsedAnswer:
        try:
            message = tokenizer.parse_response(text, prefix="", tools=[dict(t) for t in tools])
        except Exception as error:  # a call that is cut off or no JSON, whatever the parser says
            return ours.parse(text) if ours else _cut(text, error)
        calls = message.get("tool_calls") or ()
        found = [_call_of(_function(call), json.dumps(call, default=str)) for call in calls]
        ends = [begun.end() for begun in opening.finditer(text)]
        if found and ends and closing and not closing.search(text, ends[-1]):
            # The parser ends a call where the answer ends, but half its arguments are none.
            name = found[-1][0] if isinstance(found[-1], tuple) else found[-1].name
            found[-1] = InvalidToolCall(text[ends[-1] :], "the call is cut off", name)
        return _sorted_out(str(message.get("content") or ""), found)

    def _cut(text: str, error: Exception) -> ParsedAnswer:
        begun = opening.search(text)
        content = text[: begun.start()] if begun else text
        line = str(error).partition("\n")[0]
        return ParsedAnswer(content, (), (InvalidToolCall(text[len(content) :], line),))

    try:
        opening, closing = (_anchor(field, name) for name in ("open", "close"))
    except regex.error as error:
        raise InvalidInputError(
            f"the tokenizer's response template has a pattern that cannot be read: {error}"
        ) from error
    if opening is None:
        raise InvalidInputError(
            "the tokenizer's response template does not say how a tool call opens: give its field "
            'tool_calls an "open" or "open_pattern"'
        )
    if ours is not None:
        return replace(ours, parse=parse)
    patterns = [str(field.get(f"{name}_pattern") or "") for name in ("open", "close")]
    inside = (x for x in tokenizer.get_added_vocab() if any(re.escape(x) in p for p in patterns))
    marks = (*_texts(field, "open"), *_texts(field, "close"), *inside)
    return ToolFormat("response template", opening, marks, parse)


def _texts(field: Mapping[str, Any], name: str) -> Sequence[str]:
    value = field.get(name) or ()
    return [value] if isinstance(value, str) else value


def _anchor(field: Mapping[str, Any], name: str) -> Any:
    """Return what matches where a call opens or closes, blanks before it included."""
    pattern = field.get(f"{name}_pattern") or "|".join(map(re.escape, _texts(field, name)))
    return regex.compile(rf"\s*(?:{pattern})", regex.DOTALL) if pattern else None


def _function(call: Any) -> Any:
    return call.get("function", call) if isinstance(call, Mapping) else call


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
        return self._release(self.raw[: opened.start()] if opened else self.raw)

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
