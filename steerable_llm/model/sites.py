"""Where inside a block a vector acts, told from the module tree instead of a per-model table.

| site | what is steered | width |
|---|---|---|
| `block` | the block's output, the residual stream | hidden size |
| `mlp` | the output of the block's MLP, before it joins the residual stream | hidden size |
| `heads` | the input of the attention's output projection: the heads in a row | of all heads |
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from torch import nn

from steerable_llm.errors import UnknownArchitectureError
from steerable_llm.steering import Site

# Names that families give to the MLP beside its attention; "moe" is a mixture of experts.
_MLP = re.compile(r"mlp|feed_?forward|ffn|moe", re.IGNORECASE)
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
# What projects into queries, keys and values; the projection that is left over leads out.
_INTO_HEADS = re.compile(r"(^|_)(q|k|v|kv|qkv|query|key|value|wqkv)(_|$)|c_attn", re.IGNORECASE)


@dataclass(frozen=True)
class HookPoint:
    """A module to hook, and whether its input or its output is the site."""

    module: nn.Module
    on_input: bool = False


def find_site(block: nn.Module, site: Site) -> HookPoint:
    """Find the place in one decoder block that a site means.

    Args:
        block: One of the model's decoder blocks.
        site: Which place.

    Raises:
        UnknownArchitectureError: The block has no such part, or several; the message lists its
            parts.
    """
    if site == "block":
        return HookPoint(block)
    if site == "mlp":
        return HookPoint(_mlp(block))
    return HookPoint(_output_projection(block), on_input=True)


def _mlp(block: nn.Module) -> nn.Module:
    parts = {
        name: part
        for name, part in block.named_children()
        if _has_matrix(part) and not _ATTENTION.search(name)
    }
    named = {name: part for name, part in parts.items() if _MLP.search(name)}
    chosen = named or parts
    # A family without a module for it has its two matrices in the block itself; the last leads out.
    if len(chosen) > 1 and all(_is_matrix(part) for part in chosen.values()):
        return list(chosen.values())[-1]
    if len(chosen) != 1:
        raise _unknown(block, "MLP", list(chosen))
    mlp: nn.Module = next(iter(chosen.values()))
    if "residual" in inspect.signature(mlp.forward).parameters:
        # It adds the residual stream itself, so only its last matrix gives the MLP's own output.
        mlp = _matrices(mlp)[-1][1]
    return mlp


def _output_projection(block: nn.Module) -> nn.Module:
    found: list[tuple[str, nn.Module]] = [
        (name, part)
        for attention_name, attention in block.named_children()
        if _ATTENTION.search(attention_name) and _has_matrix(attention)
        for name, part in _matrices(attention)
        if not _INTO_HEADS.search(name.rpartition(".")[2])
    ]
    if len(found) != 1:
        raise _unknown(block, "attention output projection", [name for name, _ in found])
    return found[0][1]


def _is_matrix(part: nn.Module) -> bool:
    """A linear layer of any make (also Conv1D and quantised ones), with an adapter or without."""
    # peft puts a layer of its own, with its small matrices, around each one that it adapts.
    if isinstance(inside := getattr(part, "base_layer", None), nn.Module):
        return _is_matrix(inside)
    weight = getattr(part, "weight", None)
    return getattr(weight, "ndim", 0) == 2 and not any(True for _ in part.children())


def _matrices(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The linear layers inside a module, by path, each of them whole."""
    found: list[tuple[str, nn.Module]] = []
    for name, part in module.named_children():
        if _is_matrix(part):
            found.append((name, part))
        else:
            found += [(f"{name}.{inner}", deeper) for inner, deeper in _matrices(part)]
    return found


def _has_matrix(part: nn.Module) -> bool:
    return any(parameter.ndim >= 2 for parameter in part.parameters())


def _unknown(block: nn.Module, what: str, found: list[str]) -> UnknownArchitectureError:
    parts = ", ".join(f"{name}:{type(part).__name__}" for name, part in block.named_children())
    return UnknownArchitectureError(
        f"cannot tell the {what} of {type(block).__name__}: expected exactly one, fitting: "
        f"{', '.join(found) or 'none'}; its parts are {parts}; use a method that acts on block "
        "outputs, such as grains, caa or repe"
    )
