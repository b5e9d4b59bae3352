"""How every endpoint reads JSON, and what it answers where something goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.responses import Response

from steerable_llm.json_records import plainly_parsed
from steerable_llm.server.closed import UNKNOWN_FIELD
from steerable_llm.server.refusals import Refused, refusal_of

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class _PlainRequest(Request):
    """A request whose JSON is read within bounds: no NaN, no half character, not too deep."""

    async def json(self) -> Any:
        try:
            return plainly_parsed(await self.body())
        except ValueError as error:
            raise Refused(400, f"the body is no JSON: {error}", code="invalid_json") from None


class Route(APIRoute):
    """A route that answers errors of all kinds in OpenAI's shape."""

    def get_route_handler(self) -> _Handler:
        """Return what answers the route's requests."""
        handle = super().get_route_handler()

        async def plainly(request: Request) -> Response:
            try:
                return await handle(_PlainRequest(request.scope, request.receive))
            # Here and not outside: what leaves the application closes the client's connection.
            except Exception as error:
                return await refuse(request, error)

        return plainly


async def refuse(request: Request, error: Exception) -> Response:
    """Answer with what went wrong, in OpenAI's shape."""
    if isinstance(error, RequestValidationError):
        told = _invalid(error)
    else:
        told = refusal_of(error)
    request.state.facts.error = told.code
    return told.response()


_OF_ANOTHER_KIND = ("_type", "_parsing")
"""How what pydantic calls errors ends, where a value is none of the form at all."""


def _invalid(error: RequestValidationError) -> Refused:
    # Of the forms that a field may have, that which the value comes nearest to tells most.
    found = [_placed(each) for each in error.errors()]
    told = max(found, key=lambda each: len(each["loc"]))
    if len(told["loc"]) == 1:  # the body itself; one of another type is not read as JSON
        return Refused(
            400, "the body is not a JSON object: send one, with Content-Type: application/json",
            code="invalid_json",
        )  # fmt: skip
    param = _param(error.body, told)
    forms = [
        each
        for each in found
        if len(each["loc"]) == len(told["loc"]) and _param(error.body, each) == param
    ]
    # Which of these is of the right kind, and wrong in itself, or else all that it could have been.
    right = [each for each in forms if not each["type"].endswith(_OF_ANOTHER_KIND)]
    what = right[0]["msg"].removeprefix("Value error, ") if right else _either(forms)
    return Refused(
        400, f"{param}: {what}" if param else what, code="invalid_value", param=param
    )  # fmt: skip


def _placed(told: Mapping[str, Any]) -> Mapping[str, Any]:
    # A field that is none is found by the object around it.
    if told["type"] != UNKNOWN_FIELD:
        return told
    return {**told, "loc": (*told["loc"], told["ctx"]["field"])}


def _either(forms: list[Mapping[str, Any]]) -> str:
    first, *others = dict.fromkeys(each["msg"].partition(", unable to")[0] for each in forms)
    return " or ".join([first, *(each.removeprefix("Input should be ") for each in others)])


def _param(body: Any, told: Mapping[str, Any]) -> str | None:
    return _place(body, told["loc"][1:], told["type"] == "missing")


def _place(body: Any, loc: tuple[Any, ...], missing: bool) -> str | None:
    """Return where in a body something is wrong, without what pydantic calls the forms there."""
    found: list[str] = []
    for number, key in enumerate(loc):
        inside = isinstance(body, list) and isinstance(key, int) and key < len(body)
        if inside or (isinstance(body, dict) and key in body):
            body = body[key]
        elif not (missing and number == len(loc) - 1):
            continue
        found.append(str(key))
    return ".".join(found) or None
