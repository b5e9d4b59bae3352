"""The calls in an answer while they are still being written, piece by piece."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from steerable_llm.answer.constraint import Constraint, json_rule, text_rule
from steerable_llm.chat.tools import CallPiece, InvalidToolCall, ParsedAnswer, Tool, ToolFormat
from steerable_llm.errors import InvalidInputError

# The grammar of an answer that may hold tool calls, in the way of writing of each family.

Mark = Callable[[str], str]
"""From the text of a mark to how a grammar writes it."""

Rules = tuple[str, list[str]]
"""The body of a rule, and the further rules that it needs."""


@dataclass(frozen=True)
class AnswerGrammar:
    """What an answer must follow.

    Attributes:
        text: The grammar (Lark, in llguidance's dialect).
        free: Whether any text is an answer, too, so that it only helps to write calls: stop texts
            count, and an answer may do without it where it cannot be followed.
    """

    text: str
    free: bool = False


def grammar_for(
    constraint: Constraint | None,
    tools: Sequence[Tool],
    tool_choice: str | None,
    tool_format: ToolFormat | None,
    added_id: Callable[[str], int | None],
    special_ids: Collection[int] = (),
    parallel: bool = True,
) -> AnswerGrammar | None:
    """The grammar of a request's answer; None leaves the answer free.

    Args:
        constraint: What an answer that calls no tool must look like.
        tools: What may be called.
        tool_choice: ``required`` or a tool's name makes calls sure; ``auto`` lets the model choose
            between calls and text, or calls and an answer under the constraint.
        tool_format: How this model writes calls.
        added_id: The one token that was added to the vocabulary for a text, if there is one.
        special_ids: Tokens that stand for no text; a free text may hold them.
        parallel: Whether an answer may have several calls.
    """
    if not tools or tool_format is None or tool_choice == "none":
        return None if constraint is None else AnswerGrammar(f"start: {constraint.grammar}")
    forced = tool_choice not in (None, "auto")
    family = _FAMILIES.get(tool_format.name)
    if family is None:
        if forced or constraint is not None:
            raise InvalidInputError(
                "how this model writes tool calls is not known here, only how they are read: leave "
                'the choice to the model (tool_choice="auto"), and give no constraint beside tools'
            )
        return None
    if constraint is None and not forced:
        return AnswerGrammar(
            _among_text(family, tools, parallel, tool_format.marks, added_id, special_ids),
            free=True,
        )
    named = [tool for tool in tools if tool["function"]["name"] == tool_choice]
    calls, rules = family.calls(named or tools, parallel and not named, _marker(added_id))
    # A choice that is sure is sure: the constraint is for answers, not for calls.
    if constraint is None or forced:
        return AnswerGrammar("\n".join([f"start: {calls}", *rules]))
    lines = [f"start: {calls} | answer", *rules, f"answer: {constraint.grammar}"]
    return AnswerGrammar("\n".join(lines))


def _marker(added_id: Callable[[str], int | None], spelt: bool = False) -> Mark:
    """How a grammar writes marks: by their one token, where they have one.

    Args:
        added_id: From a text to its token.
        spelt: Whether such a mark may also be spelt, letter by letter.
    """

    def mark(text: str) -> str:
        number = added_id(text)
        if number is None:
            return text_rule(text)
        return f"(<[{number}]> | {text_rule(text)})" if spelt else f"<[{number}]>"

    return mark


@dataclass(frozen=True)
class _Family:
    """How one family's calls look to a grammar.

    Attributes:
        calls: Makes the rules of one call or more.
        opened: From the tools to a regular expression: texts that have opened a call.
        after_text: Whether text may stand before a call.
    """

    calls: Callable[[Sequence[Tool], bool, Mark], Rules]
    opened: Callable[[Sequence[Tool]], str]
    after_text: bool = True


def _among_text(
    family: _Family,
    tools: Sequence[Tool],
    many: bool,
    marks: Sequence[str],
    added_id: Callable[[str], int | None],
    special_ids: Collection[int],
) -> str:
    """Text that may end in calls."""
    mark = _marker(added_id, spelt=True)
    calls, rules = family.calls(tools, many, mark)
    start = f"text ({calls})?" if family.after_text else f"text | {mark(marks[0])}? {calls}"
    others = _ranges(sorted(set(special_ids) - set(map(added_id, marks))))
    # Not `(TEXT | special)*`: two texts in a row could spell together what each must not.
    more = f" (<[{others}]> TEXT?)*" if others else ""
    return "\n".join(
        [
            f"start: {start}",
            *rules,
            f"text: TEXT?{more}",
            rf"TEXT: /(.|\n)+/ & ~/{family.opened(tools)}(.|\n)*/",
        ]
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as `1,3-7`."""
    starts = [b for a, b in pairwise([-2, *numbers]) if b != a + 1]
    ends = [a for a, b in pairwise([*numbers, -2]) if b != a + 1]
    both = zip(starts, ends, strict=True)
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in both)


def _parameters(tool: Tool) -> dict[str, Any]:
    given = tool["function"].get("parameters") or {"properties": {}}
    return {"type": "object", **given}


def _opening(name: str, key: str) -> str:
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{key}": '


def _objects(tools: Sequence[Tool], key: str) -> Iterator[str]:
    """Two rules per tool, `call_0` and so on: `{"name": ..., key: {...}}`."""
    for number, tool in enumerate(tools):
        opening = text_rule(_opening(tool["function"]["name"], key))
        yield f'call_{number}: {opening} arguments_{number} "}}"'
        yield f"arguments_{number}: {json_rule(_parameters(tool))}"


def _one_of(tools: Sequence[Tool]) -> str:
    return " | ".join(f"call_{number}" for number in range(len(tools)))


def _hermes(tools: Sequence[Tool], many: bool, mark: Mark) -> Rules:
    opening, closing = mark("<tool_call>"), mark("</tool_call>")
    wrapped = f'wrapped: {opening} "\\n" ({_one_of(tools)}) "\\n" {closing}'
    more = ' ("\\n" wrapped)*' if many else ""
    return f"wrapped{more}", [wrapped, *_objects(tools, "arguments")]


def _llama3(tools: Sequence[Tool], many: bool, _: Mark) -> Rules:
    more = ' ("; " one)*' if many else ""
    return f"one{more}", [f"one: {_one_of(tools)}", *_objects(tools, "parameters")]


def _llama3_opened(tools: Sequence[Tool]) -> str:
    openings = (_opening(tool["function"]["name"], "parameters") for tool in tools)
    return f"({'|'.join(map(re.escape, openings))})"


def _mistral(tools: Sequence[Tool], many: bool, mark: Mark) -> Rules:
    more = ' (", " one)*' if many else ""
    # Some of these models write a blank after the mark, and some do not.
    start = f'{mark("[TOOL_CALLS]")} " "? "[" one{more} "]"'
    return start, [f"one: {_one_of(tools)}", *_objects(tools, "arguments")]


def _mistral_args(tools: Sequence[Tool], many: bool, mark: Mark) -> Rules:
    opening, between = mark("[TOOL_CALLS]"), mark("[ARGS]")
    rules = []
    for number, tool in enumerate(tools):
        name = text_rule(tool["function"]["name"])
        rules.append(f"call_{number}: {opening} {name} {between} arguments_{number}")
        rules.append(f"arguments_{number}: {json_rule(_parameters(tool))}")
    return f"({_one_of(tools)}){'+' if many else ''}", rules


_MISTRAL_OPENED = r"(.|\n)*\[TOOL_CALLS\]"
_FAMILIES = {
    "hermes": _Family(_hermes, lambda _: r"(.|\n)*<tool_call>"),
    # Its calls have no mark: an answer is one if it begins as one.
    "llama3": _Family(_llama3, _llama3_opened, after_text=False),
    "mistral": _Family(_mistral, lambda _: _MISTRAL_OPENED),
    "mistral-args": _Family(_mistral_args, lambda _: _MISTRAL_OPENED),
}


_CLOSING = {"{": "}", "[": "]"}


class CallStream:
    """Tells what is new of an answer's calls.

    A call is told from the moment its name is complete and its arguments begin, if it is written
    in its family's usual way; any other is told whole when the answer ends.
    """

    def __init__(
        self, tool_format: ToolFormat, id_of: Callable[[int, str], str], most: int | None = None
    ) -> None:
        """Start before the first call.

        Args:
            tool_format: How the calls are written.
            id_of: From a call's number and its tool's name to its id.
            most: At most so many calls count; None counts all.
        """
        self._format = tool_format
        self._id_of = id_of
        self._most = most
        self._told: list[_Told] = []
        self._position: int | None = None

    def push(self, raw: str) -> list[CallPiece]:
        """Look at all of the answer so far, and return what is new, in order."""
        if self._position is None:
            opened = self._format.opening.search(raw)
            if opened is None:
                return []
            self._position = opened.start()
        pieces: list[CallPiece] = []
        while True:
            if not self._told or self._told[-1].whole:
                pattern = self._format.head
                head = pattern.match(raw, self._position) if pattern else None
                if head is None or len(self._told) == self._most:
                    return pieces
                number, name = len(self._told), head[1]
                self._told.append(_Told(name))
                self._position = head.end()
                pieces.append(CallPiece(number, "", name, self._id_of(number, name)))
            new = self._told[-1].take(raw[self._position :])
            self._position += len(new)
            if new:
                pieces.append(CallPiece(len(self._told) - 1, new))
            if not self._told[-1].whole:
                return pieces

    def finish(self, parsed: ParsedAnswer) -> list[CallPiece]:
        """Return what is still to be told of an answer that has ended."""
        calls = parsed.calls[: self._most]
        pairs = zip(self._told, calls, strict=False)
        right = next((i for i, (told, call) in enumerate(pairs) if not told.is_call(*call)), None)
        right = min(len(self._told), len(calls)) if right is None else right
        wrong = self._told[right:]
        pieces = [CallPiece(right + i, told.spoiling()) for i, told in enumerate(wrong)]
        index = len(self._told)
        for number, (name, arguments) in enumerate(calls[right:], start=right):
            text = json.dumps(arguments, ensure_ascii=False)
            pieces.append(CallPiece(index, text, name, self._id_of(number, name)))
            index += 1
        for call in _untold(parsed.invalid, len(wrong)):
            pieces.append(CallPiece(index, call.text + _spoiling(call.text), call.name))
            index += 1
        return pieces


def joined(pieces: Sequence[CallPiece]) -> tuple[CallPiece, ...]:
    """One piece per call: who reads a chunk may not put several of one call together."""
    found: dict[int, CallPiece] = {}
    for piece in pieces:
        before = found.get(piece.index)
        if before is not None:
            piece = replace(before, arguments=before.arguments + piece.arguments)
        found[piece.index] = piece
    return tuple(found.values())


def _untold(invalid: Sequence[InvalidToolCall], told: int) -> Sequence[InvalidToolCall]:
    """Those of which nothing was told yet."""
    begun = [call for call in invalid if call.name is not None][:told]
    return [call for call in invalid if not any(call is one for one in begun)]


def _spoiling(text: str) -> str:
    """What makes sure that text which looks like arguments is never read as such."""
    looks_so = not text.strip() or text.lstrip().startswith("{")
    return _Told("", text).spoiling() if looks_so else ""


class _Told:
    """A call of which something was told: its name, and its arguments up to here."""

    def __init__(self, name: str, text: str = "") -> None:
        self.name = name
        self.text = text
        self._stack: list[str] = []
        self._in_text = self._escaped = False
        for character in text:
            self._see(character)

    @property
    def whole(self) -> bool:
        """Whether the arguments have come to their end."""
        return bool(self.text) and not self._stack

    def take(self, new: str) -> str:
        """Go on up to the arguments' end, and return what belongs to them."""
        for place, character in enumerate(new, start=1):
            self._see(character)
            if not self._stack:
                new = new[:place]
                break
        self.text += new
        return new

    def _see(self, character: str) -> None:
        if self._in_text:
            self._in_text = character != '"' or self._escaped
            self._escaped = character == "\\" and not self._escaped
        elif character == '"':
            self._in_text = True
        elif character in _CLOSING:
            self._stack.append(_CLOSING[character])
        elif self._stack and character == self._stack[-1]:
            self._stack.pop()

    def is_call(self, name: str, arguments: dict[str, object]) -> bool:
        """Whether what was told is this call."""
        try:
            return self.whole and name == self.name and json.loads(self.text) == arguments
        except (ValueError, RecursionError):
            return False

    def spoiling(self) -> str:
        """A bracket that fits nothing: with it nobody reads a call, not even mended."""
        end = ("\\" if self._escaped else "") + ('"' if self._in_text else "")
        return end + ("}" if self._stack[-1:] == ["]"] else "]")
