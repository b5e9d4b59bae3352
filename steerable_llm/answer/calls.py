"""The calls in an answer while they are still being written, piece by piece."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from steerable_llm.chat.tools import CallPiece, InvalidToolCall, ParsedAnswer, ToolFormat

_CLOSING = {"{": "}", "[": "]"}


class CallStream:
    """Tell what is new of an answer's calls.

    A call is told from the moment its name is complete and its arguments begin, if it is written
    in its family's usual way; any other is told whole when the answer ends.
    """

    def __init__(
        self, tool_format: ToolFormat, id_of: Callable[[int, str], str], most: int | None = None
    ) -> None:
        """Start before the first call.

        Args:
            tool_format: How the calls are written.
            id_of: From a call's number and its tool's name to its id.
            most: At most so many calls count; None counts all.
        """
        self._format = tool_format
        self._id_of = id_of
        self._most = most
        self._told: list[_Told] = []
        self._position: int | None = None

    def push(self, raw: str) -> list[CallPiece]:
        """Look at all of the answer so far, and return what is new, in order."""
        if self._position is None:
            opened = self._format.opening.search(raw)
            if opened is None:
                return []
            self._position = opened.start()
        pieces: list[CallPiece] = []
        while True:
            if not self._told or self._told[-1].whole:
                pattern = self._format.head
                head = pattern.match(raw, self._position) if pattern else None
                if head is None or len(self._told) == self._most:
                    return pieces
                number, name = len(self._told), head[1]
                self._told.append(_Told(name))
                self._position = head.end()
                pieces.append(CallPiece(number, "", name, self._id_of(number, name)))
            new = self._told[-1].take(raw[self._position :])
            self._position += len(new)
            if new:
                pieces.append(CallPiece(len(self._told) - 1, new))
            if not self._told[-1].whole:
                return pieces

    def finish(self, parsed: ParsedAnswer) -> list[CallPiece]:
        """Return what is still to be told of an answer that has ended."""
        calls = parsed.calls[: self._most]
        pairs = zip(self._told, calls, strict=False)
        right = next((i for i, (told, call) in enumerate(pairs) if not told.is_call(*call)), None)
        right = min(len(self._told), len(calls)) if right is None else right
        wrong = self._told[right:]
        pieces = [CallPiece(right + i, told.spoiling()) for i, told in enumerate(wrong)]
        index = len(self._told)
        for number, (name, arguments) in enumerate(calls[right:], start=right):
            text = json.dumps(arguments, ensure_ascii=False)
            pieces.append(CallPiece(index, text, name, self._id_of(number, name)))
            index += 1
        for call in _untold(parsed.invalid, len(wrong)):
            pieces.append(CallPiece(index, call.text + _spoiling(call.text), call.name))
            index += 1
        return pieces


def joined(pieces: Sequence[CallPiece]) -> tuple[CallPiece, ...]:
    """Return one piece per call: who reads a chunk may not put several of one call together."""
    found: dict[int, CallPiece] = {}
    for piece in pieces:
        before = found.get(piece.index)
        if before is not None:
            piece = replace(before, arguments=before.arguments + piece.arguments)
        found[piece.index] = piece
    return tuple(found.values())


def _untold(invalid: Sequence[InvalidToolCall], told: int) -> Sequence[InvalidToolCall]:
    """Those of which nothing was told yet."""
    begun = [call for call in invalid if call.name is not None][:told]
    return [call for call in invalid if not any(call is one for one in begun)]


def _spoiling(text: str) -> str:
    """What makes sure that text which looks like arguments is never read as such."""
    looks_so = not text.strip() or text.lstrip().startswith("{")
    return _Told("", text).spoiling() if looks_so else ""


class _Told:
    """A call of which something was told: its name, and its arguments up to here."""

    def __init__(self, name: str, text: str = "") -> None:
        self.name = name
        self.text = text
        self._stack: list[str] = []
        self._in_text = self._escaped = False
        for character in text:
            self._see(character)

    @property
    def whole(self) -> bool:
        """Whether the arguments have come to their end."""
        return bool(self.text) and not self._stack

    def take(self, new: str) -> str:
        """Go on up to the arguments' end, and return what belongs to them."""
        for place, character in enumerate(new, start=1):
            self._see(character)
            if not self._stack:
                new = new[:place]
                break
        self.text += new
        return new

    def _see(self, character: str) -> None:
        if self._in_text:
            self._in_text = character != '"' or self._escaped
            self._escaped = character == "\\" and not self._escaped
        elif character == '"':
            self._in_text = True
        elif character in _CLOSING:
            self._stack.append(_CLOSING[character])
        elif self._stack and character == self._stack[-1]:
            self._stack.pop()

    def is_call(self, name: str, arguments: dict[str, object]) -> bool:
        """Tell whether what was told is this call."""
        try:
            return self.whole and name == self.name and json.loads(self.text) == arguments
        except (ValueError, RecursionError):
            return False

    def spoiling(self) -> str:
        """Return a bracket that fits nothing: with it nobody reads a call, not even mended."""
        end = ("\\" if self._escaped else "") + ('"' if self._in_text else "")
        return end + ("}" if self._stack[-1:] == ["]"] else "]")
