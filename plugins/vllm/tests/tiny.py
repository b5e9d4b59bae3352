"""Tiny random checkpoints of the families that are steered, with a vector each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from steerable_llm import SteerableHFLLM, SteeringVector
from steerable_llm.runtime.hooks import capture_block_outputs

# vLLM's attention on a CPU wants heads that are a multiple of 32 wide.
_SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # far apart scores: no ties that rounding could turn
}
_WINDOW = {"sliding_window": 16, "query_pre_attn_scalar": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": _WINDOW,
    "gemma3_text": _WINDOW,
}


@dataclass
class Family:
    """A checkpoint in a folder, the model in this process, and its vector."""

    folder: Path
    llm: SteerableHFLLM
    vector: SteeringVector


def saved(name: str, folder: Path) -> Family:
    """Make one and save it, the vector in a folder of its own beside."""
    torch.manual_seed(7)
    tokenizer = SteerableHFLLM.demo().tokenizer
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    settings = {**_SMALL, **FAMILIES[name], **special, "vocab_size": len(tokenizer)}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **settings)).float()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    llm = SteerableHFLLM.from_pretrained(folder / "model")
    with torch.no_grad(), capture_block_outputs(llm.blocks) as states:
        llm.model(torch.tensor([llm.encode("The shop opens at nine.")]))
    vector = SteeringVector(
        name=f"{name}-random",
        directions={layer: torch.randn(64) for layer in states},
        scales={layer: float(h.norm(dim=-1).mean()) for layer, h in states.items()},
        fingerprint=llm.fingerprint,
        decision_tokens=2,
    )
    vector.save(folder / "vectors" / "random.safetensors")
    return Family(folder, llm, vector)
