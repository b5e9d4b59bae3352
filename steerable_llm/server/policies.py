"""The policy of a server: what it says, whether another would do, and reading it again."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from steerable_llm.errors import SteerableError
from steerable_llm.policy.check import check_policy
from steerable_llm.policy.policy import Policy
from steerable_llm.policy.steered_step import describe_step
from steerable_llm.server.closed import Closed
from steerable_llm.server.refusals import Json, Refused
from steerable_llm.server.routes import Route
from steerable_llm.server.serving import Serving


class PolicyText(Closed):
    """A policy that is to be tried: the content of a policy file."""

    toml: str


def router(serving: Serving) -> APIRouter:
    """Return the endpoints; those below `/v1/policy/` are for who has the admin key."""
    routes = APIRouter(route_class=Route)

    @routes.get("/v1/policy")
    async def policy() -> Response:
        """Tell what each step gets."""
        return Json(_described(serving.llm.policy))

    @routes.post("/v1/policy/validate")
    async def validate(body: PolicyText) -> Response:
        """Try a policy with the model, and change nothing."""
        return Json(await asyncio.to_thread(_tried, serving, body.toml))

    @routes.post("/v1/policy/reload")
    async def reload() -> Response:
        """Read the policy's file and vectors again; the old policy stays if they are wrong."""
        try:
            return Json(_described(await asyncio.to_thread(serving.llm.reload_policy)))
        except SteerableError as error:
            raise _invalid(error) from error

    return routes


def _tried(serving: Serving, text: str) -> dict[str, Any]:
    llm = serving.llm
    try:
        policy = Policy.from_toml(text, directory=serving.settings.policy_folder)
        warnings = check_policy(policy, llm.fingerprint).warnings
        policy.check(llm.fingerprint)
    except SteerableError as error:
        raise _invalid(error) from error
    return {**_described(policy), "warnings": list(warnings)}


def _invalid(error: SteerableError) -> Refused:
    return Refused(400, str(error), code="invalid_policy")


def _described(policy: Policy | None) -> dict[str, Any]:
    if policy is None:
        return {"digest": None, "default_step": None, "off": None, "steps": {}}
    return {
        "digest": policy.digest,
        "default_step": policy.default_step,
        "off": policy.off,
        "steps": {
            name: describe_step(policy.steered_step(name), step)
            for name, step in policy.steps.items()
        },
    }
