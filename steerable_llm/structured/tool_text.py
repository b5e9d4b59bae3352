"""Telling an answer's own text from the calls in it, while it is still being written."""

from __future__ import annotations

from steerable_llm.structured.tools import ParsedAnswer, ToolFormat


class ToolText:
    """The part of an answer that is for the reader.

    Text is released as long as no call has begun, and not while it could be the beginning of one.
    What stands after a call is released at the end, when it is known to be no call.

    Attributes:
        text: All text released so far.
        raw: All of the answer so far, its calls included.
    """

    def __init__(self, tool_format: ToolFormat) -> None:
        """Start an empty answer."""
        self.text = ""
        self._format = tool_format
        self.raw = ""

    def push(self, new: str) -> str:
        """Take more of the answer and return what it releases."""
        self.raw += new
        opened = self._format.opening.search(self.raw)
        end = opened.start() if opened else len(self.raw) - self._undecided()
        return self._release(self.raw[:end])

    def finish(self) -> tuple[str, ParsedAnswer]:
        """End the answer; return the text that was still held back, and the calls."""
        parsed = self._format.parse(self.raw)
        return self._release(parsed.content), parsed

    def _release(self, upto: str) -> str:
        released = upto[len(self.text) :]
        self.text += released
        return released

    def _undecided(self) -> int:
        """Length of the end that may belong to a call: its mark's first letters, and blanks."""
        mark = self._format.marks[0]
        lengths = range(min(len(mark) - 1, len(self.raw)), 0, -1)
        begun = next((n for n in lengths if mark.startswith(self.raw[-n:])), 0)
        before = self.raw[: len(self.raw) - begun]
        return begun + len(before) - len(before.rstrip())
