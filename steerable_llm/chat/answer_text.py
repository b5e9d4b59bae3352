"""From tokens to text, one token at a time: whole characters only, and never a stop text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from transformers import PreTrainedTokenizerBase

# What decoders write for bytes that are not (yet) a character.
INCOMPLETE = "\ufffd"


class AnswerText:
    """The text of one answer as its tokens arrive.

    Text is released when it can no longer change: not while its last character lacks bytes, and
    not while it could be the beginning of a stop text. A character that is still incomplete when
    the answer ends is left out.

    Attributes:
        text: All text released so far.
        stopped: Whether a stop text has been met; the answer ends before it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stops: Sequence[str] = (),
        hidden: Collection[int] | None = None,
    ) -> None:
        """Start an empty answer.

        Args:
            tokenizer: Turns the tokens into text.
            stops: Texts that end the answer.
            hidden: Tokens that are left out of the text; None stands for all special ones.
        """
        self.text = ""
        self.stopped = False
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._stops = tuple(stops)
        self._held = ""
        self._trims = False
        self._tokens: list[int] = []
        # Tokens before `_known` are decoded for good. `_context` starts a few tokens earlier: what
        # a token reads as (its leading blank, above all) depends on the tokens before it.
        self._context = 0
        self._known = 0

    def going_on(self, stops: Sequence[str], hidden: Collection[int] | None) -> AnswerText:
        """Return an empty text that goes on from here, without blanks at its start."""
        text = AnswerText(self._tokenizer, stops, hidden)
        text._trims = True
        text._tokens, text._context, text._known = [*self._tokens], self._context, self._known
        return text

    def take(self, new: str) -> str:
        """Take text that is decoded already, and return what it releases."""
        return self._release(new)

    def push(self, token: int) -> str:
        """Take one more token and return the text that it releases, often empty at first."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._context : self._known])
        now = self._decode(self._tokens[self._context :])
        if len(now) <= len(before) or now.endswith(INCOMPLETE):
            return ""
        self._context, self._known = self._known, len(self._tokens)
        return self._release(now[len(before) :])

    def finish(self) -> str:
        """End the answer and return the text that was still held back."""
        before = self._decode(self._tokens[self._context : self._known])
        now = self._decode(self._tokens[self._context :])
        self._context = self._known = len(self._tokens)
        released = self._release(now[len(before) :].rstrip(INCOMPLETE))
        rest, self._held = self._held, ""
        self.text += rest
        return released + rest

    def _decode(self, tokens: list[int]) -> str:
        if self._hidden is not None:
            tokens = [token for token in tokens if token not in self._hidden]
        return str(
            self._tokenizer.decode(
                tokens,
                skip_special_tokens=self._hidden is None,
                clean_up_tokenization_spaces=False,
            )
        )

    def _release(self, new: str) -> str:
        """Add decoded text; cut it at a stop text, or hold back what may be the start of one."""
        if self.stopped:
            return ""
        if self._trims and not (self.text or self._held):
            new = new.lstrip()
        pending = self._held + new
        found = [
            (place + len(stop), place) for stop in self._stops if (place := pending.find(stop)) >= 0
        ]
        if found:
            # The one that is complete first, so that the way text is cut into tokens is no matter.
            self.stopped = True
            released, self._held = pending[: min(found)[1]], ""
        else:
            cut = len(pending) - self._longest_start(pending)
            released, self._held = pending[:cut], pending[cut:]
        self.text += released
        return released

    def _longest_start(self, text: str) -> int:
        """Return the length of the longest end of the text that begins a stop text."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
