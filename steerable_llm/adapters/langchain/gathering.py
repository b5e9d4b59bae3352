"""Letting the model calls of one `.batch()` run as one batch on the model.

Each input still runs through LangChain on its own, with its own callbacks, cache look-up and
error. Where it would call the model it hands its request over and waits. As soon as every input
has either handed one over or ended without one (a cached answer, an error), all requests run
together. When nobody waits for any of them any more, the work stops.

An input may never come while another waits: a callback that lets one run through at a time keeps
the others before its door. So after a while without a new request, those that are there run; the
rest then run as they come, and those that come in the meantime together.
"""

import threading
from concurrent.futures import Future

from steerable_llm.adapters.joining import Row, run_rows
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import Generation, GenerationRequest

PATIENCE = 0.25
"""Seconds without a new request after which those that are there no longer wait for the rest."""


class Seat:
    """One input's place in a gathering; it is good for one model call."""

    def __init__(self, gathering: "Gathering") -> None:
        self._gathering = gathering
        self._used = False

    def hand_over(
        self, llm: SteerableHFLLM, request: GenerationRequest
    ) -> "Future[Generation] | None":
        """Join the batch; None for a second call, or one that goes to another model."""
        if self._used or self._gathering.llm is not llm:
            return None
        self._used = True
        return self._gathering.take(request)

    def leave(self) -> None:
        """Say that the input has ended, so that nobody waits for its call."""
        if not self._used:
            self._gathering.go_on_without_one()


class Gathering:
    """The model calls of some inputs of one batch.

    Args:
        llm: The model they go to.
        inputs: How many inputs take part; each has one `Seat`.
    """

    def __init__(self, llm: SteerableHFLLM, inputs: int) -> None:
        self.llm = llm
        self._expected = inputs
        self._waiting: list[Row] = []
        self._lock = threading.Lock()
        self._arrivals = 0
        self._impatient = False
        self._running = False
        self._clock: threading.Timer | None = None

    def go_on_without_one(self) -> None:
        """Wait for one input less."""
        with self._lock:
            self._expected -= 1
            self._run_if_ready()

    def take(self, request: GenerationRequest) -> "Future[Generation]":
        """Take one input's request, and run all of them when it was the last to wait for."""
        future: Future[Generation] = Future()
        with self._lock:
            self._waiting.append((request, future))
            self._arrivals += 1
            if not self._run_if_ready() and self._clock is None:
                self._wait_a_while()
        return future

    def _wait_a_while(self) -> None:
        self._clock = threading.Timer(PATIENCE, self._look_again, [self._arrivals])
        self._clock.daemon = True
        self._clock.start()

    def _look_again(self, arrivals: int) -> None:
        with self._lock:
            if arrivals < self._arrivals:  # somebody has come since
                self._wait_a_while()
            else:
                self._impatient = True
                self._run_if_ready()

    def _run_if_ready(self) -> bool:
        """Begin with what waits, if all have come or patience is lost; tell whether it runs."""
        ready = self._impatient or len(self._waiting) == self._expected
        if self._waiting and ready and not self._running:
            self._running = True
            if self._clock is not None:
                self._clock.cancel()
            # A thread of its own, since whoever came last may be an event loop.
            threading.Thread(target=self._run_all, name="steerable-batch").start()
        return self._running

    def _run_all(self) -> None:
        while True:
            with self._lock:
                rows, self._waiting = self._waiting, []
                self._expected -= len(rows)
                if not rows:
                    self._running = False
                    return
            run_rows(self.llm, rows)
