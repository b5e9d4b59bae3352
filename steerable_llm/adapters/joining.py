"""Concurrent calls of one model join one batch, so that many take neither threads nor turns.

Calls that come while the model is at work wait for it in a queue; when it is done, those that wait
run together, in the order in which they came. One thread per model does the work while there is
any. Whoever stops waiting is left out, and the work stops when nobody waits for any of it.
"""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from weakref import WeakKeyDictionary

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import Generation, GenerationRequest
from steerable_llm.errors import SteerableError
from steerable_llm.forked import renew_in_forks

Row = tuple[GenerationRequest, "Future[Generation]"]

MOMENT = 0.002
"""Seconds that the first call waits for another of the same moment, such as a task of its loop."""
LONGEST = 0.05
"""Seconds after which it waits for no more of them."""


class _Queue:
    """What waits for one model; only its thread holds the model itself."""

    def __init__(self) -> None:
        self.renew()
        renew_in_forks(self)

    def renew(self) -> None:
        self._waiting: deque[Row] = deque()
        self._changed = threading.Condition()
        self._working = False

    def put(self, llm: SteerableHFLLM, rows: Sequence[Row], batch_size: int) -> None:
        """Add rows, and see to it that somebody works."""
        with self._changed:
            self._waiting.extend(rows)
            self._changed.notify()
            if not self._working:
                self._working = True
                work = threading.Thread(
                    target=self._work, args=(llm, batch_size), name="steerable-joined", daemon=True
                )
                work.start()

    def _work(self, llm: SteerableHFLLM, batch_size: int) -> None:
        self._wait_a_moment(batch_size)
        while True:
            with self._changed:
                if not self._waiting:
                    self._working = False
                    return
                rows = [self._waiting.popleft() for _ in range(min(batch_size, len(self._waiting)))]
            run_rows(llm, rows)

    def _wait_a_moment(self, batch_size: int) -> None:
        left = LONGEST
        with self._changed:
            while left > 0 and len(self._waiting) < batch_size:
                if not self._changed.wait(MOMENT):
                    return
                left -= MOMENT


def run_rows(llm: SteerableHFLLM, handed_over: Sequence[Row]) -> None:
    """Answer rows together, unless nobody waits for them any more."""
    # The futures stay open while the model works, so that whoever waits can still cancel.
    rows = [row for row in handed_over if not row[1].cancelled()]
    nobody_waits = threading.Event()

    def left(_: "Future[Generation]") -> None:
        if all(future.cancelled() for _, future in rows):
            nobody_waits.set()

    for _, future in rows:
        future.add_done_callback(left)
    if rows and not nobody_waits.is_set():
        _answer(llm, rows, nobody_waits)


def _answer(llm: SteerableHFLLM, rows: Sequence[Row], nobody_waits: threading.Event) -> None:
    try:
        answers = llm.generate_batch([request for request, _ in rows], cancelled=nobody_waits)
    except BaseException as error:
        if len(rows) > 1 and isinstance(error, SteerableError):
            for row in rows:  # one by one, so that only the row at fault fails
                _answer(llm, [row], nobody_waits)
        else:
            for _, future in rows:
                _settle(future, error)
    else:
        # After a cancellation there are no answers, and nobody waits for one.
        for (_, future), answer in zip(rows, answers, strict=False):
            _settle(future, answer)


def _settle(future: "Future[Generation]", outcome: Generation | BaseException) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


_QUEUES: "WeakKeyDictionary[SteerableHFLLM, _Queue]" = WeakKeyDictionary()
_LOCK = threading.Lock()


def ask(
    llm: SteerableHFLLM, requests: Sequence[GenerationRequest], batch_size: int
) -> "list[Future[Generation]]":
    """Put requests into a model's queue and return their answers to come.

    Args:
        llm: The model.
        requests: What is asked.
        batch_size: At most so many calls run together.
    """
    with _LOCK:
        queue = _QUEUES.setdefault(llm, _Queue())
    rows: list[Row] = [(request, Future()) for request in requests]
    queue.put(llm, rows, batch_size)
    return [future for _, future in rows]
