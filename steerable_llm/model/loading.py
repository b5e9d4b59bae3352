"""Reading a model and its tokenizer from a folder or from the Hugging Face Hub."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from steerable_llm.errors import InvalidInputError, MissingExtraError
from steerable_llm.model.blocks import text_config

# What models without a declared limit (ALiBi models such as Bloom) are held to, in tokens.
DEFAULT_CONTEXT_WINDOW = 2048


def load_pretrained(
    source: str, revision: str | None = None, **options: Any
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer.

    Args:
        source: A folder, or a Hub id.
        revision: Commit, tag or branch.
        **options: For the model's ``from_pretrained``; those that are None are left out.

    Raises:
        InvalidInputError: There is no such model, or its files cannot be read.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(source, revision=revision, **given)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise InvalidInputError(
            f"cannot load a model from {source!r} ({first_line}): "
            "give a folder that holds config.json, weights and tokenizer, or a Hub id"
        ) from error
    return model, tokenizer


def context_window_of(model: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens the model can hold: the smaller of what configuration and tokenizer declare."""
    declared = getattr(text_config(model), "max_position_embeddings", None)
    # Tokenizers without a limit declare an astronomically large one.
    limits = [x for x in (declared, tokenizer.model_max_length) if x and x < 10**9]
    return int(min(limits, default=DEFAULT_CONTEXT_WINDOW))


def end_ids_of(
    model: Any, tokenizer: PreTrainedTokenizerBase, end_of_turn: int | None
) -> frozenset[int]:
    """Tokens that end an answer, from the checkpoint, the tokenizer and the chat template."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    declared = configured if isinstance(configured, list) else [configured]
    ends = {*declared, tokenizer.eos_token_id, end_of_turn}
    return frozenset(int(end) for end in ends if end is not None)


def load_adapter(module: str, extra: str) -> Any:
    """The adapter for one framework, by name: adapters build on the model, never the reverse.

    Raises:
        MissingExtraError: The framework is not installed.
    """
    try:
        return import_module(f"steerable_llm.adapters.{module}")
    except ImportError as error:
        raise MissingExtraError(
            f"the {module} adapter needs a package that is not installed ({error}): "
            f"pip install 'steerable-llm[{extra}]'"
        ) from error
