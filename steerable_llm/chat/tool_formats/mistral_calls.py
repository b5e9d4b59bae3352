"""Mistral's calls: a list of objects in the older models, a name and its arguments in the newer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from steerable_llm.chat.tool_formats.found import NAME, as_json
from steerable_llm.chat.tool_formats.json_calls import marked, objects
from steerable_llm.chat.tool_formats.named_calls import named
from steerable_llm.chat.tools import ParsedAnswer, Tool

_MARK = "[TOOL_CALLS]"
_NAMED = rf"\s*({NAME})\s*(?:\[CALL_ID\]\w*)?\s*\[ARGS\]\s*"

_listed = marked(
    "mistral",
    re.escape(_MARK),
    (_MARK,),
    lambda calls: f"{_MARK}[{', '.join(objects(calls))}]",
)
_by_name = named(
    "mistral-args",
    re.escape(_MARK),
    (_MARK, "[CALL_ID]", "[ARGS]"),
    rf"(?:{re.escape(_MARK)})?{_NAMED}",
    r"\s*",
    lambda calls: "".join(f"{_MARK}{name}[ARGS]{as_json(given)}" for name, given in calls),
)


def _parse(text: str, tools: Sequence[Tool] = ()) -> ParsedAnswer:
    """Read an answer in either form, since some models write that of others."""
    new = re.search(re.escape(_MARK) + _NAMED, text)
    return (_by_name if new else _listed).parse(text, tools)


MISTRAL_CALLS = (replace(_listed, parse=_parse), replace(_by_name, parse=_parse))
