"""Running a blocking stream in a thread of its own, so that an event loop keeps turning."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_ITEM, _ERROR, _END = "item", "error", "end"


async def stream_in_worker(
    start: Callable[[], Iterator[T]], stopped: threading.Event | None = None
) -> AsyncGenerator[T, None]:
    """Iterate a blocking stream in a worker thread.

    When the consumer stops, be it cancelled or done with it, the worker closes the stream before
    it asks for another item: a generation ends within one token.

    Args:
        start: Makes the stream, a generator; it is called, iterated and closed in the worker, in
            a copy of the caller's context.
        stopped: Set when the consumer stops. Who gives one can let it stop the stream's own source,
            which otherwise runs on until the worker comes round to closing the stream.

    Yields:
        The stream's items, in order. Its exception is raised here.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    stopped = stopped or threading.Event()

    def tell(kind: str, value: object = None) -> None:
        try:
            loop.call_soon_threadsafe(arrived.put_nowait, (kind, value))
        except RuntimeError:  # the loop is closed, so there is nobody left to tell
            stopped.set()

    def work() -> None:
        try:
            items = start()
            try:
                for item in items:
                    if stopped.is_set():
                        break
                    tell(_ITEM, item)
            finally:
                if isinstance(items, Generator):
                    items.close()
        except BaseException as error:
            tell(_ERROR, error)
        else:
            tell(_END)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="steerable-stream").start()
    try:
        while True:
            kind, value = await arrived.get()
            if kind == _END:
                return
            if kind == _ERROR:
                raise value
            yield value
    finally:
        stopped.set()
