"""What importers share: reading the pieces of a record, and saying why one cannot be taken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from steerable_llm.errors import InvalidInputError
from steerable_llm.logs.answers import LoggedAnswer, Passage
from steerable_llm.logs.importers.judgement import Judgement
from steerable_llm.pairs import Message

Record = Mapping[str, Any]
_ROLES = {
    **dict.fromkeys(("system", "developer", "SystemMessage"), "system"),
    **dict.fromkeys(("user", "human", "HumanMessage", "HumanMessageChunk"), "user"),
    **dict.fromkeys(("assistant", "ai", "model", "AIMessage", "AIMessageChunk"), "assistant"),
}


class UnusableRecord(InvalidInputError):
    """A record from which no answer can be taken; the message says why."""


@dataclass(frozen=True)
class Draft:
    """An answer from another log, not judged yet, and what that log says of it."""

    answer: LoggedAnswer
    judgements: tuple[Judgement, ...] = ()


def content_id(kind: str, *parts: object) -> str:
    """Return an id made from content, for records that have none: the same again gives the same."""
    told = json.dumps(parts, sort_keys=True, default=str)
    return f"{kind}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def text(value: object) -> str | None:
    """Return a text that says something, else None."""
    return value if isinstance(value, str) and value.strip() else None


def needed(record: Record, name: str) -> str:
    """Return a text that a record must have."""
    found = text(record.get(name))
    if found is None:
        raise UnusableRecord(f"it has no {name}")
    return found


def iso(value: object) -> str | None:
    """Return a time as ISO 8601 in UTC, which sorts as text; None if it is no time."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
        # Exports that leave the zone out mean UTC.
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return found.isoformat(timespec="microseconds")


def content_text(content: object) -> str:
    """Return the text of a message: a string, or blocks of text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        pieces = []
        for block in content:
            if isinstance(block, str):
                pieces.append(block)
            elif isinstance(block, Mapping) and isinstance(block.get("text"), str):
                pieces.append(block["text"])
            else:
                kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
                raise UnusableRecord(f"a message holds {kind}, and only text can be taken")
        return "".join(pieces)
    raise UnusableRecord("the content of a message is neither text nor blocks of text")


def message(value: object) -> Message:
    """Return one message out of OpenAI's form or one of LangChain's."""
    if not isinstance(value, Mapping):
        raise UnusableRecord("a message is not an object with role and content")
    body = value
    role = value.get("role") or value.get("type")
    if isinstance(value.get("kwargs"), Mapping):  # LangChain's dump of a constructor call
        body = value["kwargs"]
        role = (value.get("id") or [""])[-1]
    elif isinstance(value.get("data"), Mapping):  # LangChain's message_to_dict
        body = value["data"]
    if role not in _ROLES:
        raise UnusableRecord(
            f"a message has the role {role!r}; only system, user and assistant can be taken"
        )
    content = content_text(body.get("content"))
    if not content.strip() and (body.get("tool_calls") or body.get("function_call")):
        raise UnusableRecord("a message calls a tool instead of saying something")
    return Message.model_validate({"role": _ROLES[role], "content": content})


def prompt(value: object) -> tuple[Message, ...]:
    """Return a prompt: a text is one user message."""
    if isinstance(value, str) and value.strip():
        return (Message(role="user", content=value),)
    if isinstance(value, Sequence) and value and not isinstance(value, str):
        return tuple(message(entry) for entry in value)
    raise UnusableRecord("it has no prompt")


def answer_text(value: object, name: str) -> str:
    """Return an answer: a text, or a list with the one message that it is."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        messages = [message(entry) for entry in value]
        if len(messages) != 1 or messages[0].role != "assistant":
            raise UnusableRecord(f"its {name} is not one message of the assistant")
        value = messages[0].content
    found = text(value)
    if found is None:
        raise UnusableRecord(f"it has no {name}")
    return found


def passages(texts: Iterable[object], ids: Sequence[object] = ()) -> tuple[Passage, ...]:
    """Return retrieved texts as passages; without an id, equal texts share one made from them.

    So the parts of a split never share a document, whatever the log calls it.
    """
    found = []
    for place, entry in enumerate(texts):
        if not isinstance(entry, str):
            raise UnusableRecord("a retrieved context is not text")
        named = str(ids[place]) if place < len(ids) else content_id("passage", entry)
        found.append(Passage(id=named, text=entry))
    return tuple(found)


def rendered(question: str, found: Sequence[Passage]) -> tuple[Message, ...]:
    """Return a prompt for a question over passages, for logs that did not keep theirs."""
    if not found:
        return (Message(role="user", content=question),)
    numbered = "\n".join(f"[{i}] {passage.text}" for i, passage in enumerate(found, start=1))
    shown = f"Documents:\n{numbered}\n\nQuestion: {question}"
    return (Message(role="user", content=shown),)
