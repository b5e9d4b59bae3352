"""The model as a LangChain chat model.

The step of a call is told once, where the call enters (`invoke`, `stream`, their async twins, v3
events), because LangChain hands tags and metadata to `_generate` but not to `_stream`. From there
it travels as the call argument `step`, which reaches every path, the cache key and the trace.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.language_models import (
    BaseChatModel,
    LangSmithParams,
    LanguageModelInput,
    ModelProfile,
)
from langchain_core.language_models.chat_model_stream import AsyncChatModelStream, ChatModelStream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import (
    ContextThreadPoolExecutor,
    get_config_list,
)
from pydantic import Field, ValidationError

from steerable_llm.adapters.arguments import SAMPLING, GivenSteering, explain, refuse_unknown
from steerable_llm.adapters.gathering import Gathering, hand_over
from steerable_llm.adapters.langchain_answer import to_chunk, to_result
from steerable_llm.adapters.langchain_messages import to_plain_messages
from steerable_llm.adapters.langchain_step import tell_step
from steerable_llm.adapters.worker import stream_in_worker
from steerable_llm.errors import InvalidInputError
from steerable_llm.generation import Generation, GenerationRequest
from steerable_llm.model import SteerableHFLLM
from steerable_llm.policy import describe

# LangChain itself passes `stream`; `model` is only legal where it names this very model.
_CALL_ARGUMENTS = {*SAMPLING, "step", "stream", "model"}
# Standard parameters of remote chat models; a local model has no key, and nothing to retry.
_REMOTE_ONLY = {"api_key", "max_retries", "timeout"}


class SteerableChatModel(BaseChatModel):
    """A chat model whose answers are steered per chain step.

    Make one with `SteerableHFLLM.as_langchain(step=...)`. Any number share the same weights.

    Which step a call belongs to: the call argument `step=`, else the field `step`, else
    `metadata["steer_step"]`, else the LangGraph node if the policy has a step of that name, else a
    tag `"steer:NAME"`, else the policy's default. What was applied is in the answer's
    `response_metadata["steering"]`, the step in `response_metadata["step"]`.

    Attributes:
        engine: the hooked model.
        step: the chain step all calls belong to, unless a call says otherwise.
        steering: steer all calls with this, whatever the policy says.
        temperature: 0 is greedy.
        max_tokens: most tokens of an answer.
        stop: texts that end an answer; they are not part of it.
        top_p: nucleus sampling; 1 is off.
        top_k: sample from so many tokens; 0 is off.
        seed: makes sampling repeatable.
        streaming: True streams on `invoke` too, False never streams, None leaves it to the call.
        batch_size: most inputs of a `.batch()` that run on the model at once.
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
    # Not False: LangChain takes a False that was set, as `configurable_fields` does, for "never".
    streaming: bool | None = None
    batch_size: int = Field(default=16, ge=1)

    def __init__(self, **data: Any) -> None:
        """Check the fields.

        Raises:
            InvalidInputError: an unknown field (which pydantic would drop), or a wrong value.
        """
        refuse_unknown("field", set(data) - _REMOTE_ONLY, set(type(self).model_fields))
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise InvalidInputError(explain(error)) from error

    def for_step(self, step: str | None) -> "SteerableChatModel":
        """Return the same model for another step; it shares the weights."""
        copy = self.model_copy(update={"step": step})
        # LangChain caches how a model looks in a trace, the step included.
        copy.__dict__.pop("_serialized", None)
        return copy

    # What LangChain asks a model about itself.

    @property
    def _llm_type(self) -> str:
        return "steerable-hf"

    @property
    def model_name(self) -> str:
        """The model's hub id or path."""
        return self.engine.fingerprint.model_id

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything that decides an answer: this is the cache key and what a trace shows."""
        policy = self.engine.policy
        return {
            "model": self.engine.fingerprint.short,
            "revision": self.engine.fingerprint.revision,
            "dtype": str(self.engine.model.dtype),
            **{name: getattr(self, name) for name in SAMPLING},
            "stop": self.stop,
            "step": self.step,
            "steering": None if self.steering is None else describe(self.steering),
            "policy": None if policy is None else policy.digest,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider="steerable-llm",
            ls_model_type="chat",
            ls_model_name=str(kwargs.get("model", self.model_name)),
            ls_temperature=float(kwargs.get("temperature", self.temperature)),
            ls_max_tokens=int(kwargs.get("max_tokens", self.max_tokens)),
        )
        stops = self.stop if stop is None else stop
        if stops:
            params["ls_stop"] = stops
        return params

    def _resolve_model_profile(self) -> ModelProfile:
        return ModelProfile(
            max_input_tokens=self.engine.context_window,
            max_output_tokens=self.max_tokens,
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            tool_calling=False,
            structured_output=False,
        )

    def get_token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens."""
        return list(self.engine.tokenizer(text, add_special_tokens=False)["input_ids"])

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return how many tokens the messages take as a rendered prompt.

        Raises:
            InvalidInputError: tools were given, which this model does not read.
        """
        if tools:
            raise InvalidInputError("this model does not read tools: count without them")
        return len(self.engine.encode(to_plain_messages(messages)))

    # Where calls enter: the step is told here.

    def generate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        *,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Answer each prompt; `invoke` and `batch` come through here."""
        tell_step(self, kwargs, {"tags": tags, "metadata": metadata}, callbacks)
        return super().generate(messages, stop, callbacks, tags=tags, metadata=metadata, **kwargs)

    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        *,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Answer each prompt; `ainvoke` and `abatch` come through here."""
        tell_step(self, kwargs, {"tags": tags, "metadata": metadata}, callbacks)
        return await super().agenerate(
            messages, stop, callbacks, tags=tags, metadata=metadata, **kwargs
        )

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """Yield the answer as it is made."""
        tell_step(self, kwargs, config)
        return super().stream(input, config, **kwargs)

    def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """Yield the answer as it is made, while the event loop keeps turning."""
        tell_step(self, kwargs, config)
        return super().astream(input, config, **kwargs)

    def _chat_model_stream_v3(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> ChatModelStream:
        tell_step(self, kwargs, config)
        return super()._chat_model_stream_v3(input, config, **kwargs)

    async def _achat_model_stream_v3(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncChatModelStream:
        tell_step(self, kwargs, config)
        return await super()._achat_model_stream_v3(input, config, **kwargs)

    # Answering.

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain's contract
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, kwargs)
        joined = hand_over(self.engine, GenerationRequest(**call))
        answer = joined.result() if joined else self.engine.generate(**call)
        return to_result(answer, self.model_name)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, kwargs)
        joined = hand_over(self.engine, GenerationRequest(**call))
        if joined:
            return to_result(await asyncio.wrap_future(joined), self.model_name)
        # The streamed form of the same answer, since only that can be stopped half-way.
        answer: Generation | None = None
        async for chunk in stream_in_worker(lambda: self.engine.stream(**call)):
            answer = chunk.final or answer
        assert answer is not None  # the engine's last chunk always carries the answer
        return to_result(answer, self.model_name)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for made in self.engine.stream(**self._call(messages, stop, kwargs)):
            if (chunk := to_chunk(made, self.model_name)) is None:
                continue
            if run_manager:
                run_manager.on_llm_new_token(made.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = self._call(messages, stop, kwargs)
        async for made in stream_in_worker(lambda: self.engine.stream(**call)):
            if (chunk := to_chunk(made, self.model_name)) is None:
                continue
            if run_manager:
                await run_manager.on_llm_new_token(made.text, chunk=chunk)
            yield chunk

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer all inputs, `batch_size` of them at a time in one batch on the model.

        Each input may have its own config and so its own step; `max_concurrency` also bounds how
        many run together.
        """
        answers: list[AIMessage] = []
        for group in self._groups(inputs, config):
            gathering = Gathering(self.engine, len(group))

            def answer(
                one: tuple[LanguageModelInput, RunnableConfig], gathering: Gathering = gathering
            ) -> AIMessage:
                with gathering.seat():
                    try:
                        return self.invoke(one[0], one[1], **kwargs)
                    except Exception as error:
                        if return_exceptions:
                            return cast(AIMessage, error)
                        raise

            with ContextThreadPoolExecutor(max_workers=len(group)) as threads:
                answers += threads.map(answer, group)
        return answers

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer all inputs as `batch` does, while the event loop keeps turning."""
        answers: list[AIMessage] = []
        for group in self._groups(inputs, config):
            gathering = Gathering(self.engine, len(group))

            async def answer(
                one: tuple[LanguageModelInput, RunnableConfig], gathering: Gathering = gathering
            ) -> AIMessage:
                with gathering.seat():
                    try:
                        return await self.ainvoke(one[0], one[1], **kwargs)
                    except Exception as error:
                        if return_exceptions:
                            return cast(AIMessage, error)
                        raise

            answers += await asyncio.gather(*map(answer, group))
        return answers

    def _groups(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None,
    ) -> Iterator[list[tuple[LanguageModelInput, RunnableConfig]]]:
        """Split a batch's inputs, each with its config, into what runs together."""
        if not inputs:
            return
        pairs = list(zip(inputs, get_config_list(config, len(inputs)), strict=True))
        size = min(self.batch_size, pairs[0][1].get("max_concurrency") or self.batch_size)
        for start in range(0, len(pairs), size):
            yield pairs[start : start + size]

    # Between LangChain's words and the engine's.

    def _call(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the engine's arguments for one call."""
        refuse_unknown("call argument", set(kwargs), _CALL_ARGUMENTS)
        if kwargs.get("model", self.model_name) != self.model_name:
            raise InvalidInputError(
                f"this chat model holds {self.model_name!r} and cannot answer as "
                f"{kwargs['model']!r}: load that model with SteerableHFLLM.from_pretrained"
            )
        sampling = {
            theirs: kwargs.get(ours, getattr(self, ours)) for ours, theirs in SAMPLING.items()
        }
        return {
            "messages": to_plain_messages(messages),
            "steering": self.steering,
            "step": kwargs.get("step", self.step),
            "stop": self.stop if stop is None else stop,
            **sampling,
        }
