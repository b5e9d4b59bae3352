"""Response templates, by which transformers takes the answers of a tokenizer's model apart."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import regex
from transformers import PreTrainedTokenizerBase

from steerable_llm.chat.tool_formats.found import CUT, call_of, sorted_out
from steerable_llm.chat.tool_formats.json_calls import JSON_CALLS
from steerable_llm.chat.tools import InvalidToolCall, ParsedAnswer, Tool, ToolFormat
from steerable_llm.errors import InvalidInputError


def by_response_template(
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
            return ours.parse(text, tools) if ours else _cut(text, error)
        calls = message.get("tool_calls") or ()
        found = [call_of(call, json.dumps(call, default=str)) for call in calls]
        ends = [begun.end() for begun in opening.finditer(text)]
        if found and ends and closing and not closing.search(text, ends[-1]):
            # The parser ends a call where the answer ends, but half its arguments are none.
            name = found[-1][0] if isinstance(found[-1], tuple) else found[-1].name
            found[-1] = InvalidToolCall(text[ends[-1] :], CUT, name)
        return sorted_out(str(message.get("content") or ""), found)

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
    return ToolFormat("response template", opening, marks, parse, JSON_CALLS[0].write)


def _texts(field: Mapping[str, Any], name: str) -> Sequence[str]:
    value = field.get(name) or ()
    return [value] if isinstance(value, str) else value


def _anchor(field: Mapping[str, Any], name: str) -> Any:
    """Return what matches where a call opens or closes, blanks before it included."""
    pattern = field.get(f"{name}_pattern") or "|".join(map(re.escape, _texts(field, name)))
    return regex.compile(rf"\s*(?:{pattern})", regex.DOTALL) if pattern else None
