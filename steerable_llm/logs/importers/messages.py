"""Messages and answers in the forms of other tools, read as ours.

OpenAI's (chat and responses), Anthropic's, Gemini's, LangChain's three, LlamaIndex's,
OpenInference's and those of OpenTelemetry's conventions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from steerable_llm.chat.message import Message, as_messages
from steerable_llm.errors import brief, first_problem
from steerable_llm.logs.importers.records import (
    Record,
    UnusableRecord,
    decoded,
    listed,
    mapping,
    text,
    unquoted,
)

_ROLES = {
    **dict.fromkeys(("system", "developer", "systemmessage", "systemmessagechunk"), "system"),
    **dict.fromkeys(("user", "human", "humanmessage", "humanmessagechunk"), "user"),
    **dict.fromkeys(("assistant", "ai", "model", "bot", "chatbot", "gpt"), "assistant"),
    **dict.fromkeys(("aimessage", "aimessagechunk"), "assistant"),
    **dict.fromkeys(("tool", "function", "toolmessage", "toolmessagechunk"), "tool"),
    **dict.fromkeys(("functionmessage", "functionmessagechunk"), "tool"),
}
#: Under which a result has its text where it is neither a message nor a completion.
_SPOKEN = (
    "output",
    "text",
    "content",
    "answer",
    "response",
    "result",
    "completion",
    "generated_text",
    "output_text",
    "actual_output",
)
_COMPLETIONS = ("generations", "choices", "candidates", "message")


def prompt(value: object) -> tuple[Message, ...]:
    """Return a prompt: a text is one user message.

    Results of tools that name no call get the id of the call that waits for one.
    """
    value = decoded(value)
    if isinstance(value, Mapping) and not _is_message(value):
        inside = next((value[k] for k in ("messages", "prompt", "input") if value.get(k)), None)
        value = decoded(inside)
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, str) and value.strip():
        return (Message(role="user", content=value),)
    if isinstance(value, Sequence) and value and not isinstance(value, str):
        if len(value) == 1 and isinstance(value[0], str):
            return prompt(value[0])
        told = [one for entry in value for one in _told(entry)]
        if told:
            return as_messages([_made(one) for one in _with_ids(told)])
    raise UnusableRecord("it has no prompt")


def message(value: object) -> Message:
    """Return one message."""
    told = list(_told(value))
    if len(told) != 1:
        raise UnusableRecord("it holds several messages in the place of one")
    return _made(told[0])


def speaker(value: object) -> str | None:
    """Return the role of a message; None for what is no message, or of another role."""
    value = mapping(value)
    named = value.get("role") or value.get("from") or value.get("type")
    return _role(named) if isinstance(named, str) else None


def said(value: object) -> str:
    """Return the text of the message that is an answer."""
    answer = message(value)
    if answer.role != "assistant":
        raise UnusableRecord(f"its answer is a message of the {answer.role}")
    if answer.tool_calls and not answer.content.strip():
        raise UnusableRecord("a message calls a tool instead of saying something")
    return answer.content


def answer_text(value: object, name: str) -> str:
    """Return an answer: a text, or a list with the one message that it is."""
    inside = _unpacked(value)
    # A text in quotation marks may be just that; one with escapes was written as JSON.
    value = value if isinstance(inside, str) and "\\" not in str(value) else inside
    if isinstance(value, Sequence) and not isinstance(value, str):
        told = [one for entry in value for one in _told(entry)]
        if len(told) != 1 or told[0]["role"] != "assistant":
            raise UnusableRecord(f"its {name} is not one message of the assistant")
        value = said(told[0])
    elif isinstance(value, Mapping):
        value = said({"role": "assistant", **value})
    found = text(value)
    if found is None:
        raise UnusableRecord(f"it has no {name}")
    return found


def spoken(value: object) -> str | None:
    """Return the text of what a model gave: a text, a message, or a tool's record of a completion.

    Raises:
        UnusableRecord: It is something else, or only calls tools.
    """
    value = _unpacked(value)
    if value is None or isinstance(value, str):
        return text(value)
    if isinstance(value, Sequence):
        return _spoken_last(value)
    if not isinstance(value, Mapping):
        raise UnusableRecord("its output is no text and no message")
    for name in ("generations", "choices", "candidates", "messages"):
        if inside := value.get(name):
            inside = listed(inside, name)
            while inside and isinstance(inside[0], list):
                inside = inside[0]
            if inside:
                # Of several candidates the first is the answer, of several messages the last.
                return spoken(inside[-1 if name == "messages" else 0])
    for name in ("message", "chat_message"):
        if isinstance(value.get(name), Mapping) and value[name]:
            known = _known(value[name], value)
            return text(said(known), value.get("text"))
    if _is_message(value) or _has_content(value):
        return text(said(_known(value, value)))
    for name in _SPOKEN:
        if value.get(name) is not None:
            return spoken(value[name])
    if value.get("error"):
        raise UnusableRecord("its output is an error")
    raise UnusableRecord("its output holds no answer in a form that is known")


def _spoken_last(values: Sequence[object]) -> str | None:
    """The last message of some that says something, or texts that are parts of one."""
    if all(isinstance(one, str) for one in values):
        return text("".join(map(str, values)))
    if all(isinstance(one, Mapping) and one.get("type") in _BLOCKS for one in values):
        return text(said({"role": "assistant", "content": values}))
    told = [one for entry in values for one in _told(entry, "assistant")]
    spoken_by = [one for one in told if one["role"] == "assistant"]
    if not spoken_by:
        raise UnusableRecord("its output holds no message of the assistant")
    if spoken_by[-1] is not told[-1]:
        raise UnusableRecord("its output ends in a message that is not the assistant's")
    return text(said(spoken_by[-1]))


def _unpacked(value: object) -> object:
    """What a text holds that is the JSON of a message, a completion or another text."""
    if not isinstance(value, str):
        return value
    plain = unquoted(value)
    inside = decoded(plain)
    first = inside[0] if isinstance(inside, list) and inside else inside
    if not isinstance(first, Mapping):
        return plain
    known = any(isinstance(first.get(name), list | Mapping) for name in _COMPLETIONS)
    for name in ("messages", "output"):
        entries = first.get(name)
        if isinstance(entries, list) and entries and isinstance(entries[0], Mapping):
            known = known or _is_message(entries[0])
    wrapped = known or set(first) <= {"content"}
    # An answer that is JSON by itself, as a schema asked for, stays as it is.
    return inside if wrapped or _is_message(first) else plain


def _is_message(value: Mapping[str, Any]) -> bool:
    if value.get("type") == "constructor" or isinstance(value.get("data"), Mapping):
        return True
    role = value.get("role") or value.get("type") or value.get("from")
    return isinstance(role, str) and (_role(role) is not None or role in _ITEMS)


def _has_content(value: Mapping[str, Any]) -> bool:
    return any(isinstance(value.get(name), list) for name in ("content", "parts", "blocks"))


def _known(inside: Mapping[str, Any], outside: Mapping[str, Any]) -> Mapping[str, Any]:
    """A model's message with its role, which some tools leave out, and its text."""
    known = inside
    if not _is_message(inside):
        known = {**inside, "role": "assistant"}
    body = known.get("kwargs") or known.get("data") or known
    if isinstance(body, Mapping) and "content" not in body and not _has_content(body):
        if text(outside.get("text")):
            return {"role": "assistant", "content": outside["text"]}
    return known


def _role(name: object) -> str | None:
    return _ROLES.get(str(name).rpartition(".")[2].lower())


# Parts of one message.
_BLOCKS = ("text", "output_text", "tool_use", "thinking", "refusal")
# What OpenAI's responses have beside messages.
_ITEMS = ("function_call", "function_call_output", "reasoning", "message")


def _told(value: object, role: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield what a message tells, in OpenAI's form; one with results of tools is several."""
    value = decoded(value)
    if isinstance(value, Mapping) and isinstance(value.get("message"), Mapping):
        value = value["message"]
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
        value = {"role": value[0], "content": value[1]}  # LangChain's pairs
    if not isinstance(value, Mapping):
        raise UnusableRecord("a message is not an object with role and content")
    body: Mapping[str, Any] = value
    named: object = value.get("role") or value.get("from") or value.get("type") or role
    if named == "reasoning":
        return
    if named == "function_call":
        function = {"name": body.get("name"), "arguments": body.get("arguments")}
        call = {"id": body.get("call_id"), "function": function}
        yield {"role": "assistant", "content": "", "tool_calls": [call]}
        return
    if named == "function_call_output":
        yield {"role": "tool", "content": body.get("output"), "tool_call_id": body.get("call_id")}
        return
    if isinstance(value.get("kwargs"), Mapping):  # LangChain's dump of a constructor call
        body = value["kwargs"]
        named = (value.get("id") or [""])[-1]
    elif isinstance(value.get("data"), Mapping):  # LangChain's message_to_dict
        body = value["data"]
    if str(named).lower() in ("chat", "chatmessage", "chatmessagechunk"):
        named = body.get("role")
    spoken_by = _role(named)
    if spoken_by is None:
        raise UnusableRecord(
            f"a message has the role {brief(named)}; only system, user, assistant and tool can "
            "be taken"
        )
    content, calls, results = _parts(body)
    yield from results
    told = {"role": spoken_by, "content": content, "name": text(body.get("name"))}
    if spoken_by == "assistant":
        told["tool_calls"] = [*calls, *_calls(body)]
    if spoken_by == "tool":
        told["tool_call_id"] = text(body.get("tool_call_id"), body.get("tool_use_id"))
    if content or not results:
        yield told


def _parts(body: Record) -> tuple[Any, list[Any], list[dict[str, Any]]]:
    """Return the content of a message, and the calls and results of tools that stand in it."""
    found = next(
        (
            v
            for k in ("content", "parts", "contents", "blocks", "value", "text")
            if (v := body.get(k))
        ),
        "",
    )
    if isinstance(found, Mapping):
        found = [found]
    if isinstance(found, str):
        return found, [], []
    if not isinstance(found, Sequence):
        raise UnusableRecord("the content of a message is neither text nor blocks of text")
    content: list[Any] = []
    calls: list[Any] = []
    results: list[dict[str, Any]] = []
    for entry in found:
        block = entry
        if isinstance(entry, Mapping):
            block = entry.get("message_content") or entry
        if not isinstance(block, Mapping):
            content.append(block)
            continue
        kind = str(block.get("type") or block.get("block_type") or "text")
        if kind in ("tool_use", "tool_call") and ("name" in block or "tool_name" in block):
            given: Any = next((block[k] for k in ("input", "arguments", "args", "tool_kwargs")
                          if block.get(k) is not None), {})  # fmt: skip
            function = {"name": block.get("name") or block.get("tool_name"), "arguments": given}
            named = block.get("id") or block.get("tool_call_id")
            calls.append({"id": named, "function": function})
        elif kind in ("tool_result", "tool_call_response"):
            found_in: Any = next((block[k] for k in ("content", "response", "result")
                          if block.get(k) is not None), "")  # fmt: skip
            named = block.get("tool_use_id") or block.get("id")
            results.append({"role": "tool", "content": _as_text(found_in), "tool_call_id": named})
        elif isinstance(image := mapping(block.get("image")).get("image"), Mapping):
            content.append({"type": "image", "url": image.get("url")})
        elif isinstance(block.get("text"), str):
            content.append({"type": "text", "text": block["text"]})
        elif kind in ("text", "output_text", "input_text") and isinstance(
            block.get("content"), str
        ):
            content.append({"type": "text", "text": block["content"]})
        elif kind == "refusal" and isinstance(block.get("refusal"), str):
            content.append({"type": "text", "text": block["refusal"]})
        else:
            content.append(block)
    if all(isinstance(part, str) for part in content):
        return "".join(content), calls, results
    return content, calls, results


def _as_text(value: object) -> Any:
    if isinstance(value, str | list):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _calls(body: Record) -> list[Any]:
    """Return a message's tool calls in OpenAI's form, out of the forms of others."""
    more = mapping(body.get("additional_kwargs"))
    found = decoded(body.get("tool_calls") or more.get("tool_calls") or ())
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise UnusableRecord("the tool calls of a message are no list")
    calls: list[Any] = []
    for entry in found:
        call = entry.get("tool_call", entry) if isinstance(entry, Mapping) else entry
        if isinstance(call, Mapping) and "args" in call:
            function = {"name": call.get("name"), "arguments": call["args"]}
            call = {"id": call.get("id"), "function": function}
        calls.append(call)
    old = body.get("function_call") or more.get("function_call")
    if not calls and isinstance(old, Mapping):
        calls.append({"id": None, "function": old})
    return calls


def _with_ids(told: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Name the calls that have no id, and say of results without one which call they answer."""
    waiting: list[tuple[str, str]] = []
    made = []
    for place, one in enumerate(told):
        if calls := one.get("tool_calls"):
            named = []
            for n, call in enumerate(calls):
                if isinstance(call, Mapping) and not call.get("id"):
                    call = {**call, "id": f"call-{place}-{n}"}
                named.append(call)
                if isinstance(call, Mapping):
                    name = str(mapping(call.get("function")).get("name"))
                    waiting.append((str(call["id"]), name))
            one = {**one, "tool_calls": named}
        if one["role"] == "tool":
            answered = one.get("tool_call_id")
            if not answered:
                same = [w for w in waiting if w[1] == one.get("name")] or waiting
                if not same:
                    raise UnusableRecord("the result of a tool in it answers no call")
                answered = same[0][0]
            waiting = [w for w in waiting if w[0] != answered]
            one = {**one, "tool_call_id": answered}
        made.append(one)
    return made


def _made(told: dict[str, Any]) -> Message:
    try:
        made = Message.model_validate(told)
    except ValidationError as error:
        raise UnusableRecord(f"a message cannot be read: {first_problem(error)}") from error
    if not all(image.is_public for image in made.images):
        # Whoever writes to a log must not read the files of whoever imports it.
        raise UnusableRecord("a message names an image by a path: give its data or a http(s) URL")
    return made
