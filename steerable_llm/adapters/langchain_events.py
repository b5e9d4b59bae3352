"""LangChain's third event protocol, whose answers are made in a task of their own."""

import asyncio

from langchain_core.language_models.chat_model_stream import AsyncChatModelStream


def stop_with_listeners(stream: AsyncChatModelStream) -> AsyncChatModelStream:
    """Stop the answer of a stream when the last task that listens to it was cancelled.

    LangChain would let it run to its end unless someone calls `aclose`, which whoever cancels a
    task cannot do; a model on this machine has better things to do.
    """
    begin = stream._ensure_started  # LangChain sets it by `set_start` and has no way to read it
    listeners: set[asyncio.Task[object]] = set()
    closing: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive

    def left(task: asyncio.Task[object]) -> None:
        listeners.discard(task)
        if task.cancelled() and not listeners and not stream.done:
            closing.add(asyncio.get_running_loop().create_task(stream.aclose()))

    async def start() -> None:
        task = asyncio.current_task()
        if task is not None and task not in listeners:
            listeners.add(task)
            task.add_done_callback(left)
        if begin is not None:
            await begin()

    stream.set_start(start)
    return stream
