"""Preference files: TRL's, paired and unpaired, and OpenAI's."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerable_llm.chat.images import ImagePart, image_in
from steerable_llm.chat.message import Message
from steerable_llm.logs.answers import LoggedAnswer, asked
from steerable_llm.logs.importers.messages import answer_text, prompt
from steerable_llm.logs.importers.records import (
    ImportedAnswer,
    Record,
    UnusableRecord,
    content_id,
    decoded,
    listed,
    mapping,
    page,
    text,
    yes_or_no,
)
from steerable_llm.pairs.pairing import PREFERENCE_PAIR

_TURN = re.compile(r"\n\n(Human|Assistant): ?")


def preference_records(record: Record) -> list[tuple[str, Any]]:
    """Return the rows of a page of them."""
    return page(record, "rows", "data", "train", "test")


def trl(record: Record) -> list[ImportedAnswer]:
    """Read ``prompt, chosen, rejected`` or ``prompt, completion, label``, of text or messages.

    Where each step of an answer has a label of its own, as process supervision has them in
    ``prompt, completions, labels``, an answer is good if all of its steps are. Some data sets call
    the prompt ``question``, as SPA-VL does, and have ``system`` beside it.
    """
    images = listed(record.get("images") or record.get("image"), "images")
    given = decoded(record.get("prompt") or record.get("question")) or None
    if images:
        given = _with_images(given, images)
    if {"completions", "labels"} <= record.keys():
        answer, good = _steps(record)
        return [_draft("trl", _asked(record, given), answer, verdict="good" if good else "bad",
                       label_source="steps")]  # fmt: skip
    if not record.keys() & {"chosen", "rejected", "label"}:
        raise UnusableRecord(
            "it has no preference: chosen and rejected, or a completion with a label"
        )
    if "completion" in record:
        label = yes_or_no(record.get("label"))
        if label is None:
            raise UnusableRecord("its label is neither true nor false")
        given, completion = _apart(given, record["completion"])
        answer = answer_text(completion, "completion")
        verdict = "good" if label else "bad"
        return [
            _draft("trl", _asked(record, given), answer, verdict=verdict, label_source="preference")
        ]
    chosen, rejected = (_conversation(record.get(name)) for name in ("chosen", "rejected"))
    if given is None:
        # Beside texts of other names, one of these is the prompt, perhaps.
        alone = not any(isinstance(record[k], str) for k in record.keys() - {"chosen", "rejected"})
        given, chosen, rejected = _common_start(chosen, rejected, alone)
    else:
        (given, chosen), (_, rejected) = _apart(given, chosen), _apart(given, rejected)
    return [_pair("trl", _asked(record, given), chosen, rejected, ("chosen", "rejected"))]


def _steps(record: Record) -> tuple[str, bool]:
    """Return an answer that is judged step by step, and whether all of it is right."""
    steps = listed(record["completions"], "completions")
    labels = [yes_or_no(label) for label in listed(record["labels"], "labels")]
    if not all(isinstance(step, str) for step in steps) or not any(map(str.strip, steps)):
        raise UnusableRecord("its completions are no texts: give the steps of one answer")
    if len(labels) != len(steps) or None in labels:
        raise UnusableRecord("its labels are not one true or false for each of its completions")
    return "\n".join(steps), all(labels)


def _asked(record: Record, given: object) -> tuple[Message, ...]:
    messages = prompt(given)
    system = text(record.get("system"), record.get("system_prompt"))
    if system is None or messages[0].role == "system":
        return messages
    return (Message(role="system", content=system), *messages)


def openai(record: Record) -> list[ImportedAnswer]:
    """Read ``input.messages, preferred_output, non_preferred_output``."""
    given = decoded(record.get("input"))
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


def _conversation(value: object) -> Any:
    """Return a whole conversation or one answer; a text with turns in it is a conversation."""
    value = decoded(value)
    return [value] if isinstance(value, Mapping) else value


def _apart(given: Any, made: object) -> tuple[Any, Any]:
    """Return a prompt, and an answer without the prompt that some files repeat before it."""
    made = _conversation(made)
    if not isinstance(made, list) or len(made) < 2:
        return given, made
    *before, last = made
    if given is None:
        return before, [last]
    asked = prompt(given)
    shown = prompt(before)
    if shown[0].role == "system" and asked[0].role != "system":
        shown = shown[1:]
    if [one.key for one in shown] == [one.key for one in asked]:
        return before, [last]
    return given, made  # an answer of several messages, which is told as such


def _common_start(chosen: Any, rejected: Any, alone: bool) -> tuple[Any, Any, Any]:
    """Split two whole conversations into what they share and how each goes on.

    Args:
        chosen: One of them.
        rejected: The other.
        alone: Whether no other text of their record may be the prompt.
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _common_text(chosen, rejected, alone)
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        raise UnusableRecord("it has no prompt, and its answers are no conversations")
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _common_text(chosen: str, rejected: str, alone: bool) -> tuple[Any, Any, Any]:
    """The same of two texts: with turns of "Human:" and "Assistant:", or of which one goes on."""
    length = min(len(chosen), len(rejected))
    same = next((n for n in range(length) if chosen[n] != rejected[n]), length)
    turns = [found for found in _TURN.finditer(chosen) if found.end() <= same]
    if not turns and alone:
        words = list(re.finditer(r"\S+(?=\s)", chosen[: same + 1]))
        # One word may begin any two answers.
        if len(words) > 1 and (end := words[-1].end()) < length:
            return chosen[:end], chosen[end:], rejected[end:]
    if not turns or turns[-1][1] != "Assistant":
        raise UnusableRecord(
            "it has no prompt: give one, conversations, or texts that begin alike, as with turns "
            "of Human: and Assistant:, of which both answers share all but the last"
        )
    at = turns[-1].end()
    if _TURN.search(chosen, at) or _TURN.search(rejected, at):
        raise UnusableRecord("its answers go on over several turns")
    ends = [found.start() for found in turns[1:]]
    given = [
        {
            "role": {"Human": "user", "Assistant": "assistant"}[turn[1]],
            "content": chosen[turn.end() : end].strip(),
        }
        for turn, end in zip(turns, ends, strict=False)
    ]
    if lead := chosen[: turns[0].start()].strip():
        given.insert(0, {"role": "system", "content": lead})
    return given, chosen[at:].strip(), rejected[at:].strip()


def _with_images(given: object, images: object) -> object:
    """Put a row's images into their places in its prompt, or before its text."""
    if not isinstance(images, list):
        raise UnusableRecord("its images are not a list")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    left = list(images)
    entries = given if isinstance(given, list) else []
    places = sum(map(_is_place, (part for entry in entries for part in _parts(entry))))
    messages = []
    for entry in entries:
        parts = _parts(entry)
        if not places and parts and entry.get("role") == "user":
            # A prompt without places has all images before its first question.
            parts, places = [{"type": "image"} for _ in images] + parts, len(images)
        if isinstance(entry, Mapping) and any(map(_is_place, parts)):
            filled = [
                {"type": "image", "image": left.pop(0)} if _is_place(part) and left else part
                for part in parts
            ]
            entry = {**entry, "content": filled}
        messages.append(entry)
    if left:
        raise UnusableRecord("it has more images than its prompt has places for")
    return messages


def with_pictures(record: Record, folder: Path) -> Record:
    """Return a row with its pictures, in whatever way its columns have them.

    Args:
        record: With `images`, or one `image`: bytes, addresses, or the paths of files.
        folder: Of its file. Files outside of it are not read: whoever wrote the row does not say
            what is read on the machine of whoever imports it.
    """
    own = folder.resolve()

    def picture(given: object) -> object:
        if isinstance(given, Mapping):
            told = (given.get(name) for name in ("bytes", "src", "url", "path"))
            given = next((one for one in told if one), given)
        if not isinstance(given, str):
            return ImagePart(given) if isinstance(given, bytes) else given
        if inside := image_in(given):
            return inside
        # A text that is no path, or one that may not be read, is told of by who reads the row.
        with contextlib.suppress(OSError, ValueError):
            file = own / given
            if file.resolve().is_relative_to(own) and file.is_file():
                return ImagePart(file.read_bytes())
        return given

    pictures = {
        name: made
        for name, value in record.items()
        if name in ("image", "images") and value
        for each in [value if isinstance(value, list) else [value]]
        if (made := [picture(one) for one in each]) != [value]
    }
    return {**record, **pictures}


def _parts(entry: object) -> list[Any]:
    content = entry.get("content") if isinstance(entry, Mapping) else None
    return [content] if isinstance(content, str) else content if isinstance(content, list) else []


def _is_place(part: object) -> bool:
    """Whether a part is the place of an image; rows of a table have its other fields as null."""
    told = {k for k, v in part.items() if v is not None} if isinstance(part, Mapping) else set()
    return told == {"type"} and mapping(part)["type"] == "image"
