"""Calls whose arguments are JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence

from steerable_llm.answer.call_rules.rule import Mark, Rules, one_of, parameters_of
from steerable_llm.answer.constraint import json_rule, text_rule
from steerable_llm.chat.tools import Tool


def _opening(name: str, key: str, named: str = "name") -> str:
    return f'{{"{named}": {json.dumps(name, ensure_ascii=False)}, "{key}": '


def _objects(tools: Sequence[Tool], key: str) -> Iterator[str]:
    """Two rules per tool, `call_0` and so on: `{"name": ..., key: {...}}`."""
    for number, tool in enumerate(tools):
        opening = text_rule(_opening(tool["function"]["name"], key))
        yield f'call_{number}: {opening} arguments_{number} "}}"'
        yield f"arguments_{number}: {json_rule(parameters_of(tool))}"


def _named(tools: Sequence[Tool], before: str, between: str, after: str = "") -> Iterator[str]:
    """Two rules per tool, `call_0` and so on: its name among marks, and its arguments."""
    for number, tool in enumerate(tools):
        name = text_rule(tool["function"]["name"])
        yield f"call_{number}: {before} {name} {between} arguments_{number} {after}"
        yield f"arguments_{number}: {json_rule(parameters_of(tool))}"


def hermes(tools: Sequence[Tool], many: bool, mark: Mark) -> Rules:
    """Return the rules of Hermes' calls."""
    opening, closing = mark("<tool_call>"), mark("</tool_call>")
    wrapped = f'wrapped: {opening} "\\n" ({one_of(tools)}) "\\n" {closing}'
    more = ' ("\\n" wrapped)*' if many else ""
    return f"wrapped{more}", [wrapped, *_objects(tools, "arguments")]


def llama3(tools: Sequence[Tool], many: bool, _: Mark) -> Rules:
    """Return the rules of Llama's calls."""
    more = ' ("; " one)*' if many else ""
    return f"one{more}", [f"one: {one_of(tools)}", *_objects(tools, "parameters")]


def llama3_opened(tools: Sequence[Tool]) -> str:
    """Return what matches the beginning of a call of any tool."""
    openings = (_opening(tool["function"]["name"], "parameters") for tool in tools)
    return f"({'|'.join(map(re.escape, openings))})"


def listed(
    before: str, after: str = "", opened: bool = False
) -> Callable[[Sequence[Tool], bool, Mark], Rules]:
    """Return what makes the rules of a list of objects between two marks.

    Args:
        before: What opens it.
        after: What closes it.
        opened: Whether the list's bracket is part of what opens it.
    """

    def rules(tools: Sequence[Tool], many: bool, mark: Mark) -> Rules:
        more = ' (", " one)*' if many else ""
        # Some of these models write a blank after the mark, and some do not.
        bracket = "" if opened else '" "? "["'
        start = f'{mark(before)} {bracket} one{more} "]" {mark(after) if after else ""}'
        return start, [f"one: {one_of(tools)}", *_objects(tools, "arguments")]

    return rules


def mistral_args(tools: Sequence[Tool], many: bool, mark: Mark) -> Rules:
    """Return the rules of the calls of Mistral's newer models."""
    rules = _named(tools, mark("[TOOL_CALLS]"), mark("[ARGS]"))
    return f"({one_of(tools)}){'+' if many else ''}", [*rules]


def deepseek(
    before: str, between: str, after: str, join: str
) -> Callable[[Sequence[Tool], bool, Mark], Rules]:
    """Return what makes the rules of a block of calls.

    Args:
        before: What stands between the mark of a call and the tool's name, up to a mark or not.
        between: What stands between the name and the arguments.
        after: What stands behind the arguments.
        join: What stands between two calls.
    """

    def rules(tools: Sequence[Tool], many: bool, mark: Mark) -> Rules:
        marks = {f"{{{x}}}": mark(f"<｜tool▁{x}｜>") for x in ("sep", "call▁begin", "call▁end")}

        def written(text: str) -> str:
            pieces = [x for x in re.split(r"(\{[^{}]+\})", text) if x]
            return " ".join(marks.get(piece) or text_rule(piece) for piece in pieces)

        made = _named(tools, written("{call▁begin}" + before), written(between), written(after))
        more = f" ({written(join) if join else ''} one)*" if many else ""
        start = f"{mark('<｜tool▁calls▁begin｜>')} one{more} {mark('<｜tool▁calls▁end｜>')}"
        return start, [f"one: {one_of(tools)}", *made]

    return rules


def harmony(tools: Sequence[Tool], _many: bool, mark: Mark) -> Rules:
    """Return the rules of the one call of gpt-oss, which ends its answer behind each."""
    before = f'{mark("<|channel|>")} "commentary to=functions."'
    between = f'" " {mark("<|constrain|>")} "json" {mark("<|message|>")}'
    return f"({one_of(tools)})", [*_named(tools, before, between)]


# These models break their lists into lines, and indent them.
_GAP = "GAP: /\\n? {0,12}/"


def command(numbered: bool) -> Callable[[Sequence[Tool], bool, Mark], Rules]:
    """Return what makes the rules of Command-R's list of actions.

    Args:
        numbered: Whether it stands between marks and its calls have numbers, as in newer models.
    """

    def rules(tools: Sequence[Tool], many: bool, mark: Mark) -> Rules:
        before, after = mark("Action: ```json"), '"```"'
        number = ""
        if numbered:
            before, after = mark("<|START_ACTION|>"), mark("<|END_ACTION|>")
            number = '"\\"tool_call_id\\": \\"" /[0-9]{1,3}/ "\\", "'
        made = []
        for place, tool in enumerate(tools):
            name = text_rule(f'"tool_name": {json.dumps(tool["function"]["name"])},')
            given = f'GAP "\\"parameters\\": " arguments_{place} GAP'
            made.append(f'call_{place}: "{{" GAP {number} {name} {given} "}}"')
            made.append(f"arguments_{place}: {json_rule(parameters_of(tool))}")
        more = ' ("," GAP one)*' if many else ""
        start = f'{before} GAP "[" GAP one{more} GAP "]" {after}'
        return start, [f"one: {one_of(tools)}", *made, _GAP]

    return rules
