"""Forward hooks on decoder blocks: one that steers, and one that records.

Hooks live for the length of a ``with`` block and go away on every way out of it. They act only in
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

from steerable_llm.blocks import find_blocks
from steerable_llm.errors import ModelMismatchError
from steerable_llm.plan import SteeringPlan

__all__ = ["SteeringPlan", "capture_block_outputs", "steering_hooks"]

# The plan that forward passes of this thread follow. A thread starts with an empty context, and a
# nested call replaces the plan, so that only the innermost one is in force.
_plan_in_force: ContextVar[SteeringPlan | None] = ContextVar("steering plan", default=None)

# torch numbers its hooks with a counter that is read and raised in two steps: two threads that
# register at once could be given the same number, and one would lose its hook. Nothing promises
# that an interpreter never switches threads between the two.
_registration = threading.Lock()

Handle = torch.utils.hooks.RemovableHandle
ForwardHook = Callable[[nn.Module, tuple[Any, ...], Any], Any]


@contextmanager
def steering_hooks(blocks: Sequence[nn.Module], plan: SteeringPlan) -> Iterator[SteeringPlan]:
    """Steer the forward passes that this thread makes inside the ``with`` block.

    No hook is registered on a layer that no row steers, so a plan without active steering leaves
    the model exactly as it is, and also silences a plan of an enclosing block.

    Args:
        blocks: The model's decoder blocks, first block first.
        plan: What each row gets. A plan serves one call: one pass, or a prefill and its decoding.

    Yields:
        The plan, whose counts fill up as the passes run.

    Raises:
        ModelMismatchError: The plan steers a block that the model does not have.
    """
    absent = [layer for layer in plan.layers if not 0 <= layer < len(blocks)]
    if absent:
        raise ModelMismatchError(
            f"the steering needs layers {absent}, but the model has blocks 0 to "
            f"{len(blocks) - 1}: use a vector that was built for this model"
        )
    owner = threading.get_ident()

    def hook_for(layer: int) -> ForwardHook:
        def hook(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Any:
            if _plan_in_force.get() is not plan or threading.get_ident() != owner:
                return None
            return _with_hidden(output, plan.apply(layer, _hidden(output)))

        return hook

    token = _plan_in_force.set(plan)
    handles: list[Handle] = []
    try:
        for layer in plan.layers:
            handles.append(_register(blocks[layer], hook_for(layer)))
        yield plan
    finally:
        _remove(handles)
        _plan_in_force.reset(token)


@contextmanager
def capture_block_outputs(
    model_or_blocks: nn.Module | Sequence[nn.Module],
) -> Iterator[Mapping[int, Tensor]]:
    """Record the output of every decoder block in the forward passes of this thread.

    Hooks run in the order they were registered: inside ``steering_hooks`` the steered output is
    recorded, around it the output that the block itself gave.

    Args:
        model_or_blocks: A model whose blocks can be told from its tree, or the blocks themselves.

    Yields:
        Block index to raw output ``[B, T, d]`` of the latest pass, with its gradient history.
    """
    blocks = (
        find_blocks(model_or_blocks) if isinstance(model_or_blocks, nn.Module) else model_or_blocks
    )
    owner = threading.get_ident()
    captured: dict[int, Tensor] = {}

    def hook_for(layer: int) -> ForwardHook:
        def hook(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
            if threading.get_ident() == owner:
                captured[layer] = _hidden(output)

        return hook

    handles: list[Handle] = []
    try:
        for layer, block in enumerate(blocks):
            handles.append(_register(block, hook_for(layer)))
        yield captured
    finally:
        _remove(handles)


def _hidden(output: Any) -> Tensor:
    """The residual stream in a block's output: the output itself, or the first of a tuple."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _with_hidden(output: Any, hidden: Tensor) -> Any:
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def _register(block: nn.Module, hook: ForwardHook) -> Handle:
    with _registration:
        return block.register_forward_hook(hook)


def _remove(handles: Sequence[Handle]) -> None:
    with _registration:
        for handle in handles:
            handle.remove()
