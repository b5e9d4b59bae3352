"""Prompts at work side by side, a token each per turn; they join and leave between two turns.

Prompts of text on models whose rows can join (`runtime/row_cache.py`) share one batch. Prompts with
images, and all prompts of other models, run in batches of those that came together, which take
turns with the shared one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from steerable_llm.answer.engine import Limits, Prompt
from steerable_llm.answer.job import Job, take_tokens
from steerable_llm.answer.static_batch import StaticBatch
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.joined import JoinedRows, Reading, Row
from steerable_llm.runtime.memory import is_short_of_memory
from steerable_llm.runtime.prefix_cache import BLOCK, PrefixCache
from steerable_llm.runtime.row_cache import States, most_joined
from steerable_llm.vector.steering import Steering


@dataclass(eq=False)
class _Seat:
    """A job in the shared batch.

    Attributes:
        job: The job.
        row: Its prompt.
        bare: Its prompt without the context, where the two are contrasted.
        scores: Of the rows that were read, until both are.
    """

    job: Job
    row: Row
    bare: Row | None
    scores: dict[Row, Tensor]

    @property
    def rows(self) -> list[Row]:
        return [self.row] if self.bare is None else [self.row, self.bare]

    def combined(self, scores: dict[Row, Tensor]) -> Tensor:
        contrast = self.job.prompt.contrast
        if self.bare is None or contrast is None:
            return scores[self.row]
        return contrast.combine(scores[self.row], scores[self.bare])


class Batch:
    """Jobs that are at work.

    Attributes:
        limits: How much is taken on at once.
    """

    def __init__(self, llm: HookedModel, limits: Limits, prefixes: PrefixCache) -> None:
        """Begin with nothing to do.

        Args:
            llm: The model.
            limits: How much is taken on at once.
            prefixes: Where states of prompts are kept for later ones.
        """
        self.limits = limits
        self._llm, self._prefixes = llm, prefixes
        self._most = most_joined(llm)
        self._joined = JoinedRows(llm)
        self._seats: dict[Row, _Seat] = {}
        self._unread: list[Row] = []
        self._reading: Reading | None = None
        self._alone: set[Row] = set()
        self._aside: deque[_Seat] = deque()
        self._short = False  # of memory, until a row leaves
        self._apart: list[Job] = []
        self._single: set[Job] = set()
        self._static: list[StaticBatch] = []

    @property
    def jobs(self) -> list[Job]:
        """What it is at work on."""
        seats = {id(seat): seat.job for seat in self._seats.values()}
        return [*seats.values(), *self._apart, *(job for each in self._static for job in each.jobs)]

    @property
    def together(self) -> bool:
        """Whether only those that begin together run together."""
        return not self._most

    def has_room(self, prompt: Prompt) -> bool:
        """Tell whether a prompt fits beside the others; one alone always does."""
        prompts = [prompt, *(job.prompt for job in self.jobs)]
        rows = sum(1 if each.bare is None else 2 for each in prompts)
        longest = max(len(each.tokens) + each.request.length() for each in prompts)
        fits = rows <= self.limits.rows and rows * longest <= self.limits.tokens
        return len(prompts) == 1 or (fits and not self._short and not self._aside)

    def add(self, job: Job) -> None:
        """Take up a job; it fails by itself if it cannot be begun."""
        job.pending.times.begun = time.monotonic()
        prompt = job.prompt
        room = prompt.request.length()
        if prompt.vision or len(prompt.tokens) + room > self._most:
            self._apart.append(job)
            if (
                self._most and not prompt.vision
            ):  # the longest row of a pass would change the others
                self._single.add(job)
            return
        try:
            row = Row(prompt.tokens, prompt.steering, room)
            bare = None if prompt.bare is None else Row(prompt.bare.tokens, Steering.none(), room)
        except Exception as error:
            job.fail(error)
            return
        seat = _Seat(job, row, bare, {})
        for each in seat.rows:
            self._seats[each] = seat
            self._unread.append(each)

    def turn(self) -> None:
        """Read some of the prompts that wait, and give every answer its next token."""
        self._leave_ended()
        self._apart = [job for job in self._apart if not job.ended]
        self._single.intersection_update(self._apart)
        self._begin_apart()
        self._join_again()
        left = self.limits.prefill
        while left > 0 and not self._short and (self._reading is not None or self._unread):
            left -= self._read_on(left)
        self._make_room()
        if self._joined.rows:
            self._step()
        self._step_apart()

    def close(self) -> None:
        """Leave the model as it was."""
        self._joined.close()
        for each in self._static:
            each.close()

    # The shared batch.

    def _leave_ended(self) -> None:
        for row, seat in [*self._seats.items()]:
            if row is seat.row and seat.job.ended:
                self._let_go(seat)

    def _let_go(self, seat: _Seat) -> None:
        for row in seat.rows:
            self._seats.pop(row, None)
            if row in self._unread:
                self._unread.remove(row)
            if row in self._joined.rows:
                self._joined.leave(row)
                self._short = False
        if seat in self._aside:
            self._aside.remove(seat)
        if self._reading is not None and not any(row in self._seats for row in self._reading.rows):
            self._reading = None

    def _read_on(self, most: int) -> int:
        """Read up to so many tokens of prompts; returns how many, padding included."""
        rows: Sequence[Row]
        if self._reading is None:
            self._prefixes.serve(self._llm.model)
            rows, known = self._alike(most)
            self._unread = [row for row in self._unread if row not in rows]
        else:
            rows = self._reading.rows
        try:
            if self._reading is None:
                self._reading = Reading(self._llm, rows, known, self._joined.worked)
            reading = self._reading
            before = reading.left
            scores = reading.read(most)
        except Exception as error:
            self._reading = None
            if is_short_of_memory(error) and (self._prefixes.size or self._joined.rows):
                self._short = not self._prefixes.size
                self._prefixes.forget()
                self._unread = [*rows, *self._unread]
            elif len(rows) == 1:
                self._fail(rows[0], error)
            else:  # only the row at fault is to fail
                self._alone.update(rows)
                self._unread = [*rows, *self._unread]
            return most
        if scores is not None:
            self._reading = None
            for row, own in zip(reading.rows, scores, strict=True):
                self._keep(row)
                if row in self._seats:
                    self._seats[row].scores[row] = own
            self._begin([self._seats[row] for row in reading.rows if row in self._seats])
        return (before - reading.left) * len(reading.rows)

    def _keep(self, row: Row) -> None:
        assert row.states is not None, "it was read"
        try:
            self._prefixes.keep(row.tokens, row.steering, row.blocks, row.states)
        except Exception:  # memory is short, and answers need it more
            self._prefixes.forget()

    def _alike(self, most: int) -> tuple[list[Row], list[States]]:
        """Return rows to be read together, of which as many first tokens are known, and those."""
        rows: list[Row] = []
        states: list[States] = []
        met: set[int] = set()
        start = longest = 0
        for row in self._unread:
            known, length = self._prefixes.find(row.tokens, row.steering, row.blocks)
            if not rows:
                start = length
            # Who goes on like one of them waits, to find its states.
            goes_on = row.blocks[start // BLOCK : start // BLOCK + 1]
            if length != start or met.intersection(goes_on):
                continue
            longest = max(longest, len(row.tokens) - start)
            if rows and (row in self._alone or longest * (len(rows) + 1) > most):
                break
            rows.append(row)
            states.append(known)
            met.update(goes_on)
            if row in self._alone:
                break
        self._alone.difference_update(rows)
        return rows, states

    def _begin(self, seats: Sequence[_Seat]) -> None:
        """Choose first tokens where all is read, and let the rows join whose answers go on."""
        ready: list[_Seat] = []
        for seat in dict.fromkeys(seats):
            try:
                for term in seat.row.steering.active_terms if seat.row.counted else ():
                    seat.row.steered_tokens(term)
            except Exception as error:
                self._fail(seat.row, error)
            else:
                if len(seat.scores) == len(seat.rows):
                    ready.append(seat)
        for seat in self._chosen(ready, [seat.scores for seat in ready]):
            seat.scores = {}
            self._join(seat)

    # What waits where memory is short.

    def _join(self, seat: _Seat) -> None:
        """Let the rows of a seat join, or wait until others leave; without others they fail."""
        try:
            for row in seat.rows:
                self._joined.join(row)
        except Exception as error:  # no memory is left
            self._put_aside(seat, error)

    def _join_again(self) -> None:
        if not self._joined.rows:
            self._short = False
        while self._aside and not self._short:
            self._join(self._aside.popleft())

    def _make_room(self) -> None:
        """Have room for the next token of each row; where there is none for all, the last wait."""
        while self._joined.rows:
            try:
                self._joined.make_room()
            except Exception as error:  # no memory is left
                if self._prefixes.size:
                    self._prefixes.forget()
                    continue
                rows = self._joined.rows
                last = [row for row in self._seats if row in rows][-1]
                self._put_aside(self._seats[last], error)
            else:
                return

    def _put_aside(self, seat: _Seat, error: Exception) -> None:
        if all(row in seat.rows for row in self._joined.rows):
            self._fail(seat.row, error)
            return
        try:
            for row in seat.rows:
                self._joined.put_aside(row)
        except Exception as worse:  # not even for that
            self._fail(seat.row, worse)
        else:
            self._aside.append(seat)
            self._short = True

    # All rows.

    def _step(self) -> None:
        """Feed the last token of each answer, and choose the next."""
        rows = list(self._joined.rows)
        tokens = [self._seats[row].job.answer.tokens[-1] for row in rows]
        found = dict(zip(rows, self._joined.feed(tokens), strict=True))
        scores: dict[Row, Tensor] = {}
        for row, each in found.items():
            if isinstance(each, Tensor):
                scores[row] = each
            elif row in self._seats:
                self._fail(row, each)
        seats = list(dict.fromkeys(self._seats[row] for row in rows if row in self._seats))
        self._chosen(seats, [scores] * len(seats))

    def _chosen(self, seats: Sequence[_Seat], scores: Sequence[dict[Row, Tensor]]) -> list[_Seat]:
        """Give each its next token; returns those whose answers go on."""
        if not seats:
            return []
        combined = [seat.combined(own) for seat, own in zip(seats, scores, strict=True)]
        jobs = [seat.job for seat in seats]
        going_on = []
        for seat, whole in zip(seats, take_tokens(jobs, torch.stack(combined)), strict=True):
            if not whole:
                going_on.append(seat)
                continue
            seat.job.finish(seat.row.steered_tokens)
            self._let_go(seat)
        return going_on

    def _fail(self, row: Row, error: Exception) -> None:
        seat = self._seats.get(row)
        if seat is not None:
            seat.job.fail(error)
            self._let_go(seat)

    # What runs apart.

    def _begin_apart(self) -> None:
        takes_turns = self._llm.chat_format.vision is not None
        while self._apart and not (self._static and takes_turns):
            jobs = self._next_apart()
            self._apart = [job for job in self._apart if job not in jobs]
            self._single.difference_update(jobs)
            jobs = [job for job in jobs if not job.ended]
            if jobs:
                self._guarded(jobs, partial(self._begin_static, jobs))

    def _next_apart(self) -> list[Job]:
        """Return the first job with those that run together with it."""
        jobs = [job for job in self._apart if job not in self._single]
        if self._apart[0] not in jobs:
            return self._apart[:1]
        prompts = [job.prompt for job in jobs]
        # What is contrasted has a second stream beside it.
        keys = [None if prompt.contrast else prompt.steering.tower_key for prompt in prompts]
        reads, order = [prompt.read for prompt in prompts], range(len(prompts))
        try:
            groups = self._llm.image_batches.split(reads, order, len(prompts), keys)
        except Exception:  # to find out took more memory than there is
            return self._apart[:1]
        return next([jobs[place] for place in group] for group in groups if 0 in group)

    def _begin_static(self, jobs: Sequence[Job]) -> None:
        self._static.append(StaticBatch(self._llm, jobs))

    def _step_apart(self) -> None:
        for static in [*self._static]:
            self._guarded(static.jobs, static.step)
            if not static.jobs or any(job in self._apart for job in static.jobs):
                static.close()
                self._static.remove(static)

    def _guarded(self, jobs: Sequence[Job], work: Callable[[], object]) -> None:
        """Do the work of some jobs; what goes wrong with several is tried with each alone."""
        try:
            work()
        except Exception as error:
            for job in [*jobs]:
                if len(jobs) > 1:
                    self._single.add(job)
                    self._apart.append(job)
                else:
                    job.fail(error)
