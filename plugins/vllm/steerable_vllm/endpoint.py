"""What vLLM's server says of its steering: `GET /v1/steering`, and a mark on every response."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from steerable_vllm.facts import ServerFacts
from steerable_vllm.plugin import wrap_requests
from steerable_vllm.shelf import shelf_of
from steerable_vllm.terms import MARK


class SteeringEndpoint:
    """Loaded by vLLM's API server where `VLLM_PLUGINS` names it."""

    name = "steerable"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the route, and the mark by which clients know that steering is not left out."""
        wrap_requests()

        @app.get("/v1/steering")
        async def steering(request: Request) -> JSONResponse:
            return JSONResponse(request.app.state.steering)

        app.add_middleware(_Marked)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:  # noqa: ARG002
        """Tell what is served."""
        config = engine_client.vllm_config
        shelf = shelf_of(config)
        vectors = {} if shelf is None else shelf.vectors
        state.steering = ServerFacts(
            vectors={name: vector.fingerprint_id for name, vector in vectors.items()},
            structured_outputs=config.structured_outputs_config.backend,
            max_model_len=config.model_config.max_model_len,
        ).model_dump()


class _Marked:
    """ASGI middleware that marks each response."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def marked(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (MARK.encode(), b"1")]
            await send(message)

        await self._app(scope, receive, marked)
