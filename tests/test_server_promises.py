"""What happens to a server in production, each on a process of its own."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from server_models import POLICY, SECRET, STORY
from server_process import ADMIN, KEY, PATIENCE, ServerProcess, running

from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.server.envelope import Envelope
from steerable_llm.server.serving import Serving
from steerable_llm.server.settings import ServerSettings

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

MANY = 10_000
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "story"}]}


def until(true: Callable[[], object]) -> None:
    """Wait until something is true."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def free(gate: Any, passes: int = MANY) -> None:
    for _ in range(passes):
        gate.release()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server whose model waits for a permit before each pass."""
    with running(tmp_path / "held", held=True) as server:
        yield server


def events(response: httpx.Response) -> Iterator[Any]:
    """The data of a stream's events."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


class Streaming:
    """A stream that a test reads piece by piece."""

    def __init__(self, server: ServerProcess, **fields: Any) -> None:
        self._client = server.http()
        request = self._client.build_request(
            "POST", "/v1/chat/completions", json={**BODY, "stream": True, **fields}
        )
        self.response = self._client.send(request, stream=True)
        assert self.response.status_code == 200
        self.events = events(self.response)

    def pieces(self, number: int) -> None:
        """Read so many pieces of text."""
        while number:
            number -= bool(next(self.events)["choices"][0]["delta"].get("content"))

    def rest(self) -> list[Any]:
        """Read to the end."""
        found = list(self.events)
        self.close()
        return found

    def close(self) -> None:
        self.response.close()
        self._client.close()


# Coming and going.


def test_the_port_listens_before_the_model_is_there(tmp_path: Path) -> None:
    with running(tmp_path, "waiting", wait=False) as server, server.http() as client:
        for answer in (client.get("/health"), client.get("/ready"), server.chat("When?")):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "loading"
            assert int(answer.headers["retry-after"]) > 0
        server.told.send("load")
        until(lambda: client.get("/health").status_code == 200)
        assert client.get("/ready").status_code == 200
        assert server.chat("When?").status_code == 200


def test_a_server_that_still_loads_ends_at_once(tmp_path: Path) -> None:
    with running(tmp_path, "waiting", wait=False) as server:
        server.end()
        server.process.join(PATIENCE)
        assert server.process.exitcode == 0


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    with running(tmp_path, "broken", wait=False) as server:
        server.process.join(PATIENCE)
        assert server.process.exitcode == 1
        assert server.says("there is no such model: name another one")


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_the_end_lets_answers_end_that_are_under_way(held: ServerProcess, sig: int) -> None:
    stream = Streaming(held)
    free(held.gate, 3)
    stream.pieces(1)
    with ThreadPoolExecutor(1) as threads:
        whole = threads.submit(held.chat, "story")
        until(lambda: under_way(held) == 2)
        held.end(sig)
        until(lambda: refuses_connections(held))
        free(held.gate)
        told = stream.rest()
        assert whole.result().json()["choices"][0]["message"]["content"] == STORY
    assert told[-1] == "[DONE]"
    held.process.join(PATIENCE)
    assert held.process.exitcode == 0
    with AnswerLog(f"sqlite:///{held.folder}/answers.db") as log:
        assert [each.answer for each in log.answers()] == [STORY, STORY]


def under_way(server: ServerProcess) -> float:
    """Requests that were taken on: at work, or waiting for the pass at hand to end."""
    names = ("num_requests_running", "num_requests_waiting")
    return sum(server.counted(name) for name in names)


def refuses_connections(server: ServerProcess) -> bool:
    try:
        with server.http() as client:
            client.get("/health")
    except httpx.TransportError:
        return True
    return False


def test_answers_that_take_too_long_at_the_end_are_told_so(tmp_path: Path) -> None:
    with running(tmp_path, held=True, drain_timeout=0.2) as server:
        stream = Streaming(server)
        with ThreadPoolExecutor(1) as threads:
            whole = threads.submit(server.chat, "story")
            until(lambda: under_way(server) == 2)
            server.end()
            refused = whole.result()
        last = stream.rest()[-1]
        assert last["error"]["code"] == "shutting_down"
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert int(refused.headers["retry-after"]) > 0
        free(server.gate)
        server.process.join(PATIENCE)
        assert server.process.exitcode == 0


def test_a_request_that_is_still_being_sent_at_the_end_is_told_so(tmp_path: Path) -> None:
    with running(tmp_path, drain_timeout=0) as server, connected(server) as client:
        client.sendall(head(server, "/v1/chat/completions", 100) + b'{"model"')
        assert server.chat("When?").is_success  # by now it has been read
        server.end()
        answer = b""
        while piece := client.recv(4096):
            answer += piece
        server.process.join(PATIENCE)
        assert server.process.exitcode == 0
        output = server.output.read_text()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b'"code":"shutting_down"' in answer
    assert "Traceback" not in output


# Clients that go, and too many of them.


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_frees_its_work(held: ServerProcess, stream: bool) -> None:
    body = json.dumps({**BODY, "stream": stream}).encode()
    gone = connected(held)
    gone.sendall(head(held, "/v1/chat/completions", len(body)) + body)
    free(held.gate, 3)
    until(lambda: held.counted("num_requests_running") == 1)
    gone.close()
    # Of the passes that the whole answer would take there are hardly any.
    until(lambda: free(held.gate, 1) or held.counted("num_requests_running") == 0)
    assert held.counted("request_success_total") == 0


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(tmp_path: Path) -> None:
    with running(tmp_path, held=True, most_running=1, most_waiting=2) as server:
        waiting: list[Streaming] = []
        with server.http() as client:
            for _ in range(40):
                request = client.build_request(
                    "POST", "/v1/chat/completions", json={**BODY, "stream": True, "max_tokens": 2}
                )
                answer = client.send(request, stream=True)
                if answer.status_code != 200:
                    break
                waiting.append(answer)  # type: ignore[arg-type]
            answer.read()
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "overloaded"
            assert int(answer.headers["retry-after"]) > 0
            assert server.counted("num_requests_waiting") == 2
            assert client.get("/ready").status_code == 503
            assert client.get("/health").status_code == 200
            free(server.gate)
            for one in waiting:
                assert list(events(one))[-1] == "[DONE]"  # type: ignore[arg-type]


def test_more_answers_than_can_ever_be_under_way_are_refused_for_good(tmp_path: Path) -> None:
    with running(tmp_path, most_running=2, most_waiting=1) as server, server.http() as client:
        chat = client.post("/v1/chat/completions", json={**BODY, "n": 4, "temperature": 1})
        text = {"model": "tiny", "prompt": ["a", "b"], "n": 2, "temperature": 1}
        for answer in (chat, client.post("/v1/completions", json=text)):
            assert answer.status_code == 400
            assert "retry-after" not in answer.headers
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("too_many_choices", "n")
            assert "at most 3 (2 at work and 1 waiting)" in error["message"]
        assert client.post(
            "/v1/chat/completions", json={**BODY, "n": 3, "temperature": 1, "max_tokens": 2}
        ).is_success  # fmt: skip


def test_an_answer_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    with running(tmp_path, held=True, request_timeout=0.3) as server:
        stream = Streaming(server)
        time.sleep(0.4)
        free(server.gate)
        last = stream.rest()[-1]
        assert last["error"]["code"] == "deadline"
        # Counted as one is that fails before its first token.
        until(lambda: server.counted("request_refused_total", code="deadline") == 1)
        text = server.says('"deadline"')
    [line] = [json.loads(line) for line in text.splitlines() if '"deadline"' in line]
    assert "completion_tokens" not in line  # and not 0, of which there were some


def head(server: ServerProcess, path: str, length: int, *more: str) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1", "Host: tiny", f"Authorization: Bearer {KEY}",
        "Content-Type: application/json", f"Content-Length: {length}", *more, "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode("latin-1")


def connected(server: ServerProcess, buffer: int | None = None) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.settimeout(PATIENCE)
    if buffer is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    host, _, port = server.url.removeprefix("http://").partition(":")
    made.connect((host, int(port)))
    return made


def test_a_client_that_does_not_write_is_left(tmp_path: Path) -> None:
    with running(tmp_path, body_timeout=0.2) as server, connected(server) as mute:
        mute.sendall(head(server, "/v1/chat/completions", 100) + b'{"model"')
        answer = b""
        while not answer.endswith(b"}"):
            answer += mute.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"slow_body" in answer
        assert server.chat("When?").status_code == 200


async def test_a_client_that_does_not_read_is_left(caplog: pytest.LogCaptureFixture) -> None:
    """The buffers of a connection hold more than a test wants to fill, so here it has none."""
    ended = asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        try:
            while True:
                await send({"type": "http.response.body", "body": b"...", "more_body": True})
        finally:
            ended.set()

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def never(message: Any) -> None:
        await asyncio.Event().wait()

    envelope = Envelope(endless, Serving(ServerSettings(send_timeout=0.01)))
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": []}
    with caplog.at_level("INFO", "steerable_llm.server.access"):
        await envelope(scope, receive, never)
    assert ended.is_set()
    assert json.loads(caplog.messages[-1])["error"] == "slow_client"


# Errors.


def test_an_error_in_mid_stream_is_an_event_and_no_end(held: ServerProcess) -> None:
    stream = Streaming(held)
    free(held.gate, 3)
    stream.pieces(1)
    held.do("fail")
    free(held.gate)
    told = stream.rest()
    assert told[-1]["error"]["code"] == "internal_error"
    assert "[DONE]" not in told
    assert SECRET not in json.dumps(told)
    assert held.says(SECRET)
    held.do("heal")
    assert held.chat("When?").status_code == 200  # nobody else is harmed


def test_openais_client_raises_an_error_in_mid_stream(held: ServerProcess) -> None:
    with OpenAI(base_url=held.base, api_key=KEY) as client:
        stream = client.chat.completions.create(**BODY, stream=True)
        free(held.gate, 3)
        next(stream)
        held.do("fail")
        free(held.gate)
        with pytest.raises(openai.APIError, match="its log says why"):
            list(stream)


def test_the_death_of_the_engine_is_told_to_all_that_wait_and_by_health(
    held: ServerProcess,
) -> None:
    stream = Streaming(held)
    free(held.gate, 3)
    stream.pieces(1)
    with ThreadPoolExecutor(1) as threads:
        whole = threads.submit(held.chat, "story")
        until(lambda: under_way(held) == 2)
        held.do("die")
        free(held.gate)
        assert stream.rest()[-1]["error"]["code"] == "engine_dead"
        assert whole.result().json()["error"]["code"] == "engine_dead"
    with held.http() as client:
        for answer in (client.get("/health"), client.get("/ready"), held.chat("When?")):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "engine_dead"
            assert int(answer.headers["retry-after"]) > 0


def test_a_prompt_that_is_too_long_is_told_with_both_lengths(server: ServerProcess) -> None:
    answer = server.chat("When? " * 9000)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "8192" in error["message"]
    assert "the prompt has " in error["message"]
    assert error["param"] == "messages"
    with server.http() as client:
        body = {"model": "tiny", "prompt": "When? " * 9000}
        answer = client.post("/v1/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"model": NaN}', b"[" * 100_000,
        b'{"model": "tiny", "seed": 1' + b"0" * 5000 + b"}",
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
)  # fmt: skip
def test_a_body_that_is_no_request_is_400(server: ServerProcess, body: bytes) -> None:
    with server.http() as client:
        answer = client.post(
            "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
        )
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_huge_body_is_not_read(server: ServerProcess) -> None:
    with connected(server) as client:  # told, and never sent
        client.sendall(head(server, "/v1/chat/completions", 2**40))
        assert client.recv(4096).startswith(b"HTTP/1.1 413")
    with server.http() as client:  # sent, and never told
        answer = client.post("/v1/chat/completions", content=(b" " * 2**20 for _ in range(17)))
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Basic abc", "Bearer", f"Token {KEY}"])
def test_nothing_of_the_interface_is_there_without_a_key(
    server: ServerProcess, given: str | None
) -> None:
    headers = {} if given is None else {"Authorization": given}
    with httpx.Client(base_url=server.url, headers=headers) as client:
        for path in ("/v1/models", "/v1/policy", "/v1/nothing"):
            answer = client.get(path)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert client.post("/v1/chat/completions", content=b"{").status_code == 401
        assert client.get("/health").status_code == 200


def test_a_client_cannot_change_the_policy(server: ServerProcess) -> None:
    with server.http() as client:
        for path in ("/v1/policy/reload", "/v1/policy/validate"):
            assert client.post(path, json={"toml": ""}).status_code == 401


def test_nobody_can_change_the_policy_without_an_admin_key(tmp_path: Path) -> None:
    with running(tmp_path, admin_keys=(), api_keys=()) as server, server.http() as client:
        assert client.post("/v1/policy/reload").status_code == 403
        assert client.get("/v1/models").status_code == 200


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ("abc-1.2:3_4", True), ("two words", False), ("a\tb", False), ("ü", False),
        ("x" * 129, False), ('"}{"', False), ("", False),
    ],
)  # fmt: skip
def test_a_request_id_comes_back_once_if_it_is_harmless(
    server: ServerProcess, given: str, same: bool
) -> None:
    with connected(server) as client:
        client.sendall(head(server, "/v1/models", 0, f"X-Request-Id: {given}", "Connection: close"))
        answer = b""
        while more := client.recv(65536):
            answer += more
    lines = answer.split(b"\r\n\r\n")[0].lower().split(b"\r\n")
    [told] = [line for line in lines if line.startswith(b"x-request-id:")]
    assert (told.partition(b": ")[2] == given.lower().encode("latin-1")) is same


def test_unknown_paths_and_methods_are_told_in_the_same_form(server: ServerProcess) -> None:
    with server.http() as client:
        missing, wrong = client.get("/v1/nothing"), client.get("/v1/chat/completions")
    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert missing.json()["error"]["code"] == "not_found"
    assert wrong.json()["error"]["code"] == "method_not_allowed"
    assert wrong.headers["allow"] == "POST"


def test_a_body_that_is_not_sent_as_json_is_told_so(server: ServerProcess) -> None:
    with server.http(headers={"Content-Type": "application/x-www-form-urlencoded"}) as client:
        answer = client.post("/v1/chat/completions", content=json.dumps(BODY))
    assert answer.status_code == 400
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


PAGE = "http://webui:3000"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def test_a_page_of_another_origin_may_ask_from_a_browser_where_the_server_says_so(
    tmp_path: Path, server: ServerProcess
) -> None:
    allowed, chat = "access-control-allow-origin", "/v1/chat/completions"
    with httpx.Client(base_url=server.url) as browser:  # which asks first, without its key
        assert allowed not in browser.options(chat, headers=PREFLIGHT).headers
    with running(tmp_path, allowed_origins=(PAGE,)) as told:
        with httpx.Client(base_url=told.url) as browser:
            before = browser.options(chat, headers=PREFLIGHT)
            assert (before.status_code, before.headers[allowed]) == (200, PAGE)
            assert "authorization" in before.headers["access-control-allow-headers"].lower()
            refused = browser.post(chat, json=BODY, headers={"Origin": PAGE})
            assert (refused.status_code, refused.headers[allowed]) == (401, PAGE)
            other = browser.options(chat, headers={**PREFLIGHT, "Origin": "http://elsewhere"})
            assert allowed not in other.headers
        with told.http(headers={"Origin": PAGE}) as client:
            asked = {**BODY, "stream": True, "max_tokens": 2}
            answer = client.post(chat, json=asked)
            assert answer.headers[allowed] == PAGE
            assert list(events(answer))[-1] == "[DONE]"


def test_probes_may_ask_for_the_head_alone(server: ServerProcess) -> None:
    with server.http() as client:
        assert client.head("/health").status_code == client.head("/ready").status_code == 200


def test_a_compressed_body_is_told_so(server: ServerProcess) -> None:
    with server.http(headers={"Content-Encoding": "gzip"}) as client:
        answer = client.post(
            "/v1/chat/completions",
            content=gzip.compress(json.dumps(BODY).encode()),
            headers={"Content-Type": "application/json"},
        )
    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "compressed_body"


# Policies.


def test_a_policy_that_changes_in_mid_stream_holds_for_what_comes_after(
    held: ServerProcess,
) -> None:
    stream = Streaming(held, model="tiny:answer", max_tokens=6)
    free(held.gate, 2)
    stream.pieces(1)
    (held.folder / "policy.toml").write_text(POLICY.replace('name = "a"', 'name = "b"'))
    with ThreadPoolExecutor(1) as threads:
        later = threads.submit(held.chat, "story", model="tiny:answer", max_tokens=6)
        free(held.gate)
        before = stream.rest()[-2]["steering"]
        after = later.result().json()["steering"]
    assert [vector["name"] for vector in before["applied"]] == ["a"]
    assert [vector["name"] for vector in after["applied"]] == ["b"]
    assert before["policy"] != after["policy"]


def test_a_policy_is_tried_and_read_again_by_who_may(tmp_path: Path) -> None:
    key = {"Authorization": f"Bearer {ADMIN}"}
    with running(tmp_path) as server, server.http(headers=key) as admin:
        first = admin.get("/v1/policy").json()
        assert set(first["steps"]) == {"plain", "answer", "reply"}
        assert first["steps"]["answer"]["vectors"][0]["strength"] == 0.8
        tried = admin.post("/v1/policy/validate", json={"toml": POLICY + "[steps.new]\n"})
        assert "new" in tried.json()["steps"]
        wrong = admin.post(
            "/v1/policy/validate", json={"toml": '[steps.x]\nvectors = [{ name = "zzz" }]'}
        )
        assert wrong.status_code == 400
        assert wrong.json()["error"]["code"] == "invalid_policy"
        assert admin.get("/v1/policy").json() == first  # trying changes nothing
        file = tmp_path / "policy.toml"
        file.write_text("nonsense")
        assert admin.post("/v1/policy/reload").status_code == 400
        assert admin.get("/v1/policy").json() == first
        file.write_text(POLICY + "[steps.new]\n")
        assert "new" in admin.post("/v1/policy/reload").json()["steps"]
        assert "tiny:new" in admin.get("/v1/models").text


def test_steps_that_run_together_answer_as_they_do_alone(demo_server: ServerProcess) -> None:
    """Whatever is batched or kept of one must not reach another."""
    place = "[1] The shop in Lyon opens at nine.\n\nQuestion: When does the shop in Lyon open?"
    asked = [
        (f"Documents:\n{place}" if context else "When does the shop in Lyon open?", model)
        for context in (True, False)
        for model in ("tiny:answer", "tiny:condense", "tiny:refine")
    ]

    def ask(one: tuple[str, str]) -> Any:
        made = demo_server.chat(one[0], model=one[1], max_tokens=24).json()
        return made["choices"], made["steering"]["applied"]

    alone = [ask(one) for one in asked]
    assert len({json.dumps(choices) for choices, _ in alone}) > 1
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(ask, asked * 4))
    assert together == alone * 4


# For long.


def test_a_server_that_has_served_many_is_as_it_was(server: ServerProcess) -> None:
    psutil = pytest.importorskip("psutil")
    process = psutil.Process(server.process.pid)

    def serve(number: int) -> None:
        if number % 5 == 0:  # goes away in the middle
            stream = Streaming(server)
            stream.pieces(2)
            stream.close()
        elif number % 5 == 1:
            assert server.chat("When?", frequency_penalty=2).status_code == 400
        else:
            fields = {"model": ("tiny:answer", "tiny:reply", "tiny")[number % 3], "max_tokens": 6}
            assert server.chat("story", stream=number % 2 == 0, **fields).status_code == 200

    def serve_many(number: int) -> None:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(serve, range(number)))
        until(lambda: server.counted("num_requests_running") == 0)
        until(lambda: len(process.net_connections()) <= 2)

    def handles() -> int:
        return int(process.num_fds()) - len(process.net_connections())

    serve_many(24)
    before, memory = handles(), process.memory_info().rss
    threads_before = process.num_threads()
    serve_many(64)
    assert handles() <= before + 2
    assert process.num_threads() <= threads_before + 2
    assert process.memory_info().rss <= memory + 30 * 2**20
    assert server.counted("num_requests_waiting") == 0
    assert threading.active_count() < 50
