"""The model as a LlamaIndex LLM.

Query engines, selectors and retrievers call `predict`, `stream`, `structured_predict` and their
async twins with a prompt, whose type (`text_qa`, `refine`, `summary`, ...) tells the step. Calls
that carry no prompt get their step from `tag_prompts(...)`, `steer_step(...)`, `for_step(...)` or
the argument `step`.
"""

from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any, Self, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.tools.types import BaseTool
from pydantic import Field, ValidationError

from steerable_llm.adapters.arguments import (
    SAMPLING,
    GivenSteering,
    as_written,
    explain,
    refuse_unknown,
)
from steerable_llm.adapters.llama_index.messages import (
    to_chat,
    to_completion,
    to_messages,
    to_openai_tools,
    to_plain_messages,
    to_selections,
    to_tool_choice,
)
from steerable_llm.adapters.llama_index.steps import step_of, tag_prompts
from steerable_llm.adapters.llama_index.structured import ObjectLLM
from steerable_llm.adapters.recording import SteeringRecord, record_steering, take_down
from steerable_llm.adapters.worker import stream_in_worker
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import Generation, GenerationChunk
from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.source import hold_policies
from steerable_llm.policy.step import steer_step

# Running a blocking stream in a thread of its own, so that an event loop keeps turning.

T = TypeVar("T")
_ITEM, _ERROR, _END = "item", "error", "end"


# One call of a LlamaIndex LLM, on its way through the engine.


@dataclass(frozen=True)
class Piece:
    """Some of an answer.

    Attributes:
        text: the answer up to here.
        made: the chunk that was added last; the closing one has the whole answer.
    """

    text: str
    made: GenerationChunk


@dataclass(frozen=True)
class EngineCall:
    """Everything that decides an answer, settled when LlamaIndex calls and not when it reads.

    A stream may be read after the block, the thread or the task in which it was asked for has
    ended; by then the step that held there cannot be told any more.

    Attributes:
        engine: the hooked model.
        arguments: what it is asked with.
        records: where the answer is taken down.
    """

    engine: SteerableHFLLM
    arguments: dict[str, Any]
    records: Sequence[SteeringRecord] = ()

    def answer(self) -> Generation:
        """Return the whole answer."""
        return take_down(self.engine.generate(**self.arguments), self.records)

    async def aanswer(self) -> Generation:
        """Return the whole answer, and let the event loop turn while it is made."""
        # The streamed form of the same answer, since only that can be stopped half-way.
        answer: Generation | None = None
        async for piece in self._in_worker():
            answer = piece.made.final or answer
        assert answer is not None  # the engine's last chunk always carries the answer
        return answer

    def pieces(self) -> Generator[Piece, None, None]:
        """Yield what tells something new: half a character, or half a stop text, is held back."""
        return (piece for piece in self._all_pieces() if piece.made.text or piece.made.final)

    async def apieces(self) -> AsyncGenerator[Piece, None]:
        """Yield the same, and let the event loop turn."""
        pieces = self._in_worker()
        try:
            async for piece in pieces:
                if piece.made.text or piece.made.final:
                    yield piece
        finally:
            # Closed with this generator, and not when it happens to be collected.
            await pieces.aclose()

    def _in_worker(self) -> AsyncGenerator[Piece, None]:
        # The model itself hears of it when nobody waits any more, and stops within one token.
        stopped = Event()
        return stream_in_worker(lambda: self._all_pieces(stopped), stopped)

    def _all_pieces(self, cancelled: Event | None = None) -> Generator[Piece, None, None]:
        text = ""
        for made in self.engine.stream(cancelled=cancelled, **self.arguments):
            text += made.text
            take_down(made.final, self.records)
            yield Piece(text, made)


__all__ = ["SteerableLlamaIndexLLM", "record_steering", "steer_step", "tag_prompts"]

# What is asked of the model beside its sampling; a step and stop texts are also fields.
_ASKED = ("tools", "tool_choice", "parallel_tool_calls", "constraint", "context", "contrast")
# Fields of LlamaIndex's own class for models that are sent plain text; chats never look at them.
_UNREAD = ("messages_to_prompt", "completion_to_prompt", "query_wrapper_prompt")
_CALL_ARGUMENTS = {*SAMPLING, *_ASKED, "step", "stop"}


class SteerableLlamaIndexLLM(ObjectLLM, FunctionCallingLLM):
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
        engine: the hooked model.
        step: the step all calls belong to, unless a call says otherwise.
        steering: steer all calls with this, whatever the policy says.
        temperature: 0 is greedy.
        max_tokens: most tokens of an answer.
        stop: texts that end an answer; they are not part of it.
        top_p: nucleus sampling; 1 is off.
        top_k: sample from so many tokens; 0 is off.
        seed: makes sampling repeatable.
    """

    engine: SteerableHFLLM = Field(exclude=True, repr=False)
    step: str | None = None
    steering: GivenSteering | None = Field(default=None, exclude=True, repr=False)
    temperature: float = 0.0
    max_tokens: int = 128
    stop: list[str] | None = None
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def __init__(self, **data: Any) -> None:
        """Check the fields.

        Raises:
            InvalidInputError: an unknown field (which pydantic would drop), one that would have no
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
            super().__init__(**data)
        except ValidationError as error:
            raise InvalidInputError(explain(error)) from error

    def __deepcopy__(self, _: Any = None) -> Self:
        """Return a copy that shares the weights, as every other copy does."""
        return self.model_copy()

    def __getstate__(self) -> dict[Any, Any]:
        """Return what is pickled: everything but the weights."""
        # Of a copy, since LlamaIndex deletes what it cannot pickle from the object in use.
        twin = self.model_copy()
        twin.__dict__.pop("engine", None)
        return super(SteerableLlamaIndexLLM, twin).__getstate__()

    if not TYPE_CHECKING:  # else every misspelt attribute would have a type

        def __getattr__(self, name: str) -> Any:
            """Say why the weights are missing, where a pickled model is used."""
            if name == "engine":
                raise InvalidInputError(
                    "this model was pickled, and its weights do not travel to another process: "
                    "make the model there, or let LlamaIndex work without num_workers"
                )
            return super().__getattr__(name)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex stores."""
        return "SteerableLlamaIndexLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex needs to know to fill the context window and to choose its prompts."""
        return LLMMetadata(
            context_window=self.engine.context_window,
            num_output=self.max_tokens,
            is_chat_model=True,
            is_function_calling_model=self.engine.supports_tools,
            model_name=self.engine.fingerprint.model_id,
        )

    def tokens(self, text: str) -> list[int]:
        """Return the model's token ids of a text, without special tokens."""
        return list(self.engine.tokenizer(text, add_special_tokens=False)["input_ids"])

    def for_step(self, step: str | None) -> "SteerableLlamaIndexLLM":
        """Return the same model for another step; it shares the weights."""
        return self.model_copy(update={"step": step})

    # Chat and completion.

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation."""
        return to_chat(self._call(messages, kwargs).answer(), self.metadata.model_name)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation piece by piece."""
        return (self._chat_piece(piece) for piece in self._call(messages, kwargs).pieces())

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation while the event loop keeps turning."""
        return to_chat(await self._call(messages, kwargs).aanswer(), self.metadata.model_name)

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Answer a conversation piece by piece while the event loop keeps turning."""
        pieces = self._call(messages, kwargs).apieces()
        return (self._chat_piece(piece) async for piece in pieces)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer one prompt: a user message, or the model's own prompt format if `formatted`."""
        answer = self._completion_call(prompt, formatted, kwargs).answer()
        return to_completion(answer, self.metadata.model_name)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answer one prompt piece by piece."""
        pieces = self._completion_call(prompt, formatted, kwargs).pieces()
        return (self._completion_piece(piece) for piece in pieces)

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Answer one prompt while the event loop keeps turning."""
        answer = await self._completion_call(prompt, formatted, kwargs).aanswer()
        return to_completion(answer, self.metadata.model_name)

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Answer one prompt piece by piece while the event loop keeps turning."""
        pieces = self._completion_call(prompt, formatted, kwargs).apieces()
        return (self._completion_piece(piece) async for piece in pieces)

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
        if tools and not self.engine.supports_tools:
            raise InvalidInputError(
                "this model does not call tools, since its chat template knows none: "
                "use a ReActAgent, which asks for tools in plain text"
            )
        choice = to_tool_choice(kwargs.pop("tool_choice", None), tool_required)
        asked: dict[str, Any] = {"messages": to_messages(user_msg, chat_history), **kwargs}
        if tools:
            asked["tools"] = to_openai_tools(tools)
            asked["tool_choice"] = choice
            asked["parallel_tool_calls"] = allow_parallel_tool_calls
        return asked

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **_: Any
    ) -> list[ToolSelection]:
        """Return the tools that a response asks for.

        Raises:
            InvalidInputError: it asks for none, and `error_on_no_tool_call` is set.
        """
        return to_selections(response, error_on_no_tool_call)

    # Between LlamaIndex's words and the engine's.

    def _step_of(self, prompt: BasePromptTemplate | None = None, named: Any = None) -> str | None:
        if self._settled:
            return self.step if named is None else str(named)
        return step_of(self.engine.policy, prompt, named, self.step)

    def _call(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> EngineCall:
        return self._engine_call(self.engine, to_plain_messages(messages), kwargs)

    def _completion_call(self, prompt: str, formatted: bool, kwargs: dict[str, Any]) -> EngineCall:
        if kwargs.get("tools"):
            raise InvalidInputError(
                "a completion cannot bring tool calls back: use chat, or chat_with_tools"
            )
        engine = as_written(self.engine) if formatted else self.engine
        return self._engine_call(engine, prompt, kwargs)

    def _engine_call(
        self, engine: SteerableHFLLM, messages: Any, kwargs: dict[str, Any]
    ) -> EngineCall:
        """Settle everything about a call; the step is told here."""
        refuse_unknown("call argument", kwargs, _CALL_ARGUMENTS)
        with hold_policies(join=True):
            arguments = {
                "messages": messages,
                "steering": self.steering,
                "step": self._step_of(named=kwargs.get("step")),
                "stop": kwargs.get("stop", self.stop),
                # The one that told the step, though the answer may be made later.
                "policy": engine.policy,
            }
        for ours, theirs in SAMPLING.items():
            arguments[theirs] = kwargs.get(ours, getattr(self, ours))
        for name in _ASKED:
            if kwargs.get(name) is not None:
                arguments[name] = kwargs[name]
        return EngineCall(engine, arguments, self._here())

    def _chat_piece(self, piece: Piece) -> ChatResponse:
        said = piece.made.final or piece.text
        return to_chat(said, self.metadata.model_name, delta=piece.made.text)

    def _completion_piece(self, piece: Piece) -> CompletionResponse:
        said = piece.made.final or piece.text
        return to_completion(said, self.metadata.model_name, delta=piece.made.text)
