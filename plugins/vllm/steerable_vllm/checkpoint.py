"""Which model a checkpoint holds, told from its files without loading it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from steerable_llm.errors import InvalidInputError
from steerable_llm.vector.fingerprint import parameters_hash

#: Not parameters, though old checkpoints hold them; and what the embedding stands for if tied.
_BUFFERS = ".rotary_emb.inv_freq"
_HEAD = "lm_head.weight"


def stored_weights_hash(folder: Path, tied: bool) -> str:
    """Return `weights_hash` of the model that a folder of safetensors files holds.

    Args:
        folder: The checkpoint.
        tied: Whether the output embedding is the input embedding.

    Raises:
        InvalidInputError: There are no such files.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InvalidInputError(
            f"{folder} has no safetensors files to tell the model by: save the checkpoint so "
            "(model.save_pretrained)"
        )

    def parameters() -> Iterator[tuple[str, Tensor]]:
        for file in files:
            with safe_open(file, framework="pt", device="cpu") as opened:
                for name in opened.keys():
                    if not name.endswith(_BUFFERS) and not (tied and name == _HEAD):
                        yield name, opened.get_tensor(name)

    return parameters_hash(parameters())
