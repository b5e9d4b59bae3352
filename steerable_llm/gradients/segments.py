"""Which part of the prompt each token belongs to: template, system, context or question.

The messages give the roles. Inside a user message the markers people write tell the passages
from the question: "Question:" or "Query:" opens the question, "Documents:", "Context:",
"Passages:" or "Text:" opens the passages, and so do tags such as <context>, which end with their
closing tag. Text before the first marker is context when that marker opens the question, and
question (an instruction) otherwise. A message without markers is all question if it is one
paragraph; of several, the last one that asks (it ends with a question mark) is the question, or
else the last one, and what stands before it is context.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from steerable_llm.attribution import Segment
from steerable_llm.context import user_parts
from steerable_llm.model.hooked_model import SteerableHFLLM
from steerable_llm.pairs import Message


@dataclass(frozen=True)
class PromptTokens:
    """A prompt in tokens, each with its text and its part.

    Attributes:
        ids: token ids, T of them.
        texts: the pieces of the prompt's text; joined they are the text again.
        segments: the part each token belongs to.
        is_template: true for special and template tokens.
    """

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    segments: tuple[Segment, ...]
    is_template: tuple[bool, ...]


def prompt_tokens(llm: SteerableHFLLM, messages: Sequence[Message]) -> PromptTokens:
    """Encode a prompt as the model sees it and tell its parts."""
    ids = llm.encode(messages)
    mask = llm.special_token_mask(messages)
    text = llm.render(messages)
    ends = _token_ends(llm, text, ids)
    if ends is None:  # a slow tokenizer tells no places: the content stays in one piece
        texts = tuple(str(llm.tokenizer.decode([token])) for token in ids)
        plain: list[Segment] = ["template" if special else "question" for special in mask]
        return PromptTokens(tuple(ids), texts, tuple(plain), tuple(mask))
    part = _parts(messages, text)
    segments: list[Segment] = []
    for end, special in zip(ends, mask, strict=True):
        segments.append("template" if special or not end else part[end - 1])
    starts = [0, *ends[:-1]]
    texts = tuple(text[start:end] for start, end in zip(starts, ends, strict=True))
    return PromptTokens(tuple(ids), texts, tuple(segments), tuple(mask))


def _token_ends(llm: SteerableHFLLM, text: str, ids: Sequence[int]) -> list[int] | None:
    """Where each token ends in the text, never going back; None when it cannot be told."""
    if not llm.tokenizer.is_fast:
        return None
    for add_special in (False, True):
        encoded = llm.tokenizer(text, add_special_tokens=add_special, return_offsets_mapping=True)
        if list(encoded["input_ids"]) == list(ids):
            ends, furthest = [], 0
            for _, end in encoded["offset_mapping"]:
                furthest = max(furthest, end)
                ends.append(furthest)
            return ends
    return None


def _parts(messages: Sequence[Message], text: str) -> list[Segment]:
    """The part that each character of the rendered prompt belongs to."""
    part: list[Segment] = ["template"] * len(text)
    cursor = 0
    for message in messages:
        content = message.content
        start = text.find(content, cursor)
        if start < 0:  # many templates trim
            content = content.strip()
            start = text.find(content, cursor)
        if start < 0:
            continue
        cursor = start + len(content)
        if message.role == "user":
            for offset, segment in user_parts(content):
                part[start + offset : cursor] = [segment] * (cursor - start - offset)
        else:
            part[start:cursor] = [message.role] * len(content)
    return part
