"""What clients get: answers in OpenAI's form, whole or piece by piece, with what steered them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from steerable_llm.answer.record import told_likelihood
from steerable_llm.answer.request import Generation, GenerationChunk, Likelihood

Kind = Literal["chat", "text"]
_OBJECTS = {
    "chat": ("chat.completion", "chat.completion.chunk", "chatcmpl-"),
    "text": ("text_completion", "text_completion", "cmpl-"),
}


@dataclass
class Choice:
    """One answer of a response while it is made; a stream and a whole response tell it alike.

    Attributes:
        index: Which of the response.
        final: The whole answer, once it is there.
        calls: Its tool calls so far, as OpenAI writes them.
        likely: How many tokens came with likelihoods.
        unsaid: Likelihoods of tokens that no chunk has told yet.
        said: Characters of the tokens whose likelihoods were told.
    """

    index: int
    final: Generation | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)
    likely: int = 0
    unsaid: list[Sequence[Likelihood]] = field(default_factory=list)
    said: int = 0

    def take(self, chunk: GenerationChunk) -> list[dict[str, Any]]:
        """Take a piece, and return the pieces of calls in it."""
        pieces: list[dict[str, Any]] = []
        for piece in chunk.calls:
            told: dict[str, Any] = {"index": piece.index}
            if piece.name is not None:
                told |= {"id": piece.id, "type": "function"}
            function: dict[str, Any] = {} if piece.name is None else {"name": piece.name}
            pieces.append({**told, "function": {**function, "arguments": piece.arguments}})
            while len(self.calls) <= piece.index:
                self.calls.append({"id": "", "type": "function", "function": {"arguments": ""}})
            call = self.calls[piece.index]
            if piece.name is not None:
                call["id"] = piece.id
                call["function"] = {"name": piece.name, "arguments": ""}
            call["function"]["arguments"] += piece.arguments
        if chunk.logprobs:
            self.unsaid.append(chunk.logprobs)
            self.likely += 1
        if chunk.final is not None:  # of engines whose chunks do not have them
            self.unsaid += chunk.final.logprobs[self.likely :]
        self.final = chunk.final or self.final
        return pieces

    def likelihoods(self, kind: Kind) -> dict[str, Any] | None:
        """Return those of the tokens since the last call; None where nobody wants any."""
        if not self.unsaid:
            return None
        entries, self.unsaid = [told_likelihood(each) for each in self.unsaid], []
        if kind == "chat":
            return {"content": entries, "refusal": None}
        offsets = []
        for entry in entries:
            offsets.append(self.said)
            self.said += len(entry["token"])
        return _legacy(entries, offsets)

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended, in OpenAI's words."""
        if self.final is None:
            return None
        return "tool_calls" if self.calls and self.final.finish_reason == "stop" else (
            self.final.finish_reason
        )  # fmt: skip


class Answers:
    """The response to one request: its head, and the choices in it."""

    def __init__(
        self,
        kind: Kind,
        model: str,
        system: str,
        choices: int,
        prompts: int,
        tells_usage: bool = False,
    ) -> None:
        """Begin without an answer.

        Args:
            kind: Of the request.
            model: As the client called it.
            system: Tells model and policy apart from others.
            choices: How many answers there will be.
            prompts: To how many prompts.
            tells_usage: Whether a stream ends with the number of tokens.
        """
        self.kind = kind
        self.whole_object, self.chunk_object, prefix = _OBJECTS[kind]
        self.id = prefix + uuid.uuid4().hex
        self.choices = [Choice(index) for index in range(choices)]
        self._tells_usage = tells_usage
        self._per_prompt = choices // prompts
        self._head = {"created": int(time.time()), "model": model, "system_fingerprint": system}

    @property
    def finals(self) -> list[Generation]:
        """The whole answers, as far as they are there."""
        return [choice.final for choice in self.choices if choice.final is not None]

    def id_of(self, index: int) -> str:
        """Return what the answer log calls one of the answers."""
        return self.id if index == 0 else f"{self.id}:{index}"

    @property
    def usage(self) -> dict[str, int]:
        """Tokens read and written; a prompt with several answers counts once."""
        read = sum(final.usage.prompt_tokens for final in self.finals[:: self._per_prompt])
        made = sum(final.usage.completion_tokens for final in self.finals)
        return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}

    @property
    def steering(self) -> dict[str, Any] | None:
        """What was applied to the first answer, and why; the others were steered alike."""
        if not self.finals:
            return None
        first = self.finals[0]
        decided = {} if first.decision is None else first.decision.to_dict()
        return {**decided, "applied": [vector.to_dict() for vector in first.steered]}

    def whole(self) -> dict[str, Any]:
        """Return the response to a request that is not streamed."""
        made = [self._whole_choice(choice, choice.final) for choice in self.choices if choice.final]
        return {
            "id": self.id, "object": self.whole_object, **self._head, "choices": made,
            "usage": self.usage, "steering": self.steering,
        }  # fmt: skip

    def _whole_choice(self, choice: Choice, final: Generation) -> dict[str, Any]:
        told = {
            "index": choice.index,
            "finish_reason": choice.finish_reason,
            "logprobs": choice.likelihoods(self.kind),
        }
        if self.kind == "text":
            return {**told, "text": final.text}
        silent = not final.text and bool(choice.calls)
        message: dict[str, Any] = {
            "role": "assistant", "content": None if silent else final.text, "refusal": None,
        }  # fmt: skip
        if final.reasoning:
            message["reasoning_content"] = final.reasoning
        if choice.calls:
            message["tool_calls"] = choice.calls
        return {**told, "message": message}

    # Streams.

    def first(self, index: int) -> dict[str, Any]:
        """Return the chunk that says who speaks."""
        return self._chunk([self._piece(index, {"role": "assistant", "content": ""})])

    def chunk(self, index: int, made: GenerationChunk) -> dict[str, Any] | None:
        """Return the chunk for a piece of an answer; None for one that tells nothing yet."""
        choice = self.choices[index]
        calls = choice.take(made)
        if self.kind == "text":
            if choice.final is None and not made.text:
                return None
            piece = {"index": index, "text": made.text, "finish_reason": choice.finish_reason}
            return self._chunk([{**piece, "logprobs": choice.likelihoods("text")}])
        delta: dict[str, Any] = {"content": made.text} if made.text else {}
        if made.reasoning:
            delta["reasoning_content"] = made.reasoning
        if calls:
            delta["tool_calls"] = calls
        if choice.final is None and not delta:
            return None
        told = choice.likelihoods("chat")
        return self._chunk([self._piece(index, delta, choice.finish_reason, told)])

    def used(self) -> dict[str, Any]:
        """Return the chunk that tells the tokens of the whole response."""
        return self._chunk([]) | {"usage": self.usage}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        made = {"id": self.id, "object": self.chunk_object, **self._head, "choices": choices}
        if self._tells_usage:  # as OpenAI says it, in all but the last one
            made["usage"] = None
        if len(self.finals) == len(self.choices):  # the last ones: what was applied is known
            made["steering"] = self.steering
        return made

    def _piece(
        self, index: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _legacy(entries: Sequence[dict[str, Any]], offsets: list[int]) -> dict[str, Any]:
    """Return likelihoods as the older endpoint has them."""
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [
            {each["token"]: each["logprob"] for each in entry["top_logprobs"]} for entry in entries
        ],
        "text_offset": offsets,
    }
