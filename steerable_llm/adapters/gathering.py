"""Letting the model calls of one `.batch()` run as one batch on the model.

Each input still runs through the framework on its own, with its own callbacks, cache look-up and
error. Where it would call the model it hands its request over and waits. As soon as every input
has either handed one over or ended without one (a cached answer, an error), all requests run
together. When nobody waits for any of them any more, the work stops.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import Generation, GenerationRequest
from steerable_llm.errors import SteerableError

Row = tuple[GenerationRequest, "Future[Generation]"]


class Gathering:
    """The model calls of some inputs of one batch.

    Args:
        engine: the model they go to.
        inputs: how many inputs take part; each opens one `seat`.
    """

    def __init__(self, engine: SteerableHFLLM, inputs: int) -> None:
        self._engine = engine
        self._expected = inputs
        self._waiting: list[Row] = []
        self._lock = threading.Lock()

    @contextmanager
    def seat(self) -> Iterator[None]:
        """Take part with one input: its model call, made in this block, joins the others."""
        seat = _Seat(self)
        token = _SEAT.set(seat)
        try:
            yield
        finally:
            _SEAT.reset(token)
            if not seat.used:
                self._leave()

    def _hand_over(self, request: GenerationRequest) -> "Future[Generation]":
        future: Future[Generation] = Future()
        with self._lock:
            self._waiting.append((request, future))
            self._run_if_complete()
        return future

    def _leave(self) -> None:
        with self._lock:
            self._expected -= 1
            self._run_if_complete()

    def _run_if_complete(self) -> None:
        if self._waiting and len(self._waiting) == self._expected:
            # A thread of its own, since whoever came last may be an event loop.
            threading.Thread(target=self._run, name="steerable-batch").start()

    def _run(self) -> None:
        # The futures stay open while the model works, so that whoever waits can still cancel.
        rows = [row for row in self._waiting if not row[1].cancelled()]
        nobody_waits = threading.Event()

        def left(_: "Future[Generation]") -> None:
            if all(future.cancelled() for _, future in rows):
                nobody_waits.set()

        for _, future in rows:
            future.add_done_callback(left)
        if not rows or nobody_waits.is_set():
            return
        try:
            answers = self._engine.generate_batch(
                [request for request, _ in rows], cancelled=nobody_waits
            )
        except SteerableError as error:
            if len(rows) == 1:
                _settle(rows[0][1], error)
            else:
                self._run_each(rows, nobody_waits)
        except BaseException as error:
            for _, future in rows:
                _settle(future, error)
        else:
            # After a cancellation there are no answers, and nobody waits for one.
            for (_, future), answer in zip(rows, answers, strict=False):
                _settle(future, answer)

    def _run_each(self, rows: list[Row], nobody_waits: threading.Event) -> None:
        """Run the rows one by one, so that only the row at fault fails."""
        for request, future in rows:
            try:
                for answer in self._engine.generate_batch([request], cancelled=nobody_waits):
                    _settle(future, answer)
            except BaseException as error:
                _settle(future, error)


def _settle(future: "Future[Generation]", outcome: Generation | BaseException) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


class _Seat:
    """One input's place; it is good for one model call."""

    def __init__(self, gathering: Gathering) -> None:
        self.gathering = gathering
        self.used = False


_SEAT: ContextVar[_Seat | None] = ContextVar("steerable_batch_seat", default=None)


def hand_over(engine: SteerableHFLLM, request: GenerationRequest) -> "Future[Generation] | None":
    """Join the batch that the caller runs in; None when it runs in none on this model."""
    seat = _SEAT.get()
    if seat is None or seat.used or seat.gathering._engine is not engine:
        return None
    seat.used = True
    return seat.gathering._hand_over(request)
