"""One request on its way: asked, answered piece by piece, counted, traced and recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from steerable_llm.answer.engine import Limits
from steerable_llm.answer.pending import Pending
from steerable_llm.answer.request import Generation, GenerationChunk, GenerationRequest
from steerable_llm.errors import InvalidInputError
from steerable_llm.server.metrics import AnswerClock
from steerable_llm.server.refusals import Refused, as_json, refusal_of
from steerable_llm.server.requests import ChatRequest, CompletionRequest, ModelName, choices_of
from steerable_llm.server.responses import Answers, Kind
from steerable_llm.server.serving import Serving

DONE = "[DONE]"
# Characters of a prompt that the access log tells; images are long.
_LONGEST = 4000

_Told = tuple[int, GenerationChunk | None]


@dataclass
class Facts:
    """What the access log tells of a request.

    Attributes:
        model: As the client named it.
        step: That steered it.
        usage: Tokens; of answers that did not end there are none.
        error: The code of what went wrong.
        prompt: What was asked, where the log may tell it.
    """

    model: str | None = None
    step: str | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    prompt: Any = None


class Run:
    """The answers to one request while they are made."""

    def __init__(
        self,
        serving: Serving,
        body: ChatRequest | CompletionRequest,
        answers: Answers,
        requests: list[GenerationRequest],
        pending: list[Pending],
        facts: Facts,
        headers: Mapping[str, str],
        span: Any,
    ) -> None:
        """Remember what is under way; `asked` makes one."""
        self.answers = answers
        self._serving = serving
        self._body = body
        self._requests = requests
        self._pending = pending
        self._facts = facts
        self._headers = headers
        self._span = span
        self._ended = False

    async def whole(self) -> dict[str, Any]:
        """Wait for all answers and return the response.

        Raises:
            Refused: An answer failed, or the server ends before it is there.
        """
        try:
            async with aclosing(self._pieces()) as pieces:
                async for index, chunk in pieces:
                    self.answers.choices[index].take(chunk)
        except BaseException as error:
            raise self._failed(error) from error
        self._end()
        return self.answers.whole()

    async def events(self) -> AsyncGenerator[str, None]:
        """Yield the data of the response's events; an error is one, too, and then there is no end.

        A stream that just stops would pass for a whole one.
        """
        try:
            if self.answers.kind == "chat":
                for choice in self.answers.choices:
                    yield as_json(self.answers.first(choice.index))
            async with aclosing(self._pieces()) as pieces:
                async for index, made in pieces:
                    if (chunk := self.answers.chunk(index, made)) is not None:
                        yield as_json(chunk)
            if self._body.includes_usage:
                yield as_json(self.answers.used())
        except (Exception, asyncio.CancelledError, GeneratorExit) as error:
            told = self._failed(error)
            if not isinstance(error, Exception):
                raise
            yield as_json(told.body)
        else:
            self._end()
            yield DONE
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop what is still under way: whoever asked has gone."""
        for pending in self._pending:
            pending.cancel()
        self._end("cancelled")

    async def _pieces(self) -> AsyncGenerator[tuple[int, GenerationChunk], None]:
        """Yield the pieces of all answers as they come, each with the index of its answer."""
        arrived: asyncio.Queue[_Told | BaseException] = asyncio.Queue()
        tasks = [
            asyncio.create_task(self._read(index, pending, arrived))
            for index, pending in enumerate(self._pending)
        ]
        tasks.append(asyncio.create_task(self._too_late(arrived)))
        left = len(self._pending)
        try:
            while left:
                told = await arrived.get()
                if isinstance(told, BaseException):
                    raise told
                index, chunk = told
                if chunk is None:
                    left -= 1
                else:
                    yield index, chunk
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(
        self, index: int, pending: Pending, arrived: asyncio.Queue[_Told | BaseException]
    ) -> None:
        metrics = self._serving.metrics
        assert metrics is not None, "there is a model"
        clock: AnswerClock = metrics.clock(pending.decision.step)
        final: Generation | None = None
        try:
            async for chunk in pending:
                final = chunk.final
                if chunk.token_id is not None:
                    clock.token()
                if final is not None:
                    clock.ends(final, pending.times)
                    self._record(index, final)
                arrived.put_nowait((index, chunk))
            if final is None:
                raise Refused(503, "the answer was given up", code="cancelled", retry_after=1)
        except Exception as error:
            arrived.put_nowait(error)
        else:
            arrived.put_nowait((index, None))

    def _record(self, index: int, final: Generation) -> None:
        if self._body.store is not False:
            self._serving.record(
                self.answers.id_of(index),
                self._requests[index],
                final,
                self._body.told_steering.passages,
                self._headers,
            )

    async def _too_late(self, arrived: asyncio.Queue[_Told | BaseException]) -> None:
        await self._serving.late.wait()
        arrived.put_nowait(
            Refused(
                503, "the server ended before the answer did: send the request again",
                code="shutting_down", retry_after=5,
            )
        )  # fmt: skip

    def _failed(self, error: BaseException) -> Refused:
        told = refusal_of(error) if isinstance(error, Exception) else Refused(499, "cancelled")
        self._end(told.code or "cancelled")
        return told

    def _end(self, error: str | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        self._facts.error = error
        if error is None:  # of an answer that did not end nobody has the number of tokens
            self._facts.usage = self.answers.usage
        self._serving.traces.end(self._span, self.answers, error)


async def ask(
    serving: Serving,
    body: ChatRequest | CompletionRequest,
    facts: Facts,
    headers: Mapping[str, str],
) -> Run:
    """Check a request and put it to the model.

    Raises:
        Refused: It cannot be answered; nothing is under way then.
        SteerableError: As `SteerableHFLLM.submit_all`.
    """
    try:
        return await _asked(serving, body, facts, headers)
    except InvalidInputError as error:
        told = refusal_of(error)
        told.param = body.field_of(told.param)
        raise told from error


async def _asked(
    serving: Serving,
    body: ChatRequest | CompletionRequest,
    facts: Facts,
    headers: Mapping[str, str],
) -> Run:
    kind: Kind = "chat" if isinstance(body, ChatRequest) else "text"
    facts.model = body.model
    llm, settings = serving.llm, serving.settings
    body.refuse_unsupported()
    policy = llm.policy
    steps = None if policy is None else list(policy.steps)
    name = ModelName.read(body.model, body.told_steering.step, serving.name, steps)
    n = body.n or 1
    prompts = body.prompts(settings.most_tokens)
    _refuse_too_many(n * len(prompts), settings.most_choices, llm.engine.limits)
    if settings.log_prompts:
        facts.prompt = [str(prompt["messages"])[:_LONGEST] for prompt in prompts]
    usual = min(settings.usual_tokens, settings.most_tokens or settings.usual_tokens)
    held: dict[str, Any] = {"usual_tokens": usual, **llm.generation_defaults}
    requests = [
        request
        for prompt in prompts
        for request in choices_of(
            GenerationRequest(**{**held, "step": name.step, "policy": policy, **prompt}), n
        )
    ]
    span = serving.traces.begin(kind, body.model, requests[0], headers)
    written = llm if kind == "chat" else llm.as_written()
    try:
        pending = await written.submit_all(requests, settings.request_timeout)
    except BaseException as error:
        told = refusal_of(error) if isinstance(error, Exception) else Refused(499, "cancelled")
        serving.traces.end(span, None, told.code or "error")
        raise
    facts.step = pending[0].decision.step
    digest = "" if policy is None else f"-{policy.digest[:8]}"
    answers = Answers(
        kind,
        body.model,
        f"{llm.fingerprint.short}{digest}",
        len(requests),
        len(prompts),
        body.includes_usage,
    )
    return Run(serving, body, answers, requests, pending, facts, headers, span)


def _refuse_too_many(asked: int, most: int, limits: Limits) -> None:
    """Refuse what this server never gives, or could never take on: all answers, or none, begin.

    Raises:
        Refused: More answers are asked for.
    """
    told = f"{most}: ask for fewer"
    if limits.queue is not None and (room := limits.rows + limits.queue) < most:
        most = room
        told = f"{most} ({limits.rows} at work and {limits.queue} waiting): ask for fewer"
    if asked > most:
        raise Refused(
            400, f"{asked} answers are asked for, and this server gives at most {told}",
            code="too_many_choices", param="n",
        )  # fmt: skip
