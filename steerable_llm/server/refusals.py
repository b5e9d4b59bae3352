"""What goes wrong, in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

OpenAI's clients send a request again after 408, 409, 429 and everything from 500 on, unless
`x-should-retry` says no; `Retry-After` tells them when.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from steerable_llm.errors import (
    AnswerLogError,
    DeadlineError,
    EngineError,
    InvalidInputError,
    OverloadedError,
    PromptTooLongError,
    SteerableError,
    UnknownStepError,
)

_logger = logging.getLogger(__name__)


class Refused(HTTPException):
    """A request that gets no answer, as the client is told."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
        retry: bool | None = None,
    ) -> None:
        """Say what is wrong.

        Args:
            status: Of HTTP.
            message: One line for a person.
            code: A name for programs.
            param: The field at fault.
            retry_after: Seconds after which it is worth another try.
            retry: Whether a client should send it again, where the status would tell it otherwise.
        """
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if retry is not None:
            headers["x-should-retry"] = "true" if retry else "false"
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, message, headers)
        self.code = code
        self.param = param

    @property
    def body(self) -> dict[str, Any]:
        """The error as OpenAI writes it."""
        kind = _TYPES.get(self.status_code)
        kind = kind or ("server_error" if self.status_code >= 500 else "invalid_request_error")
        return {
            "error": {
                "message": self.detail, "type": kind, "param": self.param, "code": self.code,
            }
        }  # fmt: skip

    def response(self) -> Response:
        """Return it as a response."""
        return Json(self.body, self.status_code, headers=self.headers)


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def as_json(content: Any) -> str:
    """Write JSON on one line, in ASCII: clients split streams at all kinds of line breaks."""
    return json.dumps(content, separators=(",", ":"))


class Json(Response):
    """A response in JSON."""

    media_type = "application/json"

    def __init__(
        self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Write the content.

        Args:
            content: Plain values.
            status: Of HTTP.
            headers: More headers.
        """
        super().__init__(as_json(content), status, headers)


def engine_dead() -> Refused:
    """Return what is told once no more answers come."""
    return Refused(
        503, "the engine that makes the answers has died: the server must be started again",
        code="engine_dead", retry_after=10,
    )  # fmt: skip


def log_unavailable() -> Refused:
    """Return what is told while the answer log is away, locked or too slow."""
    return Refused(
        503, "the answer log cannot be used at present; the server's log says why",
        code="log_unavailable", retry_after=5,
    )  # fmt: skip


def refusal_of(error: BaseException) -> Refused:
    """Return what a client is told of an error; of one that is not ours no more than that."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, HTTPException):
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
        told = Refused(error.status_code, str(error.detail), code=code)
        told.headers = {**(told.headers or {}), **(error.headers or {})}  # what is allowed instead
        return told
    if isinstance(error, PromptTooLongError):
        return Refused(400, str(error), code="context_length_exceeded", param="messages")
    if isinstance(error, UnknownStepError):
        return Refused(400, str(error), code="unknown_step", param="steering.step")
    if isinstance(error, InvalidInputError):
        return Refused(400, str(error), code="invalid_value", param=error.argument)
    if isinstance(error, OverloadedError):
        wait = max(1, math.ceil(error.retry_after))
        return Refused(429, str(error), code="overloaded", retry_after=wait)
    if isinstance(error, DeadlineError):  # it would take as long again
        return Refused(504, str(error), code="deadline", retry=False)
    if isinstance(error, EngineError):
        _logger.error("the engine has died", exc_info=error)
        return engine_dead()
    if isinstance(error, AnswerLogError):  # its message names a host, which clients need not know
        _logger.error("the answer log cannot be used: %s", error)
        return log_unavailable()
    if isinstance(error, SteerableError):  # the same request would fail the same way again
        return Refused(500, str(error), code="model_error", retry=False)
    _logger.error("a request failed", exc_info=error)
    return Refused(500, "the server failed; its log says why", code="internal_error")
