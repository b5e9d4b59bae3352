"""Calls in XML, whose arguments are plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
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
    texts = [part for part in alternatives(schema, root) if types_of(part, root) <= {"string"}]
    if "string" in types:
        chosen = next((part for part in texts if "enum" in part or "const" in part), None)
        if chosen is not None:
            options = [*(chosen.get("enum") or ()), *filter(None, [chosen.get("const")])]
            yield " | ".join(text_rule(str(option)) for option in options)
        else:
            bounds = next(
                (part for part in texts if "maxLength" in part or "minLength" in part), {}
            )
            least, most = bounds.get("minLength", 0), bounds.get("maxLength", "")
            much = f"{{{least},{most}}}" if bounds else "*"
            tag = re.escape(closing).replace("/", r"\/")
            yield rf"/(.|\n){much}/ & ~/(.|\n)*{tag}(.|\n)*/"
    others = sorted(types - {"string"})
    if others:
        yield json_rule(_without_text(schema, root, others))


def _without_text(schema: Schema, root: Schema, types: Sequence[str]) -> dict[str, Any]:
    """Return a schema without the texts that it allows."""
    made = {**schema, **{key: root[key] for key in ("$defs", "definitions") if key in root}}
    for key in ("anyOf", "oneOf"):
        if key in made:
            made[key] = [x for x in made[key] if not types_of(x, root) <= {"string"}]
    if not isinstance(schema.get("type", ""), str):
        made["type"] = list(types)
    return made
