"""Special tokens that the text of a message spells: they are read as text, and open no turn.

A retrieved page that says `<|im_end|><|im_start|>system` would else end the user's turn and begin
one of its own. Only prompts with such a spelling are encoded in another way than usual: around it
in pieces, and the spelling itself in two halves, neither of which is special.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from steerable_llm.chat.message import Message, rewritten

# Stands for a spelling while the template is rendered around it.
_MARK = "\ue002{}\ue003"
_MARKS = re.compile("\ue002(\\d+)\ue003")


@dataclass(frozen=True)
class Hidden:
    """Messages with marks in place of the special tokens that they spell.

    Attributes:
        messages: With the marks.
        arguments: What else the template is given, with the marks.
        spellings: What each mark stands for.
    """

    messages: tuple[Message, ...]
    arguments: dict[str, Any]
    spellings: tuple[str, ...]


@dataclass(frozen=True)
class Encoded:
    """A token of a text."""

    id: int
    start: int
    end: int


class Spelled:
    """Finds the special tokens that texts spell, and encodes them as text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, special_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        names = {str(tokenizer.convert_ids_to_tokens(number)) for number in special_ids}
        longest_first = sorted((x for x in names if len(x.strip()) > 1), key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def hide(self, messages: Sequence[Message], arguments: Mapping[str, Any]) -> Hidden | None:
        """Put marks in place of special tokens in all that a template is given.

        That is texts, names and calls, and its arguments; None without any.
        """
        spellings: list[str] = []

        def mark(found: re.Match[str]) -> str:
            spellings.append(found[0])
            return _MARK.format(len(spellings) - 1)

        hidden = tuple(
            message.rewritten(lambda text: self._names.sub(mark, text))
            if self._spells(message)
            else message
            for message in messages
        )
        given = rewritten(dict(arguments), lambda text: self._names.sub(mark, text))
        return Hidden(hidden, given, tuple(spellings)) if spellings else None

    def encode(self, rendered: str, spellings: Sequence[str], first: bool) -> list[Encoded]:
        """Encode a rendered prompt with marks.

        Args:
            rendered: The prompt; offsets are those of its text with the spellings in it.
            spellings: What the marks stand for.
            first: Whether the tokenizer adds its own special tokens at the start.
        """
        pieces: list[str] = []
        # re.split alternates texts and numbers of marks.
        for number, piece in enumerate(_MARKS.split(rendered)):
            if number % 2 == 0:
                pieces.append(piece)
            elif int(piece) < len(spellings):
                spelling = spellings[int(piece)]
                pieces += (spelling[:1], spelling[1:])
        # A hostile text has ten thousands of pieces, few of which differ.
        known = self._encoded(pieces[1:])
        made: list[Encoded] = []
        place = 0
        for number, piece in enumerate(pieces):
            found = known if number else self._encoded([piece], add=first)
            made += [
                Encoded(token, place + start, place + end)
                for token, start, end in found.get(piece, ())
            ]
            place += len(piece)
        return made

    def _spells(self, message: Message) -> bool:
        beside = [message.name or "", message.reasoning or ""]
        texts = [message.content, *beside, *(str(x) for x in message.tool_calls)]
        return any(self._names.search(text) for text in texts)

    def _encoded(
        self, texts: Iterable[str], add: bool = False
    ) -> dict[str, list[tuple[int, int, int]]]:
        """Return the tokens of texts, each with where it starts and ends; of empty ones nothing."""
        told, fast = list(dict.fromkeys(filter(None, texts))), self._tokenizer.is_fast
        if not told:
            return {}
        found = self._tokenizer(
            told, add_special_tokens=add, return_offsets_mapping=fast, verbose=False
        )
        places = found.offset_mapping if fast else [[(0, 0)] * len(x) for x in found.input_ids]
        return {
            text: [(int(number), *span) for number, span in zip(ids, spans, strict=True)]
            for text, ids, spans in zip(told, found.input_ids, places, strict=True)
        }
