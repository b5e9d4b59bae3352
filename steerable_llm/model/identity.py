"""Which model this is: the fingerprint of a loaded model, its tokenizer and chat template."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from steerable_llm.fingerprint import ModelFingerprint
from steerable_llm.model.blocks import hidden_size, text_config
from steerable_llm.weights_hash import weights_hash

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
