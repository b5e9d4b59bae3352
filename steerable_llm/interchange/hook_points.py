"""The names that modules have inside a model, by which some tools say where to steer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from steerable_llm.errors import UnknownArchitectureError
from steerable_llm.model.blocks import find_blocks
from steerable_llm.model.sites import find_site
from steerable_llm.steering import Site


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
