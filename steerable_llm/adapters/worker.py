"""Running blocking streams in threads, so that an event loop keeps turning."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from typing import Any, TypeVar

from steerable_llm.answer.places import STREAMS, Places

T = TypeVar("T")
_ITEM, _ERROR, _END = "item", "error", "end"
# Of all models: asynchronous streams of a model that has no place left keep others waiting, too.
_PLACES = Places(STREAMS, "steerable-stream")


async def stream_in_worker(
    start: Callable[[], Iterator[T]], stopped: threading.Event | None = None
) -> AsyncGenerator[T, None]:
    """Iterate a blocking stream in a worker thread, as soon as one of them is free.

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

    at_work = _PLACES.run(work)
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
        at_work.cancel()
