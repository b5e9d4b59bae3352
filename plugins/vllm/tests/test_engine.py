"""The engine before a server that fails in every way; what it refuses, and how it says so."""

import json
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest

from steerable_llm import Constraint, SteerableHFLLM, SteeringVector, forked
from steerable_llm.answer.encode import encode
from steerable_llm.answer.engine import Limits
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.errors import (
    DeadlineError,
    EngineError,
    InvalidInputError,
    ModelMismatchError,
    OverloadedError,
    PromptTooLongError,
    SteerableError,
    SteeringNotAppliedError,
    UnknownVectorError,
)
from steerable_llm.policy.decision import Asked
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


@dataclass
class Silence:
    """After its first token a server says nothing more until this is over."""

    over: Event = field(default_factory=Event)
    hung_up: Event = field(default_factory=Event)

    def keep(self, connection) -> bool:
        """Wait; tells whether the client is still there."""
        for _ in range(1000):
            if self.over.is_set():
                return True
            if select.select([connection], [], [], 0.01)[0]:
                self.hung_up.set()
                return False
        return False


@contextmanager
def vllm(
    llm, vector, *, marked=True, facts=None, status=200, events=None, body=None, headers=(),
    silence=None,
) -> Iterator[list[Any]]:  # fmt: skip
    """Serve what a vLLM might say; yields the bodies that it was sent."""
    asked: list[Any] = []
    told = {"vectors": {"v": vector.fingerprint_id}, "structured_outputs": "auto"}
    words = llm.encode_answer("Paris.")
    refusal = json.dumps({"error": {"message": "it says why"}}) if body is None else body

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def _send(self, code: int, body: str) -> None:
            self.send_response(code)
            if marked:
                self.send_header("x-steerable", "1")
            for header in headers:
                self.send_header(*header)
            if silence is None:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            if silence is not None:
                first, body = body[: body.index("\n") + 2], body[body.index("\n") + 2 :]
                self.wfile.write(first.encode())
                self.wfile.flush()
                if not silence.keep(self.connection):
                    return
            self.wfile.write(body.encode())

        def do_GET(self) -> None:
            said = facts if isinstance(facts, str) else json.dumps({**told, **(facts or {})})
            self.send_response(200 if marked else 404)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said.encode())

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            asked.append(json.loads(self.rfile.read(length)))
            if status != 200:
                self._send(status, refusal)
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
    ("status", "error"),
    [
        (400, InvalidInputError), (413, InvalidInputError), (401, EngineError), (500, EngineError),
        (502, EngineError), (429, OverloadedError), (503, OverloadedError),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "body",
    ['{"error": {"message": "it\\nsays  why"}}', '{"error": "it says why"}', "it says\nwhy", "[1]",
     "null", ""],
)  # fmt: skip
def test_what_the_server_refuses_is_told_in_one_line(llm, vector, status, error, body) -> None:
    told = r"refuses \(\d+\): \S" if body in ("[1]", "null", "") else "it says why"
    with vllm(llm, vector, status=status, body=body):
        with pytest.raises(error, match=told) as refused:
            llm.generate(QUESTION)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("header", "wait"), [("7", 7), ("soon", 1), ("inf", 1), ("-3", 1)])
def test_a_server_with_too_much_to_do_says_when_to_come_back(llm, vector, header, wait) -> None:
    with vllm(llm, vector, status=429, headers=[("retry-after", header)]):
        with pytest.raises(OverloadedError) as refused:
            llm.generate(QUESTION)
    assert refused.value.retry_after == wait


@pytest.mark.parametrize("facts", ["<html>", "[]", '{"vectors": 3}'])
def test_a_server_that_speaks_of_something_else_does_not_steer(llm, vector, facts) -> None:
    with vllm(llm, vector, facts=facts) as asked:
        with pytest.raises(SteeringNotAppliedError):
            llm.generate(QUESTION, vector.steer(0.5))
        assert not asked


def test_a_server_that_has_begun_anew_with_another_vector_is_asked_again(llm, vector) -> None:
    facts: dict[str, Any] = {"vectors": {}}
    with vllm(llm, vector, facts=facts):
        with pytest.raises(UnknownVectorError):
            llm.generate(QUESTION, vector.steer(0.5))
        facts["vectors"] = {"v": vector.fingerprint_id}
        assert llm.generate(QUESTION, vector.steer(0.5)).steered


def test_what_the_server_cannot_hold_is_refused_here(llm, vector) -> None:
    length = len(llm.encode(QUESTION))
    with vllm(llm, vector, facts={"max_model_len": length + 10}) as asked:
        assert llm.generate(QUESTION, vector.steer(0.5), max_new_tokens=10)
        with pytest.raises(PromptTooLongError) as refused:
            llm.generate(QUESTION, vector.steer(0.5), max_new_tokens=11)
        assert refused.value.context_window == length + 10
        assert len(asked) == 1


def test_a_grammar_that_only_helps_needs_no_plug_in_and_one_that_holds_does(llm, vector) -> None:
    request = GenerationRequest(QUESTION)
    [plain] = encode(llm, [request], llm.decide([Asked(QUESTION)]))
    helps, holds = (
        replace(plain, grammar=llm.grammars.start(r"start: /(.|\n)*/", free))
        for free in (True, False)
    )
    with vllm(llm, vector, marked=False) as sent:
        assert llm.engine.submit(helps).result(60).text == "Paris."
        assert "structured_outputs" not in sent[0]
        with pytest.raises(InvalidInputError, match="guidance"):
            llm.engine.submit(holds)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://[::1", "", "http://"])
def test_what_is_no_address_is_told_before_anything_is_asked(llm, url) -> None:
    with pytest.raises(InvalidInputError, match="url is"):
        VLLMEngine(llm, url)


@pytest.mark.parametrize("top", [0, 2])
def test_likelihoods_are_as_many_as_were_asked_for(llm, vector, top) -> None:
    """vLLM tells the token that was drawn among the likeliest ones, too."""
    words = llm.encode_answer("Paris.")
    others = {"token_id:5": -0.5, "token_id:7": -1.0}

    def events(_: list[str]) -> list[str]:
        noted = [
            {"token_logprobs": [-3.0], "top_logprobs": [{f"token_id:{word}": -3.0, **others}]}
            for word in words
        ]
        each = zip(words, noted, strict=True)
        said = [{"choices": [{"token_ids": [w], "logprobs": n}]} for w, n in each]
        return [json.dumps(event) for event in said]

    with vllm(llm, vector, events=events) as asked:
        answer = llm.generate(QUESTION, logprobs=True, top_logprobs=top)
    assert asked[0]["logprobs"] == top
    for word, noted in zip(words, answer.logprobs, strict=True):
        assert [each.token_id for each in noted] == [word, 5, 7][: top + 1]
        assert noted[0].logprob == -3.0
        assert noted[0].utf8.decode() == noted[0].text


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
        (lambda said: [*said[:1], "<html>"], "cannot be read"),
        (lambda said: [*said[:1], "[1]"], "cannot be read"),
        (lambda said: [*said[:1], '{"error": "out of memory"}'], "out of memory"),
        (lambda said: [*said[:1], '{"choices": [{"token_ids": ["Paris"]}]}'], "cannot be read"),
        (
            lambda _: ['{"choices": [{"token_ids": [1], "logprobs": {"token_logprobs": []}}]}'],
            "cannot be read",
        ),
    ],
)
def test_an_answer_that_is_cut_off_or_garbled_is_no_answer(llm, vector, events, what) -> None:
    with vllm(llm, vector, events=events):
        with pytest.raises(SteerableError, match=what):
            llm.generate(QUESTION)
        with pytest.raises(SteerableError, match=what):
            list(llm.stream(QUESTION))


def test_a_stream_is_the_answer_in_pieces_and_stops_when_told(llm, vector) -> None:
    with vllm(llm, vector):
        chunks = list(llm.stream(QUESTION))
        assert "".join(chunk.text for chunk in chunks) == chunks[-1].final.text == "Paris."
    stop, silence = Event(), Silence()
    with vllm(llm, vector, silence=silence):
        stream = llm.stream(QUESTION, cancelled=stop)
        next(stream)
        stop.set()
        silence.over.set()
        assert list(stream) == []
        assert llm.generate_batch([GenerationRequest(QUESTION)], cancelled=stop) == []


def test_an_answer_can_be_asked_for_and_waited_for(llm, vector) -> None:
    with vllm(llm, vector):
        pending = llm.submit(GenerationRequest(QUESTION, vector.steer(0.5)), timeout=60)
        assert pending.decision.steering.is_active
        assert pending.result(60).text == "Paris."
        with pytest.raises(DeadlineError):
            llm.submit(GenerationRequest(QUESTION), timeout=0).result(60)
    assert llm.engine.alive
    assert (llm.engine.running, llm.engine.waiting) == (0, 0)


def eventually(holds: Callable[[], bool]) -> bool:
    """Tell whether something comes true within ten seconds."""
    return any(holds() or Event().wait(0.01) for _ in range(1000))


def test_as_many_wait_as_the_limits_allow_and_one_that_is_cancelled_makes_room(llm, vector) -> None:
    silence = Silence()
    with vllm(llm, vector, silence=silence) as asked:
        llm.engine.limits = Limits(rows=1, queue=1)
        first = llm.submit(GenerationRequest(QUESTION))
        assert eventually(lambda: len(asked) == 1)
        second = llm.submit(GenerationRequest(QUESTION))
        assert (llm.engine.running, llm.engine.waiting) == (1, 1)
        with pytest.raises(OverloadedError, match="1 wait") as refused:
            llm.submit(GenerationRequest(QUESTION))
        assert refused.value.retry_after >= 1
        second.cancel()
        third = llm.submit(GenerationRequest(QUESTION))
        silence.over.set()
        assert [each.result(60).text for each in (first, third)] == ["Paris.", "Paris."]
        assert len(asked) == 2, "nobody wanted the second"
        llm.engine.limits = Limits(rows=1, queue=0)
        assert llm.generate(QUESTION).text == "Paris.", "nothing waits, so nothing is refused"


def test_more_run_at_once_as_soon_as_the_limits_allow_it(llm, vector) -> None:
    silence = Silence()
    with vllm(llm, vector, silence=silence) as asked:
        llm.engine.limits = Limits(rows=1)
        pending = [llm.submit(GenerationRequest(QUESTION)) for _ in range(3)]
        assert eventually(lambda: len(asked) == 1)
        llm.engine.limits = Limits(rows=3)
        assert eventually(lambda: len(asked) == 3)
        silence.over.set()
        assert [each.result(60).text for each in pending] == ["Paris."] * 3


def test_an_answer_is_given_up_in_time_though_the_server_says_nothing(llm, vector) -> None:
    silence = Silence()
    with vllm(llm, vector, silence=silence):
        llm.engine.limits = Limits(rows=1)
        late = [llm.submit(GenerationRequest(QUESTION), timeout=0.2) for _ in range(2)]
        for pending in late:  # the second waits behind the first
            with pytest.raises(DeadlineError, match=r"0\.2 s"):
                pending.result(60)
        assert silence.hung_up.wait(10), "the server goes on with what nobody wants"
        silence.over.set()
        assert llm.submit(GenerationRequest(QUESTION), timeout=60).result(60).text == "Paris."


def test_the_server_is_told_at_once_that_an_answer_is_cancelled(llm, vector) -> None:
    silence = Silence()
    with vllm(llm, vector, silence=silence):
        pending = llm.submit(GenerationRequest(QUESTION))
        assert next(iter(pending)).token_id is not None
        pending.cancel()
        assert silence.hung_up.wait(10)
        assert (llm.engine.running, llm.engine.waiting) == (0, 0)


def test_a_forked_process_shares_nothing_under_way(llm, vector) -> None:
    silence = Silence()
    with vllm(llm, vector, silence=silence) as asked:
        llm.engine.limits = Limits(rows=1)
        llm.submit(GenerationRequest(QUESTION))
        assert eventually(lambda: len(asked) == 1)
        forked._renew()  # what happens in a child after its fork
        assert (llm.engine.running, llm.engine.waiting) == (0, 0)
        silence.over.set()
        assert llm.generate(QUESTION).text == "Paris."


def test_a_stop_text_ends_an_answer_as_with_any_engine(llm, vector) -> None:
    with vllm(llm, vector):
        answer = llm.generate(QUESTION, stop=["."])
    assert (answer.text, answer.finish_reason) == ("Paris", "stop")
