"""Traces of requests for OpenTelemetry, by its conventions for generative models.

They are on where an exporter is configured: by the program around (`opentelemetry-instrument`), or
by the environment variables of OTLP. No text of a prompt or an answer is in them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from steerable_llm.answer.request import GenerationRequest
from steerable_llm.errors import MissingExtraError
from steerable_llm.server.responses import Answers
from steerable_llm.version import __version__

_ADDRESSES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_OPERATIONS = {"chat": "chat", "text": "text_completion"}


class Traces:
    """Makes the span of each request; does nothing where no exporter is configured."""

    def __init__(self) -> None:
        """Set the exporter up that the environment names, unless the program has done so.

        Raises:
            MissingExtraError: The environment names one, and its package is not there.
        """
        self._provider: Any = None
        wanted = any(os.environ.get(name) for name in _ADDRESSES)
        if find_spec("opentelemetry") is None:
            if wanted:
                raise _missing("the package opentelemetry-api")
            return
        trace = import_module("opentelemetry.trace")
        if wanted and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            self._provider = _exporting()
            trace.set_tracer_provider(self._provider)
        self._trace = trace
        self._tracer = trace.get_tracer("steerable_llm.server", __version__)

    def begin(
        self, kind: str, model: str, request: GenerationRequest, headers: Mapping[str, str]
    ) -> Any:
        """Begin the span of a request, below that which its headers name; None where none is."""
        if not hasattr(self, "_tracer"):
            return None
        around = import_module("opentelemetry.propagate").extract(headers)
        operation = _OPERATIONS[kind]
        told = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "steerable_llm",
            "gen_ai.request.model": model,
            "gen_ai.request.temperature": request.temperature,
            "gen_ai.request.top_p": request.top_p,
            "gen_ai.request.top_k": request.top_k or None,
            "gen_ai.request.max_tokens": request.max_new_tokens,
            "gen_ai.request.seed": request.seed,
            "gen_ai.request.stop_sequences": list(request.stops) or None,
        }
        return self._tracer.start_span(
            f"{operation} {model}",
            context=around,
            kind=self._trace.SpanKind.SERVER,
            attributes={name: value for name, value in told.items() if value is not None},
        )

    def end(self, span: Any, answers: Answers | None, error: str | None) -> None:
        """End a span with what came of the request."""
        if span is None:
            return
        if answers is not None and answers.finals:
            first = answers.finals[0]
            span.set_attribute("gen_ai.response.id", answers.id)
            reasons = [choice.finish_reason or "error" for choice in answers.choices]
            span.set_attribute("gen_ai.response.finish_reasons", reasons)
            span.set_attribute("gen_ai.usage.input_tokens", answers.usage["prompt_tokens"])
            span.set_attribute("gen_ai.usage.output_tokens", answers.usage["completion_tokens"])
            span.set_attribute("steerable.vectors", [vector.name for vector in first.steered])
            if first.decision is not None and first.decision.step is not None:
                span.set_attribute("steerable.step", first.decision.step)
            if first.decision is not None and first.decision.policy is not None:
                span.set_attribute("steerable.policy", first.decision.policy)
        if error is not None:
            span.set_attribute("error.type", error)
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, error))
        span.end()

    def close(self) -> None:
        """Send what is not yet sent."""
        if self._provider is not None:
            self._provider.shutdown()


def _exporting() -> Any:
    try:
        sdk = import_module("opentelemetry.sdk.trace")
        export = import_module("opentelemetry.sdk.trace.export")
        otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        resources = import_module("opentelemetry.sdk.resources")
    except ImportError as error:
        raise _missing(str(error)) from error
    name = os.environ.get("OTEL_SERVICE_NAME") or "steerable-llm"
    provider = sdk.TracerProvider(resource=resources.Resource.create({"service.name": name}))
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter()))
    return provider


def _missing(what: str) -> MissingExtraError:
    return MissingExtraError(
        f"the environment asks for traces, which need a package that is not installed ({what}): "
        "pip install 'steerable-llm[server,otel]'"
    )
