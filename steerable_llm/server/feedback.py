"""What people say of answers: kept in the answer log, which vectors are built from."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field, FiniteFloat
from starlette.responses import Response

from steerable_llm.errors import InvalidInputError
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.answers import Reason
from steerable_llm.server.closed import Closed
from steerable_llm.server.refusals import Json, Refused, log_unavailable
from steerable_llm.server.routes import Route
from steerable_llm.server.serving import Serving

_logger = logging.getLogger(__name__)

# Of their own: a database that is locked or away must not keep the threads that begin answers.
_THREADS = 4
# What would speak against another verdict than that with which it was said.
_OF_A_VERDICT = ("reason", "correction", "comment", "score")


class Feedback(Closed):
    """What somebody says of one answer.

    Attributes:
        id: Of the response.
        choice: Which of its answers.
        verdict: Whether it is good.
        reason: What is wrong with a bad one.
        correction: What should have been said.
        comment: Anything else.
        score: A number for it.
        reviewer: Who says so.
    """

    id: str = Field(min_length=1, max_length=256)
    choice: int = Field(default=0, ge=0)
    verdict: Literal["good", "bad"] | None = None
    reason: Reason | None = None
    correction: str | None = None
    comment: str | None = None
    score: FiniteFloat | None = None
    reviewer: str | None = None


def router(serving: Serving) -> APIRouter:
    """Return the endpoint."""
    routes = APIRouter(route_class=Route)
    threads = ThreadPoolExecutor(_THREADS, "steerable-feedback")

    @routes.post("/v1/feedback")
    async def feedback(body: Feedback) -> Response:
        """Judge an answer by the id of its response; what is said again replaces what was.

        Another verdict also takes the reasons for the one before away.
        """
        answer_id = body.id if body.choice == 0 else f"{body.id}:{body.choice}"
        judgement = body.model_dump(exclude={"id", "choice"}, exclude_none=True)
        if not judgement.keys() - {"reviewer"}:
            raise Refused(
                400, "nothing is said of the answer: give a verdict, a reason, a correction, a "
                "comment or a score", code="invalid_value", param="verdict",
            )  # fmt: skip
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(serving.settings.log_timeout):
                await loop.run_in_executor(threads, _review, serving, answer_id, judgement)
        except TimeoutError:
            _logger.error("feedback waited too long for the answer log")
            raise log_unavailable() from None
        return Json({"id": body.id, "choice": body.choice, **judgement})

    return routes


def _review(serving: Serving, answer_id: str, judgement: dict[str, Any]) -> None:
    if serving.recorder is None:
        raise Refused(
            404, "this server keeps no answers: start it with --log", code="no_answer_log"
        )
    # The answer may just be on its way there; until it is, nobody knows whether there is one.
    if not serving.recorder.flush(serving.settings.log_timeout):
        _logger.error("feedback on an answer that waits for the answer log")
        raise log_unavailable()
    with AnswerLog(serving.recorder.url) as log:
        try:
            before = log.get(answer_id).verdict
        except InvalidInputError:
            raise Refused(
                404, f"no answer with the id {answer_id!r} was recorded", code="answer_not_found",
                param="id",
            ) from None  # fmt: skip
        if "reason" in judgement and judgement.get("verdict", before) == "good":
            raise Refused(
                400, "a reason says what is wrong with a bad answer, and this one's verdict is "
                "good: give the verdict bad, or say it in comment", code="invalid_value",
                param="reason",
            )  # fmt: skip
        if judgement.get("verdict") not in (None, before):
            judgement = {**dict.fromkeys(_OF_A_VERDICT), **judgement}
        log.review(answer_id, label_source="human", **judgement)
