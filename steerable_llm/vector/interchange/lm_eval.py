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
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steerable_llm.errors import InvalidInputError, NotAVectorError, UnknownArchitectureError
from steerable_llm.runtime.blocks import find_blocks, find_site
from steerable_llm.vector.interchange.additive import AdditiveVector
from steerable_llm.vector.steering import Site

if TYPE_CHECKING:
    from steerable_llm.runtime.hooked_model import HookedModel


# The names that modules have inside a model, by which some tools say where to steer.


def hook_points(model: Any, blocks: Sequence[nn.Module], site: Site) -> dict[str, int]:
    """Names relative to the base model, such as "layers.3", to block index.

    Args:
        model: a Hugging Face model.
        blocks: its decoder blocks.
        site: "block" or "mlp".

    Raises:
        UnknownArchitectureError: the site cannot be told.
    """
    numbers = {id(find_site(block, site).module): i for i, block in enumerate(blocks)}
    names = model.base_model.named_modules()
    return {name: numbers[id(module)] for name, module in names if id(module) in numbers}


def hook_point(architecture: str, site: Site, layer: int) -> str:
    """The name of one place in models of a class, without such a model at hand.

    Raises:
        UnknownArchitectureError: transformers does not have the class, or its parts cannot be
            told.
    """
    first = _first_hook_point(architecture, site)
    before, _, after = f".{first}.".partition(".0.")
    return f"{before}.{layer}.{after}".strip(".")


def model_type_of(architecture: str) -> str | None:
    """The model family of a class, such as "llama"; None if transformers does not have it."""
    import transformers

    found = getattr(getattr(transformers, architecture, None), "config_class", None)
    return getattr(found, "model_type", None)


@cache
def _first_hook_point(architecture: str, site: Site) -> str:
    import transformers

    kind: Any = getattr(transformers, architecture, None)
    config = getattr(kind, "config_class", None)
    if config is None:
        raise UnknownArchitectureError(
            f"transformers has no model class {architecture!r}, so the names of its blocks cannot "
            "be told: export to a format that counts blocks, such as repeng"
        )
    # On the meta device a model of any size has its module tree and no weights.
    with torch.device("meta"):
        model = kind(config())
    points = hook_points(model, find_blocks(model), site)
    return next(name for name, layer in points.items() if layer == 0)


def lm_eval_bytes(vector: AdditiveVector) -> bytes:
    """Return the file's content: the directions, and the strength as coefficient.

    Raises:
        UnknownArchitectureError: the names of the model's blocks cannot be told.
    """
    coefficient = 1.0 if vector.coefficient is None else vector.coefficient
    content = {
        hook_point(vector.architecture or "", vector.site, layer): {
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


def read_lm_eval(path: Path, llm: HookedModel) -> AdditiveVector:
    """Read an lm-eval file.

    Args:
        path: the file.
        llm: the model, whose module names say which block a hookpoint is.

    Raises:
        NotAVectorError: another kind of file, or one that asks for more than tensors.
        InvalidInputError: what it does is no addition to the outputs of blocks or of MLPs.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file leads the reader to almost any of them
        raise NotAVectorError(
            f"{path} is not a file of tensors and plain values ({_first_line(error)}): this "
            "library runs no pickle; ask for a safetensors file"
        ) from error
    if not isinstance(content, dict) or not content:
        raise NotAVectorError(f"{path} has no hookpoints in it: expected {{hookpoint: {{...}}}}")
    places = _places(llm)
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
    return _joined(found, sites.pop())


def _joined(found: dict[tuple[Site, int], tuple[Tensor, float]], site: Site) -> AdditiveVector:
    """Coefficients that agree stay apart; others are multiplied into their directions."""
    coefficients = {coefficient for _, coefficient in found.values()}
    alike = len(coefficients) == 1
    return AdditiveVector(
        {
            layer: direction if alike else coefficient * direction
            for (_, layer), (direction, coefficient) in found.items()
        },
        coefficient=coefficients.pop() if alike else 1.0,
        site=site,
        notes=()
        if alike
        else ("the coefficients differ between blocks: they are multiplied into the directions",),
    )


def _places(llm: HookedModel) -> dict[str, tuple[Site, int]]:
    places: dict[str, tuple[Site, int]] = {}
    sites: tuple[Site, ...] = ("block", "mlp")
    for site in sites:
        try:
            points = hook_points(llm.model, llm.blocks, site)
        except UnknownArchitectureError:  # a family without a module for its MLP
            continue
        places |= {name: (site, layer) for name, layer in points.items()}
    return places


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


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:120]
