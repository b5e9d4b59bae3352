"""Reading the pieces of a record, and the account of those that cannot be taken."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from steerable_llm.chat.message import Message, as_messages
from steerable_llm.errors import InvalidInputError, first_problem
from steerable_llm.logs.answers import LoggedAnswer, Passage
from steerable_llm.logs.importers.judgement import Judgement

Record = Mapping[str, Any]
_ROLES = {
    **dict.fromkeys(("system", "developer", "SystemMessage"), "system"),
    **dict.fromkeys(("user", "human", "HumanMessage", "HumanMessageChunk"), "user"),
    **dict.fromkeys(("assistant", "ai", "model", "AIMessage", "AIMessageChunk"), "assistant"),
    **dict.fromkeys(("tool", "ToolMessage", "ToolMessageChunk"), "tool"),
}


class UnusableRecord(InvalidInputError):
    """A record from which no answer can be taken; the message says why."""


@dataclass(frozen=True)
class ImportedAnswer:
    """An answer from another log, not judged yet, and what that log says of it."""

    answer: LoggedAnswer
    judgements: tuple[Judgement, ...] = ()


def content_id(kind: str, *parts: object) -> str:
    """Return an id made from content, for records that have none: the same again gives the same."""
    told = json.dumps(parts, sort_keys=True, default=str)
    return f"{kind}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def text(*values: object) -> str | None:
    """Return the first text that says something, else None."""
    return next((v for v in values if isinstance(v, str) and v.strip()), None)


def mapping(value: object) -> Mapping[str, Any]:
    """Return an object, or an empty one for what is none."""
    return value if isinstance(value, Mapping) else {}


def decoded(value: object) -> Any:
    """Return what a JSON text holds, for logs that keep objects as text; else the value itself."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def needed(record: Record, name: str) -> str:
    """Return a text that a record must have."""
    found = text(record.get(name))
    if found is None:
        raise UnusableRecord(f"it has no {name}")
    return found


def number(value: object) -> float | None:
    """Return a score as a number; True is 1, and what is no finite number is None."""
    if not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # JSON knows no largest integer
        return None
    return found if math.isfinite(found) else None


def iso(*values: object) -> str | None:
    """Return the first time as ISO 8601 in UTC, which sorts as text; None if none is a time."""
    for value in values:
        try:
            found = datetime.fromisoformat(value) if isinstance(value, str) else None
            # Exports that leave the zone out mean UTC.
            if found is not None:
                zoned = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
                return zoned.isoformat(timespec="microseconds")
        except (ValueError, OverflowError):
            continue
    return None


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
            f"a message has the role {role!r}; only system, user, assistant and tool can be taken"
        )
    told: dict[str, Any] = {"role": _ROLES[role], "content": body.get("content") or ""}
    told["name"] = text(body.get("name"))
    if told["role"] == "assistant":
        told["tool_calls"] = _calls(body)
    if told["role"] == "tool":
        told["tool_call_id"] = body.get("tool_call_id")
    try:
        made = Message.model_validate(told)
    except ValidationError as error:
        raise UnusableRecord(f"a message cannot be read: {first_problem(error)}") from error
    if not all(image.is_public for image in made.images):
        # Whoever writes to a log must not read the files of whoever imports it.
        raise UnusableRecord("a message names an image by a path: give its data or a http(s) URL")
    return made


def said(value: object) -> str:
    """Return the text of the message that is an answer."""
    answer = message(value)
    if answer.tool_calls and not answer.content.strip():
        raise UnusableRecord("a message calls a tool instead of saying something")
    return answer.content


def _calls(body: Record) -> Any:
    """Return a message's tool calls in OpenAI's form, out of LangChain's or OpenInference's."""
    more = mapping(body.get("additional_kwargs"))
    found = body.get("tool_calls") or more.get("tool_calls") or ()
    if not isinstance(found, Sequence):
        return found
    calls = []
    for entry in found:
        call = entry.get("tool_call", entry) if isinstance(entry, Mapping) else entry
        if isinstance(call, Mapping) and "args" in call:
            function = {"name": call.get("name"), "arguments": call["args"]}
            call = {"id": call.get("id"), "function": function}
        calls.append(call)
    return calls


def prompt(value: object) -> tuple[Message, ...]:
    """Return a prompt: a text is one user message."""
    if isinstance(value, str) and value.strip():
        return (Message(role="user", content=value),)
    if isinstance(value, Sequence) and value and not isinstance(value, str):
        return as_messages([message(entry) for entry in value])
    raise UnusableRecord("it has no prompt")


def answer_text(value: object, name: str) -> str:
    """Return an answer: a text, or a list with the one message that it is."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 1 or message(value[0]).role != "assistant":
            raise UnusableRecord(f"its {name} is not one message of the assistant")
        value = said(value[0])
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


#: Lines that a report names one by one; all of them are counted.
NAMED = 100


@dataclass(frozen=True)
class SkippedLine:
    """One line that was not taken.

    Attributes:
        place: File and line, as in ``runs.jsonl:12``.
        why: In words.
    """

    place: str
    why: str


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        lines: Lines read now.
        lines_before: Lines of the same files that an earlier import had read.
        added: Answers that are new in the log.
        known: Answers and judgements that the log already had.
        judged: Answers on which a judgement was put or changed.
        context: Lines that only told what was asked or retrieved.
        skipped: Lines that were not taken, by reason.
        examples: The first hundred of them, by file and line.
        first: The file and line that was the first one, by reason.
    """

    lines: int = 0
    lines_before: int = 0
    added: int = 0
    known: int = 0
    judged: int = 0
    context: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: list[SkippedLine] = field(default_factory=list)
    first: dict[str, str] = field(default_factory=dict)
    on_skip: Callable[[SkippedLine], None] | None = field(default=None, repr=False)

    def skip(self, place: str, why: str) -> None:
        """Note a line that was not taken."""
        line = SkippedLine(place, why)
        self.skipped[why] += 1
        self.first.setdefault(why, place)
        if len(self.examples) < NAMED:
            self.examples.append(line)
        if self.on_skip is not None:
            self.on_skip(line)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "lines": self.lines,
            "lines_before": self.lines_before,
            "added": self.added,
            "known": self.known,
            "judged": self.judged,
            "context": self.context,
            "skipped": dict(self.skipped.most_common()),
            "examples": [asdict(line) for line in self.examples],
        }
