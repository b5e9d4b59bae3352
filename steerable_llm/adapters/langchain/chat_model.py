"""The model as a LangChain chat model.

The step of a call is told once, where the call enters (`invoke`, `stream`, their async twins, v3
events), because LangChain hands tags and metadata to `_generate` but not to `_stream`. From there
it travels as the call argument `step`, which reaches every path, the cache key and the trace.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseCallbackManager,
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
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import (
    ContextThreadPoolExecutor,
    ensure_config,
    get_config_list,
)
from pydantic import Field, ValidationError

from steerable_llm.adapters.arguments import SAMPLING, GivenSteering, explain, refuse_unknown
from steerable_llm.adapters.gathering import Gathering, hand_over
from steerable_llm.adapters.langchain.messages import (
    ToolLike,
    to_choice,
    to_chunk,
    to_constraint,
    to_plain_messages,
    to_result,
    to_tools,
)
from steerable_llm.adapters.langchain.structured import Method, structured_output
from steerable_llm.adapters.recording import current_records, record_steering, take_down
from steerable_llm.adapters.worker import stream_in_worker
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import Generation, GenerationChunk, GenerationRequest
from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.policy import describe
from steerable_llm.policy.source import hold_policies
from steerable_llm.policy.step import Hint, choose_step, current_step, steer_step

# LangChain's third event protocol, whose answers are made in a task of their own.


def stop_with_listeners(stream: AsyncChatModelStream) -> AsyncChatModelStream:
    """Stop the answer of a stream when the last task that listens to it was cancelled.

    LangChain would let it run to its end unless someone calls `aclose`, which whoever cancels a
    task cannot do; a model on this machine has better things to do.
    """
    begin = stream._ensure_started  # LangChain sets it by `set_start` and has no way to read it
    listeners: set[asyncio.Task[object]] = set()
    closing: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive

    def left(task: asyncio.Task[object]) -> None:
        listeners.discard(task)
        if task.cancelled() and not listeners and not stream.done:
            closing.add(asyncio.get_running_loop().create_task(stream.aclose()))

    async def start() -> None:
        task = asyncio.current_task()
        if task is not None and task not in listeners:
            listeners.add(task)
            task.add_done_callback(left)
        if begin is not None:
            await begin()

    stream.set_start(start)
    return stream


# Telling the step of a LangChain call from its arguments, metadata, block, graph node and tags.

TAG = "steer:"


def tell_step(
    model: "SteerableChatModel",
    arguments: dict[str, Any],
    config: RunnableConfig | dict[str, Any] | None,
    callbacks: Callbacks = None,
) -> None:
    """Put the step into a call's arguments, if anything names one.

    Args:
        model: whose field `step`, tags and metadata count.
        arguments: the call's keyword arguments, changed in place.
        config: the call's own config; that of the chain around it is added here.
        callbacks: the callback manager, where it travels apart from the config.
    """
    merged = ensure_config(cast(RunnableConfig | None, config))
    manager = callbacks or merged.get("callbacks")
    around = manager if isinstance(manager, BaseCallbackManager) else None
    # The nearest wins: the call's own, then what the chain around it carries, then the model's.
    metadata = {
        **(model.metadata or {}),
        **(around.metadata if around else {}),
        **(merged.get("metadata") or {}),
    }
    tags = [*(merged.get("tags") or []), *(around.tags if around else []), *(model.tags or [])]
    step = choose_step(
        [
            arguments.get("step"),
            model.step,
            metadata.get("steer_step"),
            current_step(),
            Hint(metadata.get("langgraph_node"), "node"),
            next((tag.removeprefix(TAG) for tag in tags if tag.startswith(TAG)), None),
            *(Hint(tag, "tag") for tag in tags),
        ],
        model.engine_for(arguments).policy,
    )
    arguments.pop("step", None)
    if step is not None:
        arguments["step"] = step


# What a chat model tells LangChain about itself: for caches, traces and agents.


def identity(model: "SteerableChatModel") -> dict[str, Any]:
    """Return everything that decides an answer: the cache's key, and what a trace shows."""
    return {
        **_of_engine(model.engine),
        "models": {name: _of_engine(engine) for name, engine in model.models.items()},
        **{name: getattr(model, name) for name in SAMPLING},
        "stop": model.stop,
        "step": model.step,
        "steering": None if model.steering is None else describe(model.steering),
    }


def trace_params(
    model: "SteerableChatModel", stop: list[str] | None, kwargs: dict[str, Any]
) -> LangSmithParams:
    """Return what LangSmith shows of a call."""
    params = LangSmithParams(
        ls_provider="steerable-llm",
        ls_model_type="chat",
        ls_model_name=str(kwargs.get("model", model.model_name)),
        ls_temperature=float(kwargs.get("temperature", model.temperature)),
        ls_max_tokens=int(kwargs.get("max_tokens", model.max_tokens)),
    )
    stops = model.stop if stop is None else stop
    if stops:
        params["ls_stop"] = stops
    return params


def profile(model: "SteerableChatModel") -> ModelProfile:
    """Return what the model can do; agents choose their ways by it."""
    return ModelProfile(
        max_input_tokens=model.engine.context_window,
        max_output_tokens=model.max_tokens,
        text_inputs=True,
        text_outputs=True,
        image_inputs=model.engine.supports_images,
        image_url_inputs=model.engine.supports_images,
        image_tool_message=model.engine.supports_images and model.engine.supports_tools,
        tool_calling=model.engine.supports_tools,
        tool_choice=model.engine.supports_tools,
        tool_call_streaming=model.engine.supports_tools,
        structured_output=True,  # by constrained decoding, on every model
    )


def _of_engine(engine: SteerableHFLLM) -> dict[str, Any]:
    return {
        "model": engine.fingerprint.short,
        "revision": engine.fingerprint.revision,
        "dtype": str(engine.model.dtype),
        "policy": None if engine.policy is None else engine.policy.digest,
    }


# One call as LangChain makes it, in the engine's words.

# LangChain itself passes `stream`.
_CALL_ARGUMENTS = {
    *(*SAMPLING, "step", "context", "contrast", "stream", "model"),
    *("tools", "tool_choice", "strict", "parallel_tool_calls", "response_format"),
}


def to_call(
    model: "SteerableChatModel",
    messages: list[BaseMessage],
    stop: list[str] | None,
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    """Return the engine's arguments for one call.

    Args:
        model: whose fields hold where the call says nothing.
        messages: what is asked.
        stop: the call's own stop texts.
        kwargs: its other arguments.

    Raises:
        InvalidInputError: an unknown argument, or one with a value that cannot be used.
    """
    refuse_unknown("call argument", set(kwargs), _CALL_ARGUMENTS)
    tools = to_tools(kwargs.get("tools") or (), kwargs.get("strict"))
    sampling = {theirs: kwargs.get(ours, getattr(model, ours)) for ours, theirs in SAMPLING.items()}
    return {
        "messages": to_plain_messages(messages),
        "steering": model.steering,
        "step": kwargs.get("step", model.step),
        "stop": model.stop if stop is None else stop,
        "tools": tools or None,
        "tool_choice": to_choice(kwargs.get("tool_choice"), tools),
        "parallel_tool_calls": kwargs.get("parallel_tool_calls") is not False,
        "constraint": to_constraint(kwargs.get("response_format")),
        "context": kwargs.get("context"),
        "contrast": kwargs.get("contrast"),
        # The one that the cache's key tells of, though the answer may be made later.
        "policy": model.engine_for(kwargs).policy,
        **sampling,
    }


# The inputs of a LangChain batch, run together on the model.

Configs = RunnableConfig | list[RunnableConfig] | None
_One = tuple[LanguageModelInput, RunnableConfig]


def run_batch(
    model: "SteerableChatModel",
    inputs: list[LanguageModelInput],
    config: Configs,
    return_exceptions: bool,
    kwargs: dict[str, Any],
) -> list[AIMessage]:
    """Answer all inputs, a group at a time; each goes through `invoke` with its own config."""
    answers: list[AIMessage] = []
    for group in _groups(model, inputs, config):
        gathering = Gathering(_engine(model, kwargs), len(group))

        def answer(one: _One, gathering: Gathering = gathering) -> AIMessage:
            with gathering.seat():
                try:
                    return model.invoke(one[0], one[1], **kwargs)
                except Exception as error:
                    if return_exceptions:
                        return cast(AIMessage, error)
                    raise

        with ContextThreadPoolExecutor(max_workers=len(group)) as threads:
            answers += threads.map(answer, group)
    return answers


async def arun_batch(
    model: "SteerableChatModel",
    inputs: list[LanguageModelInput],
    config: Configs,
    return_exceptions: bool,
    kwargs: dict[str, Any],
) -> list[AIMessage]:
    """Answer all inputs as `run_batch` does, while the event loop keeps turning."""
    answers: list[AIMessage] = []
    for group in _groups(model, inputs, config):
        gathering = Gathering(_engine(model, kwargs), len(group))

        async def answer(one: _One, gathering: Gathering = gathering) -> AIMessage:
            with gathering.seat():
                try:
                    return await model.ainvoke(one[0], one[1], **kwargs)
                except Exception as error:
                    if return_exceptions:
                        return cast(AIMessage, error)
                    raise

        answers += await asyncio.gather(*map(answer, group))
    return answers


def _engine(model: "SteerableChatModel", kwargs: dict[str, Any]) -> SteerableHFLLM:
    """Where the model calls go; a model that is not here is each input's own error."""
    try:
        return model.engine_for(kwargs)
    except InvalidInputError:
        return model.engine


def _groups(
    model: "SteerableChatModel", inputs: list[LanguageModelInput], config: Configs
) -> Iterator[list[_One]]:
    """Split a batch's inputs, each with its config, into what runs together."""
    if not inputs:
        return
    pairs = list(zip(inputs, get_config_list(config, len(inputs)), strict=True))
    size = min(model.batch_size, pairs[0][1].get("max_concurrency") or model.batch_size)
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


__all__ = ["SteerableChatModel", "record_steering", "steer_step"]

# Standard parameters of remote chat models; a local model has no key, and nothing to retry.
_REMOTE_ONLY = {"api_key", "max_retries", "timeout"}


class SteerableChatModel(BaseChatModel):
    """A chat model whose answers are steered per chain step.

    Make one with `SteerableHFLLM.as_langchain(step=...)`. Any number share the same weights.

    Which step a call belongs to: the call argument `step=`, else the field `step`, else
    `metadata["steer_step"]`, else an enclosing `steer_step(...)`, else the LangGraph node if the
    policy knows it, else a tag `"steer:NAME"` or one that the policy knows, else the policy's
    default. What was applied is in the answer's `response_metadata["steering"]`, the step in
    `response_metadata["step"]`. `record_steering()` keeps it where a chain drops it.

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
        models: other hooked models that a call may name by `model=`.
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
    models: dict[str, SteerableHFLLM] = Field(default_factory=dict, exclude=True, repr=False)
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
        return identity(self)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return trace_params(self, stop, kwargs)

    def _resolve_model_profile(self) -> ModelProfile:
        return profile(self)

    def get_token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens."""
        return list(self.engine.tokenizer(text, add_special_tokens=False)["input_ids"])

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return how many tokens the messages take as a rendered prompt.

        Raises:
            InvalidInputError: tools were given, which this model's chat template does not read.
        """
        return len(self.engine.encode(to_plain_messages(messages), to_tools(tools or ())))

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
        with hold_policies():
            tell_step(self, kwargs, {"tags": tags, "metadata": metadata}, callbacks)
            return super().generate(
                messages, stop, callbacks, tags=tags, metadata=metadata, **kwargs
            )

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
        with hold_policies():
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
        return stop_with_listeners(await super()._achat_model_stream_v3(input, config, **kwargs))

    # Answering.

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain's contract
        **kwargs: Any,
    ) -> ChatResult:
        engine = self.engine_for(kwargs)
        request = GenerationRequest(**to_call(self, messages, stop, kwargs))
        joined = hand_over(engine, request)
        answer = joined.result() if joined else engine.generate_batch([request])[0]
        return to_result(take_down(answer), self._name_of(kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        call = to_call(self, messages, stop, kwargs)
        joined = hand_over(self.engine_for(kwargs), GenerationRequest(**call))
        if joined:
            return to_result(take_down(await asyncio.wrap_future(joined)), self._name_of(kwargs))
        # The streamed form of the same answer, since only that can be stopped half-way.
        answer: Generation | None = None
        async for made in self._made(call, kwargs):
            answer = made.final or answer
        assert answer is not None  # the engine's last chunk always carries the answer
        return to_result(take_down(answer), self._name_of(kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        records, call = current_records(), to_call(self, messages, stop, kwargs)
        for made in self.engine_for(kwargs).stream(**call):
            take_down(made.final, records)
            if (chunk := to_chunk(made, self._name_of(kwargs))) is None:
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
        records, call = current_records(), to_call(self, messages, stop, kwargs)
        async with aclosing(self._made(call, kwargs)) as pieces:
            async for made in pieces:
                take_down(made.final, records)
                if (chunk := to_chunk(made, self._name_of(kwargs))) is None:
                    continue
                if run_manager:
                    await run_manager.on_llm_new_token(made.text, chunk=chunk)
                yield chunk

    def _made(
        self, call: dict[str, Any], kwargs: dict[str, Any]
    ) -> AsyncGenerator[GenerationChunk, None]:
        """The chunks of an answer; who stops listening stops the model within one token."""
        engine, stopped = self.engine_for(kwargs), threading.Event()
        return stream_in_worker(lambda: engine.stream(cancelled=stopped, **call), stopped)

    def _name_of(self, kwargs: Mapping[str, Any]) -> str:
        return str(kwargs.get("model", self.model_name))

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
        return run_batch(self, inputs, config, return_exceptions, kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer all inputs as `batch` does, while the event loop keeps turning."""
        return await arun_batch(self, inputs, config, return_exceptions, kwargs)

    # Tools and forms of answers.

    def bind_tools(
        self,
        tools: Sequence[ToolLike],
        *,
        tool_choice: Any = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model with tools that it may call; whoever calls it runs them.

        Args:
            tools: functions, pydantic classes, TypedDicts, LangChain tools, or OpenAI dicts.
            tool_choice: "auto" (also None) leaves the choice to the model, "none" hides the tools;
                "any", "required", True, and a tool's name make a call sure, by constrained
                decoding.
            strict: noted in the tools, for models that were trained to read it.
            **kwargs: other call arguments to bind; `parallel_tool_calls=False` keeps an answer to
                one call.

        Raises:
            InvalidInputError: the model's chat template has no place for tools, or there is no
                such tool.
        """
        shown = to_tools(tools, strict)
        choice = to_choice(tool_choice, shown)
        if shown and choice != "none" and not self.engine.supports_tools:
            raise InvalidInputError(
                "the chat template of this model has no place for tools: take a model that was "
                "trained for them, or with_structured_output, which works on every model"
            )
        # Only what was asked for goes on: these arguments are part of the cache's key.
        chosen = {} if choice is None else {"tool_choice": choice}
        return self.bind(tools=shown, **chosen, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return the model with answers in the form of a schema, guaranteed while decoding.

        The model is not told the schema: say in the prompt what you want to know.

        Args:
            schema: a pydantic class (answers are its instances), or a TypedDict, a JSON schema or
                an OpenAI function dict (answers are dicts).
            method: "json_schema" holds the answer to the schema and works on every model;
                "function_calling" makes the model call a tool of that schema; "json_mode" holds it
                to JSON of any shape.
            include_raw: return `{"raw": message, "parsed": ..., "parsing_error": ...}`.
            strict: refuse a schema with keywords that cannot be guaranteed, instead of leaving
                them to the parser.
            **kwargs: not used.

        Raises:
            InvalidInputError: an unknown method, or a call argument that is not known.
        """
        refuse_unknown("argument", kwargs, ("schema", "method", "include_raw", "strict"))
        return structured_output(self, schema, method, include_raw, strict)

    def engine_for(self, kwargs: Mapping[str, Any]) -> SteerableHFLLM:
        """Return the hooked model that a call goes to: the one it names, else this one's own.

        Raises:
            InvalidInputError: a model of that name is not here.
        """
        name = kwargs.get("model", self.model_name)
        if name == self.model_name:
            return self.engine
        if name in self.models:
            return self.models[name]
        raise InvalidInputError(
            f"this chat model holds {', '.join(map(repr, [self.model_name, *self.models]))} and "
            f"cannot answer as {name!r}: load it with SteerableHFLLM.from_pretrained and give it "
            "in the field models"
        )
