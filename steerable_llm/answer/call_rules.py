"""How each family of models writes tool calls, as rules of a grammar.

Calls are JSON objects, JSON arguments behind a name among marks, or XML with plain texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from steerable_llm.answer.constraint import json_rule, text_rule
from steerable_llm.chat.tool_formats.argument import (
    Schema,
    alternatives,
    properties_of,
    resolved,
    types_of,
)
from steerable_llm.chat.tools import Tool

Mark: TypeAlias = Callable[[str], str]
"""From the text of a mark to how a grammar writes it."""

Rules: TypeAlias = tuple[str, list[str]]
"""The body of a rule, and the further rules that it needs."""


@dataclass(frozen=True)
class Family:
    """How one family's calls look to a grammar.

    Attributes:
        calls: Makes the rules of one call or more.
        mark: Opens a call. Empty where free text is full of marks, so that calls among it cannot
            be held to a grammar.
        opened: From the tools to a regular expression for what has opened a call; by default the
            mark.
        after_text: Whether text may stand before a call.
    """

    calls: Callable[[Sequence[Tool], bool, Mark], Rules]
    mark: str
    opened: Callable[[Sequence[Tool]], str] | None = None
    after_text: bool = True

    def opening(self, tools: Sequence[Tool]) -> str:
        """Return a regular expression for what has opened a call."""
        return re.escape(self.mark) if self.opened is None else self.opened(tools)


def parameters_of(tool: Tool) -> dict[str, Any]:
    """Return the schema of a tool's arguments."""
    given = tool["function"].get("parameters") or {"properties": {}}
    return {"type": "object", **given}


def one_of(tools: Sequence[Tool]) -> str:
    """Return a choice of the rules `call_0` and so on, one per tool."""
    return " | ".join(f"call_{number}" for number in range(len(tools)))


# Calls whose arguments are JSON.


def _opening(name: str, key: str) -> str:
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{key}": '


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


# Calls in XML, whose arguments are plain text.


def qwen3_coder(tools: Sequence[Tool], many: bool, mark: Mark) -> Rules:
    """Return the rules of Qwen3-Coder's calls."""
    return _xml(
        tools,
        many,
        mark,
        lambda name: text_rule(f"\n<function={name}>\n"),
        lambda name: text_rule(f"<parameter={name}>\n"),
        "</parameter>",
        text_rule("\n</parameter>\n"),
        text_rule("</function>\n"),
    )


def glm(tools: Sequence[Tool], many: bool, mark: Mark) -> Rules:
    """Return the rules of GLM's calls."""
    keys = mark("<arg_key>"), mark("</arg_key>"), mark("<arg_value>")
    return _xml(
        tools,
        many,
        mark,
        lambda name: text_rule(f"{name}\n"),
        lambda name: f'{keys[0]} {text_rule(name)} {keys[1]} "\\n" {keys[2]}',
        "</arg_value>",
        f'{mark("</arg_value>")} "\\n"',
        "",
    )


def _xml(
    tools: Sequence[Tool],
    many: bool,
    mark: Mark,
    header: Callable[[str], str],
    before: Callable[[str], str],
    closing: str,
    after: str,
    end: str,
) -> Rules:
    """Return the rules of calls, each with its arguments in the order of the schema.

    Args:
        tools: As everywhere.
        many: As everywhere.
        mark: As everywhere.
        header: From a tool's name to what opens its call, behind the mark.
        before: From an argument's name to what opens its value.
        closing: The tag that closes a value, which no value holds.
        after: What closes a value.
        end: What ends a call, before its mark.
    """
    rules = []
    for number, tool in enumerate(tools):
        root = parameters_of(tool)
        required = {x for part in alternatives(root, root) for x in part.get("required") or ()}
        pieces = []
        for place, (name, schema) in enumerate(properties_of(root).items()):
            rule = f"value_{number}_{place}"
            made = {f"{rule}_{i}": body for i, body in enumerate(_values(schema, root, closing))}
            # To llguidance, a name in capitals is a terminal, and only these are regular.
            named = {x.upper() if body.startswith("/") else x: body for x, body in made.items()}
            rules += [f"{rule}: {' | '.join(named)}", *(f"{x}: {y}" for x, y in named.items())]
            piece = f"{before(name)} {rule} {after}"
            pieces.append(piece if name in required else f"({piece})?")
        opening = header(tool["function"]["name"])
        rules.append(f"call_{number}: {opening} {' '.join(pieces)} {end}")
    wrapped = f"wrapped: {mark('<tool_call>')} ({one_of(tools)}) {mark('</tool_call>')}"
    more = ' ("\\n" wrapped)*' if many else ""
    return f"wrapped{more}", [wrapped, *rules]


def _values(schema: Any, root: Schema, closing: str) -> Iterator[str]:
    """Yield bodies of rules for a value: plain where it is a text, and JSON where it is not."""
    schema = resolved(schema, root)
    types = types_of(schema, root) or {"string"}
    texts = [leaf for leaf in _leaves(schema, root) if "string" in (types_of(leaf, root) or types)]
    yield from dict.fromkeys(_text(leaf, closing) for leaf in texts)
    if others := sorted(types - {"string"}):
        yield json_rule(_without_text(schema, root, others))


def _text(leaf: Schema, closing: str) -> str:
    """Return the body of a rule for a text: one of some, or any without the tag that closes it."""
    options = list(leaf.get("enum") or ()) + ([leaf["const"]] if "const" in leaf else [])
    if options:
        texts = [option for option in options if isinstance(option, str)]
        return " | ".join(text_rule(str(option)) for option in texts or options)
    least, most = leaf.get("minLength", 0), leaf.get("maxLength", "")
    much = f"{{{least},{most}}}" if least or most != "" else "*"
    tag = re.escape(closing).replace("/", r"\/")
    return rf"/(.|\n){much}/ & ~/(.|\n)*{tag}(.|\n)*/"


_CHOICES = ("anyOf", "oneOf")
#: Alternatives of one argument that are told apart.
_MOST = 64


def _leaves(schema: Any, root: Schema, depth: int = 0) -> list[dict[str, Any]]:
    """Return the alternatives of a schema, each with all that must hold of it besides."""
    schema = resolved(schema, root)
    found = [{k: v for k, v in schema.items() if k not in (*_CHOICES, "allOf")}]
    if depth > _MOST:
        return found
    parts = [[part] for part in schema.get("allOf") or ()]
    for some in [*parts, *(schema[key] for key in _CHOICES if schema.get(key))]:
        inside = [leaf for part in some for leaf in _leaves(part, root, depth + 1)]
        both = (_both(one, other, root) for one in found for other in inside)
        found = list(islice((leaf for leaf in both if leaf is not None), _MOST))
    return found


def _both(one: Schema, other: Schema, root: Schema) -> dict[str, Any] | None:
    """Return what a text must fulfil that two schemas allow; None where there is none."""
    made = {**one, **other}
    for key, stricter in (("minLength", max), ("maxLength", min)):
        if key in one and key in other:
            made[key] = stricter(one[key], other[key])
    types = [set(types_of(part, root)) for part in (one, other) if types_of(part, root)]
    if types and not set.intersection(*types):
        return None
    if "enum" in one and "enum" in other:
        made["enum"] = [value for value in one["enum"] if value in other["enum"]]
        return made if made["enum"] else None
    return made


def _without_text(schema: Schema, root: Schema, types: Sequence[str]) -> dict[str, Any]:
    """Return a schema without the texts that it allows."""
    made = {**schema, **{key: root[key] for key in ("$defs", "definitions") if key in root}}
    for key in ("anyOf", "oneOf"):
        if key in made:
            made[key] = [x for x in made[key] if not types_of(x, root) <= {"string"}]
    made["type"] = list(types)
    moved: dict[str, Any] = _moved(made)
    if moved != made:
        whole = {key: x for key, x in root.items() if key not in ("$defs", "definitions")}
        moved["$defs"] = {**moved.get("$defs", {}), _WHOLE: _moved(whole)}
    return moved


_WHOLE = "all_arguments"


def _moved(part: Any) -> Any:
    """Return a part of a schema whose references to the whole point to a definition of it."""
    if isinstance(part, list):
        return [_moved(item) for item in part]
    if not isinstance(part, Mapping):
        return part
    made = {key: _moved(value) for key, value in part.items()}
    told = made.get("$ref")
    if isinstance(told, str) and not told.startswith(("#/$defs/", "#/definitions/")):
        made["$ref"] = f"#/$defs/{_WHOLE}{told.removeprefix('#')}"
    return made


_DEEPSEEK = "<｜tool▁calls▁begin｜>"
FAMILIES = {
    "hermes": Family(hermes, "<tool_call>"),
    # Its calls need no mark: an answer is one if it begins as one.
    "llama3": Family(llama3, "<|python_tag|>", llama3_opened, after_text=False),
    "mistral": Family(listed("[TOOL_CALLS]"), "[TOOL_CALLS]"),
    "mistral-args": Family(mistral_args, "[TOOL_CALLS]"),
    "phi4": Family(listed("<|tool_call|>", "<|/tool_call|>"), "<|tool_call|>"),
    "phi4-functools": Family(listed("functools[", opened=True), "functools["),
    "granite": Family(listed("<|tool_call|>"), "<|tool_call|>"),
    "deepseek-v3": Family(
        deepseek("function{sep}", "\n```json\n", "\n```{call▁end}", "\n"), _DEEPSEEK
    ),
    "deepseek-v3.1": Family(deepseek("", "{sep}", "{call▁end}", ""), _DEEPSEEK),
    "harmony": Family(harmony, ""),
    "command-r": Family(
        command(numbered=False), "Action: ```json", lambda _: r"Action:[ \n]```json"
    ),
    "command-r7b": Family(command(numbered=True), "<|START_ACTION|>"),
    "qwen3-coder": Family(qwen3_coder, "<tool_call>"),
    "glm": Family(glm, "<tool_call>"),
}
"""Name of a tool format -> rules."""
