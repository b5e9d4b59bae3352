"""Where a model's decoder blocks are, told from its module tree instead of a per-model table."""

from __future__ import annotations

from typing import Any

from torch import nn

from steerable_llm.errors import UnknownArchitectureError

# Paths of towers that have stacks of blocks too, but carry no text: never the decoder.
OTHER_TOWERS = ("vision", "visual", "audio", "image", "encoder.")


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Find the decoder blocks of a causal language model, first block first.

    The blocks are the outermost ``ModuleList`` that has as many members as the configuration has
    layers. Where several fit, the one inside the model's own decoder wins, then the one that is
    not inside a vision or audio tower.

    Args:
        model: A Hugging Face model (a plain module works if only one outermost list is in it).

    Returns:
        The blocks, whose outputs are the residual stream ``[B, T, d]`` (or tuples that start so).

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
            "pass the blocks yourself: SteerableHFLLM(model, tokenizer, blocks=[...])"
        )
    return list(next(iter(candidates.values())))


def hidden_size(model: nn.Module) -> int:
    """Width ``d`` of the residual stream, in numbers per position."""
    return int(text_config(model).hidden_size)


def text_config(model: nn.Module) -> Any:
    """The configuration of the text decoder (that of a vision-language model is nested)."""
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
