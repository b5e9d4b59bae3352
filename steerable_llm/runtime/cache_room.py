"""Keys and values with room for tokens to come.

A cache that grows by concatenation copies everything that it holds for each token, of every block:
with many rows that takes as long as the model itself. With room it is copied once in a while. And
two streams that go on from one prompt share what was there, until each writes its own.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 32
"""Columns that are made room for at a time: few enough to cost little memory, many enough that the
copies do not count."""


def growing_cache(config: PretrainedConfig) -> DynamicCache:
    """Return an empty cache for a model, with room wherever a layer keeps all its tokens."""
    cache = DynamicCache(config=config)
    cache.layers = [_Layer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class _Layer(DynamicLayer):
    """One layer's part: `keys` and `values` are windows on tensors with room behind them.

    Whoever puts other tensors there (to pick rows, say) needs to know nothing of it: room belongs
    to the windows that were made last.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stored: tuple[Tensor, Tensor] | None = None
        self._windows: tuple[Tensor | None, Tensor | None] = (None, None)

    def update(
        self, key_states: Tensor, value_states: Tensor, *rest: Any, **more: Any
    ) -> tuple[Tensor, Tensor]:
        # The first tokens may be all; and what gradients will need must not be written over.
        if not self.get_seq_length() or torch.is_grad_enabled():
            self._forget()
            return super().update(key_states, value_states, *rest, **more)
        assert self.keys is not None, "a layer with tokens has them"
        assert self.values is not None, "a layer with tokens has them"
        end = self.keys.shape[-2]
        after = end + key_states.shape[-2]
        if not self._has_room(after):
            self._stored = _with_room(self.keys, after), _with_room(self.values, after)
        assert self._stored is not None, "there is room now"
        for stored, new in zip(self._stored, (key_states, value_states), strict=True):
            stored[..., end:after, :] = new
        self.keys, self.values = (stored[..., :after, :] for stored in self._stored)
        self._windows = self.keys, self.values
        return self.keys, self.values

    def _has_room(self, columns: int) -> bool:
        return (
            self._stored is not None
            and self.keys is self._windows[0]
            and self.values is self._windows[1]
            and columns <= self._stored[0].shape[-2]
        )

    def _forget(self) -> None:
        self._stored, self._windows = None, (None, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Share what is there, which nobody writes over; the room stays with this one."""
        twin = copy.copy(self)
        twin._forget()
        return twin


def _with_room(states: Tensor, columns: int) -> Tensor:
    """Return states `[B, H, T, D]` at the head of a tensor for so many columns and some more."""
    *outer, held, width = states.shape
    made = states.new_empty(*outer, columns + ROOM, width)
    made[..., :held, :] = states
    return made
