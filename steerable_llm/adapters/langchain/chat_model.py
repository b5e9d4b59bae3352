"""The model as a LangChain chat model.

The step of a call is told once, where the call enters (`invoke`, `stream`, their async twins, v3
events), because LangChain hands tags and metadata to `_generate` but not to `_stream`. From there
it travels as the call argument `step`, which reaches every path, the cache key and the trace.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Self, cast

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
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig
from langchain_core.runnables.config import (
    ensure_config,
    get_config_list,
)
from pydantic import Field, PrivateAttr, ValidationError

from steerable_llm.adapters.arguments import (
    SAMPLING,
    GivenSteering,
    explain,
    refuse_unknown,
    sampling_of,
    with_defaults,
)
from steerable_llm.adapters.asking import aanswers, achunks, answers
from steerable_llm.adapters.copies import SharesWeights
from steerable_llm.adapters.langchain.messages import (
    PROVIDER,
    ToolLike,
    read_messages,
    to_choice,
    to_chunks,
    to_constraint,
    to_context,
    to_result,
    to_tools,
)
from steerable_llm.adapters.langchain.retrieved import RETRIEVED
from steerable_llm.adapters.langchain.structured import Method, structured_output
from steerable_llm.adapters.surroundings import surroundings, take_down
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.origin import Origin
from steerable_llm.answer.request import MOST_TOKENS, Generation, GenerationRequest
from steerable_llm.chat.context import quoted
from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.policy import Hint, Policy, choose_step, named_by
from steerable_llm.policy.steered_step import describe

# Standard parameters of remote chat models; a local model has no key, and nothing to retry.
_REMOTE_ONLY = {"api_key", "max_retries", "timeout"}
# LangChain itself passes `stream`.
_CALL_ARGUMENTS = {
    *(*SAMPLING, "n", "step", "context", "contrast", "stream", "model"),
    *("tools", "tool_choice", "strict", "parallel_tool_calls", "response_format"),
}


class SteerableChatModel(SharesWeights, BaseChatModel):
    """A chat model whose answers are steered per chain step.

    Make one with `SteerableHFLLM.as_langchain(step=...)`. Any number share the same weights.

    Which step a call belongs to: the call argument `step=`, else the field `step`, else
    `metadata["steer_step"]`, else an enclosing `steer_step(...)`, else the LangGraph node if the
    policy knows it, else a tag `"steer:NAME"` or one that the policy knows, else the policy's
    default. What was applied is in the answer's `response_metadata["steering"]`, the step in
    `response_metadata["step"]`. `record_steering()` keeps it where a chain drops it.

    Attributes:
        llm: The model that answers.
        step: The chain step all calls belong to, unless a call says otherwise.
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
        n: How many answers a call gives, all but the first one with another seed.
        streaming: True streams on `invoke` too, False never streams, None leaves it to the call.
        models: Other models that a call may name by `model=`.
        batch_size: Most inputs of a `.batch()` that are under way at once.
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
    n: int = Field(default=1, ge=1)
    # Not False: LangChain takes a False that was set, as `configurable_fields` does, for "never".
    streaming: bool | None = None
    models: dict[str, SteerableHFLLM] = Field(default_factory=dict, exclude=True, repr=False)
    batch_size: int = Field(default=16, ge=1)
    # Of the copy that one call runs on: each model's policy as it was when the call came in, and
    # where the call joins the others of its batch.
    _policies: dict[str, Policy | None] = PrivateAttr(default_factory=dict)
    # Of such a copy, too: the documents that the chain around it came by.
    _retrieved: tuple[str, ...] = PrivateAttr(default=())
    # What a config that is bound around this model says, since LangChain may take the model alone.
    _origin: Origin | None = PrivateAttr(default=None)
    _around: RunnableConfig = PrivateAttr(default_factory=RunnableConfig)

    def __init__(self, **data: Any) -> None:
        """Check the fields.

        Raises:
            InvalidInputError: An unknown field (which pydantic would drop), or a wrong value.
        """
        refuse_unknown("field", set(data) - _REMOTE_ONLY, set(type(self).model_fields))
        try:
            super().__init__(**with_defaults(data))
        except ValidationError as error:
            raise InvalidInputError(explain(error)) from error

    def for_step(self, step: str | None) -> "SteerableChatModel":
        """Return the same model for another step; it shares the weights."""
        copy = self.model_copy(update={"step": step})
        # LangChain caches how a model looks in a trace, the step included.
        copy.__dict__.pop("_serialized", None)
        return copy

    def _forget(self) -> None:
        self._policies = {}

    # What is bound around the model, so that tools and forms bound later keep it.

    def bind(self, **kwargs: Any) -> "SteeredBinding":  # type: ignore[override]  # theirs is private
        """Return the model with call arguments that each of its calls gets, such as a step."""
        return SteeredBinding.of(self, kwargs)

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> "SteeredBinding":
        """Return the model with a config for each of its calls, such as tags or metadata."""
        return SteeredBinding.of(self, config={**(config or {}), **kwargs})

    def knowing(self, config: Mapping[str, Any]) -> Self:
        """Return the model as it is inside a config, whose tags and metadata may name its step."""
        tags, metadata = config.get("tags") or (), config.get("metadata") or {}
        if not (tags or metadata):
            return self
        copy = self.model_copy()
        copy._around = RunnableConfig(
            tags=[*tags, *self._around.get("tags", ())],
            metadata={**self._around.get("metadata", {}), **metadata},
        )
        return copy

    # Where calls enter.

    def generate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Answer each prompt; `invoke` and `batch` come through here."""
        own = self._settled(kwargs, _config_in(kwargs), callbacks)
        return super(SteerableChatModel, own).generate(messages, stop, callbacks, **kwargs)

    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Answer each prompt; `ainvoke` and `abatch` come through here."""
        own = self._settled(kwargs, _config_in(kwargs), callbacks)
        return await super(SteerableChatModel, own).agenerate(messages, stop, callbacks, **kwargs)

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """Yield the answer as it is made."""
        own = self._settled(kwargs, config)
        return super(SteerableChatModel, own).stream(input, config, **kwargs)

    def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """Yield the answer as it is made, while the event loop keeps turning."""
        own = self._settled(kwargs, config)
        return super(SteerableChatModel, own).astream(input, config, **kwargs)

    def _chat_model_stream_v3(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> ChatModelStream:
        own = self._settled(kwargs, config)
        return super(SteerableChatModel, own)._chat_model_stream_v3(input, config, **kwargs)

    async def _achat_model_stream_v3(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncChatModelStream:
        own = self._settled(kwargs, config)
        stream = await super(SteerableChatModel, own)._achat_model_stream_v3(
            input, config, **kwargs
        )
        return _stop_with_listeners(stream)

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer all inputs, `batch_size` of them side by side on the model.

        Each input may have its own config and so its own step; `max_concurrency` also bounds how
        many run together.
        """
        bounded = self._bounded(inputs, config)
        return super().batch(inputs, bounded, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer all inputs as `batch` does, while the event loop keeps turning."""
        bounded = self._bounded(inputs, config)
        return await super().abatch(inputs, bounded, return_exceptions=return_exceptions, **kwargs)

    def _bounded(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None,
    ) -> list[RunnableConfig]:
        """Return a config for each input; not more of them than `batch_size` run at once."""
        most = self.batch_size
        return [
            {**each, "max_concurrency": min(most, each.get("max_concurrency") or most)}
            for each in get_config_list(config, len(inputs))
        ]

    # What is settled there: the step and the policy.

    def _settled(
        self,
        arguments: dict[str, Any],
        config: RunnableConfig | dict[str, Any] | None,
        callbacks: Callbacks = None,
    ) -> Self:
        """Settle what is not written in a call itself, on a copy that the call then runs on.

        The step goes into the call's arguments, if anything names one. The policy stays in the
        copy what it is now: a file that changes in between cannot put an answer under a cache's
        key for another policy.

        Args:
            arguments: The call's keyword arguments, changed in place.
            config: The call's own config; that of the chain around it is added here.
            callbacks: The callback manager, where it travels apart from the config.
        """
        own = self.model_copy()
        own._policies = self._policies or {name: llm.policy for name, llm in self._llms.items()}
        merged = ensure_config(cast(RunnableConfig | None, config))
        manager = callbacks or merged.get("callbacks")
        around = manager if isinstance(manager, BaseCallbackManager) else None
        own._retrieved = RETRIEVED.of(around.parent_run_id) if around else ()
        # The nearest wins: the call's own, then what the chain around it carries, then what is
        # bound around the model, then the model's.
        metadata = {
            **(self.metadata or {}),
            **(self._around.get("metadata") or {}),
            **(around.metadata if around else {}),
            **(merged.get("metadata") or {}),
        }
        tags = [
            *(merged.get("tags") or []),
            *(around.tags if around else []),
            *(self._around.get("tags") or []),
            *(self.tags or []),
        ]
        step = choose_step(
            [
                arguments.pop("step", None),
                self.step,
                metadata.get("steer_step"),
                surroundings().step,
                Hint(metadata.get("langgraph_node"), "node"),
                *named_by(tags)[:1],
                *(Hint(tag, "tag") for tag in tags),
            ],
            own._policy_for(arguments),
        )
        if step is not None:
            arguments["step"] = step
        return own

    @property
    def _llms(self) -> dict[str, SteerableHFLLM]:
        return {**self.models, self.model_name: self.llm}

    def _name_for(self, kwargs: Mapping[str, Any]) -> str:
        return str(kwargs.get("model", self.model_name))

    def _llm_for(self, kwargs: Mapping[str, Any]) -> SteerableHFLLM:
        """Return the model that a call goes to: the one it names, else this one's own.

        Raises:
            InvalidInputError: A model of that name is not here.
        """
        name = self._name_for(kwargs)
        if name not in self._llms:
            raise InvalidInputError(
                f"this chat model holds {', '.join(map(repr, [self.model_name, *self.models]))} "
                f"and cannot answer as {name!r}: load it with SteerableHFLLM.from_pretrained and "
                "give it in the field models"
            )
        return self._llms[name]

    def _policy_for(self, kwargs: Mapping[str, Any]) -> Policy | None:
        llm, name = self._llm_for(kwargs), self._name_for(kwargs)
        return self._policies[name] if name in self._policies else llm.policy

    # One call, in the model's words.

    def _call(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the model's arguments for one call; the fields hold where it says nothing.

        Raises:
            InvalidInputError: An unknown argument, or one with a value that cannot be used.
        """
        refuse_unknown("call argument", set(kwargs), _CALL_ARGUMENTS)
        tools = to_tools(kwargs.get("tools") or (), kwargs.get("strict"))
        prompt = read_messages(messages)
        context = to_context(kwargs.get("context"))
        if context is None:  # no guessing where the chain has handed the documents over
            context = quoted(prompt, self._retrieved) or None
        return {
            "messages": prompt,
            "steering": self.steering,
            "step": kwargs.get("step", self.step),
            "stop": self.stop if stop is None else stop,
            "tools": tools or None,
            "tool_choice": to_choice(kwargs.get("tool_choice"), tools),
            "parallel_tool_calls": kwargs.get("parallel_tool_calls") is not False,
            "constraint": to_constraint(kwargs.get("response_format")),
            "context": context,
            "contrast": kwargs.get("contrast"),
            "policy": self._policy_for(kwargs),
            **sampling_of(self, kwargs),
        }

    def _streamed(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        if (self.n if kwargs.get("n") is None else kwargs["n"]) != 1:
            raise InvalidInputError("a stream is one answer: leave n out, or use generate")
        return self._call(messages, stop, kwargs)

    # Answering.

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain's contract
        **kwargs: Any,
    ) -> ChatResult:
        llm, requests = self._llm_for(kwargs), self._requests(messages, stop, kwargs)
        return self._told(answers(llm, requests), kwargs)

    def _requests(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> list[GenerationRequest]:
        """Return what is asked, once for each answer that is wanted.

        Raises:
            InvalidInputError: `n` is no whole number above 0.
        """
        request = GenerationRequest(**self._call(messages, stop, kwargs))
        n = self.n if kwargs.get("n") is None else kwargs["n"]
        if not isinstance(n, int) or n < 1:
            raise InvalidInputError(f"n is {n!r}: give how many answers you want, at least 1")
        if request.seed is None:
            return [request] * n
        return [replace(request, seed=request.seed + number) for number in range(n)]

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        llm, requests = self._llm_for(kwargs), self._requests(messages, stop, kwargs)
        return self._told(await aanswers(llm, requests), kwargs)

    def _told(self, made: Sequence[Generation], kwargs: Mapping[str, Any]) -> ChatResult:
        for answer in made:
            take_down(answer, surroundings().records)
        return to_result(made, self._name_for(kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        records, call = surroundings().records, self._streamed(messages, stop, kwargs)
        for made in self._llm_for(kwargs).stream(**call):
            take_down(made.final, records)
            for chunk in to_chunks(made, self._name_for(kwargs)):
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        records, call = surroundings().records, self._streamed(messages, stop, kwargs)
        asked = achunks(self._llm_for(kwargs), GenerationRequest(**call))
        async with aclosing(asked) as pieces:
            async for made in pieces:
                take_down(made.final, records)
                for chunk in to_chunks(made, self._name_for(kwargs)):
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    # Tools and forms of answers.

    def bind_tools(
        self,
        tools: Sequence[ToolLike],
        *,
        tool_choice: Any = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> "SteeredBinding":
        """Return the model with tools that it may call; whoever calls it runs them.

        Args:
            tools: Functions, pydantic classes, TypedDicts, LangChain tools, or OpenAI dicts.
            tool_choice: "auto" (also None) leaves the choice to the model, "none" hides the tools;
                "any", "required", True, and a tool's name make a call sure, by constrained
                decoding.
            strict: Noted in the tools, for models that were trained to read it.
            **kwargs: Other call arguments to bind; `parallel_tool_calls=False` keeps an answer to
                one call.

        Raises:
            InvalidInputError: The model's chat template has no place for tools, or there is no
                such tool.
        """
        shown = to_tools(tools, strict)
        choice = to_choice(tool_choice, shown)
        if shown and choice != "none" and not self.llm.supports_tools:
            raise InvalidInputError(
                f"{self.llm.chat_format.no_tools} (with_structured_output works on every model)"
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
            schema: A pydantic class (answers are its instances), or a TypedDict, a JSON schema or
                an OpenAI function dict (answers are dicts).
            method: "json_schema" holds the answer to the schema and works on every model;
                "function_calling" makes the model call a tool of that schema; "json_mode" holds it
                to JSON of any shape.
            include_raw: Return `{"raw": message, "parsed": ..., "parsing_error": ...}`.
            strict: Refuse a schema with keywords that cannot be guaranteed, instead of leaving
                them to the parser.
            **kwargs: Not used.

        Raises:
            InvalidInputError: An unknown method, or a call argument that is not known.
        """
        return structured_output(self, schema, method, include_raw, strict, **kwargs)

    # What the model tells LangChain about itself, for caches, traces and agents.

    @property
    def _llm_type(self) -> str:
        return "steerable-hf"

    @property
    def model_name(self) -> str:
        """The model's hub id or path."""
        return self.llm.fingerprint.model_id

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything that decides an answer: the cache's key, and what a trace shows."""
        return {
            **self._identity_of(self.model_name),
            "models": {name: self._identity_of(name) for name in self.models},
            **{name: getattr(self, name) for name in (*SAMPLING, "n")},
            "stop": self.stop,
            "step": self.step,
            "steering": None if self.steering is None else describe(self.steering),
            **({"retrieved": _digest(self._retrieved)} if self._retrieved else {}),
        }

    def _identity_of(self, name: str) -> dict[str, Any]:
        llm, policy = self._llms[name], self._policy_for({"model": name})
        return {
            "model": llm.fingerprint.short,
            "revision": llm.fingerprint.revision,
            "dtype": str(llm.model.dtype),
            "policy": None if policy is None else policy.digest,
            "chat_format": llm.chat_format.settings,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        asked = sampling_of(self, kwargs)
        params = LangSmithParams(
            ls_provider=PROVIDER,
            ls_model_type="chat",
            ls_model_name=self._name_for(kwargs),
            ls_temperature=asked["temperature"],
            ls_max_tokens=asked["max_new_tokens"],
        )
        stops = self.stop if stop is None else stop
        if stops:
            params["ls_stop"] = [stops] if isinstance(stops, str) else stops
        return params

    def _resolve_model_profile(self) -> ModelProfile:
        return ModelProfile(
            max_input_tokens=self.llm.prompt_window,
            max_output_tokens=self.max_tokens or MOST_TOKENS,
            text_inputs=True,
            text_outputs=True,
            image_inputs=self.llm.supports_images,
            image_url_inputs=self.llm.supports_images,
            image_tool_message=self.llm.supports_images and self.llm.supports_tools,
            tool_calling=self.llm.supports_tools,
            tool_choice=self.llm.supports_tools,
            tool_call_streaming=self.llm.supports_tools,
            structured_output=True,  # by constrained decoding, on every model
        )

    def get_token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens, or what counts in their place."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        # Counted, not run: a document that is longer than the window is no cause for a warning.
        counted = self.llm.tokenizer(text, add_special_tokens=False, verbose=False)
        return list(counted["input_ids"])

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return how many tokens the messages take as a rendered prompt; no message takes none.

        What a history is cut to on the way may be no prompt, an answer without its question, say,
        or the result of a tool for a model that reads none: then the messages count one by one.

        Raises:
            InvalidInputError: Tools were given, which this model's chat template does not read.
        """
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens_from_messages(messages, tools)
        if not messages:
            return 0
        read, shown = read_messages(messages), to_tools(tools or ())
        try:
            return len(self.llm.encode(read, shown, self.chat_template_kwargs))
        except InvalidInputError:
            if shown:
                raise
        alone = self.llm.encode("?", (), self.chat_template_kwargs)
        around = len(alone) - len(self.get_token_ids("?"))
        return sum(around + len(self.get_token_ids(message.in_words)) for message in read)


# What a form for the answer takes the place of.
_TOOLS = ("tools", "tool_choice", "parallel_tool_calls", "strict", "response_format")


class SteeredBinding(RunnableBinding[LanguageModelInput, AIMessage]):  # type: ignore[no-redef]
    """What `bind`, `with_config` and `bind_tools` of the chat model return.

    LangChain's own binding makes these methods those of the bare model: an agent that binds its
    tools to `chat.bind(step="agent")` would lose the step. Some of its code also goes for `bound`,
    the model inside; so a step is told there, too.
    """

    @classmethod
    def of(
        cls,
        model: SteerableChatModel,
        kwargs: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return a chat model with call arguments and a config."""
        return cls(bound=model, kwargs={}, config={})._renewed(kwargs, config)

    @classmethod
    def lc_id(cls) -> list[str]:
        """Return the name that LangChain writes, which is that of its own binding."""
        return RunnableBinding.lc_id()

    def bind(self, **kwargs: Any) -> Self:
        """Return this with more call arguments."""
        return self._renewed(kwargs=kwargs)

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> Self:
        """Return this with more config; what it names is taken over as LangChain does."""
        return self._renewed(config={**(config or {}), **kwargs})

    def bind_tools(self, tools: Sequence[ToolLike], **kwargs: Any) -> Self:
        """Return this with tools; the arguments are those of the chat model's own method."""
        made = self.bound.bind_tools(tools, **kwargs)  # type: ignore[attr-defined]
        return self.bind(**made.kwargs)

    def with_structured_output(
        self, schema: dict[str, Any] | type | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Return this with answers in the form of a schema, as the chat model's own method does."""
        left = {name: value for name, value in self.kwargs.items() if name not in _TOOLS}
        return structured_output(self.model_copy(update={"kwargs": left}), schema, **kwargs)

    def for_step(self, step: str | None) -> Self:
        """Return this for another step; it shares the weights."""
        left = {name: value for name, value in self.kwargs.items() if name != "step"}
        bound = self.bound.for_step(step)  # type: ignore[attr-defined]
        return self.model_copy(update={"bound": bound, "kwargs": left})

    def _renewed(
        self, kwargs: Mapping[str, Any] | None = None, config: Mapping[str, Any] | None = None
    ) -> Self:
        bound = _named_in(self.bound, kwargs or {}, config or {})
        return self.model_copy(
            update={
                "bound": bound,
                "kwargs": {**self.kwargs, **(kwargs or {})},
                "config": cast(RunnableConfig, {**self.config, **(config or {})}),
            }
        )


def _named_in(bound: Any, kwargs: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """Return a model that knows the step that is bound around it; others are left as they are."""
    if not hasattr(bound, "knowing"):
        return bound
    if kwargs.get("step") is not None:
        bound = bound.for_step(kwargs["step"])
    return bound.knowing(config)


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode(errors="surrogatepass")).hexdigest()


def _config_in(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: kwargs.get(key) for key in ("tags", "metadata")}


def _stop_with_listeners(stream: AsyncChatModelStream) -> AsyncChatModelStream:
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
