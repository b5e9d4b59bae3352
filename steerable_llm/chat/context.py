"""What of a prompt is retrieved text and what is the question, told here for everyone.

The policy's conditions, context-aware decoding, ContextFocus, the parts of a heatmap and the
question of a logged answer all ask here. In this order:

| who says it | what is retrieved text |
|---|---|
| the caller | what `context=` says |
| the framework | the documents that its retriever handed over, where the prompt quotes them |
| roles | messages of the role `tool` |
| marks in system messages and in the user's current turn | see `chat/layout.py` |

Of what a user said in earlier turns only tags and fences count, which people hardly write: the
heading "Context:" in an earlier turn is somebody's own word. Paragraphs that nothing marks count
only for who knows that there is retrieved text. Where that leaves a doubt, `tell` says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from steerable_llm.chat.images import PLACE
from steerable_llm.chat.layout import (
    Layout,
    Span,
    has_words,
    holds_something,
    layout_of,
    paragraph_that_asks,
)
from steerable_llm.chat.message import Message, MessagesLike, as_messages
from steerable_llm.chat.vocabulary import ANSWER_CUE

Segment = Literal["template", "system", "context", "question", "assistant", "image"]
"""What a piece of a prompt is for."""

Parts: TypeAlias = list[tuple[int, Segment]]
"""Where the parts of a text start."""

Context: TypeAlias = bool | str | Sequence[str] | None
"""What a caller says of a prompt's context: None leaves it to be told from the prompt, True and
False say whether there is any, texts are the passages themselves."""


@dataclass(frozen=True)
class Told:
    """Whether a prompt holds retrieved text.

    Attributes:
        present: Whether it does, as far as can be told.
        doubt: Why it may, though nothing was found that says so; None where that is sure.
    """

    present: bool
    doubt: str | None = None


def tell(messages: MessagesLike, context: Context = None) -> Told:
    """Tell whether a prompt holds retrieved text; a place for it without text is none."""
    if isinstance(context, bool):
        return Told(context)
    if context is not None:
        return Told(any(text.strip() for text in _passages(context)))
    prompt = _read(messages)
    layouts = _layouts(prompt)
    if any(message.role == "tool" and holds_something(message.marked) for message in prompt):
        return Told(True)
    if any(layout.spans for layout in layouts):
        return Told(True)
    places = [message for message, layout in zip(prompt, layouts, strict=True) if layout.has_place]
    if places:
        # Where nothing but images was found, engines leave the place for text empty beside them.
        return Told(any(message.images for message in places))
    return Told(False, next((layout.doubt for layout in layouts if layout.doubt), None))


def has_context(messages: MessagesLike, context: Context = None) -> bool:
    """Tell whether a prompt holds retrieved text, as far as can be told."""
    return tell(messages, context).present


def quoted(messages: MessagesLike, passages: Sequence[str]) -> tuple[str, ...]:
    """Return those of some passages that a prompt quotes word for word, each once.

    What a retriever found is not always shown to the model: a step that rephrases a question runs
    in the same chain as the one that answers from the documents. A passage may be an image: its
    address, or its bytes in base64, with `data:image/...` before them or not.
    """
    wanted = dict.fromkeys(text for passage in passages if (text := passage.strip()))
    prompt = _read(messages) if wanted else ()
    texts = [message.marked for message in prompt]
    urls = [image.url for message in prompt for image in message.images]
    images = {part for url in urls for part in (url, url.partition(";base64,")[2]) if part}
    return tuple(
        passage for passage in wanted if passage in images or any(passage in text for text in texts)
    )


def parts_of(messages: Sequence[Message]) -> list[Parts]:
    """Return where the parts of each message's text start, as (offset, part).

    Where nothing is marked, the last paragraph that asks (it ends with a question mark) is the
    question, or else the last one, and what stands around it is context.
    """
    return [
        _parts(message, layout, number == _asking(messages))
        for number, (message, layout) in enumerate(zip(messages, _layouts(messages), strict=True))
    ]


def without_context(messages: MessagesLike, context: Context = None) -> tuple[Message, ...]:
    """Return the prompt as it would be without its retrieved text; images stay."""
    prompt = _read(messages)
    passages = _passages(context)
    taken = [_without(message, passages) for message in prompt]
    left = []
    for number, (message, layout) in enumerate(zip(taken, _layouts(taken), strict=True)):
        # A tool's result goes together with the call that asked for it.
        if message.role == "tool" or message.tool_calls:
            continue
        text = message.marked
        if message.role in ("user", "system"):
            weak = context is True and number == _asking(taken)
            text = _question(message, layout, weak=weak, emptied=bool(passages))
        if text.strip() or message.images:
            left.append(message if text == message.marked else message.with_text(text))
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
    """Return what the user asks at last, without retrieved text; None where there is nothing."""
    prompt = _read(messages)
    layouts = _layouts(prompt)
    for number in reversed(range(_turn(prompt), len(prompt))):
        message = prompt[number]
        if message.role == "user":
            text = _question(message, layouts[number], words_only=True).replace(PLACE, "").strip()
            if text:
                return text
    return None


def _read(messages: MessagesLike) -> tuple[Message, ...]:
    return as_messages(messages) if messages else ()


def _passages(context: Context) -> Sequence[str]:
    if isinstance(context, str):
        return [context]
    return [] if isinstance(context, bool | None) else context


def _without(message: Message, passages: Sequence[str]) -> Message:
    if not passages or message.role not in ("user", "system"):
        return message
    text = message.marked
    for passage in passages:
        text = text.replace(passage, "")
    return message if text == message.marked else message.with_text(text)


# The whole prompt.


def _asking(messages: Sequence[Message]) -> int | None:
    """Return the place of the user's last message, which holds the question."""
    users = [number for number, message in enumerate(messages) if message.role == "user"]
    return users[-1] if users else None


def _turn(messages: Sequence[Message]) -> int:
    """Return where the current turn starts: after what the assistant last said to the user."""
    asking = _asking(messages)
    before = messages[: 0 if asking is None else asking]
    said = [
        number
        for number, message in enumerate(before)
        if message.role == "assistant" and not message.tool_calls
    ]
    return said[-1] + 1 if said else 0


def _layouts(messages: Sequence[Message]) -> list[Layout]:
    """Read how each message lays out retrieved text, in the light of the others."""
    asking, turn = _asking(messages), _turn(messages)
    found: list[Layout] = []
    for number, message in enumerate(messages):
        layout = Layout()
        if message.role in ("user", "system"):
            layout = layout_of(message.marked, message.role, number == asking)
        if message.role == "user" and number < turn:
            sure = tuple(span for span in layout.spans if span.mark in ("tag", "fence"))
            layout = Layout(sure, layout.questions)
        elif message.role == "user" and number != asking and found and found[-1].announces:
            # Announced in the message before, and given in one of its own.
            end = len(message.marked)
            holds = holds_something(message.marked)
            whole = (Span(0, 0, end, end, "announced"),) if holds else ()
            layout = Layout(whole, has_place=True)
        found.append(layout)
    # Where one message marks a place, what others merely announce is that one.
    marked = [layout.has_place and not layout.is_guess for layout in found]
    if any(marked):
        found = [
            layout if sure or messages[number].role != "system" else Layout()
            for number, (layout, sure) in enumerate(zip(found, marked, strict=True))
        ]
    return found


# One message.


def _parts(message: Message, layout: Layout, asks: bool) -> Parts:
    if message.role == "tool":
        return [(0, "context")]
    rest: Segment = "question" if message.role == "user" else message.role
    spans = [(span.start, span.end) for span in layout.spans]
    if asks and not spans and not layout.has_place:
        spans = _around_the_question(message.marked, layout)
    parts: Parts = []
    place = 0
    for start, end in spans:
        if start > place or (place == 0 and start > 0):
            parts.append((place, rest))
        parts.append((start, "context"))
        place = end
    if place < len(message.marked) or not parts:
        parts.append((place, rest))
    return parts


def _around_the_question(text: str, layout: Layout) -> list[tuple[int, int]]:
    """Return what stands around the question where nothing says that it was retrieved."""
    if layout.questions:
        start, end = layout.questions[-1][0], len(text)
    else:
        start, end = paragraph_that_asks(text)
        end = end if end < len(text.rstrip()) else len(text)
    around = [(0, start), (end, len(text))]
    return [(first, last) for first, last in around if has_words(text[first:last])]


def _question(
    message: Message,
    layout: Layout,
    weak: bool = False,
    emptied: bool = False,
    words_only: bool = False,
) -> str:
    """Return what is left of a message's marked text without its retrieved text.

    Args:
        message: Of a user or of the system.
        layout: How it lays out retrieved text.
        weak: Paragraphs before the question count as retrieved text where nothing else does.
        emptied: Passages were taken out before, so that a place without text is one of theirs.
        words_only: Leave the word out that opens the question.
    """
    text = message.marked
    spans = [(span.start, span.end) for span in layout.spans]
    if not spans and weak:
        spans = _around_the_question(text, layout)
    if message.role == "system":
        return _cut(text, spans).strip() if spans else text
    if not (spans or words_only or (emptied and layout.has_place)):
        return text
    questions = layout.questions
    if questions:
        # With a question marked as such, whatever stands before it speaks of the context.
        start, words = questions[0]
        text = text[words:] if words_only else text[start:]
        moved = words if words_only else start
        spans = [(max(0, a - moved), b - moved) for a, b in spans if b > moved]
    cue = ANSWER_CUE.search(text)
    text = text[: cue.start()] if cue else text
    return _cut(text, spans).strip()


def _cut(text: str, spans: Sequence[tuple[int, int]]) -> str:
    for start, end in reversed(spans):
        text = text[:start] + text[end:]
    return text
