"""llama.cpp's control vectors: repeng's GGUF files, but never with block 0.

`--control-vector` adds `direction.{l}` to the output of block l, counted from 0, as repeng does.
There is no shift between the two. But llama.cpp's table of directions begins with block 1, and its
loader (`common_control_vector_load_one`) refuses a whole file that has a `direction.0`.
"""

from steerable_llm.interchange.additive import AdditiveVector
from steerable_llm.interchange.gguf_file import gguf_bytes


def llama_cpp_bytes(vector: AdditiveVector) -> bytes:
    """Return the file's content: the directions as `--control-vector` adds them."""
    return gguf_bytes(vector.folded, vector.name, vector.model_type, signed_count=True)


def blocks_without_the_first(depth: int) -> range:
    """The blocks of a model that llama.cpp can steer."""
    return range(1, depth)
