"""Preference files: TRL's, paired and unpaired, and OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steerable_llm.chat.message import Message
from steerable_llm.logs.answers import LoggedAnswer, asked
from steerable_llm.logs.importers.records import (
    ImportedAnswer,
    Record,
    UnusableRecord,
    answer_text,
    content_id,
    prompt,
)
from steerable_llm.pairs.pairing import PREFERENCE_PAIR


def trl(record: Record) -> list[ImportedAnswer]:
    """Read ``prompt, chosen, rejected`` or ``prompt, completion, label``, of text or messages."""
    images = record.get("images") or [record[name] for name in ("image",) if record.get(name)]
    if images:
        record = {**record, "prompt": _with_images(record.get("prompt"), images)}
    if "completion" in record:
        if not isinstance(record.get("label"), bool):
            raise UnusableRecord("its label is neither true nor false")
        messages = prompt(record.get("prompt"))
        answer = answer_text(record["completion"], "completion")
        verdict = "good" if record["label"] else "bad"
        return [_draft("trl", messages, answer, verdict=verdict, label_source="preference")]
    given, chosen, rejected = (record.get(name) for name in ("prompt", "chosen", "rejected"))
    if given is None and isinstance(chosen, list) and isinstance(rejected, list):
        given, chosen, rejected = _common_start(chosen, rejected)
    return [_pair("trl", prompt(given), chosen, rejected, ("chosen", "rejected"))]


def openai(record: Record) -> list[ImportedAnswer]:
    """Read ``input.messages, preferred_output, non_preferred_output``."""
    given = record.get("input")
    if not isinstance(given, Mapping):
        raise UnusableRecord("it has no input with messages")
    names = ("preferred_output", "non_preferred_output")
    good, bad = (record.get(name) for name in names)
    return [_pair("openai", prompt(given.get("messages")), good, bad, names)]


def _pair(
    kind: str, messages: tuple[Message, ...], good: object, bad: object, names: tuple[str, str]
) -> ImportedAnswer:
    preferred, other = answer_text(good, names[0]), answer_text(bad, names[1])
    if preferred.strip() == other.strip():
        raise UnusableRecord(f"its {names[0]} and {names[1]} are the same")
    return _draft(
        kind, messages, other, verdict="bad", correction=preferred, label_source=PREFERENCE_PAIR
    )


def _draft(kind: str, messages: tuple[Message, ...], answer: str, **fields: Any) -> ImportedAnswer:
    content = [message.key for message in messages]
    logged = LoggedAnswer(
        id=content_id(kind, content, answer, fields),
        question=asked(None, messages),
        messages=messages,
        answer=answer,
        **fields,
    )
    return ImportedAnswer(logged)


def _common_start(chosen: list[Any], rejected: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Split two whole conversations into what they share and how each goes on."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _with_images(given: object, images: object) -> object:
    """Put a row's images into their places in its prompt, or before its text."""
    if not isinstance(images, list):
        raise UnusableRecord("its images are not a list")
    if isinstance(given, str):
        given = [{"role": "user", "content": [{"type": "image"} for _ in images] + [given]}]
    left = list(images)
    messages = []
    for entry in given if isinstance(given, list) else ():
        content = entry.get("content") if isinstance(entry, Mapping) else None
        if isinstance(content, list):
            filled = [
                {"type": "image", "image": left.pop(0)} if part == {"type": "image"} and left
                else part
                for part in content
            ]  # fmt: skip
            entry = {**entry, "content": filled}
        messages.append(entry)
    if left:
        raise UnusableRecord("it has more images than its prompt has places for")
    return messages
