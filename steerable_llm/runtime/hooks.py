"""Forward hooks on decoder blocks and sites in them: one that steers, and one that records.

Hooks live for the length of a `with` block and go away on every way out of it. They act only in
the thread, and only for the plan, that opened the block: another thread that runs the same model
at the same time passes through them untouched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from steerable_llm.errors import ModelMismatchError
from steerable_llm.runtime.blocks import HookPoint, find_blocks, find_site
from steerable_llm.runtime.plan import SteeringPlan
from steerable_llm.vector.steering import Site

# The plan that forward passes of this thread follow. A thread starts with an empty context, and a
# nested call replaces the plan, so that only the innermost one is in force.
_plan_in_force: ContextVar[SteeringPlan | None] = ContextVar("steering plan", default=None)

# torch numbers its hooks with a counter that is read and raised in two steps: two threads that
# register at once could be given the same number, and one would lose its hook. Nothing promises
# that an interpreter never switches threads between the two.
_registration = threading.Lock()

Handle = torch.utils.hooks.RemovableHandle
Steer = Callable[[Tensor], Tensor | None]


@contextmanager
def steering_hooks(
    blocks: Sequence[nn.Module], plan: SteeringPlan, tower: Sequence[nn.Module] = ()
) -> Iterator[SteeringPlan]:
    """Steer the forward passes that this thread makes inside the `with` block.

    No hook is registered on a layer that no row steers, so a plan without active steering leaves
    the model exactly as it is, and also silences a plan of an enclosing block. Where the plan is
    in force already, nothing is registered a second time.

    Args:
        blocks: The model's decoder blocks, first block first.
        plan: What each row gets. A plan serves one call: one pass, or a prefill and its decoding.
        tower: The blocks of the model's vision tower.

    Yields:
        The plan, whose counts fill up as the passes run.

    Raises:
        ModelMismatchError: The plan steers a block that the model does not have.
        UnknownArchitectureError: The plan steers a part of a block that cannot be told.
    """
    if _plan_in_force.get() is plan:
        yield plan
        return
    absent = [layer for _, layer in plan.places if not 0 <= layer < len(blocks)]
    if absent:
        raise ModelMismatchError(
            f"the steering needs layers {absent}, but the model has blocks 0 to "
            f"{len(blocks) - 1}: use a vector that was built for this model"
        )
    if any(layer >= len(tower) for layer in plan.tower):
        raise ModelMismatchError(
            f"the steering needs layers {plan.tower} of a vision tower, and the model's has "
            f"{len(tower)} blocks: use a vector that was built for this model"
        )
    owner = threading.get_ident()

    def silent() -> bool:
        return _plan_in_force.get() is not plan or threading.get_ident() != owner

    def turn_at(layer: int) -> Steer:
        return lambda hidden: None if silent() else plan.apply_in_tower(layer, hidden)

    def steer_at(site: Site, layer: int) -> Steer:
        step, in_force, here = plan.step((site, layer)), _plan_in_force.get, threading.get_ident

        def steer(hidden: Tensor) -> Tensor | None:
            if in_force() is not plan or here() != owner:  # `silent`, once for every block's token
                return None
            if hidden.dim() == 2:  # some families flatten the batch around their MLP
                rows = hidden.reshape(len(plan.steerings), -1, hidden.shape[-1])
                return step(rows).flatten(0, 1)
            return step(hidden)

        return steer

    token = _plan_in_force.set(plan)
    handles: list[Handle] = []
    try:
        for site, layer in plan.places:
            handles.append(_register(find_site(blocks[layer], site), steer_at(site, layer)))
        for layer in plan.tower:
            handles.append(_register(find_site(tower[layer], "mlp"), turn_at(layer)))
        yield plan
    finally:
        _remove(handles)
        _plan_in_force.reset(token)


@contextmanager
def capture_block_outputs(
    model_or_blocks: nn.Module | Sequence[nn.Module],
) -> Iterator[Mapping[int, Tensor]]:
    """Record the output of every decoder block in the forward passes of this thread.

    Hooks run in the order they were registered: inside `steering_hooks` the steered output is
    recorded, around it the output that the block itself gave.

    Args:
        model_or_blocks: A model whose blocks can be told from its tree, or the blocks themselves.

    Yields:
        Block index to raw output `[B, T, d]` of the latest pass, with its gradient history.
    """
    blocks = (
        find_blocks(model_or_blocks) if isinstance(model_or_blocks, nn.Module) else model_or_blocks
    )
    with capture_site(blocks, "block") as captured:
        yield captured


@contextmanager
def capture_site(blocks: Sequence[nn.Module], site: Site) -> Iterator[Mapping[int, Tensor]]:
    """Record what one site of every block gives in the forward passes of this thread.

    Args:
        blocks: The model's decoder blocks.
        site: Where to record; see `sites`.

    Yields:
        Block index to raw activations `[B, T, width]` of the latest pass.

    Raises:
        UnknownArchitectureError: The site cannot be told from the blocks' module trees.
    """
    owner = threading.get_ident()
    captured: dict[int, Tensor] = {}

    def record_at(layer: int) -> Steer:
        def record(hidden: Tensor) -> None:
            if threading.get_ident() == owner:
                # Some blocks add to their parts' outputs in place; a copy keeps what was given.
                captured[layer] = hidden if site == "block" else hidden.clone()

        return record

    handles: list[Handle] = []
    try:
        for layer, block in enumerate(blocks):
            handles.append(_register(find_site(block, site), record_at(layer)))
        yield captured
    finally:
        _remove(handles)


def _register(point: HookPoint, change: Steer) -> Handle:
    """Hook a module's input or output; what `change` returns replaces it, None leaves it."""

    def after(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Any:
        # The residual stream is the output itself, or the first of a tuple.
        if not isinstance(output, tuple):
            return change(output)
        changed = change(output[0])
        return None if changed is None else (changed, *output[1:])

    def before(_module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        changed = change(inputs[0])
        return None if changed is None else (changed, *inputs[1:])

    with _registration:
        if point.on_input:
            return point.module.register_forward_pre_hook(before)
        return point.module.register_forward_hook(after)


def _remove(handles: Sequence[Handle]) -> None:
    with _registration:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced_outputs(
    modules: Sequence[nn.Module], change: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[None]:
    """Let what modules give in the forward passes of this thread be changed.

    Args:
        modules: Modules from one tensor to one tensor.
        change: From a module's input and its output to what it gives instead.
    """
    owner = threading.get_ident()

    def after(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        return change(inputs[0], output) if threading.get_ident() == owner else None

    handles: list[Handle] = []
    try:
        for module in modules:
            with _registration:
                handles.append(module.register_forward_hook(after))
        yield
    finally:
        _remove(handles)


@contextmanager
def intercepted(
    module: nn.Module, change: Callable[[dict[str, Any]], dict[str, Any] | None]
) -> Iterator[None]:
    """Look at what a module is called with by this thread, and perhaps change it.

    Args:
        module: Any module.
        change: From its arguments by name to those that it gets instead; None leaves them.
    """
    owner = threading.get_ident()

    def before(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        changed = change(named) if threading.get_ident() == owner else None
        return None if changed is None else (inputs, changed)

    with _registration:
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        _remove([handle])
