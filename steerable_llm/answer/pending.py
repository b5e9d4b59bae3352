"""An answer that is being made: read its tokens, wait for its end, or cancel it, from anywhere."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeAlias

from steerable_llm.answer.request import Generation, GenerationChunk
from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.decision import SteeringDecision

Told: TypeAlias = GenerationChunk | None
"""A chunk, or None once the answer has ended in whichever way."""


@dataclass
class Times:
    """When an answer came how far: seconds of `time.monotonic`, None for what has not happened.

    Attributes:
        asked: It was put into the queue.
        begun: Its prompt was taken up.
        first: Its first token was there.
        ended: It had ended, in whichever way.
    """

    asked: float
    begun: float | None = None
    first: float | None = None
    ended: float | None = None


class Pending:
    """An answer that an engine makes for somebody.

    `result()` waits in a thread and `await pending` in a task. Iterating, with `for` or `async
    for`, gives a chunk per token and then one with the whole answer in `final`; that one not after
    a cancellation. Chunks are kept, so that a reader who comes later misses none.

    Attributes:
        decision: What the answer is steered with and why, known before its first token.
        prompt_tokens: How long its prompt is.
        future: The whole answer to come. Cancelling it cancels the work.
        times: When it came how far.
    """

    def __init__(
        self,
        decision: SteeringDecision,
        prompt_tokens: int,
        cancelled: threading.Event | None = None,
        made_here: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begin with nothing.

        Args:
            decision: What the answer is steered with.
            prompt_tokens: How long its prompt is.
            cancelled: Another way to cancel it: set by whoever has it, for several at once.
            made_here: Tells whether the thread that asks is the one that makes it.
        """
        self.decision = decision
        self.prompt_tokens = prompt_tokens
        self.future: Future[Generation] = Future()
        self.times = Times(time.monotonic())
        self._cancelled = cancelled
        self._made_here = made_here
        # A reader that can be told no more cancels, which tells the readers.
        self._lock = threading.RLock()
        self._chunks: list[GenerationChunk] = []
        self._readers: list[Callable[[Told], object]] = []
        self._settled = False
        self.future.add_done_callback(self._end)

    # For whoever asked.

    def result(self, timeout: float | None = None) -> Generation:
        """Wait for the whole answer.

        Args:
            timeout: Seconds; the work goes on after it.

        Raises:
            SteerableError: What went wrong with it.
            InvalidInputError: The thread that waits is the one that makes it.
            TimeoutError: It is not there in time.
            CancelledError: It was cancelled.
        """
        self._may_wait()
        return self.future.result(timeout)

    def cancel(self) -> None:
        """Stop the work after the token at hand; nothing happens to an answer that has ended."""
        self.future.cancel()

    @property
    def done(self) -> bool:
        """Whether it has ended, in whichever way."""
        return self.future.done()

    def __iter__(self) -> Iterator[GenerationChunk]:
        """Yield chunks as they come; leaving the loop early cancels the answer."""
        self._may_wait()
        arrived: SimpleQueue[Told] = SimpleQueue()
        self._listen(arrived.put)
        try:
            while (chunk := arrived.get()) is not None:
                yield chunk
            yield from self._last()
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncGenerator[GenerationChunk, None]:
        """Yield chunks as they come, while the event loop keeps turning."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Told] = asyncio.Queue()

        def put(told: Told) -> None:
            try:
                loop.call_soon_threadsafe(arrived.put_nowait, told)
            except RuntimeError:  # the loop is closed, so there is nobody left to tell
                self.cancel()

        self._listen(put)
        try:
            while (chunk := await arrived.get()) is not None:
                yield chunk
            for chunk in self._last():
                yield chunk
        finally:
            self.cancel()

    def __await__(self) -> Generator[Any, None, Generation]:
        """Wait for the whole answer; a task that is cancelled meanwhile cancels it."""
        try:
            return (yield from asyncio.wrap_future(self.future).__await__())
        finally:  # now, not in one of the loop's next turns
            self.cancel()

    def _may_wait(self) -> None:
        if not self.future.done() and self._made_here():
            raise InvalidInputError(
                "the engine's own thread, where callbacks of answers run, would wait for itself: "
                "submit there and add a callback, or wait in a thread of your own"
            )

    def _last(self) -> Iterator[GenerationChunk]:
        try:
            final = self.future.result()
        except CancelledError:
            return
        yield GenerationChunk("", None, final)

    def _listen(self, reader: Callable[[Told], object]) -> None:
        with self._lock:
            for chunk in self._chunks:
                reader(chunk)
            if self.future.done():
                reader(None)
            else:
                self._readers.append(reader)

    # For the engine.

    @property
    def unwanted(self) -> bool:
        """Whether nobody wants it any more, or it has ended."""
        if self._cancelled is not None and self._cancelled.is_set():
            self.cancel()
        return self.future.done()

    def put(self, chunk: GenerationChunk) -> None:
        """Hand over the next chunk."""
        with self._lock:
            if self.times.first is None:
                self.times.first = time.monotonic()
            self._chunks.append(chunk)
            for reader in self._readers:
                reader(chunk)

    def end(self, outcome: Generation | BaseException) -> None:
        """Hand over the whole answer, or what went wrong with it."""
        if not self._settle():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def _settle(self) -> bool:
        """Fix how it ends, once; returns whether an outcome is wanted.

        A cancellation is told here to those who wait for several futures.
        """
        with self._lock:
            if self._settled:
                return False
            self._settled = True
            return self.future.set_running_or_notify_cancel()

    def _end(self, _: Future[Generation]) -> None:
        self._settle()
        with self._lock:
            self.times.ended = time.monotonic()
            readers, self._readers = self._readers, []
            for reader in readers:
                reader(None)
