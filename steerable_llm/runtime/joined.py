"""Prompts that are read in pieces, join a batch whose answers grow, and leave it one by one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from steerable_llm.runtime.forward import padded, takes
from steerable_llm.runtime.hooks import steering_hooks
from steerable_llm.runtime.plan import SteeringPlan, Worked
from steerable_llm.runtime.prefix_cache import PrefixCache
from steerable_llm.runtime.row_cache import RowCache, States, states_of
from steerable_llm.vector.steering import Steering, SteeringTerm

if TYPE_CHECKING:
    from steerable_llm.runtime.hooked_model import HookedModel


_MOST_WORKED = 128
"""Steerings of which is kept what they add."""


@dataclass(eq=False)
class Row:
    """One prompt with the answer that grows behind it.

    Attributes:
        tokens: The prompt.
        steering: What it is steered with.
        room: How many tokens the answer may get.
        blocks: Hashes of the prompt's blocks.
        fed: How many tokens of the answer were fed.
        states: Of the prompt, from when it is read until it joins.
        counted: Where it is counted what was steered: a plan, and the row there.
        devices: Of the states of each layer, while they wait in the processor's memory.
    """

    tokens: Sequence[int]
    steering: Steering
    room: int
    blocks: list[int] = field(init=False)
    fed: int = 0
    states: States | None = None
    counted: tuple[SteeringPlan, int] | None = None
    devices: list[torch.device] | None = None

    def __post_init__(self) -> None:
        """Look at the prompt once."""
        self.blocks = PrefixCache.blocks(self.tokens, self.steering)

    def steered_tokens(self, term: SteeringTerm) -> int:
        """Return how many positions one of its terms has really changed.

        Raises:
            SteeringNotAppliedError: None of them in one of its layers.
        """
        assert self.counted is not None, "a row is read before it is asked"
        plan, row = self.counted
        return plan.steered_tokens(row, term)


def run_pass(
    llm: HookedModel,
    ids: Tensor,
    positions: Tensor,
    cache: Cache,
    mask: Tensor | None = None,
    kept: Tensor | None = None,
) -> Tensor:
    """Run tokens behind what a cache holds.

    Args:
        llm: A model whose rows can join.
        ids: `[B, T]`.
        positions: `[B, T]`.
        cache: Of as many rows.
        mask: Which columns each row has; None where it is all.
        kept: Columns of the tokens whose scores are wanted; the last where None.

    Returns:
        Float32 `[B, columns, V]`.
    """
    inputs: dict[str, Any] = {
        "input_ids": ids.to(llm.device),
        "attention_mask": None if mask is None else mask.to(llm.device),
        "past_key_values": cache,
        "use_cache": True,
        "return_dict": True,
    }
    if takes(llm.model, "position_ids"):
        inputs["position_ids"] = positions.to(llm.device)
    narrow = takes(llm.model, "logits_to_keep")
    if narrow:
        inputs["logits_to_keep"] = 1 if kept is None else kept.to(llm.device)
    with torch.no_grad():
        logits: Tensor = llm.model(**inputs).logits
    if not narrow:
        logits = logits[:, -1:] if kept is None else logits[:, kept.to(logits.device)]
    return logits.float()


class Reading:
    """Prompts that are read together, in pieces; they begin alike as far as states are known."""

    def __init__(
        self, llm: HookedModel, rows: Sequence[Row], known: Sequence[States], worked: Worked
    ) -> None:
        """Lay them out.

        Args:
            llm: The model.
            rows: Whose prompts they are.
            known: Per row the states of its first tokens, of as many for each.
            worked: What was worked out of steerings already.
        """
        self.rows = rows
        self._llm = llm
        self._start = known[0][0][0].shape[-2] if known[0] else 0
        self._cache = DynamicCache()
        for both in zip(*known, strict=True):
            layer = DynamicLayer()
            keys, values = (torch.stack(each) for each in zip(*both, strict=True))
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            self._cache.layers.append(layer)
        # Padded on the right, where the tokens of a prompt never look: they need no mask.
        left = [row.tokens[self._start :] for row in rows]
        self._ids, mask = padded(left)
        self._ends = torch.tensor([len(each) - 1 for each in left])
        self._plan = SteeringPlan(
            [row.steering for row in rows],
            mask,
            self._ends.tolist(),
            before=self._start,
            worked=worked,
        )
        self._read = 0

    @property
    def left(self) -> int:
        """Columns that are still to be read."""
        return self._ids.shape[1] - self._read

    def read(self, columns: int) -> Tensor | None:
        """Read on.

        Args:
            columns: At most so many; several prompts are read whole.

        Returns:
            Float32 `[B, V]`, which choose the first token of each answer, when all is read.
        """
        new = min(columns, self.left) if len(self.rows) == 1 else self.left
        ids = self._ids[:, self._read : self._read + new]
        first = self._start + self._read
        positions = torch.arange(first, first + new).expand(len(ids), -1)
        last = new == self.left
        kept, place = torch.unique(self._ends - self._read, return_inverse=True)
        with steering_hooks(self._llm.blocks, self._plan, self._llm.tower):
            logits = run_pass(self._llm, ids, positions, self._cache, kept=kept if last else None)
        self._read += new
        if not last:
            return None
        for number, row in enumerate(self.rows):
            row.counted = self._plan, number
            row.states = states_of(self._cache, number, 0, len(row.tokens))
        return logits[torch.arange(len(ids)), place.to(logits.device)]


class JoinedRows:
    """Rows whose answers grow together, a token each per pass.

    Attributes:
        rows: Those that are in it, in their order.
        worked: What was worked out of steerings, for whoever comes next.
    """

    def __init__(self, llm: HookedModel) -> None:
        """Begin without a row."""
        self.rows: list[Row] = []
        self.worked: Worked = {}
        self._llm = llm
        self._cache = RowCache()
        self._plan: SteeringPlan | None = None
        self._hooks = ExitStack()
        self._passes = 0

    def join(self, row: Row) -> None:
        """Take up a row that was read, as the last one."""
        assert row.states is not None, "a row is read before it joins"
        states = row.states
        if row.devices is not None:
            states = [
                (keys.to(device), values.to(device))
                for (keys, values), device in zip(states, row.devices, strict=True)
            ]
        self._regroup()
        self._cache.join(states, row.room)
        row.states = row.devices = None
        self.rows.append(row)

    def leave(self, row: Row) -> None:
        """Let a row go; the last one takes its place."""
        self._regroup()
        place = self.rows.index(row)
        self._cache.leave(place)
        self.rows[place] = self.rows[-1]
        del self.rows[-1]

    def put_aside(self, row: Row) -> None:
        """Keep what a row has, in the batch or not, in the processor's memory until it joins."""
        if row.devices is not None:
            return
        states = self._cache.states(self.rows.index(row)) if row in self.rows else row.states
        assert states is not None, "a row is read before it waits"
        devices = [keys.device for keys, _ in states]
        row.states = [(k.to("cpu", copy=True), v.to("cpu", copy=True)) for k, v in states]
        row.devices = devices
        if row in self.rows:
            self.leave(row)

    def make_room(self) -> None:
        """Make room for the next token of each row.

        Raises:
            Exception: No memory is left; nothing has changed for the rows.
        """
        self._cache.prepare()

    def close(self) -> None:
        """Take the hooks away, and let all rows go."""
        self._regroup()
        self.rows, self._cache = [], RowCache()

    def feed(self, tokens: Sequence[int]) -> list[Tensor | Exception]:
        """Feed a token of each row, for which room was made.

        Returns:
            Per row float32 `[V]`, or what went wrong with it where the others can go on.
        """
        try:
            if self._plan is None:
                self._set_up()
            found: list[Tensor | Exception] = list(self._run(self._cache, tokens))
        except Exception as error:
            if self._plan is not None:
                self._plan.take_back(self._passes)
            found = [error] if len(tokens) == 1 else self._one_by_one(tokens)
            if len(found) == 1:
                return found
        self._passes += 1
        self._cache.advance()
        for row in self.rows:
            row.fed += 1
        return found

    def _run(self, cache: RowCache, tokens: Sequence[int]) -> Tensor:
        ids = torch.tensor(tokens)[:, None]
        return run_pass(self._llm, ids, cache.positions(), cache, cache.mask())[:, -1]

    def _one_by_one(self, tokens: Sequence[int]) -> list[Tensor | Exception]:
        """Feed each row by itself, so that only the row at fault fails."""
        found: list[Tensor | Exception] = []
        for number, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            try:
                alone = self._cache.alone(number)
                plan = self._plan_of([row])
                with steering_hooks(self._llm.blocks, plan, self._llm.tower):
                    found.append(self._run(alone, [token])[0])
                self._cache.copy_from(alone, number)
                row.counted = plan, 0
            except Exception as error:
                found.append(error)
        self._regroup()
        return found

    def _plan_of(self, rows: Sequence[Row]) -> SteeringPlan:
        counted = [(row.counted, row.fed + 1) for row in rows]
        return SteeringPlan.side_by_side(
            [(*at, fed) for at, fed in counted if at is not None], self.worked
        )

    def _set_up(self) -> None:
        if len(self.worked) > _MOST_WORKED:
            self.worked.clear()
        plan = self._plan_of(self.rows)
        for number, row in enumerate(self.rows):
            row.counted = plan, number
        self._hooks.enter_context(steering_hooks(self._llm.blocks, plan, self._llm.tower))
        self._plan, self._passes = plan, 0

    def _regroup(self) -> None:
        """Make a new plan before the next pass."""
        self._hooks.close()
        self._plan = None
