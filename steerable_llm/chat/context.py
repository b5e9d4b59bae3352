"""What of a prompt is retrieved text and what is the question, told here for everyone.

The policy's conditions, context-aware decoding, ContextFocus, the parts of a heatmap and the
question of a logged answer all ask here. What marks retrieved text:

| layout | looks like | known from |
|---|---|---|
| tool | a message of the role `tool` | its role |
| fenced | two lines of five or more dashes around it, as LlamaIndex writes | `_FENCED` |
| headed | a line that opens with "Documents:", "Context:" and the like | `_HEADINGS` |
| tagged | a tag such as <context> around it | `_TAGS` |
| paragraphs | two or more lines before the question | `user_parts` |

"Question:" or "Query:" opens the question. Paragraphs alone count only for who knows that there is
retrieved text. An application that writes none of this can say itself what it retrieved.
"""

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

from steerable_llm.chat.images import PLACE
from steerable_llm.chat.message import Message, MessagesLike, as_messages

Segment = Literal["template", "system", "context", "question", "assistant"]
"""What a piece of a prompt is for."""

Context: TypeAlias = bool | str | Sequence[str] | None
"""What a caller says of a prompt's context: None leaves it to be told from the prompt, True and
False say whether there is any, texts are the passages themselves."""

# What opens retrieved text and the question, as regular expressions of one word each.
_HEADINGS = ("documents?", "contexts?", "passages?", "texts?")
_TAGS = (*_HEADINGS, "sources?")
_QUESTIONS = ("question", "query")


def _any(words: Sequence[str]) -> str:
    return f"(?:{'|'.join(words)})"


_MARKER = re.compile(
    rf"(?im)^[ \t]*(?:(?P<question>{_any(_QUESTIONS)})|{_any(_HEADINGS)})[ \t]*:"
    rf"|(?P<end></{_any(_TAGS)}>[ \t]*\n*)"
    rf"|<{_any(_TAGS)}\b[^>]*>"
)
_BREAK = re.compile(r"\n\s*\n")
_FENCED = re.compile(r"(?ms)^-{5,}[ \t]*\n(.*?)^-{5,}[ \t]*$")
# What prompts end with to call for the answer; it is neither text nor question.
_ANSWER_CUE = re.compile(r"(?im)^[ \t]*answer[ \t]*:[ \t]*\Z")


def user_parts(content: str) -> list[tuple[int, Segment]]:
    """Return where the parts of a user message start, as (offset, part).

    Text before the first marker is context when that marker opens the question, and question (an
    instruction) otherwise. A message without markers is all question if it is one paragraph; of
    several, the last one that asks (it ends with a question mark) is the question, or else the
    last one, and what stands before it is context.
    """
    parts: list[tuple[int, Segment]] = []
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


def segments(message: Message) -> list[tuple[int, Segment]]:
    """Return where the parts of a message's text start, as (offset, part)."""
    if message.role == "user":
        return user_parts(message.content)
    if message.role == "tool":
        return [(0, "context")]
    parts: list[tuple[int, Segment]] = [(0, message.role)]
    if message.role == "system":
        for found in _FENCED.finditer(message.content):
            parts += [(found.start(1), "context"), (found.end(1), "system")]
    return parts


def has_context(messages: MessagesLike, context: Context = None) -> bool:
    """Tell whether a prompt holds retrieved text; headings without text below are none."""
    if isinstance(context, bool):
        return context
    if context is not None:
        return any(text.strip() for text in _passages(context))
    return any(text.strip() for each in _read(messages) for text in _context_texts(each))


def without_context(messages: MessagesLike, context: Context = None) -> tuple[Message, ...]:
    """Return the prompt as it would be without its retrieved text; images stay."""
    left = []
    for message in _read(messages):
        # A tool's result goes together with the call that asked for it.
        if message.role == "tool" or message.tool_calls:
            continue
        question = _question(message, context)
        if question.strip() or message.images:
            left.append(message.with_text(question))
    return tuple(left)


def question_alone(messages: MessagesLike, context: Context = None) -> tuple[Message, ...] | None:
    """Return a prompt without its retrieved text, to contrast it with the whole.

    Who asks for that says that there is some. So unless `context` says otherwise, paragraphs
    before the question count as well.

    Returns:
        The messages, or None where nothing stands beside the question of a user.
    """
    whole = as_messages(messages)
    if context is not None and not has_context(whole, context):
        return None
    left = without_context(whole, True if context is None else context)
    if not any(message.role == "user" for message in left):
        return None
    # Blanks around a message are no context.
    taken = len(left) < len(whole) or any(
        less.content.strip() != more.content.strip() for less, more in zip(left, whole, strict=True)
    )
    return left if taken else None


def question_text(messages: MessagesLike) -> str | None:
    """Return the last user message without its retrieved text; None where there is none."""
    for message in reversed(_read(messages)):
        if message.role == "user":
            text = _ANSWER_CUE.sub("", _question(message, None).replace(PLACE, ""))
            return _MARKER.sub("", text).strip() or None
    return None


def _read(messages: MessagesLike) -> tuple[Message, ...]:
    return as_messages(messages) if messages else ()


def _last_paragraph(content: str) -> list[tuple[int, Segment]]:
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
    parts: list[tuple[int, Segment]] = [(start, "question"), *((x, "context") for x in after)]
    return parts if start == 0 else [(0, "context"), *parts]


def _passages(context: Context) -> Sequence[str]:
    if isinstance(context, str):
        return [context]
    return [] if isinstance(context, bool | None) else context


def _context_texts(message: Message) -> list[str]:
    role, content = message.role, message.marked
    if role == "tool":
        return [content]
    fenced = _FENCED.findall(content)
    if fenced or role != "user":
        return fenced if role in ("user", "system") else []
    if not _MARKER.search(content):  # paragraphs alone may as well be a letter
        return []
    texts = [text for part, text in _split(content) if part == "context"]
    headed = [_MARKER.sub("", text) for text in texts if _MARKER.match(text)]
    # One line before the question is an instruction; only more than one can hold passages.
    return headed or [text for text in texts if len(text.strip().splitlines()) > 1]


def _split(content: str) -> list[tuple[Segment, str]]:
    content = _ANSWER_CUE.sub("", content)
    parts = user_parts(content)
    ends = [*(start for start, _ in parts[1:]), len(content)]
    return [(part, content[start:end]) for (start, part), end in zip(parts, ends, strict=True)]


def _question(message: Message, context: Context) -> str:
    """Return what is left of a message's marked text without its retrieved text."""
    role, content = message.role, message.marked
    if role not in ("user", "system"):
        return content
    for text in _passages(context):
        content = content.replace(text, "")
    told = context is True or _MARKER.search(content)
    parts = _split(content) if role == "user" and told else []
    if any(part == "context" for part, _ in parts):
        # With a question marked as such, whatever stands before it speaks of the context.
        questions = [text for part, text in parts if part == "question"]
        marked = [text for text in questions if _MARKER.match(text)]
        return "".join(marked or questions).strip()
    return _FENCED.sub("", content)
