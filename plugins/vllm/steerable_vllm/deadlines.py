"""Answers that are given up in time, however long a server says nothing."""

from __future__ import annotations

import time
from heapq import heappop, heappush
from itertools import count
from threading import Condition, Thread
from weakref import ref

from steerable_llm.answer.pending import Pending
from steerable_llm.errors import DeadlineError


class Deadlines:
    """Ends answers that take too long: one thread for all, none while there is nothing to watch."""

    def __init__(self) -> None:
        """Begin without a thread."""
        self._changed = Condition()
        self._number = count()
        self._watched: list[tuple[float, int, float, ref[Pending]]] = []
        self._thread: Thread | None = None

    def watch(self, pending: Pending, timeout: float) -> None:
        """End an answer with a `DeadlineError` unless it ends within so many seconds by itself."""
        late = pending.times.asked + timeout
        with self._changed:
            # By a weak reference: most have long ended when their time comes.
            heappush(self._watched, (late, next(self._number), timeout, ref(pending)))
            if self._thread is None:
                thread = Thread(target=self._serve, name="vllm-deadlines", daemon=True)
                thread.start()
                self._thread = thread
            self._changed.notify()

    def _serve(self) -> None:
        while (due := self._next()) is not None:
            timeout, pending = due
            pending.end(DeadlineError(f"the answer took longer than the {timeout} s it had"))
            del due, pending

    def _next(self) -> tuple[float, Pending] | None:
        """Wait for the next one that is late; None where nothing is left."""
        with self._changed:
            while self._watched:
                late, _, timeout, held = self._watched[0]
                pending = held()
                if pending is None or pending.done:
                    heappop(self._watched)
                elif (left := late - time.monotonic()) <= 0:
                    heappop(self._watched)
                    return timeout, pending
                else:
                    del pending
                    self._changed.wait(left)
            self._thread = None
            return None
