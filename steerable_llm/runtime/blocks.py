"""Where a model's decoder blocks are, and where inside one a vector acts.

Both are told from the module tree instead of a per-model table.

| site | what is steered | width |
|---|---|---|
| `block` | the block's output, the residual stream | hidden size |
| `mlp` | the output of the block's MLP, before it joins the residual stream | hidden size |
| `heads` | the input of the attention's output projection: the heads in a row | of all heads |
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from steerable_llm.errors import UnknownArchitectureError
from steerable_llm.vector.steering import Site

# Paths of towers that have stacks of blocks too, but carry no text: never the decoder.
_VISION = ("vision", "visual", "image")
OTHER_TOWERS = (*_VISION, "audio", "encoder.")


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Find the decoder blocks of a causal language model, first block first.

    The blocks are the outermost `ModuleList` that has as many members as the configuration has
    layers. Where several fit, the one inside the model's own decoder wins, then the one that is
    not inside a vision or audio tower.

    Args:
        model: A Hugging Face model (a plain module works if only one outermost list is in it).

    Returns:
        The blocks, whose outputs are the residual stream `[B, T, d]` (or tuples that start so).

    Raises:
        UnknownArchitectureError: No list fits, or several do; the message shows the module tree.
    """
    depth = _num_layers(model)
    lists = _outermost_lists(model)
    candidates = {
        path: blocks for path, blocks in lists.items() if depth is None or len(blocks) == depth
    }
    if len(candidates) > 1:
        candidates = _prefer(candidates, _inside_decoder(model, candidates))
        candidates = _prefer(
            candidates, [path for path in candidates if not any(x in path for x in OTHER_TOWERS)]
        )
    if len(candidates) != 1:
        wanted = "exactly one list of blocks" if depth is None else f"one list of {depth} blocks"
        fitting = ", ".join(candidates) or "none"
        raise UnknownArchitectureError(
            f"cannot tell the decoder blocks of {type(model).__name__}: expected {wanted}, "
            f"fitting: {fitting}; its module tree is {_tree(model)}; "
            "pass the blocks yourself: HookedModel(model, tokenizer, blocks=[...])"
        )
    return list(next(iter(candidates.values())))


def find_decoder(model: nn.Module, blocks: Sequence[nn.Module]) -> nn.Module:
    """Find the module that holds the list of blocks, and runs them over embeddings.

    Raises:
        UnknownArchitectureError: No module does.
    """
    for module in model.modules():
        for child in module.children():
            if (
                isinstance(child, nn.ModuleList)
                and len(child) == len(blocks)
                and child[0] is blocks[0]
            ):
                return module
    raise UnknownArchitectureError(
        f"no module of {type(model).__name__} holds its {len(blocks)} blocks as one list, so its "
        "texts with images cannot be altered: take a model of transformers"
    )


def find_tower(model: nn.Module, blocks: Sequence[nn.Module]) -> list[nn.Module]:
    """Find the blocks of a vision-language model's vision tower, in the order of their list.

    They are the outermost lists under a name of vision whose members are of one class and have
    attention. Where a tower has several such lists, their blocks follow each other.

    Args:
        model: A Hugging Face model.
        blocks: Its decoder blocks, which are none of them.

    Returns:
        The blocks; none for a model that reads text alone.
    """
    return [
        block
        for path, members in _outermost_lists(model).items()
        if any(word in path for word in _VISION)
        and members[0] is not blocks[0]
        and len({type(member) for member in members}) == 1
        and any(_ATTENTION.search(name) for name, _ in _named(members[0]))
        for block in members
    ]


def hidden_size(model: nn.Module) -> int:
    """Return the width `d` of the residual stream, in numbers per position."""
    return int(text_config(model).hidden_size)


def text_config(model: nn.Module) -> Any:
    """Return the configuration of the text decoder (that of a vision-language model is nested)."""
    return model.config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]


def _num_layers(model: nn.Module) -> int | None:
    if not hasattr(model, "config"):
        return None
    depth = getattr(text_config(model), "num_hidden_layers", None)
    return None if depth is None else int(depth)


def _outermost_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Path to list, leaving out lists inside lists (the experts of a block, say)."""
    found: dict[str, nn.ModuleList] = {}
    for path, module in model.named_modules():
        nested = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) > 0 and not nested:
            found[path] = module
    return found


def _inside_decoder(model: nn.Module, candidates: dict[str, nn.ModuleList]) -> list[str]:
    get_decoder = getattr(model, "get_decoder", None)
    decoder = get_decoder() if callable(get_decoder) else None
    if not isinstance(decoder, nn.Module):
        return []
    inside = {id(module) for module in decoder.modules()}
    return [path for path, blocks in candidates.items() if id(blocks) in inside]


def _prefer(candidates: dict[str, nn.ModuleList], better: list[str]) -> dict[str, nn.ModuleList]:
    """Keep the better ones, unless none or all are better."""
    return {path: candidates[path] for path in better} if better else candidates


def _tree(model: nn.Module, depth: int = 2) -> str:
    """The upper levels of the module tree on one line, lists with their lengths."""

    def label(name: str, module: nn.Module) -> str:
        size = f"[{len(module)}]" if isinstance(module, nn.ModuleList) else ""
        return f"{name}:{type(module).__name__}{size}"

    def walk(module: nn.Module, left: int) -> str:
        if left == 0 or isinstance(module, nn.ModuleList):
            return ""
        children = [f"{label(n, child)}{walk(child, left - 1)}" for n, child in _named(module)]
        return f"({', '.join(children)})" if children else ""

    return f"{type(model).__name__}{walk(model, depth)}"


def _named(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(module.named_children())


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
    """A linear layer of any make (also Conv1D and quantised ones), with a LoRA or without."""
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


def module_names(model: Any, blocks: Sequence[nn.Module], site: Site) -> dict[str, int]:
    """Return the names by which other tools say where to steer, such as "layers.3".

    Args:
        model: A Hugging Face model.
        blocks: Its decoder blocks.
        site: "block" or "mlp".

    Returns:
        Name relative to the base model to block index.

    Raises:
        UnknownArchitectureError: The site cannot be told.
    """
    numbers = {id(find_site(block, site).module): i for i, block in enumerate(blocks)}
    names = model.base_model.named_modules()
    return {name: numbers[id(module)] for name, module in names if id(module) in numbers}


def module_name(architecture: str, site: Site, layer: int) -> str:
    """Return the name of one place in models of a class, without such a model at hand.

    Raises:
        UnknownArchitectureError: Transformers does not have the class, or its parts cannot be
            told.
    """
    before, _, after = f".{_first_name(architecture, site)}.".partition(".0.")
    return f"{before}.{layer}.{after}".strip(".")


@cache
def _first_name(architecture: str, site: Site) -> str:
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
    names = module_names(model, find_blocks(model), site)
    return next(name for name, layer in names.items() if layer == 0)
