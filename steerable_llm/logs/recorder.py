"""Recording answers while they are given: a bounded queue, and a thread that writes."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
import weakref

from steerable_llm.errors import InvalidInputError
from steerable_llm.logs.answer_log import BATCH, AnswerLog
from steerable_llm.logs.answers import LoggedAnswer

_logger = logging.getLogger(__name__)
#: Seconds to wait after a failure before the database is tried again; doubled up to the second.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


class AnswerRecorder:
    """Write answers into a log without ever holding up whoever gives them.

    `record` puts an answer into a queue and returns at once. A thread of its own opens the log and
    writes. While the database is down the queue fills, and what no longer fits is dropped and
    counted; a warning is logged once each time. What waits is written when the database is back.

    Args:
        url: The log; see `AnswerLog`. It is not opened before the first answer.
        capacity: Answers that may wait.

    Attributes:
        written: Answers that reached the log.
        dropped: Answers that were lost: the queue was full, or the log refused them.
    """

    def __init__(self, url: str, *, capacity: int = 1000) -> None:
        self.url = url
        self.written = 0
        self.dropped = 0
        self._waiting: queue.Queue[LoggedAnswer] = queue.Queue(capacity)
        # Guards the counters and tells `flush` when they change.
        self._changed = threading.Condition()
        self._recorded = 0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        # What was warned of: the log, until answers reach it again, and an answer that it refused.
        self._warned: set[str] = set()
        _open_recorders.add(self)

    def record(self, answer: LoggedAnswer) -> None:
        """Queue an answer; it never waits for the database and never raises."""
        with self._changed:
            self._recorded += 1
            # Dead is also what a thread is in a process that was forked from the one it ran in.
            alive = self._thread is not None and self._thread.is_alive()
            if not alive and not self._stopped.is_set():
                self._thread = threading.Thread(
                    target=self._work, name="steerable-recorder", daemon=True
                )
                self._thread.start()
            try:
                if self._stopped.is_set():
                    raise queue.Full
                self._waiting.put_nowait(answer)
                return
            except queue.Full:
                pass
        self._drop(1, "they come faster than the log takes them, or after the recorder was closed")

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until all that was recorded so far is written or dropped, so many seconds at most.

        Returns:
            Whether that came about in time.
        """
        with self._changed:
            so_far = self._recorded
            return self._changed.wait_for(lambda: self.written + self.dropped >= so_far, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, for at most so many seconds, and stop; the rest counts as dropped."""
        deadline = time.monotonic() + timeout
        self.flush(timeout)
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(max(0.2, deadline - time.monotonic()))
        _open_recorders.discard(self)

    def _work(self) -> None:
        log: AnswerLog | None = None
        pause = _FIRST_PAUSE
        batch: list[LoggedAnswer] = []
        while not self._stopped.is_set():
            batch = batch or self._next_batch()
            if not batch:
                continue
            try:
                log = log or AnswerLog(self.url)
                self._write(log, batch)
                batch, pause = [], _FIRST_PAUSE
            except (InvalidInputError, ImportError) as error:  # waiting will not mend the address
                self._drop(len(batch), str(error))
                batch = []
            except Exception as error:
                self._warn("log", str(error))
                self._stopped.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        self._drop(len(batch) + self._waiting.qsize(), "the recorder was closed before that")
        if log is not None:
            log.close()

    def _next_batch(self) -> list[LoggedAnswer]:
        batch: list[LoggedAnswer] = []
        try:
            batch.append(self._waiting.get(timeout=0.1))
            while len(batch) < BATCH:
                batch.append(self._waiting.get_nowait())
        except queue.Empty:
            pass
        return batch

    def _write(self, log: AnswerLog, batch: list[LoggedAnswer]) -> None:
        refused = 0
        try:
            log.add(batch)
        except InvalidInputError:  # one of them is at fault, and takes only itself along
            for answer in batch:
                try:
                    log.add([answer])
                except InvalidInputError as error:
                    refused += 1
                    self._warn("answer", str(error))
        with self._changed:
            self.written += len(batch) - refused
            self.dropped += refused
            if self._waiting.empty():  # and not where a slow log is ever behind
                self._warned.discard("log")
            self._changed.notify_all()

    def _drop(self, number: int, why: str) -> None:
        if number:
            with self._changed:
                self.dropped += number
                self._changed.notify_all()
            self._warn("log", why)

    def _warn(self, what: str, why: str) -> None:
        with self._changed:
            if what in self._warned:
                return
            self._warned.add(what)
        _logger.warning(
            "answers are not reaching the log: %s. The chain goes on, and what is lost is counted "
            "in the recorder's `dropped`, and not told one by one.",
            " ".join(why.split()),
        )


_open_recorders: weakref.WeakSet[AnswerRecorder] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Give what waits at the end of the process a few seconds to reach the log."""
    deadline = time.monotonic() + 5.0
    for recorder in list(_open_recorders):
        recorder.close(max(0.0, deadline - time.monotonic()))
