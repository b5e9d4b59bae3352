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
_PLACED_BY_MASK = {"bloom"}
"""Families that are told no positions, and count them in the mask."""
_PLAIN_BELOW = {"phi3", "phimoe"}
"""Families whose way to make their inputs differs only where rotary embeddings change."""


def most_joined(llm: HookedModel) -> int:
    """Return how long rows may be that join and leave while others go on; 0 where none can.

    Caches must be of keys and values alone, and passes must need no more than tokens, their
    positions and which of them there are. Rotary embeddings that change with the longest row of a
    pass bound the length: below, each row is as it is alone.
    """
    model = llm.model
    plain = GenerationMixin.prepare_inputs_for_generation
    text = model.config.get_text_config(decoder=True)
    placed = takes(model, "position_ids") or text.model_type in _PLACED_BY_MASK
    prepares = getattr(type(model), "prepare_inputs_for_generation", None) is plain
    if (
        llm.chat_format.vision is not None
        or not (prepares or text.model_type in _PLAIN_BELOW)
        or not model._supports_default_dynamic_cache()
        or not (placed and takes(model, "past_key_values"))
    ):
        return 0
    layers = {type(layer) for layer in DynamicCache(config=text).layers}
    kinds = set(getattr(text, "layer_types", None) or [None])
    if not (layers <= {DynamicLayer, DynamicSlidingWindowLayer} and kinds <= _KINDS):
        return 0
    return min([llm.context_window, *_changing(text)])


def _changing(text: Any) -> list[int]:
    """Return the lengths from which on rotary embeddings are other ones."""
    told = getattr(text, "rope_parameters", None) or {}
    by_layers = [each for each in told.values() if isinstance(each, dict)]
    return [
        int(each.get("original_max_position_embeddings") or text.max_position_embeddings)
        for each in by_layers or [told]
        if each.get("rope_type") in ("longrope", "dynamic")
    ]


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
        self.end = keys.shape[2]  # the column behind the last one

    @property
    def slots(self) -> int:
        return self.stored[0].shape[0]

    @property
    def is_full(self) -> bool:
        return self.end == self.stored[0].shape[2]

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        rows, new = self._rows, key_states.shape[-2]
        for stored, more in zip(self.stored, (key_states, value_states), strict=True):
            stored[: len(rows.lengths), :, self.end : self.end + new] = more
        here = slice(len(rows.lengths)), slice(None), slice(self.end - rows.width, self.end + new)
        self.keys, self.values = (stored[here] for stored in self.stored)
        return self.keys, self.values

    def lay_out(self, needed: int, end: int, room: int) -> None:
        """Move all rows into new tensors, whose columns end there, with room behind.

        They have slots for less than twice as many rows as are needed, however many there once
        were. Where memory is short the layer is as it was, and fits those that were moved.
        """
        rows, held = len(self._rows.lengths), self._rows.width
        slots = 1 << (needed - 1).bit_length()
        moved = []
        for stored in self.stored:
            new = stored.new_zeros(slots, stored.shape[1], end + room, stored.shape[3])
            new[:rows, :, end - held : end] = stored[:rows, :, self.end - held : self.end]
            moved.append(new)
        self.stored, self.end = (moved[0], moved[1]), end

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._rows.width + query_length, 0

    def get_seq_length(self) -> int:
        return self._rows.width


class RowCache(Cache):
    """The cache of a batch whose rows join and leave; a model takes it as any other.

    Attributes:
        lengths: How many tokens each row has.
    """

    def __init__(self) -> None:
        """Begin without a row."""
        super().__init__(layers=[])
        self._mine: list[_Layer] = []
        self.lengths: list[int] = []

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
        for layer in self._mine:
            if layer.is_full:
                layer.lay_out(len(self.lengths), self.width, _ROOM)

    def advance(self) -> None:
        """Keep what a pass of one token per row has left."""
        for layer in self._mine:
            layer.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def join(self, states: States, room: int = 1) -> None:
        """Take up a row, as the last one.

        Args:
            states: What it has so far.
            room: How many more tokens it may get.
        """
        length, place = states[0][0].shape[-2], len(self.lengths)
        if not self._mine:
            self._mine = [
                _Layer(self, *(x.new_zeros(0, len(x), length, x.shape[-1]) for x in both))
                for both in states
            ]
            self.layers = [*self._mine]
        for layer, both in zip(self._mine, states, strict=True):
            if place == layer.slots or length > layer.end:
                end = max(self.width, length)
                layer.lay_out(place + 1, end, min(max(room, _ROOM), 4 * _ROOM))
            first = layer.end - length
            for stored, given in zip(layer.stored, both, strict=True):
                stored[place, :, :first] = 0
                stored[place, :, first : layer.end] = given
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
                    stored[row, :, : layer.end] = stored[last, :, : layer.end]
            self.lengths[row] = self.lengths[last]
        del self.lengths[last]

    def alone(self, row: int) -> RowCache:
        """Return one row by itself."""
        made = RowCache()
        made.join(self.states(row))
        return made

    def states(self, row: int) -> States:
        """Return what a row has; not a copy."""
        length = self.lengths[row]
        return [_part(x.stored, row, x.end - length, x.end) for x in self._mine]

    def copy_from(self, alone: RowCache, row: int) -> None:
        """Take over what a row by itself has got in a pass, before both advance."""
        for mine, theirs in zip(self._mine, alone._mine, strict=True):
            for into, out in zip(mine.stored, theirs.stored, strict=True):
                into[row, :, mine.end] = out[0, :, theirs.end]


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
