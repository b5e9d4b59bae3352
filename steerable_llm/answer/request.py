"""What is asked of the model, and what it answers: plain data, no model in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, TypedDict

from steerable_llm.answer.constraint import Constraint
from steerable_llm.chat.arguments import check_arguments
from steerable_llm.chat.context import Context
from steerable_llm.chat.message import MessagesLike, ToolCall
from steerable_llm.chat.tools import CallPiece, InvalidToolCall, Tool, check_tools
from steerable_llm.errors import wrong_value
from steerable_llm.policy.decision import SteeringDecision
from steerable_llm.policy.policy import Policy
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.steering import Scope, Site, Steering, SteeringTerm, Unit

SEEDS = range(-(2**63), 2**64)
"""What torch takes as a seed."""

MOST_LOGPROBS = 20

MOST_TOKENS = 128
"""Length of an answer of which nothing is said."""
MOST_STRUCTURED = 1024
"""The same for what a program reads, which is worth nothing if it is cut off."""

_CONTEXT = "True, False, or a list of the retrieved texts"

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt with everything that decides its answer.

    Attributes:
        messages: A question as a string, or messages with role and content.
        steering: What to steer with. None asks the policy, `Steering.none()` forbids steering.
        step: The chain step, for the policy; None is the policy's default step.
        max_new_tokens: At most so many tokens are generated, end of turn included. None means 128,
            and 1024 for answers that a program reads (tools, a constraint), or what the window has
            left of them.
        usual_tokens: What None in `max_new_tokens` means in place of that; it is cut down to what
            the window has left.
        temperature: 0 takes the likeliest token; above, tokens are drawn.
        top_p: Draw only from the likeliest tokens that together have this probability.
        top_k: Draw only from so many likeliest tokens; 0 means all.
        min_p: Draw only from tokens at least this share as likely as the likeliest one; 0 is off.
        repetition_penalty: Above 1 makes tokens that the prompt or the answer holds less likely, by
            dividing their positive scores and multiplying the others, as in transformers.
        logit_bias: Token id to what is added to its score before a choice.
        logprobs: Say how likely the model found each token of the answer.
        top_logprobs: And so many of the likeliest ones at its place, 20 at most.
        seed: Makes drawing repeatable, whatever else is in the batch; None draws anew.
        stop: Texts that end the answer; the answer does not contain them. They do not count while
            the model thinks. Under a grammar (a constraint, or a call that is sure) only the
            grammar ends the answer.
        tools: What the model may call, as OpenAI function dicts. None of them is run.
        tool_choice: `auto` (also None) lets the model decide, `none` hides the tools,
            `required` makes it call one, a tool's name makes it call that one.
        parallel_tool_calls: False keeps an answer to one call: the first.
        constraint: What the answer must look like. With tools and `auto` the answer is calls, or
            follows the constraint. The model thinks before it only where the prompt has opened the
            reasoning.
        context: For the policy's conditions and for `contrast`: whether the prompt holds retrieved
            text, or the retrieved texts themselves. None tells it from the prompt.
        policy: Decides in place of the model's policy of the moment, for callers that have looked
            at that before, as for a cache's key.
        contrast: Count what the prompt's context adds more (context-aware decoding). None asks the
            policy, an alpha of 0 forbids it.
        chat_template_kwargs: What the chat template is given beside the messages, such as
            `{"enable_thinking": False}`; it takes the place of what the model gives by itself, name
            by name.

    Raises:
        InvalidInputError: A value out of its range.
    """

    messages: MessagesLike
    steering: Steering | None = None
    step: str | None = None
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    tools: Sequence[Tool] | None = None
    tool_choice: str | None = None
    constraint: Constraint | None = None
    parallel_tool_calls: bool = True
    context: Context = None
    policy: Policy | None = field(default=None, compare=False, repr=False)
    contrast: Contrast | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    chat_template_kwargs: Mapping[str, Any] | None = None
    usual_tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range before a model is touched."""
        _require(
            self.max_new_tokens is None
            or (_whole(self.max_new_tokens) and self.max_new_tokens >= 1),
            "max_new_tokens", self.max_new_tokens, "at least 1, a whole number",
        )  # fmt: skip
        _require(
            _number(self.temperature) and self.temperature >= 0,
            "temperature", self.temperature, "0 (greedy) or more",
        )  # fmt: skip
        _require(
            _number(self.top_p) and 0 < self.top_p <= 1,
            "top_p", self.top_p, "a number above 0 and at most 1",
        )  # fmt: skip
        _require(
            _whole(self.top_k) and self.top_k >= 0,
            "top_k", self.top_k, "0 (off) or more, a whole number",
        )  # fmt: skip
        _require(
            _number(self.min_p) and 0 <= self.min_p <= 1,
            "min_p", self.min_p, "a number from 0 (off) to 1",
        )  # fmt: skip
        _require(
            _number(self.repetition_penalty) and self.repetition_penalty > 0,
            "repetition_penalty", self.repetition_penalty, "a number above 0; 1 is off",
        )  # fmt: skip
        _require(
            self.logit_bias is None
            or (
                isinstance(self.logit_bias, Mapping)
                and all(_whole(token) and token >= 0 for token in self.logit_bias)
                and all(map(_number, self.logit_bias.values()))
            ),
            "logit_bias", self.logit_bias, "token ids with what is added to the score of each",
        )  # fmt: skip
        _require(
            _whole(self.top_logprobs) and 0 <= self.top_logprobs <= MOST_LOGPROBS,
            "top_logprobs", self.top_logprobs, f"a whole number from 0 to {MOST_LOGPROBS}",
        )  # fmt: skip
        _require(
            self.logprobs or not self.top_logprobs,
            "top_logprobs", self.top_logprobs, "logprobs=True with it, or leave it out",
        )  # fmt: skip
        _require(
            self.seed is None or (_whole(self.seed) and self.seed in SEEDS),
            "seed", self.seed, "a whole number of at most 64 bits, or None",
        )  # fmt: skip
        _require(
            self.stop is None or isinstance(self.stop, str | Iterable),
            "stop", self.stop, "a text or a list of texts",
        )  # fmt: skip
        _require(
            all(isinstance(stop, str) and stop for stop in self.stops),
            "stop", self.stop, "texts that are not empty",
        )  # fmt: skip
        _require(
            self.steering is None or isinstance(self.steering, Steering),
            "steering", self.steering, "a Steering, such as vector.steer(0.3), or None",
        )  # fmt: skip
        _require(
            self.step is None or isinstance(self.step, str),
            "step", self.step, "the name of a step of the policy, or None",
        )  # fmt: skip
        _require(
            self.constraint is None or isinstance(self.constraint, Constraint),
            "constraint", self.constraint, "a Constraint, such as Constraint.json_schema(Class)",
        )  # fmt: skip
        _require(
            self.contrast is None or isinstance(self.contrast, Contrast),
            "contrast", self.contrast, 'a Contrast, such as Contrast("cad", 0.5), or None',
        )  # fmt: skip
        _check_context(self.context)
        _require(
            self.tools is None
            or (isinstance(self.tools, Sequence) and not isinstance(self.tools, str)),
            "tools", self.tools, "a list of OpenAI function dicts",
        )  # fmt: skip
        check_tools(self.tools, self.tool_choice)
        check_arguments(self.chat_template_kwargs)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts as a tuple."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def offered_tools(self) -> tuple[Tool, ...]:
        """The tools that the model is shown."""
        return () if self.tool_choice == "none" else tuple(self.tools or ())

    def length(self, room: int = 0) -> int:
        """Return the most tokens of the answer, where a prompt leaves room for so many."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        if self.usual_tokens is not None:
            return max(1, min(self.usual_tokens, room))
        return max(MOST_TOKENS, min(MOST_STRUCTURED, room)) if self.structured else MOST_TOKENS

    @property
    def structured(self) -> bool:
        """Whether the answer is for a program: calls, or text under a constraint."""
        return bool(self.offered_tools) or self.constraint is not None


class GenerationSettings(TypedDict, total=False):
    """The attributes of `GenerationRequest` that are given by name."""

    max_new_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: str | Sequence[str] | None
    tools: Sequence[Tool] | None
    tool_choice: str | None
    parallel_tool_calls: bool
    constraint: Constraint | None
    context: Context
    policy: Policy | None
    contrast: Contrast | None
    min_p: float
    repetition_penalty: float
    logit_bias: Mapping[int, float] | None
    logprobs: bool
    top_logprobs: int
    chat_template_kwargs: Mapping[str, Any] | None
    usual_tokens: int | None


@dataclass(frozen=True)
class Likelihood:
    """A token and how likely the model found it at its place.

    Attributes:
        token_id: The token.
        text: How it reads; a part of a character reads as a replacement character.
        logprob: Natural logarithm of its probability, before temperature and the like.
        utf8: What it writes, in UTF-8; those of all tokens joined are the text.
    """

    token_id: int
    text: str
    logprob: float
    utf8: bytes


@dataclass(frozen=True)
class Usage:
    """Tokens of one request: read (the prompt, padding not counted) and written."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """Both together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class AppliedVector:
    """A vector that really steered an answer, counted where it was added.

    Attributes:
        name: Name of the vector.
        fingerprint: Short hash of its name and directions.
        strength: Signed strength, in `unit`.
        unit: What the strength counts.
        scope: Which positions were to be steered.
        site: What was changed in each block: its output, that of its MLP, or its attention heads.
        layers: The blocks that were changed.
        steered_tokens: Positions of this row that were changed in each of these layers.
        tower_layers: Blocks of the vision tower that change what is seen of images.
    """

    name: str
    fingerprint: str
    strength: float
    unit: Unit
    scope: Scope
    site: Site
    layers: tuple[int, ...]
    steered_tokens: int
    tower_layers: tuple[int, ...] = ()

    @classmethod
    def of(cls, term: SteeringTerm, steered_tokens: int) -> AppliedVector:
        """Record one term of a steering."""
        return cls(
            name=term.vector.name,
            fingerprint=term.vector.fingerprint_id,
            strength=term.strength,
            unit=term.unit,
            scope=term.scope,
            site=term.site,
            layers=term.steered_layers,
            steered_tokens=steered_tokens,
            tower_layers=tuple(term.tower),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        facts = {**asdict(self), "layers": list(self.layers)}
        tower = facts.pop("tower_layers")
        return {**facts, "tower_layers": list(tower)} if tower else facts


@dataclass(frozen=True)
class Generation:
    """One answer.

    Attributes:
        text: The answer, without special tokens, reasoning, the stop text and tool calls.
        token_ids: Every generated token, the end-of-turn token included. After a stop text it may
            hold tokens whose text was cut off.
        finish_reason: `stop` (end of turn or stop text) or `length`.
        usage: Tokens read and written.
        steered: What was applied; empty without steering.
        step: The chain step that was asked for.
        tool_calls: What the model asks to be called.
        invalid_tool_calls: What was to be a call and cannot be read as one.
        decision: How the policy came to this steering.
        logprobs: Per token of `token_ids` that token and then the likeliest ones at its place, if
            that was asked for.
        reasoning: What the model thought before it answered; None where it did not think. Of a
            model that was cut off while it thought this is all there is.
        chat_template_kwargs: What the chat template was given.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    steered: tuple[AppliedVector, ...] = ()
    step: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    invalid_tool_calls: tuple[InvalidToolCall, ...] = ()
    # Two answers that are alike are equal, however they came about.
    decision: SteeringDecision | None = field(default=None, compare=False)
    logprobs: tuple[tuple[Likelihood, ...], ...] = field(default=(), compare=False)
    reasoning: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class GenerationChunk:
    """One step of a streamed answer.

    Attributes:
        text: New text. Empty while a character, or what may become a stop text or a tool call, is
            incomplete.
        token_id: The token just generated; None in the closing chunk.
        final: The whole answer, in the closing chunk only.
        calls: What is new of the answer's tool calls.
        reasoning: What is new of its reasoning.
        logprobs: The token and then the likeliest ones at its place, if that was asked for.
    """

    text: str
    token_id: int | None = None
    final: Generation | None = None
    calls: tuple[CallPiece, ...] = ()
    reasoning: str = ""
    logprobs: tuple[Likelihood, ...] = field(default=(), compare=False)


def _check_context(context: object) -> None:
    # Its kind is told, and not its words: what it holds may be a whole library.
    if not (context is None or isinstance(context, bool | str | Sequence)):
        kind = type(context).__name__
        raise wrong_value("context", f"context is of type {kind}: give {_CONTEXT}")
    texts = context if isinstance(context, Sequence) else ()
    other = next((text for text in texts if not isinstance(text, str)), "")
    if not isinstance(other, str):
        kind = type(other).__name__
        raise wrong_value("context", f"context has a {kind} in it: give {_CONTEXT}")


def _whole(value: object) -> bool:
    return isinstance(value, Integral)


def _number(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise wrong_value(name, f"{name} is {value!r}: give {expected}")
