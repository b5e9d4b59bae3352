"""The gateway: the server's application, in front of a model that it does not have."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ray import serve
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steerable_llm.server.application import application
from steerable_llm.server.ray.remote import RemoteModel
from steerable_llm.server.ray.settings import REPLICA, RaySettings
from steerable_llm.server.serving import Serving

_logger = logging.getLogger(__name__)
_SECONDS_BETWEEN_COUNTS = 2.0


class Gateway:
    """The class that Ray Serve makes gateways of.

    It answers at once, with 503 until a replica has loaded the model.
    """

    def __init__(self, settings: RaySettings, replicas: Any) -> None:
        """Ask the replicas for the model's facts, and go on meanwhile; called on the event loop."""
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        logging.getLogger("steerable_llm.server").setLevel(logging.INFO)
        self._serving = Serving(settings.server())
        self._failed: BaseException | None = None
        self._bringing = asyncio.create_task(self._bring(settings, replicas))

    async def _bring(self, settings: RaySettings, replicas: Any) -> None:
        try:
            facts = await replicas.facts.remote()
            model = await asyncio.to_thread(RemoteModel, replicas, facts, settings.policy)
            self._serving.take(model)
        except Exception as error:
            _logger.exception("this gateway cannot serve the model")
            self._failed = error
        else:
            await _count_replicas(model)

    def check_health(self) -> None:
        """Tell Ray why this gateway will never serve; one that only waits is in order."""
        if self._failed is not None:
            raise self._failed

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the application, which Ray Serve asks for."""
        return _without_request_id(application(self._serving))


async def _count_replicas(model: RemoteModel) -> None:
    """Tell the model, for ever, how many replicas it has."""
    name = serve.get_replica_context().app_name
    while True:
        try:
            status = await asyncio.to_thread(serve.status)
            states = status.applications[name].deployments[REPLICA].replica_states
            model.engine.scale(states.get("RUNNING", 0))
        except Exception as error:  # Ray's controller is being replaced, or ends
            _logger.warning("the number of replicas is not known at present: %s", error)
        await asyncio.sleep(_SECONDS_BETWEEN_COUNTS)


def _without_request_id(app: ASGIApp) -> ASGIApp:
    """Leave the request's id to Ray's proxy, which sends it back as well."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def once(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["x-request-id"]
            await send(message)

        await app(scope, receive, once)

    return answer
