"""Letting the model calls of one `.batch()` run as one batch on the model.

Each input still runs through LangChain on its own, with its own callbacks, cache look-up and
error. Where it would call the model it hands its request over and waits. As soon as every input
has either handed one over or ended without one (a cached answer, an error), all requests run
together. When nobody waits for any of them any more, the work stops.
"""

import threading
from concurrent.futures import Future

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import Generation, GenerationRequest
from steerable_llm.errors import SteerableError

Row = tuple[GenerationRequest, "Future[Generation]"]


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

    def go_on_without_one(self) -> None:
        """Wait for one input less."""
        with self._lock:
            self._expected -= 1
            self._run_if_complete()

    def take(self, request: GenerationRequest) -> "Future[Generation]":
        """Take one input's request, and run all of them when it was the last to wait for."""
        future: Future[Generation] = Future()
        with self._lock:
            self._waiting.append((request, future))
            self._run_if_complete()
        return future

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
        self._answer(rows, nobody_waits)

    def _answer(self, rows: list[Row], nobody_waits: threading.Event) -> None:
        try:
            answers = self.llm.generate_batch(
                [request for request, _ in rows], cancelled=nobody_waits
            )
        except BaseException as error:
            if len(rows) > 1 and isinstance(error, SteerableError):
                for row in rows:  # one by one, so that only the row at fault fails
                    self._answer([row], nobody_waits)
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
