"""The grammar of an answer that may hold tool calls, in the way of writing of each family."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from steerable_llm.answer.constraint import Constraint, json_rule, text_rule
from steerable_llm.chat.tools import Tool, ToolFormat
from steerable_llm.errors import InvalidInputError

Mark: TypeAlias = Callable[[str], str]
"""From the text of a mark to how a grammar writes it."""

Rules: TypeAlias = tuple[str, list[str]]
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
    """Return the grammar of a request's answer; None leaves the answer free.

    Args:
        constraint: What an answer that calls no tool must look like.
        tools: What may be called.
        tool_choice: `required` or a tool's name makes calls sure; `auto` lets the model choose
            between calls and text, or calls and an answer under the constraint.
        tool_format: How this model writes calls.
        added_id: The one token that was added to the vocabulary for a text, if there is one.
        special_ids: Tokens that no grammar spells (`ChatFormat.whole_ids`); a free text may hold
            them.
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
