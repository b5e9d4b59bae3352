"""Where a chat template takes tools, calls and their results, found out by giving it some.

Templates differ: some read arguments as an object, some as JSON; some take one call in a turn,
some pass over the calls of a message that has a text; Phi-4's takes tools in the system message.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, TypeAlias

from steerable_llm.chat.tools import Tool, ToolFormat

Told: TypeAlias = dict[str, Any]
"""A message as chat templates read it."""

Apply: TypeAlias = Callable[[list[Told], Sequence[Tool]], str]
"""Renders messages and tools."""

_ARGUMENT = "probe_argument"
_CALLS = [("probe_tool", {_ARGUMENT: "probed-1"}), ("probe_other", {_ARGUMENT: "probed-2"})]
_QUESTION = "probe question"
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Probes.",
            "parameters": {
                "type": "object",
                "properties": {_ARGUMENT: {"type": "string", "description": "A text."}},
                "required": [_ARGUMENT],
            },
        },
    }
    for name, _ in _CALLS
]


@dataclass(frozen=True)
class _Form:
    """A way of giving calls to a template.

    Attributes:
        alone: One call in a turn, its result right behind it.
        silent: No content, rather than an empty one, where nothing is said.
        as_json: Arguments as JSON, rather than as an object.
        spelled: Calls in the message's text, for a template that never looks for any.
    """

    alone: bool = False
    silent: bool = False
    as_json: bool = False
    spelled: bool = False


class ToolPlace:
    """Where one template takes tools, calls and results."""

    def __init__(self, template: str, tool_format: ToolFormat, apply: Apply) -> None:
        """Remember the template.

        Args:
            template: Its text.
            tool_format: How the model writes calls.
            apply: Renders messages with it.
        """
        self._template = template
        self._format = tool_format
        self._apply = apply

    def put(self, messages: Sequence[Told], tools: Sequence[Tool]) -> tuple[list[Told], list[Tool]]:
        """Return messages and tools in the form that the template takes."""
        told, given = list(messages), list(tools)
        if any(message.get("tool_calls") for message in told):
            told = list(self._formed(told, self._form))
        return (_in_system(told, given), []) if given and self._in_system else (told, given)

    @cached_property
    def takes_tools(self) -> bool:
        """Whether tools show up in the prompt."""
        return self._in_system or self._shows_tools(_TOOLS)

    @cached_property
    def reads_back(self) -> bool:
        """Whether calls are read as what they are where the template itself writes them.

        One that writes them in another way than the model is no sign against the format.
        """
        name, arguments = _CALLS[0]
        messages = list(self._formed(_conversation(1)[:2], self._form))
        written = self._rendered(messages, _TOOLS).rpartition(_QUESTION)[2]
        if name not in written or not self._format.opening.search(written):
            return True
        return (name, arguments) in self._format.parse(written, _TOOLS).calls

    @cached_property
    def _in_system(self) -> bool:
        return not self._shows_tools(_TOOLS) and self._shows_tools(
            [], _in_system(_conversation(0), _TOOLS)
        )

    def _shows_tools(self, tools: Sequence[Tool], messages: list[Told] | None = None) -> bool:
        text = self._rendered(messages or _conversation(0), tools)
        return all(name in text for name, _ in _CALLS)

    @cached_property
    def _form(self) -> _Form:
        if "tool_calls" not in self._template:
            return _Form(spelled=True)
        forms = (_Form(*chosen) for chosen in product((False, True), repeat=3))
        return next((form for form in forms if self._shows_calls(form)), _Form())

    def _shows_calls(self, form: _Form) -> bool:
        text = self._rendered(list(self._formed(_conversation(2), form)), _TOOLS)
        text = text.rpartition(_QUESTION)[2]
        shown = (name in text and given[_ARGUMENT] in text for name, given in _CALLS)
        return all(shown) and f"'{_ARGUMENT}'" not in text  # which is Python's way, and no JSON

    def _rendered(self, messages: list[Told], tools: Sequence[Tool]) -> str:
        try:
            return self._apply(messages, tools)
        except Exception:  # the template's own errors, whatever jinja makes of them
            return ""

    def _formed(self, messages: Sequence[Told], form: _Form) -> Iterator[Told]:
        for message in _alone(messages) if form.alone else messages:
            calls = message.get("tool_calls")
            if not calls:
                yield message
                continue
            made = dict(message)
            if form.spelled:
                named = [(x["function"]["name"], x["function"]["arguments"]) for x in calls]
                del made["tool_calls"]
                made["content"] = _with_text(made["content"], self._format.write(named))
            if form.silent and not made["content"]:
                made["content"] = None
            if form.as_json:
                made["tool_calls"] = [_with_json(call) for call in calls]
            yield made


def _conversation(calls: int) -> list[Told]:
    """Return a question and, if any, calls and their results."""
    asked: list[Told] = [{"role": "user", "content": _QUESTION}]
    if not calls:
        return asked
    made, results = [], []
    for number, (name, arguments) in enumerate(_CALLS[:calls]):
        ref = f"probe000{number}"  # nine letters and digits, as Mistral's templates insist
        function = {"name": name, "arguments": arguments}
        made.append({"id": ref, "type": "function", "function": function})
        results.append({"role": "tool", "tool_call_id": ref, "name": name, "content": "done"})
    return [*asked, {"role": "assistant", "content": "", "tool_calls": made}, *results]


def _with_text(content: Any, more: str) -> Any:
    """Return a message's content, a text or parts, with a text behind it."""
    if isinstance(content, list):
        return [*content, {"type": "text", "text": f"\n{more}" if content else more}]
    return f"{content}\n{more}" if content else more


def _in_system(messages: Sequence[Told], tools: Sequence[Tool]) -> list[Told]:
    first, *rest = messages
    if first["role"] != "system":
        first, rest = {"role": "system", "content": ""}, list(messages)
    listed = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
    return [{**first, "tools": listed}, *rest]


def _alone(messages: Sequence[Told]) -> Iterator[Told]:
    """Yield messages with one call in a turn, and its result right behind it."""
    place = 0
    while place < len(messages):
        message = messages[place]
        place += 1
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            yield message
            continue
        results = []
        while place < len(messages) and messages[place]["role"] == "tool":
            results.append(messages[place])
            place += 1
        # What was said and thought before the calls is told once.
        thought = ("reasoning_content", "thinking")
        later = {name: told for name, told in message.items() if name not in thought}
        for number, call in enumerate(calls):
            yield (
                {**message, "tool_calls": [call]}
                if number == 0
                else {**later, "content": "", "tool_calls": [call]}
            )
            yield from (x for x in results if x.get("tool_call_id") == call["id"])
        ids = {call["id"] for call in calls}
        yield from (x for x in results if x.get("tool_call_id") not in ids)


def _with_json(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}
