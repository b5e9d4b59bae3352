"""What a server counts, under the names that vLLM gives them, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from steerable_llm.answer.pending import Times
from steerable_llm.answer.request import Generation

NO_STEP, OTHER_STEPS = "none", "other"
MOST_STEPS = 50
"""Steps that have numbers of their own, over the life of a server; all others share one label."""

_SHORT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
_LONG = (0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """The metrics of one server."""

    def __init__(self, prefix: str, model: str) -> None:
        """Begin at zero.

        Args:
            prefix: Before every name, and a colon.
            model: Label of all of them.
        """
        self._model = model
        self._steps: set[str] = set()
        self.registry = CollectorRegistry()
        labels = ["model_name", "step"]

        def name(of: str) -> str:
            return f"{prefix}:{of}"

        def histogram(of: str, told: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name(of), told, labels, registry=self.registry, buckets=buckets)

        def counter(of: str, told: str, *more: str) -> Counter:
            return Counter(name(of), told, [*labels, *more], registry=self.registry)

        def gauge(of: str, told: str) -> Gauge:
            made = Gauge(name(of), told, ["model_name"], registry=self.registry)
            made.labels(model)
            return made

        self.running = gauge("num_requests_running", "Answers that the model is at work on.")
        self.waiting = gauge("num_requests_waiting", "Answers that wait for their turn.")
        self._first = histogram(
            "time_to_first_token_seconds", "From the request to its first token.", (*_SHORT, 30.0)
        )
        self._between = histogram(
            "inter_token_latency_seconds", "From one token to the next.", _SHORT
        )
        self._whole = histogram(
            "e2e_request_latency_seconds", "From the request to the end of its answer.", _LONG
        )
        self._queued = histogram(
            "request_queue_time_seconds", "From the request until the model begins.", _LONG
        )
        self._read = counter("prompt_tokens", "Tokens read.")
        self._made = counter("generation_tokens", "Tokens written.")
        self._success = counter("request_success", "Answers that ended.", "finished_reason")
        self._refused = Counter(
            name("request_refused"), "Requests that got no answer, or not the whole of it.",
            ["model_name", "code"], registry=self.registry,
        )  # fmt: skip
        self._lost = gauge("answer_log_dropped", "Answers that did not reach the answer log.")

    def set_lost(self, number: Callable[[], int]) -> None:
        """Say where the number of answers that did not reach the log is asked for."""
        self._lost.labels(self._model).set_function(number)

    def load(self, running: int, waiting: int) -> None:
        """Take down how much is under way."""
        self.running.labels(self._model).set(running)
        self.waiting.labels(self._model).set(waiting)

    def refused(self, code: str | None) -> None:
        """Count a request that got no answer, or a part; codes are few, and ours."""
        self._refused.labels(self._model, code or "error").inc()

    def clock(self, step: str | None) -> AnswerClock:
        """Start to measure one answer."""
        return AnswerClock(self, (self._model, self._label(step)))

    def _label(self, step: str | None) -> str:
        """Return a step's label; there are never more than so many, whatever clients name."""
        if step is None:
            return NO_STEP
        if step not in self._steps and len(self._steps) >= MOST_STEPS:
            return OTHER_STEPS
        self._steps.add(step)
        return step

    def text(self) -> bytes:
        """Return all of them as Prometheus reads it."""
        return generate_latest(self.registry)


class AnswerClock:
    """Measures one answer from the request to its end."""

    def __init__(self, metrics: Metrics, labels: tuple[str, str]) -> None:
        """Begin without a token."""
        self._of = metrics
        self._labels = labels
        self._last: float | None = None

    def token(self) -> None:
        """Take down that a token has come."""
        now = time.monotonic()
        if self._last is not None:
            self._of._between.labels(*self._labels).observe(now - self._last)
        self._last = now

    def ends(self, final: Generation, times: Times) -> None:
        """Take down that the answer is whole, and when the engine came how far with it."""
        for histogram, until in (
            (self._of._queued, times.begun),
            (self._of._first, times.first),
            (self._of._whole, times.ended or time.monotonic()),
        ):
            if until is not None:
                histogram.labels(*self._labels).observe(until - times.asked)
        self._of._read.labels(*self._labels).inc(final.usage.prompt_tokens)
        self._of._made.labels(*self._labels).inc(final.usage.completion_tokens)
        self._of._success.labels(*self._labels, final.finish_reason).inc()
