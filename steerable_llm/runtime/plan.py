"""Which row of a batch is steered where, and a count of where it really was.

What changes from pass to pass is little: while answers grow, the same rows get the same deltas at
one more column. So masks are made once per pass for all blocks, and none where every state is
steered; what a block does is kept until a row finishes; rows that are steered alike are worked out
once; and counting is done on the host, without a word to the accelerator.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steerable_llm.errors import (
    InvalidInputError,
    ModelMismatchError,
    SteeringNotAppliedError,
)
from steerable_llm.vector.steering import (
    Scope,
    Site,
    Steering,
    SteeringTerm,
    just_short,
    steer_hidden,
    steer_states,
)

Place: TypeAlias = tuple[Site, int]
"""A site of a block."""

Reach: TypeAlias = "Scope | int"
"""`SteeringTerm.reach`: a scope, or the last prompt position with so many generated ones."""

Flags: TypeAlias = NDArray[np.bool_]

_FLOAT = torch.float32
_ONE = np.ones(1, np.int64)

Totals: TypeAlias = "dict[Reach, tuple[bool, Tensor]]"
"""Per reach whether the length is kept, and what is added, `[1, 1, d]` where the states are."""

Worked: TypeAlias = "dict[object, _Worked]"
"""What was worked out of steerings, by what tells them apart."""


@dataclass(frozen=True, slots=True)
class _Picked:
    """Some states of a pass.

    Attributes:
        rows: `[n]`, on the host.
        at: Their rows and columns, `[n]` each, where the states are.
    """

    rows: NDArray[np.int64]
    at: tuple[Tensor, Tensor]


@dataclass(slots=True)
class _Part:
    """What is added at one place in one reach.

    Attributes:
        reach: Where.
        rows: `[B]`, the rows that are changed.
        renormalise: `[B]`, those of them that keep their length.
        added: Float32 `[B, 1, d]`, the same for every state of a row, zero in other rows, or
            `[1, 1, d]`, the same for all rows; or a term whose rule looks at the state.
    """

    reach: Reach
    rows: Flags
    renormalise: Flags
    added: Tensor | SteeringTerm

    def delta(self, layer: int, h: Tensor, picked: _Picked | None) -> Tensor:
        """Return what is added to states `[B, t, d]`, or to picked ones `[n, 1, d]`, in float32."""
        if isinstance(self.added, Tensor):
            if picked is None or len(self.added) == 1:
                return self.added
            return self.added[picked.at[0]]
        here = self.rows if picked is None else self.rows[picked.rows]
        if here.all():
            return self.added.delta_at(layer, h)
        rows = here.nonzero()[0].tolist()
        found = torch.zeros(h.shape, device=h.device)
        found[rows] = self.added.delta_at(layer, h[rows])
        return found


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which states are changed in the columns of one pass, where the same rows are in it.

    Attributes:
        start: The first column; behind the prompts, the first of those that are alike.
        width: How many.
        counted: Per reach, the positions of each row, `[B]` or `[1]`, that every pass adds.
        columns: First of the columns that are changed in all rows, and the one after the last.
        picked: The states that are changed, where they are few. Without columns and without these
            all states are looked at.
        where: Per part of the change, the flags of its reach among them, `[B, t, 1]` or
            `[n, 1, 1]`; None where every state that is changed is in it. Nothing is changed where
            it is empty.
        mask: Which of all states are changed, `[B, T]`; None for all.
        renormalise: Whether they keep their length, for all of them or for each.
        one_each: Whether one state of each row is changed, on the processor, and keeps its length.
    """

    start: int
    width: int
    counted: Mapping[Reach, NDArray[np.int64]] = field(default_factory=dict)
    columns: tuple[int, int] | None = None
    picked: _Picked | None = None
    where: tuple[Tensor | None, ...] = ()
    mask: Tensor | None = None
    renormalise: bool | Tensor = False
    one_each: bool = False


@dataclass(slots=True)
class _Window:
    """The columns of one pass.

    Attributes:
        start: The first of them; behind the prompts, the first of those that are alike.
        width: How many.
        reached: Returns, of a reach, booleans `[B, T]`: which positions a steering changes.
    """

    start: int
    width: int
    reached: Callable[[Reach], Flags]
    _layouts: dict[Hashable, _Layout] = field(default_factory=dict)

    def layout(self, parts: Sequence[_Part], device: torch.device) -> _Layout:
        """Return which states these parts change; blocks of a pass share it."""
        rows = [(part.reach, part.rows.tobytes(), part.renormalise.tobytes()) for part in parts]
        key = device, *rows
        found = self._layouts.get(key)
        if found is None:
            found = self._layouts[key] = self._lay_out(parts, device)
        return found

    def alike(
        self, reach: Reach, keep: bool, device: torch.device, column: int | None = None
    ) -> _Layout:
        """Return which states are changed where all rows get the same, in one reach.

        Args:
            reach: Which.
            keep: Whether lengths are kept.
            device: Where the states are.
            column: The only one that it has in these, where that is known, of one row.
        """
        key = device, reach, keep
        found = self._layouts.get(key)
        if found is None and column is not None:
            columns = None if self.width == 1 else (column, column + 1)
            found = self._layouts[key] = _Layout(
                self.start, self.width, {reach: _ONE}, columns, None, (None,), None, keep,
                keep and device.type == "cpu",
            )  # fmt: skip
        elif found is None:
            touched = self.reached(reach)
            count = touched.sum(axis=1)
            columns, picked, mask, _ = _looked_at(touched, device)
            where = (None,) if touched.any() else ()
            one_each = keep and device.type == "cpu" and bool((count == 1).all())
            counted = {reach: _ONE if one_each else count}  # so that it is of any number of rows
            found = self._layouts[key] = _Layout(
                self.start, self.width, counted, columns, picked, where, mask, keep, one_each
            )
        return found

    def _lay_out(self, parts: Sequence[_Part], device: torch.device) -> _Layout:
        reached = [self.reached(part.reach) for part in parts]
        inside = [here & part.rows[:, None] for part, here in zip(parts, reached, strict=True)]
        kept = [here & part.renormalise[:, None] for part, here in zip(parts, reached, strict=True)]
        touched, keep = np.any(inside, axis=0), np.any(kept, axis=0)
        if not np.any(touched):
            return _Layout(self.start, self.width)
        columns, picked, mask, place = _looked_at(touched, device)
        changed, keep = touched[place], keep[place]
        where: list[Tensor | None] = []
        for part, here in zip(parts, reached, strict=True):
            own = np.broadcast_to(part.rows[:, None], touched.shape)[place]
            same = here[place][own & changed].all()
            where.append(None if same else _there(here[place], device)[..., None])
        alike = keep[changed].all() or not keep.any()
        return _Layout(
            self.start,
            self.width,
            {part.reach: here.sum(axis=1) for part, here in zip(parts, reached, strict=True)},
            columns,
            picked,
            tuple(where),
            mask,
            bool(keep.any()) if alike else _there(keep, device),
        )


def _grid(rows: list[int] | slice, columns: list[int]) -> Any:
    return np.ix_(rows, columns) if isinstance(rows, list) else (rows, columns)


def _there(flags: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(flags.copy()).to(device)


def _looked_at(
    touched: Flags, device: torch.device
) -> tuple[tuple[int, int] | None, _Picked | None, Tensor | None, Any]:
    """Return columns, picked states and mask of a layout, and where that is in the columns."""
    if 2 * np.count_nonzero(touched) > touched.size:  # to leave out so little does not pay
        return None, None, None if touched.all() else _there(touched, device), slice(None)
    rows, places = touched.nonzero()
    first, end = (int(places.min()), int(places.max()) + 1) if len(places) else (0, 0)
    if len(places) == (end - first) * len(touched):
        return (first, end), None, None, (slice(None), slice(first, end))
    picked = _Picked(rows, (_there(rows, device), _there(places, device)))
    return None, picked, None, (rows, places, None)


@dataclass(slots=True)
class _Ready:
    """What is done at one place in all passes over the same columns.

    Attributes:
        layout: Which states are changed.
        parts: What is added to them.
        delta: The sum of the parts, where it does not depend on the states.
        short: The same for `steer_states`, where that is all that is to be done.
    """

    layout: _Layout
    parts: Sequence[_Part]
    delta: Tensor | None
    short: Tensor | None = None

    def fits(self, start: int, h: Tensor) -> bool:
        """Tell whether it is for states `[B, T, d]` of columns from there on."""
        if self.layout.start != start or self.layout.width != h.shape[1]:
            return False
        return self.short is None or h.dtype is _FLOAT

    def steer(self, layer: int, h: Tensor) -> Tensor:
        """Steer states `[B, T, d]`."""
        layout = self.layout
        if not layout.where:
            return h
        if layout.columns is not None:
            first, end = layout.columns
            return h.slice_scatter(self._steer(layer, h[:, first:end]), 1, first, end)
        if layout.picked is not None:
            at = layout.picked.at
            return h.index_put(at, self._steer(layer, h[at][:, None])[:, 0])
        return self._steer(layer, h)

    def _steer(self, layer: int, h: Tensor) -> Tensor:
        layout, delta = self.layout, self.delta
        if self.short is not None:
            return steer_states(h, self.short)
        if delta is None:
            delta = _sum(self.parts, layout, layer, h)
        return steer_hidden(h, delta, layout.renormalise, layout.mask)


def _sum(parts: Sequence[_Part], layout: _Layout, layer: int, h: Tensor) -> Tensor:
    """Return what all parts, each in its places, add to the states that are looked at."""
    deltas = (
        part.delta(layer, h, layout.picked)
        if where is None
        else part.delta(layer, h, layout.picked) * where
        for part, where in zip(parts, layout.where, strict=True)
    )
    return reduce(torch.add, deltas)


@dataclass(slots=True)
class _Progress:
    """How far one place has come.

    Between two blocks the processor's caches hold little of what hooks need, so that what they read
    costs more than what they compute: a usual pass reads this, `_Ready`, its layout, and not much
    else.

    Attributes:
        seen: Columns so far.
        ready: What the next pass does if it is over the same columns; None where that is not known.
        short: What every further pass of one column adds, where `steer_states` does it.
        passes: Passes over those columns that are not in the counts yet.
        counts: Per reach, how many positions of each row `[B]` were steered.
    """

    seen: int
    ready: _Ready | None
    passes: int
    counts: dict[Reach, NDArray[np.int64]]
    short: Tensor | None = None

    def settle(self) -> None:
        """Bring the counts up to date, and forget what was ready."""
        if self.ready is None:
            return
        for reach, more in self.ready.layout.counted.items():
            self.counts[reach] += self.passes * more
        self.ready, self.passes, self.short = None, 0, None


class SteeringPlan:
    """What each row of one batch is steered with, over the passes of one call.

    The first pass sees the columns of the mask; later passes (cached decoding) see the columns
    after it, which every unfinished row uses. Positions that are padding, or that belong to a
    finished row, are neither changed nor counted.

    Attributes:
        steerings: One per row.
        places: Where any of them acts, in order.
        tower: Blocks of a vision tower on which any of them acts, in order.
    """

    def __init__(
        self,
        steerings: Sequence[Steering],
        mask: Tensor,
        last_prompt: int | Sequence[int],
        pictured: bool = False,
        before: int = 0,
        table: _Table | None = None,
        worked: Worked | None = None,
    ) -> None:
        """Lay out one batch.

        Args:
            steerings: One per row.
            mask: `[B, T]`, true where a column of the first pass holds a real token.
            last_prompt: Column of each row's last prompt token: one number for left-padded
                prompts (`T - 1`), one per row for right-padded prompts with their answers.
            pictured: Whether the rows have images, which a vision tower sees first.
            before: Tokens of each row's prompt that were run, steered alike, in an earlier call.
            table: What was worked out of these steerings already.
            worked: The same of any steerings; what is worked out is added.
        """
        self.steerings = tuple(steerings)
        rows = len(self.steerings)
        columns = [last_prompt] * rows if isinstance(last_prompt, int) else list(last_prompt)
        known = None if table is None else table.numbers(self.steerings)
        if table is None or known is None:
            table = _Table(self.steerings, worked)
        self._table = table
        found = self._table.numbers(self.steerings) if known is None else known
        assert found is not None, "a table knows what it was made of"
        self._number = found
        known_of = self._table.known
        self.places = self._table.places(self._number)
        # A table may also know steerings whose rows have left.
        here = [known_of[number] for number in set(self._number.tolist())]
        self.tower: list[int] = sorted({layer for each in here for layer in each.tower})
        self._unseen = set(self.tower) if pictured else set()
        self._mask = mask.bool().cpu().numpy()
        self._last_prompt = np.array(columns, dtype=np.int64)[:, None]
        self._reaches = {reach for each in known_of for reach in each.reaches}
        decisions = [reach for reach in self._reaches if isinstance(reach, int)]
        # From here on, behind the prompts and the decisions, one column is like the other.
        decided = max(columns, default=0) + max(decisions, default=0)
        self._alike_from = max(decided + 1, self._mask.shape[1])
        self._unfinished = np.ones(rows, dtype=bool)
        counts = {
            reach: np.full(
                (len(self.places), rows), before if reach in ("all", "prompt") else 0, np.int64
            )
            for reach in self._reaches
        }
        self._places = {place: number for number, place in enumerate(self.places)}
        self._progress = {place: _Progress(0, None, 0, {}) for place in self.places}
        self._count_in(counts)
        self._window: _Window | None = None
        self._parts: dict[Place, list[_Part]] = {}

    @classmethod
    def side_by_side(
        cls, rows: Sequence[tuple[SteeringPlan, int, int]], worked: Worked | None = None
    ) -> Self:
        """Return a plan for the answers of rows of other plans; their counts come along.

        Args:
            rows: Per row a plan, its row there, and how many tokens its answer has, of which the
                last is to be fed.
            worked: What was worked out of steerings already; more is added.
        """
        steerings = [plan.steerings[row] for plan, row, _ in rows]
        # Whoever stays knows more than whoever joins.
        table = rows[0][0]._table if rows else None
        starts = [-tokens for *_, tokens in rows]
        made = cls(steerings, torch.ones(len(rows), 0), starts, table=table, worked=worked)
        for plan in {id(plan): plan for plan, *_ in rows}.values():
            plan._settle()
            here = [place for place, row in enumerate(rows) if row[0] is plan]
            there = [rows[place][1] for place in here]
            ours: list[int] | slice = slice(None)
            theirs: list[int] | slice = ours
            if made.places != plan.places:
                both = made._places.keys() & plan._places.keys()
                ours = [made._places[at] for at in both]
                theirs = [plan._places[at] for at in both]
            for reach in made._counts.keys() & plan._counts.keys():
                made._counts[reach][_grid(ours, here)] = plan._counts[reach][_grid(theirs, there)]
        if (newest := made._table.newest(made._number)) is not None:
            reach, deltas = newest
            layout = _Layout(0, 1, {reach: _ONE}, where=(None,), renormalise=True, one_each=True)
            for progress, short in zip(made._progress.values(), deltas, strict=True):
                progress.ready, progress.short = _Ready(layout, (), None, short), short
        return made

    def take_back(self, columns: int) -> None:
        """Forget what a pass that failed has counted.

        Args:
            columns: How many there were before it.
        """
        for progress in self._progress.values():
            if progress.seen > columns:
                progress.seen = columns
                progress.passes -= 1

    def fork(self) -> Self:
        """Return a plan that goes on from here by itself."""
        twin = copy.copy(self)
        twin._unfinished = self._unfinished.copy()
        self._settle()
        twin._progress = copy.deepcopy(self._progress)
        twin._count_in({reach: counts.copy() for reach, counts in self._counts.items()})
        return twin

    def _count_in(self, counts: dict[Reach, NDArray[np.int64]]) -> None:
        """Let places count in rows of tables, of which there is one per reach."""
        self._counts = counts
        for number, progress in enumerate(self._progress.values()):
            progress.counts = {reach: table[number] for reach, table in counts.items()}

    def finish(self, row: int) -> None:
        """Stop steering and counting one row: its answer is complete."""
        self._settle()
        self._unfinished[row] = False
        self._window = None

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone; the others are forgotten, their counts included."""
        self._settle()
        picked = list(rows)
        self.steerings = tuple(self.steerings[row] for row in picked)
        self._number = self._number[picked]
        self._mask, self._last_prompt = self._mask[picked], self._last_prompt[picked]
        self._unfinished = self._unfinished[picked]
        self._count_in({reach: table[:, picked] for reach, table in self._counts.items()})
        self._window, self._parts = None, {}

    def _settle(self) -> None:
        for progress in self._progress.values():
            progress.settle()

    def steered_tokens(self, row: int, term: SteeringTerm) -> int:
        """Return how many positions of a row one term has really changed, counted in the hooks.

        Raises:
            SteeringNotAppliedError: The term is active, and one of its layers was never reached.
        """
        self._settle()
        site, reach, layers = term.site, term.reach, term.steered_layers
        places = [self._places[site, layer] for layer in layers]
        counts = self._counts[reach][places, row].tolist()
        if 0 in counts:
            missed = [layer for layer, count in zip(layers, counts, strict=True) if count == 0]
            raise SteeringNotAppliedError(
                f"vector {term.vector.name!r} was to steer layers {missed} and reached none of "
                "their outputs: the model ran past its blocks; check that the model's blocks are "
                "the modules that its forward pass calls"
            )
        if unseen := self._unseen.intersection(term.tower):
            raise SteeringNotAppliedError(
                f"vector {term.vector.name!r} was to steer layers {sorted(unseen)} of the vision "
                "tower, which saw no image: check that the tower is what the model reads images by"
            )
        least: int = min(counts)
        return least

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
        return self.step((site, layer))(h)

    def step(self, place: Place) -> Callable[[Tensor], Tensor]:
        """Return what steers the states of one place, `[B, T, d]`, and moves on by `T` columns."""
        progress = self._progress[place]

        def step(h: Tensor) -> Tensor:
            short = progress.short
            if short is None or h.shape[1] != 1 or h.dtype is not _FLOAT:
                return self._step(place, progress, h)
            progress.seen += 1
            progress.passes += 1
            return steer_states(h, short)  # nearly always

        return step

    def _step(self, place: Place, progress: _Progress, h: Tensor) -> Tensor:
        start, width, ready = progress.seen, h.shape[1], progress.ready
        progress.seen = start + width
        start = min(start, self._alike_from)
        if ready is None or not ready.fits(start, h):
            progress.settle()
            ready = progress.ready = self._prepare(place, self._columns(start, width), h)
            if start == self._alike_from and width == 1:
                progress.short = ready.short
        progress.passes += 1
        return ready.steer(place[1], h)

    def apply_in_tower(self, layer: int, h: Tensor) -> Tensor:
        """Steer what one MLP of a vision tower gives for the images of the rows.

        Args:
            layer: One of `tower`.
            h: `[tiles, T, d]`, or `[T, d]` where all images are in one row.

        Raises:
            ModelMismatchError: A vector is not as wide as the states.
            InvalidInputError: The rows do not have the same steering of the tower.
        """
        first = self.steerings[0]
        if any(each.tower_key != first.tower_key for each in self.steerings):
            raise InvalidInputError(
                "prompts with images whose vision tower is steered in different ways cannot be run "
                "in one pass: run them one after the other"
            )
        terms = [term for term in first.tower_terms if layer in term.tower]
        for term in terms:
            if term.tower[layer].shape[-1] != h.shape[-1]:
                raise ModelMismatchError(
                    f"vector {term.vector.name!r} has width {term.tower[layer].shape[-1]} in layer "
                    f"{layer} of the vision tower, which is {h.shape[-1]} wide: build the vector "
                    "for this model"
                )
        self._unseen.discard(layer)
        delta = reduce(torch.add, (term.tower_delta(layer, h) for term in terms))
        keep = any(term.renormalise for term in terms)
        return steer_hidden(h[None], delta[None], keep)[0]

    def _prepare(self, place: Place, window: _Window, h: Tensor) -> _Ready:
        """Return what is done at one place in all passes over such a window."""
        if (only := self._table.only(place, h, self._number)) is not None:
            reach, keep, total, short = only
            layout = window.alike(reach, keep, h.device, self._last_alone(reach, window))
            if layout.picked is not None and len(total) > 1:
                total = total[layout.picked.at[0]]
            simple = layout.one_each and h.dtype is _FLOAT
            return _Ready(layout, (), total, short if simple else None)
        parts = self._parts_at(place, h)
        layout = window.layout(parts, h.device)
        looks = any(isinstance(part.added, SteeringTerm) for part in parts)
        fixed = layout.where and not looks
        return _Ready(layout, parts, _sum(parts, layout, place[1], h) if fixed else None)

    def _columns(self, start: int, width: int) -> _Window:
        """Return the next columns; blocks of a pass share it."""
        window = self._window
        if window is None or window.start != start or window.width != width:
            found: dict[Reach, Flags] = {}

            def reached(reach: Reach) -> Flags:
                if reach not in found:
                    found[reach] = self._reached(reach, start, width)
                return found[reach]

            window = self._window = _Window(start, width, reached)
        return window

    def _last_alone(self, reach: Reach, window: _Window) -> int | None:
        """Return the last of columns if it ends the only prompt and all else is out of reach."""
        if len(self._number) > 1 or reach in ("all", "prompt") or not self._unfinished[0]:
            return None
        column = window.width - 1
        return column if self._last_prompt[0, 0] == window.start + column else None

    def _reached(self, reach: Reach, start: int, width: int) -> Flags:
        """Return which positions `[B, T]` of some columns a reach has."""
        used = np.ones((len(self._mask), width), dtype=bool)  # behind the mask all are
        if start < self._mask.shape[1]:
            known = self._mask[:, start : start + width]
            used[:, : known.shape[1]] = known
        used &= self._unfinished[:, None]
        column = np.arange(start, start + width)[None, :]
        last = self._last_prompt
        if reach == "all":
            return used
        reached: Flags
        if reach == "prompt":
            reached = used & (column <= last)
        elif reach == "last_prompt":
            reached = used & (column == last)
        else:
            reached = used & (column >= last)
            if isinstance(reach, int):
                reached &= column <= last + reach
        return reached

    def _parts_at(self, place: Place, h: Tensor) -> list[_Part]:
        """Return what is added at one place, worked out in the first pass.

        Raises:
            ModelMismatchError: A vector is not as wide as the states.
        """
        if place not in self._parts:
            self._parts[place] = [
                *self._table.sums(place, h, self._number),
                *self._looking(place),
            ]
        return self._parts[place]

    def _looking(self, place: Place) -> list[_Part]:
        """Return the terms whose rule looks at the states, each with its rows."""
        if not self._table.looks:
            return []
        site, layer = place
        # Rows of one term run together; a row may hold the same term more than once.
        found: dict[tuple[int, int], tuple[SteeringTerm, Flags]] = {}
        for number, known in enumerate(self._table.known):
            terms = [t for t in known.steering.terms_at(layer, site) if t.rule != "add"]
            for time, term in enumerate(terms):
                none = np.zeros(len(self.steerings), dtype=bool)
                rows = found.setdefault((id(term), time), (term, none))[1]
                rows |= self._number == number
        return [
            _Part(term.reach, rows, rows & term.renormalise, term)
            for term, rows in found.values()
            if rows.any()
        ]


@dataclass(slots=True)
class _Worked:
    """What was worked out of one steering.

    Attributes:
        steering: Which; it keeps the vectors by whose identity it is known.
        places: Where it acts.
        reaches: Those of its terms.
        tower: Blocks of a vision tower on which it acts.
        looks: Whether what one of its terms adds depends on the states.
        totals: What all others add, per place.
        short: The same for `steer_states`, where that does it if states are in float32: on the
            processor, for one total that is not zero, where lengths are kept.
    """

    steering: Steering
    places: tuple[Place, ...]
    reaches: frozenset[Reach]
    tower: tuple[int, ...]
    looks: bool
    totals: dict[Place, Totals] = field(default_factory=dict)
    short: dict[Place, Tensor] = field(default_factory=dict)
    _newest: tuple[Reach, Tensor] | None = None

    @classmethod
    def of(cls, steering: Steering) -> Self:
        """Return what is known before the first pass."""
        terms = steering.active_terms
        return cls(
            steering,
            steering.places,
            frozenset(term.reach for term in terms),
            tuple(layer for term in steering.tower_terms for layer in term.tower),
            any(term.rule != "add" for term in terms),
        )

    def total(self, place: Place, h: Tensor) -> Totals:
        """Return what is added at one place whatever the state.

        Raises:
            ModelMismatchError: A vector is not as wide as the states.
        """
        if place not in self.totals:
            (site, layer), width = place, h.shape[-1]
            for term in self.steering.terms_at(layer, site):
                shape = term.vector.directions[layer].shape
                if shape != (width,):
                    raise ModelMismatchError(
                        f"vector {term.vector.name!r} has width {tuple(shape)} in layer "
                        f"{layer}, but the model has width {width} at site {site!r}: build "
                        "the vector for this model"
                    )
            found: Totals = {}
            for term, delta in self.steering.deltas(layer, site):
                keeps, total = term.renormalise, delta.cpu()[None, None]
                if term.reach in found:
                    before, others = found[term.reach]
                    keeps, total = keeps or before, others + total
                found[term.reach] = keeps, total
            self.totals[place] = {
                reach: (keeps, total.to(h.device)) for reach, (keeps, total) in found.items()
            }
            if len(found) == 1:
                ((keeps, total),) = self.totals[place].values()
                if keeps and h.is_cpu and total.any():
                    self.short[place] = just_short(total)
        return self.totals[place]

    def newest(self) -> tuple[Reach, Tensor] | None:
        """Return what `steer_states` adds to the newest token of an answer.

        Returns:
            Its reach, and `[P, 1, 1, d]` for its places; None where more is to be done, or it is
            not known yet.
        """
        if self._newest is None and not self.looks and len(self.short) == len(self.places) > 0:
            deltas = [self.short[place] for place in self.places]
            reaches = {reach for place in self.places for reach in self.totals[place]}
            alike = len(reaches) == 1 and len({delta.shape for delta in deltas}) == 1
            if alike and reaches <= {"all", "generated"}:
                self._newest = reaches.pop(), torch.stack(deltas)
        return self._newest


class _Table:
    """What steerings that differ add at each place, worked out once, however rows join and leave.

    Attributes:
        known: Those that differ.
        looks: Whether what one of them adds depends on the states.
    """

    def __init__(self, steerings: Sequence[Steering], worked: Worked | None = None) -> None:
        """Begin with nothing summed up."""
        worked = {} if worked is None else worked
        self._numbers: dict[object, int] = {}
        self.known: list[_Worked] = []
        for steering in steerings:
            key = _identity(steering)
            if key in self._numbers:
                continue
            if key not in worked:
                worked[key] = _Worked.of(steering)
            self._numbers[key] = len(self.known)
            self.known.append(worked[key])
        self.looks = any(each.looks for each in self.known)
        self._sums: dict[Place, dict[Reach, tuple[Flags, Flags, Tensor]]] = {}

    def places(self, numbers: NDArray[np.int64]) -> list[Place]:
        """Return where any of these steerings acts, in order."""
        if len(self.known) == 1:
            return [*self.known[0].places]
        used = np.unique(numbers).tolist()
        return sorted({place for number in used for place in self.known[number].places})

    def numbers(self, steerings: Sequence[Steering]) -> NDArray[np.int64] | None:
        """Return which of its own each of these is; None where one of them is not there."""
        numbers = [self._numbers.get(_identity(each), -1) for each in steerings]
        return None if -1 in numbers else np.array(numbers, dtype=np.int64)

    def only(
        self, place: Place, h: Tensor, rows: NDArray[np.int64]
    ) -> tuple[Reach, bool, Tensor, Tensor | None] | None:
        """Return what is done where all rows are changed in the same reach alone.

        Args:
            place: Where.
            h: States there.
            rows: Of each the number of its steering.

        Returns:
            Reach, kept length, the total `[1, 1, d]` of all or `[B, 1, d]`, and the same for
            `steer_states` if it is zero for none; None where they are not so much alike.

        Raises:
            ModelMismatchError: A vector is not as wide as the states.
        """
        if self.looks:
            return None
        found = [each.total(place, h) for each in self.known]
        if len(found[0]) != 1:
            return None
        ((reach, (keep, total)),) = found[0].items()
        if len(found) == 1:  # one does for all rows: there is less to read
            return reach, keep, total, self.known[0].short.get(place)
        if any(len(each) != 1 or each.get(reach, (not keep,))[0] != keep for each in found):
            return None
        numbers = rows.tolist()
        total = torch.cat([found[number][reach][1] for number in numbers])
        if not all(place in each.short for each in self.known):
            return reach, keep, total, None
        return reach, keep, total, torch.cat([self.known[n].short[place] for n in numbers])

    def newest(self, rows: NDArray[np.int64]) -> tuple[Reach, Sequence[Tensor]] | None:
        """Return what `steer_states` adds to the newest token of each answer.

        Args:
            rows: Of each the number of its steering.

        Returns:
            Their reach, and per place `[1, 1, d]` or `[B, 1, d]`; None where the rows differ in
            more than that, or it is not known yet.
        """
        numbers = rows.tolist()
        deltas: dict[int, Tensor] = {}
        alike = set()
        for number in set(numbers):
            if (newest := self.known[number].newest()) is None:
                return None
            reach, deltas[number] = newest
            alike.add((reach, self.known[number].places))
        if len(alike) != 1:
            return None
        ((reach, _),) = alike
        if len(deltas) == 1:  # one does for all rows: there is less to read
            numbers = numbers[:1]
        return reach, torch.cat([deltas[number] for number in numbers], 1).unbind(0)

    def sums(self, place: Place, h: Tensor, rows: NDArray[np.int64]) -> list[_Part]:
        """Return per reach what rows, given by their steerings' numbers, get whatever the state.

        Raises:
            ModelMismatchError: A vector is not as wide as the states.
        """
        if place not in self._sums:
            self._sums[place] = self._add_up(place, h)
        index = torch.from_numpy(rows).to(h.device)
        return [
            _Part(reach, changed[rows], keep[rows], total.index_select(0, index))
            for reach, (changed, keep, total) in self._sums[place].items()
            if changed[rows].any()
        ]

    def _add_up(self, place: Place, h: Tensor) -> dict[Reach, tuple[Flags, Flags, Tensor]]:
        added = [each.total(place, h) for each in self.known]
        nothing = False, torch.zeros(1, 1, h.shape[-1], device=h.device)
        sums: dict[Reach, tuple[Flags, Flags, Tensor]] = {}
        for reach in dict.fromkeys(reach for totals in added for reach in totals):
            here = [totals.get(reach, nothing) for totals in added]
            sums[reach] = (
                np.array([reach in totals for totals in added]),
                np.array([keeps for keeps, _ in here]),
                torch.cat([total for _, total in here]),
            )
        return sums


def _identity(steering: Steering) -> tuple[object, ...]:
    """Return what tells steerings apart, as long as they are kept.

    Not their own hash: a vector of somebody else may have none.
    """
    return tuple(
        (id(t.vector), t.strength, t.layers, t.scope, t.unit, t.renormalise) for t in steering.terms
    )
