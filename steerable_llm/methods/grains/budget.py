"""What a batch's activations take of the memory, in bytes, by the model's configuration."""

from steerable_llm.runtime.blocks import text_config
from steerable_llm.runtime.memory import memory_of
from steerable_llm.runtime.packed import AnswerReader, RowShape

CPU_TOKENS = 1024
"""Tokens per batch on a CPU: enough for full speed, more only leaves the caches."""
MEMORY_SHARE = 0.4
"""Share of the memory that a batch may fill: an accelerator's free memory, or the machine's."""


def row_bytes(reader: AnswerReader, shape: RowShape, gradients: bool) -> int:
    """Estimate the activations that one row of answers holds on to."""
    config = text_config(reader.model)
    depth = int(config.num_hidden_layers) if gradients else 1
    head = shape.reads if reader.reads_positions else shape.length
    mask = shape.length**2 * reader.dtype.itemsize
    logits = 3 * 4 * head * int(config.vocab_size)
    return depth * _block_bytes(reader, shape.length) + mask + logits


def forward_bytes(reader: AnswerReader, length: int, kept_blocks: int) -> int:
    """Estimate the bytes of one row without answers whose block outputs are kept."""
    width = int(text_config(reader.model).hidden_size)
    return _block_bytes(reader, length) + kept_blocks * length * width * reader.dtype.itemsize


def default_budget(reader: AnswerReader) -> int:
    """Return the bytes of activations that a batch may hold where nothing else is said."""
    room = int(memory_of(reader.device) * MEMORY_SHARE)
    if reader.device.type == "cuda":
        return room
    depth = int(text_config(reader.model).num_hidden_layers)
    return min(depth * _block_bytes(reader, CPU_TOKENS), room)


def _block_bytes(reader: AnswerReader, length: int) -> int:
    """Estimate what one block keeps for its gradient, in bytes per row.

    Per token: the inputs of both norms, of the four attention and three feed-forward products, and
    the elementwise steps between them: about 16 d + 5 d_ff numbers.
    """
    config = text_config(reader.model)
    width = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    size = reader.dtype.itemsize
    block = length * (16 * width + 5 * inner) * size
    if getattr(config, "_attn_implementation", None) == "eager":
        block += 3 * int(config.num_attention_heads) * length**2 * size
    return block
