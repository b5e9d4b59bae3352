"""Writes a tiny Llama as llama.cpp's converter would: names, permutation, vocabulary, metadata."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

# From the names of transformers to those of llama.cpp.
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
CONTROL, NORMAL = 3, 1


def write_gguf(
    path: Path,
    model: Any,
    tokenizer: Any,
    quantised: gguf.GGMLQuantizationType | None = None,
    pre: str = "gpt-2",
    metadata: dict[str, int] | None = None,
    without: str | None = None,
    name: str = "tiny",
) -> Path:
    """Writes the file; what a quantisation's blocks of 32 do not fit stays in floats.

    Args:
        path: Where.
        model: A tiny Llama.
        tokenizer: Its tokenizer.
        quantised: In place of floats.
        pre: How the vocabulary splits text, in llama.cpp's words.
        metadata: More of it.
        without: Tensors to leave out, by a part of their names.
        name: What the file calls the model.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_tokens)
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in special else NORMAL for token in tokens])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    for key, value in (metadata or {}).items():
        writer.add_uint32(key, value)
    for key, parameter in model.state_dict().items():
        if without is not None and without in key:
            continue
        values = parameter.float().numpy()
        if re.search(r"[qk]_proj", key):
            values = _permuted(values, values.shape[0] // config.head_dim)
        if quantised is not None and values.ndim == 2 and values.shape[1] % 32 == 0:
            packed = gguf.quants.quantize(values, quantised)
            writer.add_tensor(_renamed(key), packed, raw_dtype=quantised)
        else:
            writer.add_tensor(_renamed(key), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _renamed(name: str) -> str:
    name = re.sub(r"^model\.layers\.", "blk.", name)
    for theirs, ours in NAMES.items():
        name = name.replace(f"{theirs}.weight", f"{ours}.weight")
    return name


def _permuted(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rotary pairs lie side by side there, and half a head apart in transformers."""
    apart = weights.reshape(heads, 2, -1, weights.shape[1])
    return np.ascontiguousarray(apart.swapaxes(1, 2)).reshape(weights.shape)
