"""Where a checkpoint's files lie, and which model it holds: told without loading it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from steerable_llm.errors import InvalidInputError
from steerable_llm.vector.fingerprint import parameters_hash
from steerable_llm.vector.hub import hub_errors

#: Not parameters, though old checkpoints hold them; and what the embedding stands for if tied.
_BUFFERS = ".rotary_emb.inv_freq"
_HEAD = "lm_head.weight"

_INDEX = "model.safetensors.index.json"
#: The same weights once more, in the form of whoever trained them.
_TWICE = "consolidated"


def checkpoint_folder(model: str, revision: str | None = None) -> Path:
    """Return where the files of a checkpoint lie: a folder, or a Hub id's copy on this machine.

    Raises:
        HubError: It is no folder, and cannot be had from the Hub.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    with hub_errors(f"find the checkpoint {model}"):
        return Path(
            snapshot_download(
                os.fspath(model),
                revision=revision,
                allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"],
                ignore_patterns=[f"{_TWICE}*", "*/*"],
            )
        )


def stored_weights_hash(folder: Path, tied: bool) -> str:
    """Return `weights_hash` of the model that a folder of safetensors files holds.

    Args:
        folder: The checkpoint.
        tied: Whether the output embedding is the input embedding.

    Raises:
        InvalidInputError: There are no such files.
    """
    files = _weight_files(folder)
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


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that are the model's, and not those of an adapter or a copy beside them."""
    if (folder / _INDEX).is_file():
        named = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        return sorted({folder / str(name) for name in named})
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    return sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith(_TWICE))
