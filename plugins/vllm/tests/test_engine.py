"""The engine before a server that fails in every way; what it refuses, and how it says so."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest

from steerable_llm import Constraint, SteerableHFLLM, SteeringVector
from steerable_llm.answer.engine import Limits
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.errors import (
    DeadlineError,
    EngineError,
    InvalidInputError,
    ModelMismatchError,
    OverloadedError,
    SteerableError,
    SteeringNotAppliedError,
    UnknownVectorError,
)
from steerable_llm.vector.contrast import Contrast
from steerable_vllm.engine import VLLMEngine

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def llm() -> SteerableHFLLM:
    return SteerableHFLLM.demo()


@pytest.fixture(scope="module")
def vector(llm) -> SteeringVector:
    direction = llm.model.get_input_embeddings().weight[0].detach() + 1.0
    return SteeringVector(
        name="v", directions={0: direction}, scales={0: 1.0}, fingerprint=llm.fingerprint
    )


@contextmanager
def vllm(llm, vector, *, marked=True, facts=None, status=200, events=None) -> Iterator[list[Any]]:
    """Serve what a vLLM might say; yields the bodies that it was sent."""
    asked: list[Any] = []
    told = {"vectors": {"v": vector.fingerprint_id}, "structured_outputs": "auto"}
    words = llm.encode_answer("Paris.")

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def _send(self, code: int, body: str) -> None:
            self.send_response(code)
            if marked:
                self.send_header("x-steerable", "1")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def do_GET(self) -> None:
            self._send(200 if marked else 404, json.dumps({**told, **(facts or {})}))

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            asked.append(json.loads(self.rfile.read(length)))
            if status != 200:
                self._send(status, json.dumps({"error": {"message": "it says why"}}))
                return
            tokens = [{"choices": [{"token_ids": [word]}]} for word in words]
            said = [json.dumps(token) for token in tokens] + ["[DONE]"]
            chosen = said if events is None else events(said)
            self._send(200, "".join(f"data: {event}\n\n" for event in chosen))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    llm.engine = VLLMEngine(llm, f"http://127.0.0.1:{server.server_port}")
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_answer_comes_with_the_record_of_what_was_applied(llm, vector) -> None:
    with vllm(llm, vector) as asked:
        answer = llm.generate(QUESTION, vector.steer(0.5))
    assert (answer.text, answer.finish_reason) == ("Paris.", "stop")
    assert answer.usage.completion_tokens == len(answer.token_ids)
    assert [(each.name, each.steered_tokens) for each in answer.steered] == [
        ("v", len(answer.token_ids))
    ]
    assert asked[0]["prompt"] == llm.encode(QUESTION)


def test_settings_travel(llm, vector) -> None:
    with vllm(llm, vector) as asked:
        llm.generate(
            QUESTION, max_new_tokens=9, temperature=0.5, top_p=0.8, top_k=7, min_p=0.1,
            seed=2**64 - 3, repetition_penalty=1.2, logit_bias={5: -2.0},
        )  # fmt: skip
    wanted = {
        "max_tokens": 9, "temperature": 0.5, "top_p": 0.8, "top_k": 7, "min_p": 0.1,
        "seed": -3, "repetition_penalty": 1.2, "logit_bias": {"5": -2.0},
    }  # fmt: skip
    assert {name: asked[0][name] for name in wanted} == wanted
    assert "vllm_xargs" not in asked[0]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"contrast": Contrast("cad", 0.5), "context": "Paris is nice."}, "contrast"),
        ({"constraint": Constraint.choice(["yes", "no"])}, "guidance"),
        ({"logit_bias": {5: 500.0}}, "logit_bias"),
    ],
)
def test_what_it_cannot_do_is_refused_before_anything_is_asked(llm, vector, settings, what) -> None:
    with vllm(llm, vector) as asked, pytest.raises(InvalidInputError, match=what):
        llm.generate(f"Paris is nice. {QUESTION}", **settings)
    assert not asked


def test_a_server_without_the_plug_in_is_told(llm, vector) -> None:
    with vllm(llm, vector, marked=False) as asked:
        with pytest.raises(SteeringNotAppliedError, match="does not steer"):
            llm.generate(QUESTION, vector.steer(0.5))
        assert not asked
        assert llm.generate(QUESTION).text == "Paris.", "unsteered requests are any server's"


@pytest.mark.parametrize(
    ("served", "error"), [({}, UnknownVectorError), ({"v": "another"}, ModelMismatchError)]
)
def test_a_vector_that_the_server_has_not_is_told(llm, vector, served, error) -> None:
    with vllm(llm, vector, facts={"vectors": served}), pytest.raises(error, match="file"):
        llm.generate(QUESTION, vector.steer(0.5))


@pytest.mark.parametrize(
    ("status", "error"), [(400, InvalidInputError), (500, EngineError), (503, OverloadedError)]
)
def test_what_the_server_refuses_is_told(llm, vector, status, error) -> None:
    with vllm(llm, vector, status=status), pytest.raises(error, match="it says why"):
        llm.generate(QUESTION)


def test_a_server_that_is_not_there_is_told(llm) -> None:
    llm.engine = VLLMEngine(llm, "http://127.0.0.1:9")
    with pytest.raises(SteerableError, match="does not answer"):
        llm.generate(QUESTION)


@pytest.mark.parametrize(
    ("events", "what"),
    [
        (lambda said: said[:1], "before its end"),
        (lambda said: [*said[:1], "[DONE]"], "before its end"),
        (lambda said: [*said[:1], '{"error": {"message": "out of memory"}}'], "out of memory"),
        (lambda _: ['{"error": {"message": "too long", "code": 400}}'], "too long"),
    ],
)
def test_an_answer_that_is_cut_off_is_no_answer(llm, vector, events, what) -> None:
    with vllm(llm, vector, events=events):
        with pytest.raises(SteerableError, match=what):
            llm.generate(QUESTION)
        with pytest.raises(SteerableError, match=what):
            list(llm.stream(QUESTION))


def test_a_stream_is_the_answer_in_pieces_and_stops_when_told(llm, vector) -> None:
    with vllm(llm, vector):
        chunks = list(llm.stream(QUESTION))
        assert "".join(chunk.text for chunk in chunks) == chunks[-1].final.text == "Paris."
        stop = Event()
        stream = llm.stream(QUESTION, cancelled=stop)
        next(stream)
        stop.set()
        assert list(stream) == []
        assert llm.generate_batch([GenerationRequest(QUESTION)], cancelled=stop) == []


def test_an_answer_can_be_asked_for_and_waited_for(llm, vector) -> None:
    with vllm(llm, vector):
        pending = llm.submit(GenerationRequest(QUESTION, vector.steer(0.5)), timeout=60)
        assert pending.decision.steering.is_active
        assert pending.result(60).text == "Paris."
        with pytest.raises(DeadlineError):
            llm.submit(GenerationRequest(QUESTION), timeout=0).result(60)
        llm.engine.limits = Limits(queue=0)
        with pytest.raises(OverloadedError):
            llm.submit(GenerationRequest(QUESTION))
    assert llm.engine.alive
    assert (llm.engine.running, llm.engine.waiting) == (0, 0)


def test_a_stop_text_ends_an_answer_as_with_any_engine(llm, vector) -> None:
    with vllm(llm, vector):
        answer = llm.generate(QUESTION, stop=["."])
    assert (answer.text, answer.finish_reason) == ("Paris", "stop")
