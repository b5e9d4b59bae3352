"""Calls in XML, whose arguments are plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from steerable_llm.answer.call_rules.rule import Mark, Rules, one_of, parameters_of
from steerable_llm.answer.constraint import json_rule, text_rule
from steerable_llm.chat.tool_formats.argument import (
    Schema,
    alternatives,
    properties_of,
    resolved,
    types_of,
)
from steerable_llm.chat.tools import Tool


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
    return made
