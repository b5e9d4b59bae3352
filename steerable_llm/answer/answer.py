"""One answer while it grows: from tokens to text, calls, and the reason why it ends."""

from __future__ import annotations

from dataclasses import replace

from steerable_llm.answer.calls import CallStream, joined
from steerable_llm.answer.engine import Prompt
from steerable_llm.answer.request import (
    AppliedVector,
    FinishReason,
    Generation,
    GenerationChunk,
    Likelihood,
    Usage,
)
from steerable_llm.chat.template import ChatFormat
from steerable_llm.chat.tools import InvalidToolCall, ParsedAnswer, ToolText, call_id, with_ids


class Answer:
    """One row's answer while it grows.

    Attributes:
        prompt: What is answered.
        tokens: So far.
        logprobs: Of each token where that is asked for; the engine puts it here before `push`.
        finish_reason: Why it ended; None while it goes on.
    """

    def __init__(self, prompt: Prompt, chat: ChatFormat, end_ids: frozenset[int]) -> None:
        """Start empty.

        Args:
            prompt: What is answered.
            chat: For the text, and to know special tokens.
            end_ids: Tokens that end the answer.
        """
        self.prompt = prompt
        self.tokens: list[int] = []
        self.logprobs: list[tuple[Likelihood, ...]] = []
        self.finish_reason: FinishReason | None = None
        # A stop text that is itself a special token never shows up in the text. Under a grammar
        # none counts: an answer that it cut short would not follow the grammar.
        held = prompt.grammar is not None and not prompt.grammar.free
        stops = () if held else prompt.request.stops
        tokens = {stop: chat.special_id(stop) for stop in stops}
        self._end_ids = end_ids
        self._stop_ids = {token for token in tokens.values() if token is not None}
        # Under a grammar an answer thinks where its prompt says so, and nowhere else.
        self._raw = chat.reading(
            prompt.tokens,
            [stop for stop in stops if tokens[stop] is None],
            prompt.tool_format.marks if prompt.tool_format else (),
            may_think=not held,
        )
        if self._raw.thinking:
            self._follow(thinking=True)
        self._readable = (
            ToolText(prompt.tool_format, prompt.request.offered_tools)
            if prompt.tool_format
            else None
        )
        self._parsed = ParsedAnswer("")
        self._calls: CallStream | None = None
        if prompt.tool_format is not None:
            self._calls = CallStream(
                prompt.tool_format,
                lambda number, name: call_id(prompt.tokens, number, name),
                self._most_calls,
            )

    @property
    def _most_calls(self) -> int | None:
        return None if self.prompt.request.parallel_tool_calls else 1

    def push(self, token: int) -> GenerationChunk:
        """Take one token, decide whether the answer ends, and return what is new for the reader."""
        self.tokens.append(token)
        thought, reasoning, released = self._raw.thinking, "", ""
        ends = token in self._end_ids or (token in self._stop_ids and not thought)
        if not ends:
            reasoning, released = self._raw.push(token)
        thinks = self._raw.thinking
        if thinks != thought:
            self._follow(thinking=thinks)
        elif self.prompt.grammar is not None and not ends:
            self.prompt.grammar.take(token)
        self.finish_reason = self._ending(ends)
        if self.finish_reason is not None and not self._raw.stopped:
            more, rest = self._raw.finish()
            reasoning, released = reasoning + more, released + rest
            if self._raw.stopped:  # a stop text that was complete all along, and held back
                self.finish_reason = "stop"
        likely = self.logprobs[-1] if self.logprobs else ()
        if self._readable is None or self._calls is None:
            return GenerationChunk(released, token, reasoning=reasoning, logprobs=likely)
        released = self._readable.push(released)
        calls = self._calls.push(self._readable.raw)
        if self.finish_reason is not None:
            rest, self._parsed = self._readable.finish()
            released += rest
            calls += self._calls.finish(self._parsed)
        return GenerationChunk(
            released, token, calls=joined(calls), reasoning=reasoning, logprobs=likely
        )

    def _follow(self, *, thinking: bool) -> None:
        """Follow the grammar from here on, or not while the model thinks."""
        if self.prompt.grammar is None:
            return
        if thinking:
            self.prompt.grammar.pause()
        else:
            self.prompt.grammar.begin()

    def _ending(self, ends: bool) -> FinishReason | None:
        if ends or self._raw.stopped:
            return "stop"
        if self.prompt.grammar is not None and self.prompt.grammar.complete:
            return "stop"
        return "length" if len(self.tokens) >= self.prompt.request.length() else None

    @property
    def _invalid_calls(self) -> tuple[InvalidToolCall, ...]:
        invalid = self._parsed.invalid
        if not invalid or self.finish_reason != "length":
            return invalid
        why = (
            f"the answer was cut off after {len(self.tokens)} tokens, within a call: give a larger "
            f"max_tokens ({invalid[-1].error})"
        )
        return (*invalid[:-1], replace(invalid[-1], error=why))

    def generation(self, steered: tuple[AppliedVector, ...]) -> Generation:
        """Return the finished answer.

        Args:
            steered: What the engine has applied.
        """
        calls = self._parsed.calls[: self._most_calls]
        return Generation(
            text=self._raw.text if self._readable is None else self._readable.text,
            token_ids=tuple(self.tokens),
            finish_reason=self.finish_reason or "length",
            usage=Usage(len(self.prompt.tokens), len(self.tokens)),
            steered=steered,
            step=self.prompt.request.step,
            tool_calls=with_ids(calls, self.prompt.tokens),
            invalid_tool_calls=self._invalid_calls,
            decision=self.prompt.decision,
            logprobs=tuple(self.logprobs),
            reasoning=self._raw.reasoning or None,
            chat_template_kwargs=dict(self.prompt.request.chat_template_kwargs or {}),
        )
