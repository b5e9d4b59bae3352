"""The model as a gateway has it: its facts and its policy here, the answers from replicas."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError

from steerable_llm.answer.engine import Limits
from steerable_llm.answer.pending import Pending
from steerable_llm.answer.request import Generation, GenerationRequest
from steerable_llm.errors import DeadlineError, EngineError, ModelMismatchError, OverloadedError
from steerable_llm.policy.packed import PackedPolicy
from steerable_llm.policy.policy import Policy
from steerable_llm.policy.source import PolicySource
from steerable_llm.server.ray.wire import Begun, Failed, ModelFacts, Question, SentPolicy
from steerable_llm.server.refusals import Refused
from steerable_llm.vector.fingerprint import ModelFingerprint

_logger = logging.getLogger(__name__)
_LOST = (RayActorError, NodeDiedError, WorkerCrashedError, ObjectLostError)
"""What Ray raises where a replica has ended, or the machine it was on."""
_TRIES = 3
"""Replicas that may be lost one after the other while a request has got no token from them."""
_LATER = 2
"""Seconds after which what was lost with a replica is worth another try."""
_MOST_POLICIES = 4


class RemoteLoad:
    """How much one gateway has under way.

    Attributes:
        alive: Replicas that end are replaced, so that it never dies.
        limits: What the replicas take on at once, together, and how many may wait beside.
        running: Answers that replicas have begun.
        waiting: Answers that wait for a replica.
    """

    alive = True

    def __init__(self) -> None:
        """Begin with nothing."""
        self.limits = Limits()
        self.running = self.waiting = 0
        self._rows: int | None = None  # of one replica
        self._seconds = 1.0  # that an answer takes, as the latest ones did

    def scale(self, replicas: int) -> None:
        """Take down how many replicas there are; until then it is one."""
        self._rows = self._rows or self.limits.rows
        self.limits = replace(self.limits, rows=self._rows * max(1, replicas))

    def admit(self, more: int) -> None:
        """Let some more answers in, to wait.

        Ray's own limit counts what waits alone, and so refuses much of what comes at once while
        replicas are idle.

        Raises:
            OverloadedError: There are too many already.
        """
        queue = self.limits.queue
        if queue is not None and self.running + self.waiting + more > self.limits.rows + queue:
            raise self.overloaded()
        self.waiting += more

    def note(self, seconds: float) -> None:
        """Take down how long an answer took."""
        self._seconds += (seconds - self._seconds) / 8

    def overloaded(self) -> OverloadedError:
        """Return what is said to who finds the queue full."""
        turns = (self.waiting + 1) / max(1, self.running)
        seconds = max(1, math.ceil(self._seconds * min(turns, 60)))
        return OverloadedError(
            f"the replicas are at work on {self.running} prompts of this gateway and "
            f"{self.waiting} wait: try again in {seconds} s",
            seconds,
        )


@dataclass
class _Answer:
    """One answer on its way; `pending` is there once a replica has begun it."""

    asked: float
    begun: asyncio.Future[Pending]
    pending: Pending | None = None


class RemoteModel:
    """A model that other machines have, as `ServedModel`.

    Attributes:
        engine: How much is under way.
        generation_defaults: Of the model.
    """

    def __init__(self, replicas: Any, facts: ModelFacts, policy: Path | None) -> None:
        """Remember where to ask.

        Args:
            replicas: Ray Serve's handle of the replicas.
            facts: What one of them says of the model.
            policy: The policy's file; read again whenever it changes.

        Raises:
            ModelMismatchError: A vector of the policy was built for another model.
            PolicyError: The policy file is wrong.
        """
        self.engine = RemoteLoad()
        self.generation_defaults = facts.generation_defaults
        self._facts = facts
        self._answers = replicas.options(stream=True).answer
        self._policy = PolicySource(policy, lambda read: read.check(facts.fingerprint))
        # References to policies in Ray's object store; those of requests under way stay, too.
        self._sent: OrderedDict[str, SentPolicy] = OrderedDict()
        self._written = False

    @property
    def model_id(self) -> str:
        """What it was loaded from."""
        return self._facts.model_id

    @property
    def context_window(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._facts.context_window

    @property
    def fingerprint(self) -> ModelFingerprint:
        """Of its weights."""
        return self._facts.fingerprint

    @property
    def policy(self) -> Policy | None:
        """What steers requests: the file's present content."""
        return self._policy.current()

    def reload_policy(self) -> Policy:
        """Read the policy's file and its vectors again."""
        return self._policy.reload()

    def as_written(self) -> Self:
        """Return the same model without its chat template."""
        other = copy(self)
        other._written = True
        return other

    async def submit_all(
        self, requests: Sequence[GenerationRequest], timeout: float | None = None
    ) -> list[Pending]:
        """Begin to answer requests, each on whichever replica has room: all of them, or none.

        Returns:
            The answers to come, once replicas have taken all of them on.

        Raises:
            OverloadedError: Too many wait already.
            SteerableError: What a replica finds wrong with one.
            Refused: Replicas were lost, one after the other.
        """
        loop = asyncio.get_running_loop()
        questions = [
            Question(replace(each, policy=None), await self._send(each.policy), self._written,
                     timeout)
            for each in requests
        ]  # fmt: skip
        answers = [_Answer(time.monotonic(), loop.create_future()) for _ in questions]
        self.engine.admit(len(answers))
        tasks = [
            loop.create_task(self._follow(question, answer))
            for question, answer in zip(questions, answers, strict=True)
        ]
        for task, answer in zip(tasks, answers, strict=True):
            task.add_done_callback(partial(self._leave, answer))
        try:
            return list(await asyncio.gather(*(answer.begun for answer in answers)))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _send(self, policy: Policy | None) -> SentPolicy | None:
        """Put a policy where replicas can fetch it, once."""
        if policy is None:
            return None
        digest = policy.digest
        if digest not in self._sent:
            packed = await asyncio.to_thread(PackedPolicy.of, policy)
            self._sent[digest] = SentPolicy(digest, (ray.put(packed),), policy.off is not None)
            while len(self._sent) > _MOST_POLICIES:
                self._sent.popitem(last=False)
        self._sent.move_to_end(digest)
        return self._sent[digest]

    async def _follow(self, question: Question, answer: _Answer) -> None:
        """See one answer through to its end."""
        try:
            async with asyncio.timeout(question.timeout) as had:
                await self._tried(question, answer)
        except asyncio.CancelledError:  # nobody wants it any more
            answer.begun.cancel()
        except TimeoutError as error:
            late = DeadlineError(f"the answer took longer than the {question.timeout} s it had")
            _end(answer, late if had.expired() else error)
        except BackPressureError:
            _end(answer, self.engine.overloaded())
        except Exception as error:
            _end(answer, error)

    def _leave(self, answer: _Answer, _: object) -> None:
        """Count an answer no more: it has ended, in whichever way."""
        if answer.pending is None:
            self.engine.waiting -= 1
        else:
            self.engine.running -= 1
            self.engine.note(time.monotonic() - answer.asked)

    async def _tried(self, question: Question, answer: _Answer) -> None:
        """Have replicas answer until one does; one that is lost with an answer under way ends it.

        Raises:
            Refused: That is so.
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                await self._read(question, answer)
                return
            except _LOST as error:
                pending = answer.pending
                _logger.warning("a replica was lost: %s", str(error).partition("\n")[0])
                if tries_left and (pending is None or pending.times.first is None):
                    continue
                raise Refused(
                    503, "the replica that made the answer was lost: send the request again",
                    code="replica_lost", retry_after=_LATER,
                ) from error  # fmt: skip

    async def _read(self, question: Question, answer: _Answer) -> None:
        """Read what one replica says."""
        response = self._answers.remote(question)
        whole = False
        try:
            async for told in response:
                for each in told:
                    if isinstance(each, Begun):
                        self._begin(each, answer)
                    elif isinstance(each, Failed):
                        whole = True
                        raise _lost(each.error)
                    else:
                        assert answer.pending is not None, "replicas begin with `Begun`"
                        if each.final is not None:
                            whole = True
                            answer.pending.end(each.final)
                        else:
                            answer.pending.put(each)
        finally:
            if not whole:
                response.cancel()
        if not whole:
            raise EngineError("a replica ended an answer before its end")

    def _begin(self, begun: Begun, answer: _Answer) -> None:
        if differing := self.fingerprint.differences(begun.fingerprint):
            raise ModelMismatchError(
                f"a replica has another model ({begun.fingerprint.short}) than the gateway was "
                f"told of ({self.fingerprint.short}; {', '.join(differing)}): load the same "
                "revision everywhere, and deploy again"
            )
        if answer.pending is not None:  # on another replica, before a token had come
            return
        pending = answer.pending = Pending(begun.decision, begun.prompt_tokens)
        pending.times.asked, pending.times.begun = answer.asked, time.monotonic()
        self.engine.waiting -= 1
        self.engine.running += 1
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None, "a task follows each answer"

        def stop(ended: Future[Generation]) -> None:
            if ended.cancelled():
                with suppress(RuntimeError):  # the loop is closed, and all its tasks are cancelled
                    loop.call_soon_threadsafe(task.cancel)

        pending.future.add_done_callback(stop)
        if not answer.begun.done():
            answer.begun.set_result(pending)


def _lost(error: Exception) -> Exception:
    """Return what a replica's error means to a client: an engine that died is replaced."""
    if not isinstance(error, EngineError):
        return error
    return Refused(
        503, "the engine of the replica that made the answer has died, and is replaced: send the "
        "request again", code="replica_lost", retry_after=_LATER,
    )  # fmt: skip


def _end(answer: _Answer, error: Exception) -> None:
    """Hand over what went wrong with an answer, to whoever waits for it."""
    if answer.pending is not None:
        answer.pending.end(error)
    elif not answer.begun.done():
        answer.begun.set_exception(error)
        answer.begun.exception()  # of several that fail only one is raised
