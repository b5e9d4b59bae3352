"""Reading a model with its tokenizer and processor, and telling which model it is."""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from steerable_llm.errors import InvalidInputError
from steerable_llm.runtime.blocks import hidden_size, text_config
from steerable_llm.vector.fingerprint import ModelFingerprint, weights_hash

# Facts of a configuration that say where or how it was stored, not what it computes.
NOT_IDENTITY = (
    "_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache",
    "architectures", "quantization_config", "_attn_implementation",
)  # fmt: skip


def fingerprint_of(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    num_layers: int,
    model_id: str,
    revision: str | None = None,
) -> ModelFingerprint:
    """Fingerprint a loaded model.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        num_layers: Number of decoder blocks.
        model_id: Hub id or path, for people to read.
        revision: Commit or tag, for people to read.
    """
    return ModelFingerprint(
        model_id=model_id,
        revision=revision,
        architecture=type(model).__name__,
        hidden_size=hidden_size(model),
        num_layers=num_layers,
        config_hash=_digest(_config_facts(model)),
        weights_hash=weights_hash(model),
        tokenizer_hash=_digest(
            {
                "vocabulary": sorted(tokenizer.get_vocab().items()),
                "special": sorted(
                    zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
                ),
            }
        ),
        template_hash=_digest(tokenizer.chat_template),
    )


def _config_facts(model: nn.Module) -> dict[str, Any]:
    facts: dict[str, Any] = text_config(model).to_dict()
    return {name: value for name, value in facts.items() if name not in NOT_IDENTITY}


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


# What models without a declared limit (ALiBi models such as Bloom) are held to, in tokens.
DEFAULT_CONTEXT_WINDOW = 2048


class Loaded(NamedTuple):
    """What a checkpoint holds; a processor only where the model reads images."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    processor: Any = None


def load_pretrained(source: str, revision: str | None = None, **options: Any) -> Loaded:
    """Load a causal or vision-language model, its tokenizer and, for the latter, its processor.

    Where the processor cannot be loaded, the model reads text, and a warning says so.

    Args:
        source: A folder, or a Hub id.
        revision: Commit, tag or branch.
        **options: For the model's `from_pretrained`; those that are None are left out.

    Raises:
        InvalidInputError: There is no such model, or its files cannot be read.
    """
    dtype = options.get("dtype")
    known = dtype == "auto" or isinstance(getattr(torch, str(dtype), None), torch.dtype)
    if isinstance(dtype, str) and not known:
        raise InvalidInputError(f"unknown dtype {dtype!r}: give one such as 'bfloat16', or 'auto'")
    given = {name: value for name, value in options.items() if value is not None}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        config = AutoConfig.from_pretrained(source, revision=revision)
        reads_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        kind = AutoModelForImageTextToText if reads_images else AutoModelForCausalLM
        model = kind.from_pretrained(source, revision=revision, **given)
    except (OSError, ValueError, SafetensorError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise InvalidInputError(
            f"cannot load a model from {source!r} ({first_line}): "
            "give a folder that holds config.json, weights and tokenizer, or a Hub id"
        ) from error
    processor = _processor(source, revision) if reads_images else None
    return Loaded(model, getattr(processor, "tokenizer", tokenizer), processor)


def _processor(source: str, revision: str | None) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(source, revision=revision)
        # Without the file of an image processor, the tokenizer comes back in its place.
        if getattr(processor, "image_processor", None) is not None:
            return processor
        why = "the checkpoint brings none"
    except Exception as error:  # each family's processor fails in a way of its own
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
    warnings.warn(
        f"no image processor for {source!r} ({why}): messages with images will be refused",
        UserWarning,
        stacklevel=4,
    )
    return None


def context_window_of(model: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the tokens a model can hold: the smaller of what it and its tokenizer declare."""
    declared = getattr(text_config(model), "max_position_embeddings", None)
    # Tokenizers without a limit declare an astronomically large one.
    limits = [x for x in (declared, tokenizer.model_max_length) if x and x < 10**9]
    return int(min(limits, default=DEFAULT_CONTEXT_WINDOW))


def end_ids_of(
    model: Any, tokenizer: PreTrainedTokenizerBase, end_of_turn: int | None
) -> frozenset[int]:
    """Return the tokens that end an answer, by checkpoint, tokenizer and chat template."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    declared = configured if isinstance(configured, list) else [configured]
    ends = {*declared, tokenizer.eos_token_id, end_of_turn}
    return frozenset(int(end) for end in ends if end is not None)
