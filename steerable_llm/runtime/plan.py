"""Which row of a batch is steered where, and a count of where it really was.

What changes from pass to pass is little: while answers grow, the same rows get the same deltas at
one more column. So masks are made once per pass for all blocks, a block's summed deltas are kept
until a row finishes, and counting is done on the host, without a word to the accelerator.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steerable_llm.errors import ModelMismatchError, SteeringNotAppliedError
from steerable_llm.vector.steering import Scope, Site, Steering, SteeringTerm, steer_hidden

Place: TypeAlias = tuple[Site, int]
"""A site of a block."""

Reach: TypeAlias = "Scope | int"
"""`SteeringTerm.reach`: a scope, or the last prompt position with so many generated ones."""


@dataclass(frozen=True)
class _Window:
    """The columns of one pass.

    Attributes:
        scopes: Per reach, booleans `[B, T]`: which of its positions a steering changes.
    """

    scopes: dict[Reach, NDArray[np.bool_]]
    _there: dict[tuple[Reach, torch.device], Tensor] = field(default_factory=dict)

    @cached_property
    def counts(self) -> dict[Reach, NDArray[np.int64]]:
        """Per reach, how many positions of each row `[B]` are in it."""
        return {scope: where.sum(axis=1) for scope, where in self.scopes.items()}

    @cached_property
    def empty(self) -> frozenset[Reach]:
        """Reaches without a position."""
        return frozenset(scope for scope, where in self.scopes.items() if not where.any())

    def on(self, device: torch.device, scope: Reach) -> Tensor:
        """Return a reach's booleans `[B, T]` where they are needed."""
        if (scope, device) not in self._there:
            self._there[scope, device] = torch.from_numpy(self.scopes[scope]).to(device)
        return self._there[scope, device]


@dataclass(frozen=True)
class _RowDeltas:
    """What one reach adds at one place: the same to every state of a row.

    Attributes:
        total: The sum, float32 `[B, d]`.
        has_term: `[B]`, the rows that are changed.
        renormalise: `[B]`, the rows that keep their length.
    """

    total: Tensor
    has_term: NDArray[np.bool_]
    renormalise: NDArray[np.bool_]


_Change: TypeAlias = "tuple[Tensor, bool | Tensor, Tensor | None]"
"""The arguments of `steer_hidden` after the states."""


@dataclass(frozen=True)
class _Ready:
    """What is done at one place in all passes over one window.

    Attributes:
        window: The window.
        counts: Counts of the plan, each with what every pass adds to it.
        looks: Whether the change depends on the states and has to be made anew.
        change: The change, where it does not; None where nothing changes.
    """

    window: _Window
    counts: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
    looks: bool
    change: _Change | None


class SteeringPlan:
    """What each row of one batch is steered with, over the passes of one call.

    The first pass sees the columns of the mask; later passes (cached decoding) see the columns
    after it, which every unfinished row uses. Positions that are padding, or that belong to a
    finished row, are neither changed nor counted.

    Attributes:
        steerings: One per row.
        places: Where any of them acts, in order.
    """

    def __init__(
        self, steerings: Sequence[Steering], mask: Tensor, last_prompt: int | Sequence[int]
    ) -> None:
        """Lay out one batch.

        Args:
            steerings: One per row.
            mask: `[B, T]`, true where a column of the first pass holds a real token.
            last_prompt: Column of each row's last prompt token: one number for left-padded
                prompts (`T - 1`), one per row for right-padded prompts with their answers.
        """
        self.steerings = tuple(steerings)
        rows = len(self.steerings)
        columns = [last_prompt] * rows if isinstance(last_prompt, int) else list(last_prompt)
        self.places: list[Place] = sorted(
            {place for each in self.steerings for place in each.places}
        )
        self._mask = mask.bool().cpu().numpy()
        self._last_prompt = np.array(columns, dtype=np.int64)[:, None]
        self._prompt_end = max(columns, default=0)
        self._unfinished = np.ones(rows, dtype=bool)
        self._seen = dict.fromkeys(self.places, 0)
        reaches = {term.reach for each in self.steerings for term in each.active_terms}
        self._decisions = sorted(reach for reach in reaches if isinstance(reach, int))
        self._counts = {
            place: {reach: np.zeros(rows, dtype=np.int64) for reach in reaches}
            for place in self.places
        }
        self._windows: dict[tuple[int, int], _Window] = {}
        self._deltas: dict[Place, dict[Reach, _RowDeltas]] = {}
        self._looking: dict[Place, list[tuple[SteeringTerm, list[int]]]] = {}
        self._ready: dict[Place, _Ready] = {}

    def fork(self) -> Self:
        """Return a plan that goes on from here by itself."""
        twin = copy.copy(self)
        twin._unfinished = self._unfinished.copy()
        twin._seen = dict(self._seen)
        twin._counts = copy.deepcopy(self._counts)
        twin._windows, twin._ready = {}, {}
        return twin

    def finish(self, row: int) -> None:
        """Stop steering and counting one row: its answer is complete."""
        self._unfinished[row] = False
        self._windows = {}

    def steered_tokens(self, row: int, term: SteeringTerm) -> int:
        """Return how many positions of a row one term has really changed, counted in the hooks.

        Raises:
            SteeringNotAppliedError: The term is active, and one of its layers was never reached.
        """
        counts = {x: int(self._counts[term.site, x][term.reach][row]) for x in term.steered_layers}
        missed = [layer for layer, count in counts.items() if count == 0]
        if missed:
            raise SteeringNotAppliedError(
                f"vector {term.vector.name!r} was to steer layers {missed} and reached none of "
                "their outputs: the model ran past its blocks; check that the model's blocks are "
                "the modules that its forward pass calls"
            )
        return min(counts.values())

    def check_applied(self) -> None:
        """Make sure that every active term has arrived where it was to steer.

        Raises:
            SteeringNotAppliedError: One did not.
        """
        for row, steering in enumerate(self.steerings):
            for term in steering.active_terms:
                self.steered_tokens(row, term)

    def apply(self, layer: int, h: Tensor, site: Site = "block") -> Tensor:
        """Steer what one site gives, `[B, T, d]`, and move on by `T` columns."""
        place = (site, layer)
        start = self._seen[place]
        self._seen[place] = start + h.shape[1]
        window = self._window(start, h.shape[1])
        ready = self._ready.get(place)
        if ready is None or ready.window is not window:
            ready = self._ready[place] = self._prepare(place, window, h)
        for counted, more in ready.counts:
            counted += more
        change = self._change(place, window, h) if ready.looks else ready.change
        return h if change is None else steer_hidden(h, *change)

    def _prepare(self, place: Place, window: _Window, h: Tensor) -> _Ready:
        """Return what is done at one place in all passes over such a window."""
        looking = self._looking_terms(place)
        scopes = {*self._row_deltas(place, h), *(term.reach for term, _ in looking)}
        acts = not scopes <= window.empty
        return _Ready(
            window,
            [(self._counts[place][scope], window.counts[scope]) for scope in scopes if acts],
            looks=bool(looking) and acts,
            change=self._change(place, window, h) if acts and not looking else None,
        )

    def _window(self, start: int, width: int) -> _Window:
        """Return which positions of the next columns each scope has; blocks of a pass share it."""
        # Behind the prompts, and the decisions, one column is like the other.
        decided = self._prompt_end + max(self._decisions, default=0)
        key = (min(start, max(decided + 1, self._mask.shape[1])), width)
        if key not in self._windows:
            used = self._mask[:, start : start + width]
            used = np.pad(used, ((0, 0), (0, width - used.shape[1])), constant_values=True)
            used = used & self._unfinished[:, None]
            column = np.arange(start, start + width)[None, :]
            generated = used & (column >= self._last_prompt)
            scopes: dict[Reach, NDArray[np.bool_]] = {
                "all": used,
                "prompt": used & (column <= self._last_prompt),
                "generated": generated,
                "last_prompt": used & (column == self._last_prompt),
            }
            for tokens in self._decisions:
                scopes[tokens] = generated & (column <= self._last_prompt + tokens)
            self._windows = {key: _Window(scopes)}
        return self._windows[key]

    def _change(self, place: Place, window: _Window, h: Tensor) -> _Change:
        """Sum up what is added to each state, which of them keep their length, and which change."""
        total = torch.zeros((), device=h.device)
        touched = np.zeros(h.shape[:2], dtype=bool)
        renormalise = np.zeros(h.shape[:2], dtype=bool)
        for scope, rows in self._row_deltas(place, h).items():
            total = total + rows.total[:, None, :] * window.on(h.device, scope)[..., None]
            touched |= window.scopes[scope] & rows.has_term[:, None]
            renormalise |= window.scopes[scope] & rows.renormalise[:, None]
        for term, places in self._looking_terms(place):
            added = torch.zeros(h.shape, device=h.device)
            mask = window.on(h.device, term.reach)[places]
            added[places] = term.delta_at(place[1], h[places]) * mask[..., None]
            total = total + added
            touched[places] |= window.scopes[term.reach][places]
            if term.renormalise:
                renormalise[places] |= window.scopes[term.reach][places]
        return (
            total,
            bool(renormalise.any())
            if renormalise.all() == renormalise.any()
            else torch.from_numpy(renormalise).to(h.device),
            None if touched.all() else torch.from_numpy(touched).to(h.device),
        )

    def _looking_terms(self, place: Place) -> list[tuple[SteeringTerm, list[int]]]:
        """Return the terms whose rule looks at the state, each with the rows it acts on."""
        if place not in self._looking:
            site, layer = place
            # Rows of one term run together; a row may hold the same term more than once.
            found: dict[tuple[int, int], tuple[SteeringTerm, list[int]]] = {}
            for row, steering in enumerate(self.steerings):
                terms = [t for t in steering.terms_at(layer, site) if t.rule != "add"]
                for number, term in enumerate(terms):
                    found.setdefault((id(term), number), (term, []))[1].append(row)
            self._looking[place] = list(found.values())
        return self._looking[place]

    def _row_deltas(self, place: Place, h: Tensor) -> dict[Reach, _RowDeltas]:
        """Return what each reach adds at one place, row by row."""
        if place not in self._deltas:
            site, layer = place
            rows, width = len(self.steerings), h.shape[-1]
            found: dict[Reach, _RowDeltas] = {}
            for row, steering in enumerate(self.steerings):
                for term in steering.terms_at(layer, site):
                    shape = term.vector.directions[layer].shape
                    if shape != (width,):
                        raise ModelMismatchError(
                            f"vector {term.vector.name!r} has width {tuple(shape)} in layer "
                            f"{layer}, but the model has width {width} at site {site!r}: build "
                            "the vector for this model"
                        )
                for term, delta in steering.deltas(layer, site):
                    made = found.setdefault(
                        term.reach,
                        _RowDeltas(
                            torch.zeros(rows, width, device=h.device),
                            np.zeros(rows, dtype=bool),
                            np.zeros(rows, dtype=bool),
                        ),
                    )
                    made.total[row] += delta.to(h.device)
                    made.has_term[row] = True
                    made.renormalise[row] |= term.renormalise
            self._deltas[place] = found
        return self._deltas[place]
