"""What operators see of a server, and the way from a served answer to a pair."""

from __future__ import annotations

import base64
import json
import logging
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import schemathesis
from command_line import Steerable, steerable
from hypothesis import HealthCheck, given, settings
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from PIL import Image
from server_models import SAID
from server_process import KEY, PATIENCE, ServerProcess, running

from steerable_llm.answer.batching import BatchingEngine
from steerable_llm.answer.engine import Limits
from steerable_llm.answer.pending import Times
from steerable_llm.answer.request import Generation, Usage
from steerable_llm.errors import InvalidInputError
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.server import process
from steerable_llm.server.feedback import _review
from steerable_llm.server.keys import API_KEYS, read_keys
from steerable_llm.server.metrics import MOST_STEPS, Metrics
from steerable_llm.server.refusals import Refused
from steerable_llm.server.requests import _WITHOUT_EFFECT, ModelName
from steerable_llm.server.serving import Serving
from steerable_llm.server.settings import ServerSettings

__all__ = ["steerable"]

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

NINE = "At nine, as the documents say."
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
PNG += "gg=="


def refused(server: ServerProcess, **fields: Any) -> dict[str, Any]:
    answer = server.chat("When?", **fields)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


# What is asked.


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"frequency_penalty": 1}, "frequency_penalty"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"extra_body": {"steering": {"step": "answer"}}}, "extra_body"),
        ({"step": "answer"}, "step"),
        ({"enable_thinking": False}, "enable_thinking"),
        ({"prompt": "When?"}, "prompt"),
        ({"steering": {"enabled": False, "contrast": {}}}, "steering"),
        ({"steering": {"strength": 2}}, "steering.strength"),
        ({"steering": {"contrast": {"alfa": 1}}}, "steering.contrast.alfa"),
        ({"steering": {"step": "nothing"}}, "steering.step"),
        ({"model": "tiny:answer", "steering": {"step": "reply"}}, "steering.step"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 100}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages.0.content.0.text",
        ),
        ({"stop": 5}, "stop"),
        ({"stop": ["x"] * 1000}, "stop"),
        ({"model": "tiny:" + "x" * 10_000}, "model"),
        ({"messages": [{"role": "friend", "content": "x"}]}, "messages.0.role"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
    ],
)
def test_what_would_change_the_answer_and_is_not_supported_is_refused_by_name(
    server: ServerProcess, fields: dict[str, Any], param: str
) -> None:
    assert refused(server, **fields)["param"] == param


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"stop": ["x"] * 33}, "stop: List should have at most 32 items"),
        ({"stop": "x" * 1001}, "stop: String should have at most 1000 characters"),
        ({"stop": 5}, "stop: Input should be a valid string or a valid list"),
        ({"stop": [5]}, "stop.0: Input should be a valid string"),
        ({"temperature": "hot"}, "temperature: Input should be a valid number"),
        ({"temperature": "hot", "top_p": []}, "temperature: Input should be a valid number"),
        ({"steering": {"context": "text"}}, "Input should be a valid boolean or a valid list"),
        ({"steering": {"stepp": "answer"}}, "'stepp' is not a known field; did you mean 'step'?"),
        ({"steering": {"contrast": {"alfa": 1}}}, "did you mean 'alpha'? known: alpha, kind"),
    ],
)
def test_a_value_of_several_forms_is_told_what_is_wrong_with_its_own(
    server: ServerProcess, fields: dict[str, Any], told: str
) -> None:
    assert told in refused(server, **fields)["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"seed": 2**70}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"logprobs": True, "top_logprobs": 99}, "top_logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"chat_template_kwargs": {"tokenize": False}}, None),
        ({"reasoning_effort": "high"}, None),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True,
             "schema": {"type": "array", "uniqueItems": True}}}},
            None,
        ),
    ],
)  # fmt: skip
def test_values_that_the_model_cannot_use_are_refused_by_name(
    server: ServerProcess, fields: dict[str, Any], param: str | None
) -> None:
    error = refused(server, **fields)
    assert error["message"]
    assert error["param"] == param


def test_a_completion_is_told_of_its_own_fields(server: ServerProcess) -> None:
    with server.http() as client:
        for fields, param in (({"logprobs": 99}, "logprobs"), ({"top_p": 2}, "top_p")):
            body = {"model": "tiny", "prompt": "When?", **fields}
            answer = client.post("/v1/completions", json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_what_asks_for_nothing_is_passed_over(server: ServerProcess) -> None:
    fields = {name: values[0] if values else None for name, values in _WITHOUT_EFFECT.items()}
    harmless = {"user": "u", "metadata": {"a": "b"}, "service_tier": "auto", "anything": [1]}
    answer = server.chat("When?", **fields, **harmless)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "field",
    [
        {"response_format": {"type": "json_object"}}, {"max_completion_tokens": 1},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"chat_template_kwargs": {"a": 1}}, {"messages": [{"role": "user", "content": "When?"}]},
    ],
)  # fmt: skip
def test_what_only_conversations_have_is_not_passed_over_in_a_completion(
    server: ServerProcess, field: dict[str, Any]
) -> None:
    body = {"model": "tiny", "prompt": "When?"}
    nothing = {"tools": [], "response_format": {"type": "text"}, "tool_choice": "none"}
    with server.http() as client:
        answer = client.post("/v1/completions", json={**body, **field})
        plain = client.post("/v1/completions", json={**body, **nothing})
    assert (answer.status_code, plain.status_code) == (400, 200)
    assert [answer.json()["error"]["param"]] == list(field)


def image(url: str) -> list[Any]:
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


@pytest.mark.parametrize("url", ["/etc/passwd", "file:///etc/passwd", "images/a.png", "data:x"])
def test_no_image_lets_the_server_open_a_file(server: ServerProcess, url: str) -> None:
    assert "give the image as data:image/" in refused(server, messages=image(url))["message"]


def test_no_image_is_fetched_from_a_host_that_the_server_was_not_told(tmp_path: Path) -> None:
    with running(tmp_path, "vision") as server:
        error = refused(server, messages=image("http://127.0.0.1:1/latest/meta-data.png"))
    assert "127.0.0.1" in error["message"]
    assert "only with permission" in error["message"]


def test_an_image_reaches_the_model_and_is_refused_by_one_that_reads_none(
    server: ServerProcess,
) -> None:
    error = refused(server, messages=image(f"data:image/png;base64,{PNG}"))
    assert "reads text only" in error["message"]
    assert "no base64" in refused(server, messages=image("data:image/png;base64,%"))["message"]


def test_an_image_is_seen_by_a_model_that_reads_images(tmp_path: Path) -> None:
    file = BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    with running(tmp_path, "vision") as server:
        seen = server.chat(messages=image(url), max_tokens=3).json()
        plain = server.chat("What?", max_tokens=3).json()
        server.end()
        server.process.join(PATIENCE)
    assert seen["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]
    with AnswerLog(f"sqlite:///{tmp_path}/answers.db") as log:
        [kept, _] = log.answers()
    assert len(kept.messages[0].images) == 1


def test_steering_can_be_left_out_of_one_request(server: ServerProcess) -> None:
    told = server.chat("When?", model="tiny:answer", steering={"enabled": False}).json()["steering"]
    assert told["applied"] == []
    assert told["reasons"] == ["the request brings its own steering"]


def test_more_tokens_than_the_server_gives_are_refused_and_never_given(tmp_path: Path) -> None:
    with running(tmp_path, most_tokens=7, usual_tokens=50) as server:
        assert refused(server, max_tokens=8)["code"] == "too_many_tokens"
        assert refused(server, max_completion_tokens=8)["code"] == "too_many_tokens"
        assert server.chat("story").json()["usage"]["completion_tokens"] == 7


# What people say.


def test_a_served_answer_with_feedback_becomes_a_pair(tmp_path: Path) -> None:
    passages = [{"id": "hours.md", "text": "The store opens at ten."}]
    steering = {"step": "answer", "context": passages}
    with running(tmp_path) as server, server.http() as client:
        made = server.chat("The store opens at ten. When?", steering=steering).json()
        server.chat("When? Do not keep it.", store=False)
        said = {
            "id": made["id"], "verdict": "bad", "reason": "not in documents",
            "correction": "At ten.", "reviewer": "Ana",
        }  # fmt: skip
        assert client.post("/v1/feedback", json=said).status_code == 200
        missing = client.post("/v1/feedback", json={**said, "id": "chatcmpl-0"})
        empty = client.post("/v1/feedback", json={"id": made["id"]})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "answer_not_found")
    assert empty.status_code == 400
    with AnswerLog(f"sqlite:///{tmp_path}/answers.db") as log:
        [kept] = log.answers()
        [pair] = log.pairs(reason="not in documents")
    assert (kept.answer, kept.step, kept.model, kept.reviewer) == (NINE, "answer", "tiny", "Ana")
    assert [passage.id for passage in kept.passages] == ["hours.md"]
    assert kept.steering[0]["name"] == "a"
    assert kept.usage == {k: made["usage"][k] for k in ("prompt_tokens", "completion_tokens")}
    assert (pair.good, pair.bad) == ("At ten.", NINE)


def test_another_verdict_does_not_keep_the_reasons_for_the_one_before(tmp_path: Path) -> None:
    with running(tmp_path) as server, server.http() as client:
        made = server.chat("When?").json()
        for said in (
            {"verdict": "bad", "reason": "rude", "correction": "At ten.", "score": 0},
            {"verdict": "bad", "comment": "Too short."},
        ):
            assert client.post("/v1/feedback", json={"id": made["id"], **said}).is_success
        with AnswerLog(f"sqlite:///{tmp_path}/answers.db") as log:
            before = log.get(made["id"])
        said = {"id": made["id"], "verdict": "good"}
        assert client.post("/v1/feedback", json=said).is_success
        with AnswerLog(f"sqlite:///{tmp_path}/answers.db") as log:
            after = log.get(made["id"])
    assert (before.reason, before.correction) == ("rude", "At ten.")
    assert (before.score, before.comment) == (0, "Too short.")
    assert after.verdict == "good"
    assert (after.reason, after.correction, after.score, after.comment) == (None,) * 4


def test_a_good_answer_has_no_reason(tmp_path: Path) -> None:
    with running(tmp_path) as server, server.http() as client:
        made = server.chat("When?").json()

        def judged(**said: str) -> httpx.Response:
            return client.post("/v1/feedback", json={"id": made["id"], **said})

        both = judged(verdict="good", reason="contradicts")
        assert both.status_code == 400
        assert both.json()["error"]["param"] == "reason"
        assert judged(verdict="good").is_success
        assert judged(reason="contradicts").status_code == 400
        with AnswerLog(f"sqlite:///{tmp_path}/answers.db") as log:
            kept = log.get(made["id"])
        assert (kept.verdict, kept.reason) == ("good", None)
        assert judged(verdict="bad", reason="contradicts").is_success


def test_who_says_nothing_of_an_answer_has_not_judged_it(server: ServerProcess) -> None:
    made = server.chat("When?").json()
    with server.http() as client:
        answer = client.post("/v1/feedback", json={"id": made["id"], "reviewer": "Ana"})
    assert answer.status_code == 400


def test_a_misspelt_field_of_feedback_is_told_with_the_nearest(server: ServerProcess) -> None:
    with server.http() as client:
        answer = client.post("/v1/feedback", json={"id": "x", "verdct": "bad"})
    told = answer.json()["error"]
    assert (answer.status_code, told["param"]) == (400, "verdct")
    assert "did you mean 'verdict'? known: choice, comment, correction" in told["message"]


def test_each_of_several_answers_can_be_judged(server: ServerProcess) -> None:
    made = server.chat("When?", n=2, stream=False).json()
    with server.http() as client:
        said = {"id": made["id"], "choice": 1, "verdict": "good"}
        assert client.post("/v1/feedback", json=said).status_code == 200
    with AnswerLog(f"sqlite:///{server.folder}/answers.db") as log:
        assert log.get(f"{made['id']}:1").verdict == "good"
        assert log.get(made["id"]).verdict is None


def test_feedback_that_waits_for_a_locked_log_holds_up_no_answer(tmp_path: Path) -> None:
    many = 40  # more than the threads of an event loop
    with running(tmp_path, log_timeout=5.0) as server, server.http() as client:

        def judged(answer_id: str) -> httpx.Response:
            return client.post("/v1/feedback", json={"id": answer_id, "verdict": "bad"})

        before = server.chat("When?").json()["id"]
        assert judged(before).is_success
        with (
            closing(sqlite3.connect(tmp_path / "answers.db", isolation_level=None)) as database,
            ThreadPoolExecutor(many) as threads,
        ):
            database.execute("BEGIN EXCLUSIVE")
            waiting = [threads.submit(judged, before) for _ in range(many)]
            wait(waiting, timeout=0.5)
            meanwhile = server.chat("When?")
            assert meanwhile.is_success
            assert not all(each.done() for each in waiting)
            refused = [each.result() for each in waiting]
            # It is in no log yet, and will be: nobody may be told that there is none.
            refused.append(judged(meanwhile.json()["id"]))
            database.execute("ROLLBACK")
        for answer in refused:
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert answer.json()["error"]["code"] == "log_unavailable"
        end = time.monotonic() + PATIENCE
        while not judged(meanwhile.json()["id"]).is_success:
            assert time.monotonic() < end


def test_a_server_without_a_log_says_so(tmp_path: Path) -> None:
    with running(tmp_path, log=None) as server, server.http() as client:
        answer = client.post("/v1/feedback", json={"id": "x", "verdict": "bad"})
        assert answer.json()["error"]["code"] == "no_answer_log"


def test_nobody_is_told_that_there_is_no_answer_while_one_waits_for_the_log(tmp_path: Path) -> None:
    slow = SimpleNamespace(url=f"sqlite:///{tmp_path / 'answers.db'}", flush=lambda _: False)
    serving: Any = SimpleNamespace(recorder=slow, settings=ServerSettings())
    with pytest.raises(Refused) as told:
        _review(serving, "on-its-way", {"verdict": "bad"})
    assert (told.value.status_code, told.value.code) == (503, "log_unavailable")


def test_a_model_that_is_not_there_is_told_with_one_that_is(server: ServerProcess) -> None:
    told = server.chat(model="other")
    assert told.status_code == 404
    assert "ask for 'tiny', or for a step, as in 'tiny:plain'" in told.json()["error"]["message"]
    with pytest.raises(Refused, match=r"ask for 'tiny'$"):
        ModelName.read("other", None, "tiny", None)  # there is no policy, and so no step


# What is counted and told.


def test_the_metrics_have_vllms_names_and_count_by_step(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        used = server.chat("When?", model="tiny:answer").json()["usage"]
        server.chat("When?", model="tiny:reply", stream=True, max_tokens=2)
        server.chat("When?", frequency_penalty=1)
        for name in (
            "time_to_first_token_seconds", "inter_token_latency_seconds",
            "e2e_request_latency_seconds", "request_queue_time_seconds",
        ):  # fmt: skip
            assert server.counted(f"{name}_count", step="answer") > 0
        assert server.counted("prompt_tokens_total", step="answer") == used["prompt_tokens"]
        assert server.counted("generation_tokens_total", step="answer") == used["completion_tokens"]
        assert server.counted("request_success_total", finished_reason="stop") == 1
        assert server.counted("request_success_total", finished_reason="length", step="reply") == 1
        assert server.counted("request_refused_total", code="unsupported_parameter") == 1
        assert server.counted("num_requests_running") == 0
        assert server.counted("num_requests_waiting") == 0


def test_steps_without_number_share_one_label() -> None:
    metrics = Metrics("steerable", "tiny")
    made = Generation("x", (1,), "stop", Usage(1, 1))
    for number in range(3 * MOST_STEPS):
        metrics.clock(f"step-{number}").ends(made, Times(0.0))
    lines = metrics.text().decode().splitlines()
    steps = [line for line in lines if line.startswith("steerable:prompt_tokens_total{")]
    assert len(steps) == MOST_STEPS + 1


def test_the_access_log_tells_all_but_what_was_said(tmp_path: Path) -> None:
    with running(tmp_path) as server, server.http(headers={"X-Request-Id": "mine"}) as client:
        body = {"model": "tiny:answer", "messages": [{"role": "user", "content": "When, Zorro?"}]}
        client.post("/v1/chat/completions?q=1", json=body)
        text = server.says('"request_id"')
        [line] = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert line["request_id"] == "mine"
    assert (line["status"], line["step"], line["model"]) == (200, "answer", "tiny:answer")
    assert line["completion_tokens"] > 0
    assert "Zorro" not in text
    assert "nine" not in text
    assert KEY not in text


def test_the_access_log_tells_prompts_where_it_is_told_to(tmp_path: Path) -> None:
    with running(tmp_path, log_prompts=True) as server:
        server.chat("When, Zorro?")
        assert server.says("Zorro")


class Collector:
    """What a collector of traces was sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                sent = ExportTraceServiceRequest()
                sent.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
                for resource in sent.resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_traces_follow_the_conventions_where_an_exporter_is_configured(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    with running(tmp_path) as server:
        around = {"traceparent": f"00-{trace}-{parent}-01"}
        with server.http(headers=around) as client:
            messages = [{"role": "user", "content": "When, Zorro?"}]
            body = {"model": "tiny:answer", "messages": messages, "temperature": 0, "seed": 3}
            made = client.post("/v1/chat/completions", json=body).json()
            client.post("/v1/chat/completions", json={**body, "top_p": 7, "stream": True})
            client.post("/v1/chat/completions", json={**body, "model": "tiny:none"})
        server.end()
        server.process.join(PATIENCE)
    spans = {span.status.message: span for span in collector.spans}
    assert set(spans) == {"", "unknown_step"}
    span = spans[""]
    values = {each.key: each.value for each in span.attributes}
    assert span.name == "chat tiny:answer"
    assert span.trace_id.hex() == trace
    assert span.parent_span_id.hex() == parent
    assert values["gen_ai.operation.name"].string_value == "chat"
    assert values["gen_ai.response.id"].string_value == made["id"]
    assert values["gen_ai.usage.input_tokens"].int_value == made["usage"]["prompt_tokens"]
    assert values["gen_ai.response.finish_reasons"].array_value.values[0].string_value == "stop"
    assert values["steerable.step"].string_value == "answer"
    assert values["steerable.vectors"].array_value.values[0].string_value == "a"
    assert "Zorro" not in str(collector.spans)
    with AnswerLog(f"sqlite:///{tmp_path}/answers.db") as log:
        assert [each.trace_id for each in log.answers()] == [trace]


# The command.


def test_the_command_serves_and_ends(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("one\ntwo\n")
    command = [sys.executable, "-m", "steerable_llm", "serve", "--model", "demo", "--port", "0"]
    command += ["--api-keys", str(keys), "--log", str(tmp_path / "answers.db"), "--name", "x"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = process.stderr.readline().split()[3].rstrip(",")
        assert "ready: x" in process.stderr.readline()
        assert httpx.get(f"{url}/v1/models").status_code == 401
        messages = [{"role": "user", "content": "When?"}]
        answer = httpx.post(
            f"{url}/v1/chat/completions",
            json={"model": "x", "messages": messages, "max_tokens": 3},
            headers={"Authorization": "Bearer two"},
        )
        assert answer.json()["usage"]["completion_tokens"] <= 3
        process.terminate()
        process.stderr.read()
    assert process.returncode == 0
    with AnswerLog(f"sqlite:///{tmp_path}/answers.db") as log:
        assert log.count() == 1


@pytest.mark.usefixtures("loggers_stay")
def test_limits_of_the_command_are_those_of_the_engine(
    steerable: Steerable, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Serving] = []

    def run(load: Any, settings: ServerSettings, *_: object) -> None:
        served.append(Serving(settings))
        served[0].take(load())

    monkeypatch.setattr(process, "serve", run)
    steerable(
        "serve", "--model", "demo", "--max-running", 3, "--max-waiting", 4,
        "--max-cached-tokens", 500, "--prefix-cache-mb", 1,
    )  # fmt: skip
    engine = served[0].llm.engine
    assert isinstance(engine, BatchingEngine)
    assert engine.limits == Limits(rows=3, queue=4, tokens=500, prefixes=2**20)


@pytest.fixture
def loggers_stay() -> Iterator[None]:
    """The command sets how the process logs; this process is not its own."""
    found = {name: logging.getLogger(name) for name in ("", "steerable_llm.server")}
    before = {name: (logger.level, logger.handlers[:]) for name, logger in found.items()}
    yield
    for name, logger in found.items():
        level, logger.handlers[:] = before[name]
        logger.setLevel(level)


@pytest.mark.usefixtures("loggers_stay")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--metrics-prefix", "a-b"], "--metrics-prefix"),
        (["--host", "999.1.1.1"], "name another --host or --port"),
        (["--api-keys", "empty"], "holds no key"),
        (["--allow-origin", "webui"], "such as http://localhost:3000"),
        (["--image-host", "http://x"], "--image-host 'http://x': give a host"),
    ],
)
def test_the_command_refuses_what_it_cannot_use(
    steerable: Steerable, tmp_path: Path, arguments: list[str], told: str
) -> None:
    (tmp_path / "empty").write_text("")
    steerable("serve", "--model", "demo", *arguments, code=2)
    assert told in steerable.stderr
    assert "listening" not in steerable.stderr


def test_a_file_of_keys_is_read_as_people_save_it_and_named_where_it_is_no_text(
    tmp_path: Path,
) -> None:
    file = tmp_path / "keys.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")  # as Windows saves it
    assert read_keys(file, API_KEYS) == ("one", "two")
    file.write_bytes(b"\xff\xfeo\x00")
    with pytest.raises(InvalidInputError, match=r"keys\.txt is not UTF-8 text"):
        read_keys(file, API_KEYS)


# The document that describes it.


def test_no_request_that_fits_the_document_breaks_the_server(server: ServerProcess) -> None:
    with server.http() as client:
        document = client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=server.url)
    paths = set()
    for operation in (found.ok() for found in schema.get_all_operations()):
        paths.add(operation.path)
        if operation.path == "/v1/policy/reload":
            continue

        @settings(
            max_examples=15, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def send(case: Any) -> None:
            if isinstance(case.body, dict) and "model" in case.body:
                case.body |= {"model": "tiny", "max_tokens": 2}
            answer = case.call(headers={"Authorization": f"Bearer {KEY}"})
            assert answer.status_code < 500, (case.as_curl_command(), answer.text)

        send()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/feedback", "/v1/policy"} <= paths
    assert server.chat("When?").json()["choices"][0]["message"]["content"] == SAID["When"]
