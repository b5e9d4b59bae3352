"""What is around every request: its id, its key, bounds of its body, its line in the log."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steerable_llm.server.answering import Facts
from steerable_llm.server.refusals import Refused
from steerable_llm.server.serving import Serving

access = logging.getLogger("steerable_llm.server.access")

# An id from outside goes into a header and into the log, so it is of harmless characters or ours.
_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_OF_ADMINS = ("/v1/policy/",)


class Envelope:
    """The outermost layer of the application; nothing of a request is read before its key is."""

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        """Stand around an application."""
        self._app = app
        self._serving = serving
        self._keys = _digests(serving.settings.api_keys)
        self._admins = _digests(serving.settings.admin_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        facts = Facts()
        scope.setdefault("state", {}).update(facts=facts, request_id=request_id)
        started, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            # Also of the last, empty piece, and of answers that are no streams.
            async with asyncio.timeout(self._serving.settings.send_timeout):
                await send(message)

        try:
            try:
                self._check_key(scope["path"], headers)
                body = await self._body(headers, receive)
            except Refused as refused:
                facts.error = refused.code
                await refused.response()(scope, receive, answer)
            else:
                await self._app(scope, _again(body, receive), answer)
        except TimeoutError:  # nobody is there to be told; the connection is closed
            facts.error = "slow_client"
        except asyncio.CancelledError:  # at the end of the server, of what it still waited for
            trouble = self._serving.trouble()
            if trouble is None or status or not self._serving.late.is_set():
                raise
            facts.error = trouble.code
            await trouble.response()(scope, receive, answer)
        finally:
            self._tell(scope, request_id, status, time.perf_counter() - started, facts)

    def _check_key(self, path: str, headers: Headers) -> None:
        if not path.startswith("/v1"):
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        told = key.strip() if scheme.lower() == "bearer" else ""
        if path.startswith(_OF_ADMINS):
            if not self._admins:
                raise Refused(
                    403, "this server was started without an admin key, so nobody may do this",
                    code="no_admin_key",
                )  # fmt: skip
            if not _is_one_of(told, self._admins):
                raise Refused(401, "this needs the admin key", code="invalid_api_key")
        elif self._keys and not _is_one_of(told, (*self._keys, *self._admins)):
            raise Refused(
                401, "the API key is missing or wrong: send Authorization: Bearer KEY",
                code="invalid_api_key",
            )  # fmt: skip

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        most, seconds = self._serving.settings.most_bytes, self._serving.settings.body_timeout
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise Refused(
                415, f"the body is compressed ({coding[:40]!r}), and this server reads plain ones: "
                "send it without Content-Encoding", code="compressed_body",
            )  # fmt: skip
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > most:
            raise _too_large(most)
        made = bytearray()
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise Refused(499, "the client has gone", code="cancelled")
                    made += message.get("body", b"")
                    if len(made) > most:
                        raise _too_large(most)
                    if not message.get("more_body"):
                        return bytes(made)
        except TimeoutError:
            raise Refused(
                408, f"the body did not come within {seconds:g} seconds", code="slow_body"
            ) from None

    def _tell(
        self, scope: Scope, request_id: str, status: int, seconds: float, facts: Facts
    ) -> None:
        # A stream that fails on its way has begun with 200 long before.
        failed = status >= 400 or facts.error is not None
        if failed and (metrics := self._serving.metrics) is not None:
            metrics.refused(facts.error)
        told = {
            "method": scope["method"],
            "path": scope["path"],
            "status": status or 499,
            "seconds": round(seconds, 4),
            "request_id": request_id,
            "model": facts.model,
            "step": facts.step,
            **facts.usage,
            "error": facts.error,
            "prompt": facts.prompt,
        }
        # JSON in ASCII: whatever a client sends, it is one line, and steers no terminal.
        access.info(json.dumps({key: value for key, value in told.items() if value is not None}))


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read already, and then whatever comes after it."""
    told = False

    async def give() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return give


def _too_large(most: int) -> Refused:
    return Refused(
        413, f"the body is larger than {most} bytes: send less, or start the server with a larger "
        "--max-body-mb", code="body_too_large",
    )  # fmt: skip


def _digests(keys: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(hashlib.sha256(key.encode()).digest() for key in keys)


def _is_one_of(key: str, digests: Iterable[bytes]) -> bool:
    """Compare in constant time, with all of them."""
    told = hashlib.sha256(key.encode()).digest()
    return any([hmac.compare_digest(told, digest) for digest in digests])
