"""lm-eval's `.pt` files: vectors by the name of the module whose output they are added to.

EleutherAI's lm-evaluation-harness 0.4.13 (`--model steered`, `lm_eval/models/hf_steered.py`)
reads `{hookpoint: {"steering_vector", "steering_coefficient", "action", "bias", "head_index"}}`,
hookpoints relative to the base model, such as `layers.3`. The action "add" adds coefficient times
vector to the module's output at every position.

**On pickle.** A `.pt` file is a zip of tensors with a pickle that says how they belong together;
lm-eval has no other format. This library never runs such a pickle: reading goes through
`torch.load(weights_only=True)`, which builds tensors and plain values only and refuses whatever
else a file asks for. What is written consists of those alone. But lm-eval's own reader does run
pickles, so give it files from people you trust only.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerable_llm.errors import InvalidInputError, NotAVectorError
from steerable_llm.vector.interchange.format import AdditiveVector, Format, Places
from steerable_llm.vector.steering import Site


def _write(vector: AdditiveVector) -> bytes:
    coefficient = 1.0 if vector.coefficient is None else vector.coefficient
    content = {
        vector.modules[layer]: {
            "steering_vector": direction.clone(),
            "steering_coefficient": coefficient,
            "action": "add",
            "bias": None,
            "head_index": None,
        }
        for layer, direction in sorted(vector.directions.items())
    }
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _read(path: Path, places: Places) -> AdditiveVector:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file leads the reader to almost any of them
        said = str(error).strip().split("\n", 1)[0][:120]
        raise NotAVectorError(
            f"{path} is not a file of tensors and plain values ({said}): this "
            "library runs no pickle; ask for a safetensors file"
        ) from error
    if not isinstance(content, dict) or not content:
        raise NotAVectorError(f"{path} has no hookpoints in it: expected {{hookpoint: {{...}}}}")
    found: dict[tuple[Site, int], tuple[Tensor, float]] = {}
    for name, entry in content.items():
        if name not in places:
            known = ", ".join(list(places)[:3])
            raise InvalidInputError(
                f"{path} steers {name!r}, which is no block and no MLP of this model: expected "
                f"names such as {known}"
            )
        found[places[name]] = _addition(path, name, entry)
    sites = {site for site, _ in found}
    if len(sites) > 1:
        raise InvalidInputError(
            f"{path} steers blocks and MLPs: a vector acts on one of them, so split the file"
        )
    coefficients = {coefficient for _, coefficient in found.values()}
    alike = len(coefficients) == 1
    notes = ("the coefficients differ between blocks: they are multiplied into the directions",)
    return AdditiveVector(
        {
            layer: direction if alike else coefficient * direction
            for (_, layer), (direction, coefficient) in found.items()
        },
        coefficient=coefficients.pop() if alike else 1.0,
        site=sites.pop(),
        notes=() if alike else notes,
    )


def _addition(path: Path, name: str, entry: Any) -> tuple[Tensor, float]:
    """One hookpoint's vector and coefficient."""
    vector = entry.get("steering_vector") if isinstance(entry, dict) else None
    if (
        not isinstance(vector, Tensor)
        or vector.layout != torch.strided
        or vector.is_meta
        or vector.ndim != 1
        or not vector.is_floating_point()
    ):
        raise NotAVectorError(f"{path} has no steering_vector [d] for {name!r}: export it again")
    try:
        coefficient = float(entry.get("steering_coefficient", 1.0))
    except (TypeError, ValueError, OverflowError, RuntimeError):
        coefficient = math.nan
    if not math.isfinite(coefficient):
        raise NotAVectorError(f"{path} has a steering_coefficient for {name!r} that is no number")
    if entry.get("action") != "add":
        raise InvalidInputError(
            f"{path} has the action {entry.get('action')!r} for {name!r}: only 'add' is steering "
            "by a vector; a clamped direction cannot be imported"
        )
    if entry.get("bias") is not None or entry.get("head_index") is not None:
        raise InvalidInputError(
            f"{path} has a bias or a head_index for {name!r}, which cannot be imported: only "
            "additions to whole outputs can"
        )
    return vector.float().clone(), coefficient


LM_EVAL = Format(
    ".pt",
    _write,
    _read,
    lambda path, _start: path.suffix in (".pt", ".pth"),
    use="lm_eval --model steered --model_args pretrained=MODEL,steer_path={argument}",
    length="lm-eval has no way to keep it",
    sites=("block", "mlp"),
    has_coefficient=True,
    by_name=True,
)
