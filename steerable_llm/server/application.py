"""The endpoints: OpenAI's, those for operators, and those that bring feedback and policies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
from fastapi import FastAPI, Request, Security
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from steerable_llm.server import feedback, policies
from steerable_llm.server.answering import Facts, Run, ask
from steerable_llm.server.envelope import Envelope
from steerable_llm.server.refusals import Json, Refused
from steerable_llm.server.requests import ChatRequest, CompletionRequest
from steerable_llm.server.routes import Route, refuse
from steerable_llm.server.serving import Serving
from steerable_llm.version import __version__


def application(serving: Serving) -> FastAPI:
    """Return the ASGI application of one server."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        yield
        await asyncio.to_thread(serving.close)

    app = FastAPI(
        title="steerable-llm",
        version=__version__,
        summary="A steered model behind OpenAI's interface.",
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.serving = serving
    app.router.route_class = Route
    app.add_exception_handler(HTTPException, refuse)  # of paths that there are none of
    _add_operation(app, serving)
    key = [Security(HTTPBearer(auto_error=False))]
    _add_answers(app, serving, key)
    app.include_router(feedback.router(serving), dependencies=key)
    app.include_router(policies.router(serving), dependencies=key)
    app.add_middleware(Envelope, serving=serving)
    if origins := serving.settings.allowed_origins:
        # Around the envelope: a browser asks first, without a key, and must be able to read errors.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", "x-should-retry"],
            max_age=3600,
        )
    return app


def _add_operation(app: FastAPI, serving: Serving) -> None:
    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> Response:
        """Tell whether the server lives; 503 while the model loads and after its engine died."""
        trouble = serving.trouble()
        return Json({"status": "ok"}) if trouble is None else trouble.response()

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready")
    async def ready() -> Response:
        """Tell whether one more request would be taken on."""
        engine = serving.llm.engine
        if engine.running + engine.waiting >= engine.limits.rows + serving.settings.most_waiting:
            raise Refused(503, "the queue is full", code="overloaded", retry_after=1)
        return Json({"status": "ready", "running": engine.running, "waiting": engine.waiting})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Tell what was counted, for Prometheus."""
        counted = serving.metrics
        text = b"" if counted is None else counted.text()
        return Response(text, media_type=CONTENT_TYPE_LATEST)


def _add_answers(app: FastAPI, serving: Serving, key: list[Any]) -> None:
    @app.get("/v1/models", dependencies=key)
    async def models() -> Response:
        """List the model, and once more for each step of its policy."""
        policy = serving.llm.policy
        steps = [] if policy is None else list(policy.steps)
        named = [serving.name, *(f"{serving.name}:{step}" for step in steps)]
        return Json({"object": "list", "data": [_model(name, serving) for name in named]})

    @app.get("/v1/models/{name:path}", dependencies=key)
    async def model(name: str) -> Response:
        """Tell of one model."""
        policy = serving.llm.policy
        steps = {""} if policy is None else {"", *(f":{step}" for step in policy.steps)}
        if name not in {serving.name + step for step in steps}:
            raise Refused(
                404, f"the model {name!r} does not exist here", code="model_not_found",
                param="model",
            )  # fmt: skip
        return Json(_model(name, serving))

    @app.post("/v1/chat/completions", dependencies=key)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        return await _answered(serving, body, request)

    @app.post("/v1/completions", dependencies=key)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue a text, without the chat template."""
        return await _answered(serving, body, request)


def _model(name: str, serving: Serving) -> dict[str, Any]:
    llm = serving.llm
    return {
        "id": name, "object": "model", "created": serving.started, "owned_by": "steerable-llm",
        "root": llm.model_id, "max_model_len": llm.context_window,
    }  # fmt: skip


async def _answered(
    serving: Serving, body: ChatRequest | CompletionRequest, request: Request
) -> Response:
    facts: Facts = request.state.facts
    run = await _while_there(request, ask(serving, body, facts, request.headers))
    if not body.stream:
        try:
            return Json(await _while_there(request, run.whole()))
        finally:
            run.cancel()
    return _Stream(run, serving)


class _Stream(EventSourceResponse):
    """A run as server-sent events; whatever ends it, the run ends with it."""

    def __init__(self, run: Run, serving: Serving) -> None:
        settings = serving.settings
        self._run = run
        super().__init__(
            (ServerSentEvent(data, sep="\n") async for data in run.events()),
            sep="\n",
            ping=settings.ping,
            ping_message_factory=lambda: ServerSentEvent(comment="still at work", sep="\n"),
            # Streams go on while the server drains, and end by themselves after that.
            shutdown_event=anyio.Event(),
            shutdown_grace_period=settings.drain_timeout + 2,
        )

    async def __call__(self, *channel: Any) -> None:
        try:
            await super().__call__(*channel)
        finally:
            self._run.cancel()


async def _while_there(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """Do some work as long as the client is there.

    Raises:
        Refused: It has gone, and the work was cancelled.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Refused(499, "the client has gone", code="cancelled")
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
