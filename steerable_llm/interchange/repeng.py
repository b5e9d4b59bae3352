"""repeng's GGUF files: `direction.{l}` is added to the output of block l, counted from 0.

repeng 0.4.0 (github.com/vgel/repeng): `ControlVector.import_gguf` reads them, and
`ControlModel.set_control(vector, coeff)` adds `coeff` times the direction at every position.
"""

from steerable_llm.interchange.additive import AdditiveVector
from steerable_llm.interchange.gguf_file import gguf_bytes


def repeng_bytes(vector: AdditiveVector) -> bytes:
    """Return the file's content: the directions as coefficient 1 adds them."""
    return gguf_bytes(vector.folded, vector.name, vector.model_type)
