"""Which part of a user message is context and which is the question, by how people write them."""

import re
from typing import Literal

from steerable_llm.pairs import MessagesLike, as_messages

Part = Literal["context", "question"]

_MARKER = re.compile(
    r"(?im)^[ \t]*(?:(?P<question>question|query)|(?:documents?|contexts?|passages?|texts?))[ \t]*:"
    r"|(?P<end></(?:documents?|contexts?|passages?|sources?|texts?)>[ \t]*\n*)"
    r"|<(?:documents?|contexts?|passages?|sources?|texts?)\b[^>]*>"
)
_BREAK = re.compile(r"\n\s*\n")


def user_parts(content: str) -> list[tuple[int, Part]]:
    """Return where the parts of a user message start, as (offset, part)."""
    parts: list[tuple[int, Part]] = []
    depth = 0  # <documents> often holds several <document>
    for found in _MARKER.finditer(content):
        if found["end"]:
            depth = max(0, depth - 1)
            if depth == 0 and found.end() < len(content):
                parts.append((found.end(), "question"))
        elif depth == 0 or not found[0].startswith("<"):
            parts.append((found.start(), "question" if found["question"] else "context"))
        depth += found[0].startswith("<") and not found["end"]
    if not parts:
        return _last_paragraph(content)
    if parts[0][0] == 0:
        return parts
    return [(0, "context" if parts[0][1] == "question" else "question"), *parts]


def _last_paragraph(content: str) -> list[tuple[int, Part]]:
    """Take the last paragraph that asks, or else the last one, for the question."""
    text = content.rstrip()
    starts = [0, *(found.end() for found in _BREAK.finditer(text))]
    asking = [
        start
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True)
        if text[start:end].rstrip().endswith("?")
    ]
    start = (asking or starts)[-1]
    after = [] if start == starts[-1] else [next(x for x in starts if x > start)]
    parts: list[tuple[int, Part]] = [(start, "question"), *((x, "context") for x in after)]
    return parts if start == 0 else [(0, "context"), *parts]


def question_only(content: str) -> str:
    """A user message without its context: the text of its question parts."""
    parts = user_parts(content)
    ends = [*(start for start, _ in parts[1:]), len(content)]
    kept = [content[start:end] for (start, part), end in zip(parts, ends, strict=True)
            if part == "question"]  # fmt: skip
    return "".join(kept).strip()


def without_context(messages: MessagesLike) -> list[dict[str, str]] | None:
    """The same chat with the context taken out of its user messages.

    Returns:
        The messages, or None when no user message has a context beside a question.
    """
    found: list[dict[str, str]] = []
    changed = False
    for message in as_messages(messages):
        content = question_only(message.content) if message.role == "user" else message.content
        if not content:
            content = message.content
        changed |= content != message.content.strip() and content != message.content
        found.append({"role": message.role, "content": content})
    return found if changed else None
