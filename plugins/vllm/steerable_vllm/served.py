"""A model whose weights are in a vLLM server: everything of steerable-llm but the forward pass."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, Self

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from steerable_llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.decision import Asked, SteeringDecision, decide
from steerable_llm.runtime.load import fingerprint_of
from steerable_llm.vector.fingerprint import ModelFingerprint
from steerable_vllm.checkpoint import checkpoint_folder, stored_weights_hash
from steerable_vllm.engine import VLLMEngine


class ServedModel(SteerableHFLLM):
    """Answers through vLLM; the checkpoint is read for its tokenizer and to tell the model.

    What needs a forward pass in this process (scores, building vectors, the policy condition on
    conflict) is refused.
    """

    def __init__(self, folder: Path, model: Any, tokenizer: Any, **options: Any) -> None:
        """Wrap a model without weights; `connect` makes one."""
        self._folder = folder
        super().__init__(model, tokenizer, **options)

    @classmethod
    def connect(
        cls,
        url: str,
        checkpoint: str | os.PathLike[str],
        *,
        revision: str | None = None,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = 300.0,
        **options: Any,
    ) -> Self:
        """Use the model that a vLLM server has loaded.

        Args:
            url: Of the server, such as `http://127.0.0.1:8000`.
            checkpoint: The same checkpoint: a folder, or its Hub id.
            revision: Commit, tag or branch on the Hub.
            model: The name that the model is served by; default is the only one that is.
            api_key: Of the server.
            timeout: Seconds that it may let pass between two tokens.
            **options: Of `SteerableHFLLM`, such as a `policy`.

        Raises:
            HubError: There is no such checkpoint.
            InvalidInputError: It is no checkpoint of a language model, or the address is none.
            ModelMismatchError: A vector of the policy was built for another model.
        """
        folder = checkpoint_folder(os.fspath(checkpoint), revision)
        try:
            config = AutoConfig.from_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            with torch.device("meta"):
                bare = AutoModelForCausalLM.from_config(config)
        except (OSError, ValueError) as error:
            raise InvalidInputError(
                f"{checkpoint} cannot be read as a checkpoint of a language model "
                f"({' '.join(str(error).split())[:200]}): name the one that vLLM has loaded"
            ) from error
        for part in (bare, bare.get_input_embeddings()):
            part.register_forward_pre_hook(_forward)
        if (folder / "generation_config.json").is_file():
            bare.generation_config = GenerationConfig.from_pretrained(folder)
        named = {"model_id": os.fspath(checkpoint), "revision": revision, **options}
        made = cls(folder, bare, tokenizer, **named)
        made.engine = VLLMEngine(made, url, model=model, api_key=api_key, timeout=timeout)
        return made

    @property
    def device(self) -> NoReturn:
        """Where the weights are: not in this process.

        Raises:
            InvalidInputError: Always.
        """
        _refuse("what was asked for")

    @property
    def context_window(self) -> int:
        """Tokens that prompt and answer may have together; the server may hold fewer."""
        engine = getattr(self, "engine", None)
        return engine.context_window(self._own) if isinstance(engine, VLLMEngine) else self._own

    @context_window.setter
    def context_window(self, tokens: int) -> None:
        self._own = tokens

    @cached_property
    def fingerprint(self) -> ModelFingerprint:
        """What identifies the model, told from its files; computed once."""
        tied = bool(getattr(self.model.config, "tie_word_embeddings", False))
        return fingerprint_of(
            self.model,
            self.tokenizer,
            len(self.blocks),
            self.model_id,
            self.revision,
            stored_weights_hash(self._folder, tied),
        )

    def decide(
        self,
        requests: Sequence[Asked],
        cancelled: threading.Event | None = None,  # noqa: ARG002 - nothing is measured
    ) -> list[SteeringDecision]:
        """Tell how requests would be steered, and why.

        Raises:
            InvalidInputError: A step has a condition that needs the weights.
        """
        return decide(self.policy, requests, _measure)

    def _scored(self, *_: Any) -> NoReturn:
        _refuse("scoring answers")


def _forward(*_: Any) -> NoReturn:
    _refuse("what was asked for")


def _measure(_: Any) -> NoReturn:
    _refuse("a step that asks for conflict")


def _refuse(what: str) -> NoReturn:
    raise InvalidInputError(
        f"{what} needs the model's weights in this process, and they are in vLLM: load the model "
        "with SteerableHFLLM.from_pretrained"
    )
