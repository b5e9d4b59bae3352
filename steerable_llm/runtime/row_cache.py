"""Keys and values of rows of different lengths, which join and leave between two passes.

All rows end in the same column, so that the next token of each goes into the next one. Behind that
column is room for tokens to come; in front of a row there are zeros, which the attention mask hides
and which are numbers, whatever stood there before. A row that leaves is replaced by the last one,
so that only one row is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, GenerationMixin
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from steerable_llm.runtime.forward import takes

if TYPE_CHECKING:
    from steerable_llm.runtime.hooked_model import HookedModel

_ROOM = 64
"""Columns at least that are made room for at a time."""
_KINDS = {None, "full_attention", "sliding_attention"}


def joins(llm: HookedModel) -> bool:
    """Tell whether rows of a model can join and leave while others go on.

    Its caches must be of keys and values alone, and its passes must need no more than tokens, their
    positions and which of them there are.
    """
    model = llm.model
    plain = GenerationMixin.prepare_inputs_for_generation
    if (
        llm.chat_format.vision is not None
        or getattr(type(model), "prepare_inputs_for_generation", None) is not plain
        or not model._supports_default_dynamic_cache()
        or not all(takes(model, name) for name in ("position_ids", "past_key_values"))
    ):
        return False
    text = model.config.get_text_config(decoder=True)
    layers = DynamicCache(config=text).layers
    return {type(layer) for layer in layers} <= {DynamicLayer, DynamicSlidingWindowLayer} and set(
        getattr(text, "layer_types", None) or [None]
    ) <= _KINDS


States: TypeAlias = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of one row, per layer `[H, T, D]`."""


class _Layer(DynamicLayer):
    """One layer's part: a window on what is stored.

    It is as long as all of it is, also where attention slides: the model's own mask then hides what
    is out of its window.
    """

    def __init__(self, rows: RowCache, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_initialized = True
        self.dtype, self.device = keys.dtype, keys.device
        self._rows = rows
        self.stored = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        rows, new = self._rows, key_states.shape[-2]
        for stored, more in zip(self.stored, (key_states, value_states), strict=True):
            stored[: len(rows.lengths), :, rows.end : rows.end + new] = more
        here = slice(len(rows.lengths)), slice(None), slice(rows.end - rows.width, rows.end + new)
        self.keys, self.values = (stored[here] for stored in self.stored)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._rows.width + query_length, 0

    def get_seq_length(self) -> int:
        return self._rows.width


class RowCache(Cache):
    """The cache of a batch whose rows join and leave; a model takes it as any other.

    Attributes:
        lengths: How many tokens each row has.
        end: The column behind the last one.
    """

    def __init__(self) -> None:
        """Begin without a row."""
        super().__init__(layers=[])
        self._mine: list[_Layer] = []
        self.lengths: list[int] = []
        self.end = 0
        self._slots = self._columns = 0

    @property
    def width(self) -> int:
        """Columns of the longest row."""
        return max(self.lengths, default=0)

    @property
    def size(self) -> int:
        """Bytes that are taken."""
        return sum(stored.nbytes for layer in self._mine for stored in layer.stored)

    def mask(self) -> Tensor | None:
        """Return which columns each row has, the next one included; None where that is all."""
        if min(self.lengths) == self.width:
            return None
        columns = torch.arange(self.width + 1)
        return (columns >= self.width - torch.tensor(self.lengths)[:, None]).long()

    def positions(self) -> Tensor:
        """Return the position of each row's next token, `[B, 1]`."""
        return torch.tensor(self.lengths)[:, None]

    def prepare(self) -> None:
        """Make room for the next token of each row."""
        if self.end == self._columns:
            self._lay_out(self._slots, self.width, _ROOM)

    def advance(self) -> None:
        """Keep what a pass of one token per row has left."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def join(self, states: States, room: int = 1) -> None:
        """Take up a row, as the last one.

        Args:
            states: What it has so far.
            room: How many more tokens it may get.
        """
        length, place = states[0][0].shape[-2], len(self.lengths)
        if not self._mine:
            self._columns = self.end = length
            self._mine = [
                _Layer(self, *(x.new_zeros(0, len(x), length, x.shape[-1]) for x in both))
                for both in states
            ]
            self.layers = [*self._mine]
        if place == self._slots or length > self.end:
            slots = self._slots if place < self._slots else max(1, 2 * self._slots)
            self._lay_out(slots, max(self.width, length), min(max(room, _ROOM), 4 * _ROOM))
        for layer, both in zip(self._mine, states, strict=True):
            for stored, given in zip(layer.stored, both, strict=True):
                stored[place, :, : self.end - length] = 0
                stored[place, :, self.end - length : self.end] = given
        self.lengths.append(length)

    def leave(self, row: int) -> None:
        """Let a row go; the last one takes its place."""
        last = len(self.lengths) - 1
        if last == 0:  # nothing is kept for nobody
            self.__init__()  # type: ignore[misc]
            return
        if row != last:
            for layer in self._mine:
                for stored in layer.stored:
                    stored[row, :, : self.end] = stored[last, :, : self.end]
            self.lengths[row] = self.lengths[last]
        del self.lengths[last]

    def alone(self, row: int) -> RowCache:
        """Return one row by itself."""
        made, first = RowCache(), self.end - self.lengths[row]
        made.join([_part(layer.stored, row, first, self.end) for layer in self._mine])
        return made

    def copy_from(self, alone: RowCache, row: int) -> None:
        """Take over what a row by itself has got in a pass, before both advance."""
        for mine, theirs in zip(self._mine, alone._mine, strict=True):
            for into, out in zip(mine.stored, theirs.stored, strict=True):
                into[row, :, self.end] = out[0, :, alone.end]

    def _lay_out(self, slots: int, width: int, room: int) -> None:
        """Move all rows into new tensors, whose columns end so far behind a width."""
        rows, first, end = len(self.lengths), self.end - self.width, self.end
        self._slots, self._columns, self.end = slots, width + room, width
        for layer in self._mine:
            moved = []
            for stored in layer.stored:
                new = stored.new_zeros(slots, stored.shape[1], width + room, stored.shape[3])
                new[:rows, :, width - (end - first) : width] = stored[:rows, :, first:end]
                moved.append(new)
            layer.stored = moved[0], moved[1]


def states_of(cache: Cache, row: int, start: int, end: int) -> list[tuple[Tensor, Tensor]]:
    """Return what a row of a cache has in some of its columns."""
    found = []
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer) and layer.keys is not None, "it was filled"  # noqa: PT018
        assert layer.values is not None, "it was filled"
        found.append(_part((layer.keys, layer.values), row, start, end))
    return found


def _part(both: tuple[Tensor, Tensor], row: int, start: int, end: int) -> tuple[Tensor, Tensor]:
    return both[0][row, :, start:end], both[1][row, :, start:end]
