"""The engine of a model in this process: one thread answers all prompts, whoever asks them.

Prompts of threads, tasks, both frameworks and a server join the batch between two tokens and leave
it when they are done. While there is nothing to do the thread waits for a while and then ends, and
holds no model.
"""

from __future__ import annotations

import atexit
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TypeAlias

from steerable_llm.answer.batch import Batch
from steerable_llm.answer.engine import Limits, Prompt
from steerable_llm.answer.job import Job
from steerable_llm.answer.pending import Pending
from steerable_llm.answer.request import Generation, GenerationChunk
from steerable_llm.errors import EngineError, InvalidInputError, OverloadedError
from steerable_llm.forked import renew_in_forks
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.prefix_cache import PrefixCache

YIELD = 5e-5
"""Seconds between two tokens in which whoever reads them, such as an event loop, gets its turn at
Python's lock, which a busy thread otherwise takes again at once."""
IDLE = 5.0
"""Seconds that the thread waits for work before it ends."""
PARTING = 60.0
"""Seconds that a process which ends waits at most for the pass at hand."""
MOMENT = 0.005
"""Seconds that the first prompt waits for others where only those that begin together run
together."""

_Item: TypeAlias = "tuple[BatchingEngine, Job]"

_ENGINES: weakref.WeakSet[BatchingEngine] = weakref.WeakSet()


@atexit.register
def _part() -> None:
    """Let all threads end before the interpreter does: it aborts in the middle of a pass."""
    for engine in list(_ENGINES):
        engine._inbox.part()


class BatchingEngine:
    """Runs prompts on a model in this process.

    Attributes:
        limits: How much it takes on at once; may be set at any time.
    """

    def __init__(self, llm: HookedModel, limits: Limits | None = None) -> None:
        """Begin without a thread.

        Args:
            llm: The model; its weights are shared.
            limits: How much it takes on at once.
        """
        self.limits = limits or Limits()
        self._llm = llm
        self._seconds = 1.0  # that an answer takes, as the latest ones did
        self._closing: weakref.finalize[..., BatchingEngine] | None = None
        self.renew()
        _ENGINES.add(self)
        renew_in_forks(self)

    def renew(self) -> None:
        """Begin anew, with no thread and nothing under way or kept."""
        self._prefixes = PrefixCache(self.limits.prefixes)
        self._inbox = _Inbox()
        self._at_work: Sequence[Job] = ()
        self._death: BaseException | None = None
        if self._closing is not None:  # the other inbox's lock may be held by a thread that is gone
            self._closing.detach()
        self._closing = weakref.finalize(self, self._inbox.close)
        self._closing.atexit = False

    @property
    def alive(self) -> bool:
        """Whether it still makes answers."""
        return self._death is None

    @property
    def running(self) -> int:
        """How many prompts it is at work on."""
        return len(self._at_work)

    @property
    def waiting(self) -> int:
        """How many wait in its queue."""
        return len(self._inbox.waiting)

    def submit(
        self, prompt: Prompt, cancelled: threading.Event | None = None, timeout: float | None = None
    ) -> Pending:
        """Begin to answer one prompt, beside all others, and return at once.

        Raises:
            OverloadedError: The queue is full.
            EngineError: The engine has died.
        """
        job = self._job(prompt, cancelled, timeout)
        limits, inbox = self.limits, self._inbox
        with inbox.changed:
            if self._death is not None:
                raise self._died() from self._death
            if limits.queue is not None and self._busy() >= limits.rows + limits.queue:
                seconds = math.ceil(self._seconds * (len(inbox.waiting) + 1) / limits.rows)
                raise OverloadedError(
                    f"the engine is at work on {self.running} prompts and {len(inbox.waiting)} "
                    f"wait, of which its limits allow {limits.queue}: try again in {seconds} s",
                    seconds,
                )
            inbox.put((self, job))
        return job.pending

    def run(
        self, prompts: Sequence[Prompt], batch_size: int, cancelled: threading.Event | None = None
    ) -> list[Generation]:
        """Answer prompts in the calling thread, apart from whatever else is under way.

        One that ends makes room for the next. The first that fails ends all.

        Raises:
            InvalidInputError: A batch of no prompts was asked for.
            SteerableError: What went wrong with one of them.
        """
        if batch_size < 1:
            raise InvalidInputError(f"batch_size is {batch_size}: give at least 1")
        stop = cancelled or threading.Event()
        prefixes = PrefixCache(self.limits.prefixes if len(prompts) > 1 else 0)
        jobs = [self._job(prompt, stop) for prompt in prompts]
        # Those of similar length run together.
        waiting = deque(sorted(jobs, key=lambda job: len(job.prompt.tokens)))
        batch = Batch(self._llm, replace(self.limits, rows=batch_size), prefixes)
        try:
            while (waiting or batch.jobs) and not stop.is_set():
                while waiting and batch.has_room(waiting[0].prompt):
                    batch.add(waiting.popleft())
                begun = batch.jobs
                batch.turn()
                for job in begun:
                    if job.pending.done and not stop.is_set():
                        job.pending.result()  # which raises what went wrong
        finally:
            batch.close()
        return [] if stop.is_set() else [job.pending.result() for job in jobs]

    def stream(
        self, prompt: Prompt, cancelled: threading.Event | None = None
    ) -> Iterator[GenerationChunk]:
        """Answer one prompt token by token."""
        yield from self.submit(prompt, cancelled)

    def _job(
        self, prompt: Prompt, cancelled: threading.Event | None, timeout: float | None = None
    ) -> Job:
        made_here = self._inbox.is_served_here
        pending = Pending(prompt.decision, len(prompt.tokens), cancelled, made_here)
        return Job(self._llm, prompt, pending, timeout)

    def _busy(self) -> int:
        """Count what still takes a place; what has ended leaves it before the next token."""
        jobs = (*self._at_work, *(job for _, job in self._inbox.waiting))
        return sum(not job.pending.done for job in jobs)

    # In the thread.

    def _died(self) -> EngineError:
        return EngineError(
            f"the engine has died ({type(self._death).__name__}: {self._death}): make a new one, "
            "llm.engine = BatchingEngine(llm), or load the model anew"
        )

    def _work(self) -> None:
        """Work until there is nothing left to do."""
        try:
            with closing(Batch(self._llm, self.limits, self._prefixes)) as batch:
                if batch.together:
                    time.sleep(MOMENT)
                while self._take(batch):
                    batch.turn()
                    for job in self._at_work:
                        self._note(job)
                    time.sleep(YIELD)
        except BaseException as error:
            self._die(error)

    def _note(self, job: Job) -> None:
        times = job.pending.times
        if times.ended is not None:
            self._seconds += (times.ended - (times.begun or times.asked) - self._seconds) / 8

    def _take(self, batch: Batch) -> bool:
        """Take from the queue what there is room for; tells whether there is work."""
        batch.limits = self.limits
        self._prefixes.keep_at_most(self.limits.prefixes)
        inbox = self._inbox
        with inbox.changed:
            if inbox.parting:
                raise EngineError("the process ends")
            waiting = [job for _, job in inbox.waiting]
        # Not under the lock: whoever is told the end of one may ask for the next at once.
        ended = {job for job in waiting if job.ended}
        while True:
            with inbox.changed:
                if ended:
                    kept = [item for item in inbox.waiting if item[1] not in ended]
                    inbox.waiting.clear()
                    inbox.waiting.extend(kept)
                    ended = set()
                fits = inbox.waiting and batch.has_room(inbox.waiting[0][1].prompt)
                taken = [inbox.waiting.popleft()[1]] if fits else []
                self._at_work = [*batch.jobs, *taken]
            for job in taken:
                batch.add(job)
            if not taken:
                return bool(self._at_work)

    def _die(self, error: BaseException) -> None:
        with self._inbox.changed:
            self._death = error
            lost = [*self._at_work, *(job for _, job in self._inbox.waiting)]
            self._at_work = ()
            self._inbox.waiting.clear()
        for job in lost:
            told = self._died()
            told.__cause__ = error
            job.fail(told)


class _Inbox:
    """What waits for an engine; its thread holds no more than this while there is nothing to do."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.waiting: deque[_Item] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.parting = False

    def is_served_here(self) -> bool:
        """Tell whether the thread that asks is the one that serves it."""
        return threading.current_thread() is self._thread

    def put(self, item: _Item) -> None:
        """Let something wait, and see to it that there is a thread; the lock is held."""
        self.waiting.append(item)
        if self._thread is None:
            thread = threading.Thread(target=self._serve, name="steerable-engine", daemon=True)
            try:
                thread.start()
            except BaseException:  # the system has no thread left
                self.waiting.pop()
                raise
            self._thread = thread
        self.changed.notify()

    def close(self) -> None:
        """Let the thread end."""
        with self.changed:
            self._closed = True
            self.changed.notify()

    def part(self) -> None:
        """Let the thread end after the pass at hand, and wait for it."""
        with self.changed:
            self._closed = self.parting = True
            self.changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(PARTING)

    def _serve(self) -> None:
        while (engine := self._next()) is not None:
            engine._work()
            del engine  # it holds the model

    def _next(self) -> BatchingEngine | None:
        with self.changed:
            while not self.waiting:
                came = self.changed.wait(IDLE)
                if not self.waiting and (self._closed or not came):
                    self._thread = None
                    return None
            return self.waiting[0][0]
