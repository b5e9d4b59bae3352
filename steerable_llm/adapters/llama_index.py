"""The model as a LlamaIndex LLM.

Query engines, selectors and retrievers call `predict`, `stream`, `structured_predict` and their
async twins with a prompt, whose type (`text_qa`, `refine`, `summary`, ...) tells the step. Calls
that carry no prompt get their step from `steer_step(...)`, `for_step(...)` or the argument `step`.
"""

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractContextManager
from typing import Any

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
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import TokenAsyncGen, TokenGen
from pydantic import Field, ValidationError

from steerable_llm.adapters.arguments import SAMPLING, GivenSteering, explain, refuse_unknown
from steerable_llm.adapters.as_written import as_written
from steerable_llm.adapters.llama_index_messages import (
    to_chat,
    to_completion,
    to_plain_messages,
)
from steerable_llm.adapters.step import Hint, choose_step, current_step, steer_step
from steerable_llm.adapters.worker import stream_in_worker
from steerable_llm.errors import InvalidInputError
from steerable_llm.generation import Generation, GenerationChunk
from steerable_llm.model import SteerableHFLLM

__all__ = ["SteerableLlamaIndexLLM", "steer_step"]

_CALL_ARGUMENTS = {*SAMPLING, "step", "stop"}


class SteerableLlamaIndexLLM(FunctionCallingLLM):
    """An LLM whose answers are steered per step of a query engine.

    Make one with `SteerableHFLLM.as_llama_index(step=...)`. Any number share the same weights.

    Which step a call belongs to: the call argument `step=`, else the field `step`, else the
    prompt's `metadata["steer_step"]`, else an enclosing `steer_step(...)`, else the prompt's type
    if the policy has a step of that name, else the policy's default. What was applied is in
    `response.raw["steering"]`, the step in `response.raw["step"]`, the tokens in
    `response.raw["usage"]`.

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
            InvalidInputError: an unknown field (which pydantic would drop), or a wrong value.
        """
        refuse_unknown("field", data, type(self).model_fields)
        try:
            super().__init__(**data)
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
            context_window=self.engine.context_window,
            num_output=self.max_tokens,
            is_chat_model=True,
            is_function_calling_model=False,
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
        return to_chat(self._answer(self._call(messages, kwargs)), self.metadata.model_name)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation piece by piece."""
        start = self._start(self._call(messages, kwargs))
        return (self._chat_piece(text, made) for text, made in start() if _tells(made))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation while the event loop keeps turning."""
        return to_chat(await self._aanswer(self._call(messages, kwargs)), self.metadata.model_name)

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Answer a conversation piece by piece while the event loop keeps turning."""
        pieces = stream_in_worker(self._start(self._call(messages, kwargs)))
        return (self._chat_piece(text, made) async for text, made in pieces if _tells(made))

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer one prompt: a user message, or the model's own prompt format if `formatted`."""
        answer = self._answer(self._completion_call(prompt, formatted, kwargs))
        return to_completion(answer, self.metadata.model_name)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answer one prompt piece by piece."""
        start = self._start(self._completion_call(prompt, formatted, kwargs))
        return (self._completion_piece(text, made) for text, made in start() if _tells(made))

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Answer one prompt while the event loop keeps turning."""
        answer = await self._aanswer(self._completion_call(prompt, formatted, kwargs))
        return to_completion(answer, self.metadata.model_name)

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Answer one prompt piece by piece while the event loop keeps turning."""
        pieces = stream_in_worker(self._start(self._completion_call(prompt, formatted, kwargs)))
        return (self._completion_piece(text, made) async for text, made in pieces if _tells(made))

    # Calls with a prompt, whose metadata tells the step.

    def predict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Answer a filled-in prompt."""
        with self._told_by(prompt):
            return super().predict(prompt, **prompt_args)

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Answer a filled-in prompt while the event loop keeps turning."""
        with self._told_by(prompt):
            return await super().apredict(prompt, **prompt_args)

    def stream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenGen:
        """Answer a filled-in prompt piece by piece."""
        with self._told_by(prompt):
            return super().stream(prompt, **prompt_args)

    async def astream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
        """Answer a filled-in prompt piece by piece while the event loop keeps turning."""
        with self._told_by(prompt):
            return await super().astream(prompt, **prompt_args)

    def structured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Any:
        """Answer a filled-in prompt with an object of a class."""
        with self._told_by(prompt):
            return super().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)

    async def astructured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Any:
        """Answer a filled-in prompt with an object, while the event loop keeps turning."""
        with self._told_by(prompt):
            return await super().astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)

    # The streamed ones call the model when they are consumed, and the context may be gone by
    # then: so the step is put into a copy of the model, which they call.

    def stream_structured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Generator[Any, None, None]:
        """Answer a filled-in prompt with an object that grows piece by piece."""
        fixed = self.for_step(self._step_of(prompt))
        return super(SteerableLlamaIndexLLM, fixed).stream_structured_predict(
            output_cls, prompt, llm_kwargs, **prompt_args
        )

    async def astream_structured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> AsyncGenerator[Any, None]:
        """Answer a filled-in prompt with an object that grows, while the loop keeps turning."""
        fixed = self.for_step(self._step_of(prompt))
        return await super(SteerableLlamaIndexLLM, fixed).astream_structured_predict(
            output_cls, prompt, llm_kwargs, **prompt_args
        )

    def _step_of(self, prompt: BasePromptTemplate | None = None, named: Any = None) -> str | None:
        metadata = {} if prompt is None else prompt.metadata
        kind = metadata.get("prompt_type")
        return choose_step(
            [
                named,
                self.step,
                metadata.get("steer_step"),
                current_step(),
                # An enum whose members are strings; str() of one would be "PromptType.REFINE".
                Hint(getattr(kind, "value", kind), "prompt_type"),
            ],
            self.engine.policy,
        )

    def _told_by(self, prompt: BasePromptTemplate) -> AbstractContextManager[None]:
        return steer_step(self._step_of(prompt))

    # Between LlamaIndex's words and the engine's.

    def _prepare_chat_with_tools(self, *_: Any, **__: Any) -> dict[str, Any]:
        raise InvalidInputError(
            "this model does not call tools: use a ReActAgent, which asks for tools in plain text"
        )

    def _call(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"messages": to_plain_messages(messages), **self._settings(kwargs)}

    def _completion_call(
        self, prompt: str, formatted: bool, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        call = {"messages": prompt, **self._settings(kwargs)}
        return {**call, "engine": as_written(self.engine)} if formatted else call

    def _settings(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the engine's arguments, except for what is asked; the step is told here."""
        refuse_unknown("call argument", kwargs, _CALL_ARGUMENTS)
        sampling = {
            theirs: kwargs.get(ours, getattr(self, ours)) for ours, theirs in SAMPLING.items()
        }
        return {
            "steering": self.steering,
            "step": self._step_of(named=kwargs.get("step")),
            "stop": kwargs.get("stop", self.stop),
            **sampling,
        }

    def _answer(self, call: dict[str, Any]) -> Generation:
        engine: SteerableHFLLM = call.pop("engine", self.engine)
        return engine.generate(**call)

    async def _aanswer(self, call: dict[str, Any]) -> Generation:
        # The streamed form of the same answer, since only that can be stopped half-way.
        answer: Generation | None = None
        async for _, made in stream_in_worker(self._start(call)):
            answer = made.final or answer
        assert answer is not None  # the engine's last chunk always carries the answer
        return answer

    def _start(
        self, call: dict[str, Any]
    ) -> Callable[[], Generator[tuple[str, GenerationChunk], None, None]]:
        """Return what makes the stream: each chunk, with the text up to its end."""

        def start() -> Generator[tuple[str, GenerationChunk], None, None]:
            text = ""
            for made in call.pop("engine", self.engine).stream(**call):
                text += made.text
                yield text, made

        return start

    def _chat_piece(self, text: str, made: GenerationChunk) -> ChatResponse:
        return to_chat(made.final or text, self.metadata.model_name, delta=made.text)

    def _completion_piece(self, text: str, made: GenerationChunk) -> CompletionResponse:
        return to_completion(made.final or text, self.metadata.model_name, delta=made.text)


def _tells(made: GenerationChunk) -> bool:
    """Whether a chunk tells anything: half a character, or half a stop text, is held back."""
    return bool(made.text or made.final)
