"""Asking a model's engine from a thread or from an event loop, which keeps turning meanwhile.

Requests are checked, decided and encoded in another thread than the loop's, since a policy may run
the model for it. Whoever stops waiting stops the work on the answer, within one token.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import Generation, GenerationChunk, GenerationRequest


def answers(llm: SteerableHFLLM, requests: Sequence[GenerationRequest]) -> list[Generation]:
    """Return the answers to requests, which run together; the first that fails ends them."""
    stopped = threading.Event()
    try:
        pending = [llm.submit(request, stopped) for request in requests]
        return [each.result() for each in pending]
    finally:
        stopped.set()


async def aanswers(llm: SteerableHFLLM, requests: Sequence[GenerationRequest]) -> list[Generation]:
    """Return the same, while the event loop turns."""
    stopped = threading.Event()
    try:
        pending = await asyncio.to_thread(
            lambda: [llm.submit(request, stopped) for request in requests]
        )
        return [await each for each in pending]
    finally:
        stopped.set()


async def achunks(
    llm: SteerableHFLLM, request: GenerationRequest
) -> AsyncGenerator[GenerationChunk, None]:
    """Yield the chunks of an answer, while the event loop turns."""
    stopped = threading.Event()
    try:
        async for chunk in await asyncio.to_thread(llm.submit, request, stopped):
            yield chunk
    finally:
        stopped.set()
