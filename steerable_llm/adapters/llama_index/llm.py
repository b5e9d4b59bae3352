"""The model as a LlamaIndex LLM.

Query engines, selectors and retrievers call `predict`, `stream`, `structured_predict` and their
async twins with a prompt, whose type (`text_qa`, `refine`, `summary`, ...) tells the step. Calls
that carry no prompt get their step from `tag_prompts(...)`, `steer_step(...)`, `for_step(...)` or
the argument `step`.
"""

from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    ToolCallBlock,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.tools.types import BaseTool
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, Field, PrivateAttr, ValidationError

from steerable_llm.adapters.arguments import (
    SAMPLING,
    GivenSteering,
    explain,
    refuse_unknown,
    sampling_of,
    to_tool_choice,
    with_defaults,
)
from steerable_llm.adapters.asking import aanswers, achunks
from steerable_llm.adapters.copies import SharesWeights
from steerable_llm.adapters.llama_index.messages import (
    read_messages,
    to_chat,
    to_completion,
    to_context,
    to_tools,
)
from steerable_llm.adapters.llama_index.steps import PromptedLLM, filled_in, own_copy, step_of
from steerable_llm.adapters.llama_index.structured import (
    SteerableStructuredLLM,
    refuse_half,
    say_why_half,
)
from steerable_llm.adapters.llama_index.swallowed import (
    tell_of_sub_questions,
    told_as_ours,
)
from steerable_llm.adapters.surroundings import (
    SteeringRecord,
    failing_on,
    raise_failure,
    surroundings,
    take_down,
)
from steerable_llm.answer.constraint import Constraint
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.origin import Origin
from steerable_llm.answer.request import (
    MOST_TOKENS,
    Generation,
    GenerationChunk,
    GenerationRequest,
)
from steerable_llm.chat.context import quoted
from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.policy import Policy

# What is asked of the model beside its sampling; a step and stop texts are also fields.
_ASKED = ("tools", "tool_choice", "parallel_tool_calls", "constraint", "context", "contrast")
_CALL_ARGUMENTS = {*SAMPLING, *_ASKED, "step", "stop"}
# Fields of LlamaIndex's own class for models that are sent plain text; chats never look at them.
_UNREAD = ("messages_to_prompt", "completion_to_prompt", "query_wrapper_prompt")
# Programs for models that call tools pass these on; an object in plain JSON needs none of them.
_FOR_TOOLS = {"tool_required", "tool_choice", "allow_parallel_tool_calls"}
# In the other modes the caller asks for a program of another kind, and gets it.
_CONSTRAINED = (PydanticProgramMode.DEFAULT, PydanticProgramMode.LLM)

tell_of_sub_questions()

Piece = tuple[Generation | str, str, str, str]
"""An answer up to here (the closing piece has the whole one) and what was added last; then the same
of its reasoning."""


@dataclass(frozen=True)
class _Settled:
    """What holds for a copy that is settled, whatever holds when it is called.

    Its step is in its field. The policy is the one that told the step, though its file may change.
    """

    policy: Policy | None
    records: tuple[SteeringRecord, ...]
    retrieved: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """Everything that decides an answer, settled when LlamaIndex calls and not when it reads.

    A stream may be read after the block, the thread or the task in which it was asked for has
    ended; by then the step that held there cannot be told any more.
    """

    llm: SteerableHFLLM
    arguments: dict[str, Any]
    records: Sequence[SteeringRecord] = ()

    def answer(self) -> Generation:
        """Return the whole answer."""
        with failing_on(self.records), told_as_ours():
            answer = self.llm.generate(**self.arguments)
        take_down(answer, self.records)
        return answer

    async def aanswer(self) -> Generation:
        """Return the whole answer, and let the event loop turn while it is made."""
        with failing_on(self.records), told_as_ours():
            [answer] = await aanswers(self.llm, [GenerationRequest(**self.arguments)])
        take_down(answer, self.records)
        return answer

    def pieces(self) -> Generator[Piece, None, None]:
        """Yield what tells something new: half a character, or half a stop text, is held back."""
        so_far = _SoFar()
        with failing_on(self.records), told_as_ours():
            for made in self.llm.stream(**self.arguments):
                take_down(made.final, self.records)
                yield from so_far.piece(made)

    async def apieces(self) -> AsyncGenerator[Piece, None]:
        """Yield the same, and let the event loop turn."""
        so_far = _SoFar()
        with failing_on(self.records), told_as_ours():
            request = GenerationRequest(**self.arguments)
            async with aclosing(achunks(self.llm, request)) as chunks:
                async for made in chunks:
                    take_down(made.final, self.records)
                    for piece in so_far.piece(made):
                        yield piece


class _SoFar:
    """What of an answer has come."""

    def __init__(self) -> None:
        self.text = self.reasoning = ""

    def piece(self, made: GenerationChunk) -> Iterator[Piece]:
        self.text += made.text
        self.reasoning += made.reasoning
        if made.text or made.reasoning or made.final:
            yield made.final or self.text, made.text, self.reasoning, made.reasoning


class SteerableLlamaIndexLLM(SharesWeights, PromptedLLM, FunctionCallingLLM):
    """An LLM whose answers are steered per step of a query engine.

    Make one with `SteerableHFLLM.as_llama_index(step=...)`. Any number share the same weights.

    Which step a call belongs to: the call argument `step=`, else the field `step`, else the
    prompt's `metadata["steer_step"]`, else an enclosing `steer_step(...)`, else the prompt's place
    in an engine that `tag_prompts` went through, else the prompt's type (the last two if the
    policy knows the name), else the policy's default. What was applied is in
    `response.raw["steering"]`, the step in `response.raw["step"]`, the tokens in
    `response.raw["usage"]`. A query engine drops all that; `record_steering()` keeps it.

    LlamaIndex packs passages by counting tokens with its own tokenizer; set
    `Settings.tokenizer = llm.tokens` so that it counts as the model does. Its modes compact and
    refine also keep 500 tokens free; a model whose window is as short as that needs a synthesizer
    of its own: `CompactAndRefine(llm=llm, response_padding_size=16)`.

    Attributes:
        llm: The model that answers.
        step: The step all calls belong to, unless a call says otherwise.
        steering: Steer all calls with this, whatever the policy says.
        temperature: 0 is greedy.
        max_tokens: Most tokens of an answer; None means 128, and 1024 for objects and where tools
            are offered, or what the window has left of them.
        stop: Texts that end an answer; they are not part of it.
        top_p: Nucleus sampling; 1 is off.
        top_k: Sample from so many tokens; 0 is off.
        seed: Makes sampling repeatable.
        min_p: Sample from tokens at least this share as likely as the likeliest one; 0 is off.
        repetition_penalty: Above 1 makes what was said already less likely.
        logit_bias: Token id to what is added to its score.
        logprobs: Say how likely the model found each token of its answer.
        top_logprobs: And so many of the likeliest tokens at its place.
        chat_template_kwargs: What the chat template is given, such as `{"enable_thinking": False}`.
    """

    llm: SteerableHFLLM = Field(exclude=True, repr=False)
    step: str | None = None
    steering: GivenSteering | None = Field(default=None, exclude=True, repr=False)
    temperature: float = 0.0
    max_tokens: int | None = None
    stop: list[str] | None = None
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    chat_template_kwargs: dict[str, Any] | None = None
    # Of a copy for calls that may be made later, yet belong to where it was made.
    _settled: "_Settled | None" = PrivateAttr(default=None)
    _origin: Origin | None = PrivateAttr(default=None)

    def __init__(self, **data: Any) -> None:
        """Check the fields.

        Raises:
            InvalidInputError: An unknown field (which pydantic would drop), one that would have no
                effect, or a wrong value.
        """
        refuse_unknown("field", data, type(self).model_fields)
        for name in _UNREAD:
            if data.get(name) is not None:
                raise InvalidInputError(
                    f"{name!r} would have no effect, since the model's chat template lays prompts "
                    "out: leave it out; complete(prompt, formatted=True) takes a prompt as it is"
                )
        try:
            super().__init__(**with_defaults(data))
        except ValidationError as error:
            raise InvalidInputError(explain(error)) from error

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex stores."""
        return "SteerableLlamaIndexLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex needs to know to fill the context window and to choose its prompts."""
        return LLMMetadata(
            context_window=self.llm.prompt_window,
            num_output=self.max_tokens or MOST_TOKENS,
            is_chat_model=True,
            is_function_calling_model=self.llm.supports_tools,
            model_name=self.llm.fingerprint.model_id,
        )

    def tokens(self, text: str) -> list[int]:
        """Return the model's token ids of a text, without special tokens."""
        # Counted, not run: a document that is longer than the window is no cause for a warning.
        counted = self.llm.tokenizer(text, add_special_tokens=False, verbose=False)
        return list(counted["input_ids"])

    def for_step(self, step: str | None) -> "SteerableLlamaIndexLLM":
        """Return the same model for another step; it shares the weights."""
        return self.model_copy(update={"step": step})

    # Chat and completion.

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation."""
        return to_chat(self._name, self._chat_call(messages, kwargs).answer())

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation piece by piece."""
        pieces = self._chat_call(messages, kwargs).pieces()
        return (to_chat(self._name, *piece) for piece in pieces)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation while the event loop keeps turning."""
        return to_chat(self._name, await self._chat_call(messages, kwargs).aanswer())

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Answer a conversation piece by piece while the event loop keeps turning."""
        pieces = self._chat_call(messages, kwargs).apieces()
        return (to_chat(self._name, *piece) async for piece in pieces)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer one prompt: a user message, or the model's own prompt format if `formatted`."""
        return to_completion(self._name, self._text_call(prompt, formatted, kwargs).answer())

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answer one prompt piece by piece."""
        pieces = self._text_call(prompt, formatted, kwargs).pieces()
        return (to_completion(self._name, *piece) for piece in pieces)

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Answer one prompt while the event loop keeps turning."""
        answer = await self._text_call(prompt, formatted, kwargs).aanswer()
        return to_completion(self._name, answer)

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Answer one prompt piece by piece while the event loop keeps turning."""
        pieces = self._text_call(prompt, formatted, kwargs).apieces()
        return (to_completion(self._name, *piece) async for piece in pieces)

    # One call, in the model's words.

    @property
    def _name(self) -> str:
        return self.llm.fingerprint.model_id

    def _chat_call(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> Call:
        with failing_on(self._records()):
            return self._call(self.llm, read_messages(messages), kwargs)

    def _text_call(self, prompt: str, formatted: bool, kwargs: dict[str, Any]) -> Call:
        if kwargs.get("tools"):
            raise InvalidInputError(
                "a completion cannot bring tool calls back: use chat, or chat_with_tools"
            )
        llm = self.llm
        if formatted:
            llm = llm.as_written()
        with failing_on(self._records()):
            return self._call(llm, prompt, kwargs)

    def _call(self, llm: SteerableHFLLM, messages: Any, kwargs: dict[str, Any]) -> Call:
        """Settle everything about a call; the step is told here."""
        refuse_unknown("call argument", kwargs, _CALL_ARGUMENTS)
        step, policy = self._told(named=kwargs.get("step"))
        arguments = {
            "messages": messages,
            "steering": self.steering,
            "step": step,
            "stop": self.stop if kwargs.get("stop") is None else kwargs["stop"],
            "policy": policy,
            **sampling_of(self, kwargs),
        }
        for name in _ASKED:
            if kwargs.get(name) is not None:
                arguments[name] = kwargs[name]
        if "context" in arguments:
            arguments["context"] = to_context(arguments["context"])
        elif self._settled and self._settled.retrieved:
            # No guessing where LlamaIndex has filled the text in.
            arguments["context"] = quoted(messages, self._settled.retrieved) or None
        return Call(llm, arguments, self._records())

    def _told(
        self, prompt: BasePromptTemplate | None = None, named: Any = None
    ) -> tuple[str | None, Policy | None]:
        """Return the step of a call that is made now, and the policy that told it."""
        if self._settled is not None:
            return self.step if named is None else str(named), self._settled.policy
        policy = self.llm.policy
        return step_of(policy, prompt, named, self.step), policy

    def _records(self) -> tuple[SteeringRecord, ...]:
        """Where an answer to a call that is made now is taken down; in each record once."""
        own = self._settled.records if self._settled else ()
        return tuple(dict.fromkeys((*own, *surroundings().records)))

    def settled(
        self,
        prompt: BasePromptTemplate | None,
        *records: SteeringRecord,
        retrieved: tuple[str, ...] = (),
        **changed: Any,
    ) -> Self:
        """Return this model for calls that are made later, yet belong to here and now.

        Args:
            prompt: What tells the step, if it does.
            *records: Where else the answers are taken down.
            retrieved: Texts that are filled into the prompt.
            **changed: Fields that the copy has otherwise.
        """
        step, policy = self._told(prompt)
        twin = self.model_copy(update={"step": step, **changed})
        retrieved = retrieved or (self._settled.retrieved if self._settled else ())
        twin._settled = _Settled(policy, (*self._records(), *records), retrieved)
        return twin

    # Tools.

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,  # noqa: ARG002
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if tools and not self.llm.supports_tools:
            raise InvalidInputError(
                f"this model does not call tools: {self.llm.chat_format.no_tools} (or use a "
                "ReActAgent, which asks for tools in plain text)"
            )
        choice = kwargs.pop("tool_choice", None)
        latest = ChatMessage(user_msg, role="user") if isinstance(user_msg, str) else user_msg
        messages = [*(chat_history or []), *([] if latest is None else [latest])]
        asked: dict[str, Any] = {"messages": messages, **kwargs}
        if tools:
            asked["tools"] = to_tools(tools)
            asked["tool_choice"] = to_tool_choice(tool_required if choice is None else choice)
            asked["parallel_tool_calls"] = allow_parallel_tool_calls
        return asked

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **_: Any
    ) -> list[ToolSelection]:
        """Return the tools that a response asks for.

        Raises:
            InvalidInputError: It asks for none and `error_on_no_tool_call` is set, or none of its
                calls can be read. (LlamaIndex's agents would take that for an empty answer.)
        """
        calls = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        unread = response.message.additional_kwargs.get("invalid_tool_calls")
        if not calls and unread:
            raise InvalidInputError(f"no call of the answer can be read: {unread[0]['error']}")
        if not calls and error_on_no_tool_call:
            raise InvalidInputError(
                "the model called no tool: pass tool_required=True so that it must, "
                "or error_on_no_tool_call=False to take its text"
            )
        return [
            ToolSelection(
                tool_id=call.tool_call_id or "",
                tool_name=call.tool_name,
                tool_kwargs=call.tool_kwargs,
            )
            for call in calls
        ]

    # With tools for a model that calls none, LlamaIndex makes the error of a request its answer.

    def predict_and_call(self, *args: Any, **kwargs: Any) -> Any:
        """Let the model call tools and return their results."""
        record = SteeringRecord()
        own = self.settled(None, record)
        answer = super(SteerableLlamaIndexLLM, own).predict_and_call(*args, **kwargs)
        raise_failure(record)
        return answer

    async def apredict_and_call(self, *args: Any, **kwargs: Any) -> Any:
        """Do as `predict_and_call` does, while the event loop keeps turning."""
        record = SteeringRecord()
        own = self.settled(None, record)
        answer = await super(SteerableLlamaIndexLLM, own).apredict_and_call(*args, **kwargs)
        raise_failure(record)
        return answer

    # Answers that are objects of a class, asked for under a constraint: whatever the model would
    # rather say, and however it is steered, what it writes is JSON of that class.

    def structured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Any:
        """Answer a filled-in prompt with an object of a class.

        Raises:
            InvalidInputError: `max_tokens` were not enough for the object.
        """
        own, record, asked = self._for_object(output_cls, prompt, llm_kwargs, prompt_args)
        with failing_on(self._records()), say_why_half(record, output_cls):
            return super(SteerableLlamaIndexLLM, own).structured_predict(
                output_cls, own_copy(prompt), asked, **prompt_args
            )

    async def astructured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Any:
        """Answer as `structured_predict` does, while the event loop keeps turning."""
        own, record, asked = self._for_object(output_cls, prompt, llm_kwargs, prompt_args)
        with failing_on(self._records()), say_why_half(record, output_cls):
            return await super(SteerableLlamaIndexLLM, own).astructured_predict(
                output_cls, own_copy(prompt), asked, **prompt_args
            )

    def stream_structured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Generator[Any, None, None]:
        """Answer a filled-in prompt with an object that grows piece by piece.

        Raises:
            InvalidInputError: `max_tokens` were not enough for the object, at the stream's end.
        """
        own, record, asked = self._for_object(output_cls, prompt, llm_kwargs, prompt_args)
        objects = super(SteerableLlamaIndexLLM, own).stream_structured_predict(
            output_cls, own_copy(prompt), asked, **prompt_args
        )

        records = self._records()

        def whole() -> Generator[Any, None, None]:
            yield from objects
            with failing_on(records):
                refuse_half(record, output_cls)

        return whole()

    async def astream_structured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> AsyncGenerator[Any, None]:
        """Answer as `stream_structured_predict` does, while the event loop keeps turning."""
        own, record, asked = self._for_object(output_cls, prompt, llm_kwargs, prompt_args)
        objects = await super(SteerableLlamaIndexLLM, own).astream_structured_predict(
            output_cls, own_copy(prompt), asked, **prompt_args
        )

        records = self._records()

        async def whole() -> AsyncGenerator[Any, None]:
            async for made in objects:
                yield made
            with failing_on(records):
                refuse_half(record, output_cls)

        return whole()

    def as_structured_llm(
        self, output_cls: type[BaseModel], **kwargs: Any
    ) -> SteerableStructuredLLM:
        """Return this model as one whose every answer is an object of a class.

        Raises:
            InvalidInputError: It is no pydantic class.
        """
        if not (isinstance(output_cls, type) and issubclass(output_cls, BaseModel)):
            raise InvalidInputError(f"output_cls is {output_cls!r}: give a pydantic class")
        return SteerableStructuredLLM(llm=self, output_cls=output_cls, **kwargs)

    def _for_object(
        self,
        output_cls: type[BaseModel],
        prompt: BasePromptTemplate,
        given: dict[str, Any] | None,
        prompt_args: dict[str, Any],
    ) -> tuple[Self, SteeringRecord, dict[str, Any]]:
        """Return what asks for an object, where its answers are recorded, and how it asks."""
        record, asked, mode = SteeringRecord(), dict(given or {}), self.pydantic_program_mode
        if mode in _CONSTRAINED:
            mode = PydanticProgramMode.LLM
            own = {name: value for name, value in asked.items() if name not in _FOR_TOOLS}
            # Keywords of a schema that decoding cannot guarantee are checked by the class itself.
            asked = {"constraint": Constraint.json_schema(output_cls, strict=False), **own}
        retrieved = filled_in(prompt, prompt_args)
        twin = self.settled(prompt, record, retrieved=retrieved, pydantic_program_mode=mode)
        return twin, record, asked
