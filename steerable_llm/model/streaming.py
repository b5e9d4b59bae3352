"""Token streaming: the model works in a thread, the caller iterates."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Event, Thread

from steerable_llm.model.generation import Generation, GenerationChunk

Work = Callable[[Callable[[GenerationChunk], None], Event], Generation | None]


def stream_chunks(work: Work, cancelled: Event | None = None) -> Iterator[GenerationChunk]:
    """Run the work in a thread and yield its chunks as they come, the whole answer last.

    Nothing runs before the first chunk is asked for. Closing the iterator (or dropping it, or an
    exception in the loop over it) stops the work after the token at hand and waits for the thread.

    Args:
        work: Called with where to put chunks and the event that tells it to stop; returns the
            whole answer, or None if it was stopped.
        cancelled: Set by whoever wants to stop the work from outside of the loop.

    Yields:
        One chunk per token, then one with ``final`` set.

    Raises:
        Exception: Whatever the work raised, as it was raised.
    """
    arrived: SimpleQueue[GenerationChunk | BaseException | None] = SimpleQueue()
    stopped = Event() if cancelled is None else cancelled

    def run() -> None:
        try:
            final = work(arrived.put, stopped)
            arrived.put(None if final is None else GenerationChunk("", None, final))
        except BaseException as error:  # handed over, raised again in the caller's thread
            arrived.put(error)

    # The caller's context variables (tracing and the like) are in force in the worker too.
    context = contextvars.copy_context()
    thread = Thread(target=context.run, args=(run,), name="stream", daemon=True)
    thread.start()
    ended = False
    try:
        while not ended:
            item = arrived.get()
            ended = item is None or isinstance(item, BaseException) or item.final is not None
            if isinstance(item, BaseException):
                raise item
            if item is not None:
                yield item
    finally:
        # Work that has ended needs no telling, and the caller's event may stop other work, too.
        if not ended:
            stopped.set()
        thread.join()
