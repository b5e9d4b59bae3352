"""Places to work: so many threads at once, and what comes beyond waits for its turn."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from steerable_llm.forked import renew_in_forks

STREAMS = 16
"""At most so many streamed answers of a model are made at once."""


class Places:
    """Threads that run work which waits for nobody but the model, so that each place gets free.

    A thread lives while there is work. (A pool of the standard library keeps a program that ends
    from ending.)
    """

    def __init__(self, most: int, name: str) -> None:
        """Begin without a thread.

        Args:
            most: How many there may be.
            name: What they are called.
        """
        self._most = most
        self._name = name
        self.renew()
        renew_in_forks(self)

    def renew(self) -> None:
        """Begin without a thread, and without work that waits."""
        self._running = 0
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[None], Callable[[], Any]]] = deque()

    def run(self, work: Callable[[], Any]) -> Future[None]:
        """Run work in a thread, in a copy of the caller's context, as soon as a place is free.

        Args:
            work: Tells its outcome, errors too, in a way of its own.

        Returns:
            Done when the work is. Cancelling it takes work that has not begun out of the queue.
        """
        future: Future[None] = Future()
        context = contextvars.copy_context()
        item = (future, lambda: context.run(work))
        with self._lock:
            self._waiting.append(item)
            if self._running == self._most:
                return future
            self._running += 1
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except BaseException:  # the system has no thread left: nothing is begun, and nothing kept
            with self._lock:
                self._running -= 1
                if item in self._waiting:
                    self._waiting.remove(item)
            raise
        return future

    def _work(self) -> None:
        while (found := self._next()) is not None:
            future, work = found
            if future.set_running_or_notify_cancel():
                try:
                    work()
                except BaseException as error:  # the place must get free, whatever happened
                    future.set_exception(error)
                else:
                    future.set_result(None)
            del found, future, work  # what they hold may be a model

    def _next(self) -> tuple[Future[None], Callable[[], Any]] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._running -= 1
            return None
