"""`.svec` files: the JSON of IBM's activation-steering (github.com/IBM/activation-steering).

`{"model_type": ..., "directions": {layer: [...]}, "explained_variances": {layer: ...}}`. Its
`LeashLayer` adds a direction to the *input* of block `layer` before it runs the block. That is the
output of the block before, so what acts on the output of block l is stored as layer l + 1, and
what would act on the last block's output has no place. (Its extraction reads the output of block
`layer`, so its own vectors act one block earlier than where they were read; an import
follows what the tool does with the file.)
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from steerable_llm.errors import NotAVectorError
from steerable_llm.json_records import plainly_parsed
from steerable_llm.vector.interchange.format import AdditiveVector, Format, Places

SHIFT = 1
"""From a block whose output is steered to the block whose input that is."""


def _write(vector: AdditiveVector) -> bytes:
    content = {
        "model_type": vector.model_type or "unknown",
        "directions": {
            str(layer + SHIFT): direction.tolist()
            for layer, direction in sorted(vector.folded.items())
        },
        "explained_variances": {},
    }
    return json.dumps(content, allow_nan=False).encode()


def _read(path: Path, _places: Places) -> AdditiveVector:
    try:
        content = plainly_parsed(path.read_bytes())
        stored = {int(layer): values for layer, values in content["directions"].items()}
        directions = {layer: torch.tensor(values).float() for layer, values in stored.items()}
        model_type, variances = content["model_type"], content.get("explained_variances") or {}
        if not isinstance(model_type, str) or not isinstance(variances, dict):
            raise ValueError("model_type is no text, or explained_variances no mapping")
        if not all(direction.ndim == 1 for direction in directions.values()):
            raise ValueError("a direction is not a list of numbers")
        if any(layer < 0 for layer in directions):
            raise ValueError("a layer is negative")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
        raise NotAVectorError(
            f"{path} is not a .svec file ({error}): expected JSON with model_type and directions, "
            "a list of numbers per layer"
        ) from error
    notes: tuple[str, ...] = ()
    if 0 in directions:
        del directions[0]
        notes = ("the direction of layer 0 acts on the embeddings, before any block: left out",)
    if not directions:
        raise NotAVectorError(f"{path} has no direction for the output of a block")
    facts = {str(k): v for k, v in variances.items() if isinstance(v, float) and math.isfinite(v)}
    return AdditiveVector(
        {layer - SHIFT: direction for layer, direction in directions.items()},
        model_type=model_type if model_type != "unknown" else None,
        facts={"explained_variances": facts} if facts else {},
        notes=notes,
    )


def _is_svec(path: Path, start: bytes) -> bool:
    if path.suffix == ".svec":
        return True
    try:
        held = start.lstrip().startswith(b"{")
        content = plainly_parsed(path.read_bytes()) if held else None
    except ValueError:
        return False
    return isinstance(content, dict) and {"model_type", "directions"} <= content.keys()


SVEC = Format(
    ".svec",
    _write,
    _read,
    _is_svec,
    use='MalleableModel.steer(SteeringVector.load("{file}"), behavior_layer_ids={blocks})',
    length="activation-steering only shortens states that have grown "
    "(use_ooi_preventive_normalization=True)",
    blocks=lambda depth: range(depth - 1),
    why="activation-steering steers the inputs of blocks, and the last output is none",
    shift=SHIFT,
)
