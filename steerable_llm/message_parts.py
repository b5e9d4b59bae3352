"""A chat without its context, and whether there is any to take away."""

from steerable_llm.context import user_parts
from steerable_llm.pairs import MessagesLike, as_messages


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
