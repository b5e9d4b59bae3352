"""A replica: the hooked model and its engine, where all requests that reach it run in one batch."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace

from steerable_llm.answer.pending import Pending
from steerable_llm.answer.request import GenerationChunk
from steerable_llm.errors import EngineError, PolicyError, SteerableError
from steerable_llm.policy.decision import SteeringDecision
from steerable_llm.policy.packed import PackedPolicy
from steerable_llm.policy.policy import Policy
from steerable_llm.server.ray.settings import MB, RaySettings
from steerable_llm.server.ray.wire import Begun, Failed, ModelFacts, Question, SentPolicy, Told
from steerable_llm.vector.steering import Steering

_MOST_POLICIES = 16


class Replica:
    """The class that Ray Serve makes replicas of."""

    def __init__(self, settings: RaySettings) -> None:
        """Load the model.

        Raises:
            SteerableError: It cannot be loaded.
        """
        self._llm = settings.load()
        self._llm.engine.limits = replace(
            self._llm.engine.limits,
            rows=settings.max_running,
            tokens=settings.max_cached_tokens,
            prefixes=settings.prefix_cache_mb * MB,
        )
        # By the digests under which gateways asked for them; the latest last.
        self._policies: OrderedDict[str, Policy] = OrderedDict()

    def check_health(self) -> None:
        """Have Ray replace this replica once its engine is dead."""
        if not self._llm.engine.alive:
            raise EngineError("the engine of this replica has died")

    async def facts(self) -> ModelFacts:
        """Tell of the model."""
        llm = self._llm
        return ModelFacts(
            llm.model_id,
            await asyncio.to_thread(lambda: llm.fingerprint),
            llm.context_window,
            llm.generation_defaults,
        )

    async def answer(self, asked: Question) -> AsyncGenerator[Told, None]:
        """Answer one request, beside all others.

        What is wrong with a request is told and not raised, so that Ray does not take it for a
        fault of the replica, and so that it arrives as what it is.
        """
        pending: Pending | None = None
        try:
            llm = self._llm.as_written() if asked.written else self._llm
            policy = None if asked.policy is None else await self._policy(asked.policy)
            request = replace(asked.request, policy=policy)
            [pending] = await llm.submit_all([request], asked.timeout)
            yield [Begun(_bare(pending.decision), pending.prompt_tokens, llm.fingerprint)]
            async for chunks in _together(pending):
                yield [_without_vectors(chunk) for chunk in chunks]
        except SteerableError as error:
            yield [Failed(error.with_traceback(None))]
        finally:
            if pending is not None:
                pending.cancel()

    async def _policy(self, sent: SentPolicy) -> Policy:
        """Return a policy that was asked for, fetched at the first time.

        Raises:
            SteerableError: It cannot be used with this model.
        """
        if (known := self._policies.get(sent.digest)) is None:
            [packed] = sent.packed
            known = await asyncio.to_thread(self._opened, sent, await packed)
            self._policies[sent.digest] = known
            while len(self._policies) > _MOST_POLICIES:
                self._policies.popitem(last=False)
        self._policies.move_to_end(sent.digest)
        return known

    def _opened(self, sent: SentPolicy, packed: PackedPolicy) -> Policy:
        policy = packed.open()
        policy.check(self._llm.fingerprint)
        if sent.off and policy.off is None:  # by the environment of the gateway
            policy = policy.model_copy(update={"enabled": False})
        # Where the replica's own environment switches steering off, that holds; answers say so.
        if sent.off == (policy.off is not None) and policy.digest != sent.digest:
            raise PolicyError(
                f"the policy {sent.digest[:8]} has become {policy.digest[:8]} on its way to the "
                "replica: install the same version of steerable-llm on all machines"
            )
        return policy


async def _together(pending: Pending) -> AsyncGenerator[list[GenerationChunk], None]:
    """Yield chunks as they come; those that came while the last ones were sent, together."""
    arrived: asyncio.Queue[GenerationChunk | None] = asyncio.Queue()

    async def read() -> None:
        try:
            async for chunk in pending:
                arrived.put_nowait(chunk)
        finally:
            arrived.put_nowait(None)

    reading = asyncio.create_task(read())
    try:
        ended = False
        while not ended:
            chunks = [await arrived.get()]
            while not arrived.empty():
                chunks.append(arrived.get_nowait())
            ended = chunks[-1] is None
            if made := [chunk for chunk in chunks if chunk is not None]:
                yield made
        await reading
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await reading


def _without_vectors(chunk: GenerationChunk) -> GenerationChunk:
    """Return a chunk whose decision does not carry vectors along; what was applied is told."""
    final = chunk.final
    if final is None or final.decision is None:
        return chunk
    return replace(chunk, final=replace(final, decision=_bare(final.decision)))


def _bare(decision: SteeringDecision) -> SteeringDecision:
    return replace(decision, steering=Steering.none())
