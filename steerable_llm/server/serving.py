"""One server's state: the model once it is there, what is under way, and where answers are kept."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from steerable_llm.answer.record import logged_steering, what_steered
from steerable_llm.answer.request import Generation, GenerationRequest
from steerable_llm.chat.message import as_messages
from steerable_llm.errors import SteerableError
from steerable_llm.logs.answers import LoggedAnswer, Passage, asked
from steerable_llm.logs.recorder import AnswerRecorder
from steerable_llm.server.metrics import Metrics
from steerable_llm.server.refusals import Refused, engine_dead
from steerable_llm.server.served import ServedModel
from steerable_llm.server.settings import ServerSettings
from steerable_llm.server.traces import Traces

_logger = logging.getLogger(__name__)


class Serving:
    """What the endpoints of one server share.

    Attributes:
        settings: What the server was told.
        recorder: Writes answers into the log; None where none is kept.
        traces: Makes the spans of requests.
        started: When the server began, in seconds since 1970.
        draining: Set once the server is to end: nothing new is taken on.
        late: Set when those under way have had their time, too.
    """

    def __init__(self, settings: ServerSettings) -> None:
        """Begin without a model.

        Raises:
            MissingExtraError: The environment asks for traces, and their package is not there.
        """
        self.settings = settings
        self.recorder = None if settings.log is None else AnswerRecorder(settings.log)
        self.traces = Traces()
        self.draining = asyncio.Event()
        self.late = asyncio.Event()
        self.started = int(time.time())
        self._llm: ServedModel | None = None
        self._metrics: Metrics | None = None

    def take(self, llm: ServedModel) -> None:
        """Serve a model from now on."""
        told = self.settings
        llm.engine.limits = replace(
            llm.engine.limits,
            rows=told.most_running, tokens=told.most_cached, queue=told.most_waiting,
            prefixes=told.most_prefixes,
        )  # fmt: skip
        self._metrics = Metrics(self.settings.metrics_prefix, self.settings.name or llm.model_id)
        if self.recorder is not None:
            recorder = self.recorder
            self._metrics.set_lost(lambda: recorder.dropped)
        self._llm = llm

    def drain(self) -> None:
        """Take on nothing more; what is under way gets its time. Called on the event loop."""
        if not self.draining.is_set():
            self.draining.set()
            asyncio.get_running_loop().call_later(self.settings.drain_timeout, self.late.set)

    def trouble(self) -> Refused | None:
        """Return why no request can be answered at present; None if they can."""
        if self.draining.is_set():
            return Refused(503, "the server is ending", code="shutting_down", retry_after=5)
        if self._llm is None:
            return Refused(503, "the model is being loaded", code="loading", retry_after=5)
        if not self._llm.engine.alive:
            return engine_dead()
        return None

    @property
    def llm(self) -> ServedModel:
        """The model.

        Raises:
            Refused: It is not there, or no answers come of it.
        """
        if (trouble := self.trouble()) is not None:
            raise trouble
        assert self._llm is not None
        return self._llm

    @property
    def name(self) -> str:
        """What clients call the model."""
        return self.settings.name or self.llm.model_id

    @property
    def metrics(self) -> Metrics | None:
        """What is counted; None before the model is there."""
        if self._metrics is not None and self._llm is not None:
            self._metrics.load(self._llm.engine.running, self._llm.engine.waiting)
        return self._metrics

    def record(
        self,
        answer_id: str,
        request: GenerationRequest,
        made: Generation,
        passages: tuple[Passage, ...],
        headers: Mapping[str, str],
    ) -> None:
        """Put an answer into the log, if one is kept; it never fails and never waits."""
        llm = self._llm
        if self.recorder is None or llm is None:
            return
        try:
            messages = as_messages(request.messages)
            self.recorder.record(
                LoggedAnswer(
                    id=answer_id,
                    question=asked(None, messages),
                    passages=passages,
                    messages=messages,
                    answer=made.text,
                    step=(made.decision.step if made.decision else None) or made.step,
                    model=self.settings.name or llm.model_id,
                    revision=llm.fingerprint.revision,
                    steering=logged_steering(what_steered(made)),
                    usage={
                        "prompt_tokens": made.usage.prompt_tokens,
                        "completion_tokens": made.usage.completion_tokens,
                    },
                    time=datetime.now(UTC),
                    trace_id=_trace_id(headers),
                    reasoning=made.reasoning,
                    chat_template_kwargs=dict(made.chat_template_kwargs) or None,
                )
            )
        except (ValidationError, SteerableError):
            _logger.exception("the answer %s cannot be logged", answer_id)

    def close(self) -> None:
        """Write what is not yet written."""
        if self.recorder is not None:
            self.recorder.close()
        self.traces.close()


def _trace_id(headers: Mapping[str, Any]) -> str | None:
    """Return the trace that a request is part of, by W3C's header."""
    parts = str(headers.get("traceparent", "")).split("-")
    known = len(parts) == 4 and len(parts[1]) == 32 and parts[1].isalnum()
    return parts[1] if known else None
