"""Threads that work off a queue, so many at once, and none while there is nothing to do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Lock, Thread


class Workers:
    """Does what is put into its queue in the order in which it came."""

    def __init__(self, most: int) -> None:
        """Begin without a thread.

        Args:
            most: How many threads there may be.
        """
        self._most = most
        self._lock = Lock()
        self._queue: deque[Callable[[], None]] = deque()
        self._threads = 0

    @property
    def most(self) -> int:
        """How many threads there may be."""
        return self._most

    @most.setter
    def most(self, most: int) -> None:
        with self._lock:
            self._most = most
            more = min(len(self._queue), most - self._threads)
        for _ in range(more):
            self._begin()

    def put(self, work: Callable[[], None]) -> None:
        """Have something done, which must not raise.

        Raises:
            RuntimeError: The system has no thread left for it.
        """
        with self._lock:
            self._queue.append(work)
        try:
            self._begin()
        except RuntimeError:
            with self._lock:
                if not self._threads and work in self._queue:
                    self._queue.remove(work)
                    raise

    def _begin(self) -> None:
        with self._lock:
            if self._threads >= self._most:
                return
            self._threads += 1
        try:
            # A daemon: it keeps no program from ending.
            Thread(target=self._serve, name="vllm", daemon=True).start()
        except BaseException:
            with self._lock:
                self._threads -= 1
            raise

    def _serve(self) -> None:
        while True:
            with self._lock:
                if not self._queue or self._threads > self._most:
                    self._threads -= 1
                    return
                work = self._queue.popleft()
            work()
            del work  # it holds a prompt
