"""Ray on two nodes of this machine: a gateway with a replica on each node, and shared learning."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
import yaml
from openai import AsyncOpenAI, OpenAI
from pydantic import ValidationError

if "PYTEST_XDIST_WORKER" in os.environ:
    pytest.skip("one cluster is enough: make test-ray", allow_module_level=True)
pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'steerable-llm[ray]'")

from ray_cluster import HeldSettings, cluster, free_port, quiet_data

from steerable_llm import demo
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import AttributionError, PolicyError
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.methods.build import build
from steerable_llm.methods.grains.grains import GRAINS, GrainsConfig
from steerable_llm.runtime.ray_workers import RayWorkers
from steerable_llm.server.ray.deployments import app
from steerable_llm.server.ray.settings import GATEWAY, REPLICA, RaySettings
from steerable_llm.vector.vector import SteeringVector

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.enable_socket,
    # Ray itself leaves files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "vectors"
ROWS, QUEUE, PATIENCE = 3, 2, 90.0
ADDED = '\n[steps.added]\nvectors = [{ name = "demo-truthfulness", strength = -0.6 }]\n'
QUESTION = "[1] The shop in Lyon opens at nine.\n\nQuestion: When does the shop in Lyon open?"


@dataclass
class Served:
    """What runs.

    Attributes:
        url: Of Ray's proxy.
        folder: That the replicas look into.
        policy: The policy's file.
        here: The same model in this process.
    """

    url: str
    folder: Path
    policy: Path
    here: SteerableHFLLM

    @property
    def endless(self) -> dict[str, Any]:
        """Fields of a request whose answer ends with its length and not before."""
        bias = {str(token): -100 for token in self.here.end_ids}
        return {"model": "tiny", "messages": said(QUESTION), "max_tokens": 60, "logit_bias": bias}

    def client(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", timeout=PATIENCE, **options)

    def post(self, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=PATIENCE)

    def passes(self) -> dict[int, list[int]]:
        """The rows of each pass, by the process of the replica that made it."""
        return {
            int(file.stem): [int(line) for line in file.read_text().split()]
            for file in self.folder.glob("*.rows")
        }

    def tell(self, name: str, *, there: bool) -> None:
        file = self.folder / name
        file.touch() if there else file.unlink(missing_ok=True)


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def nodes() -> Iterator[None]:
    with cluster(nodes=2, cpus=2, resources={"replica": 1}):
        yield


@pytest.fixture(scope="module")
def deployed(nodes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("ray")
    held = folder / "held"
    held.mkdir()
    shutil.copytree(VECTORS, folder / "vectors")
    policy = folder / "vectors" / "policies" / "document-qa.toml"
    from ray import serve

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    settings = HeldSettings(
        model="demo", name="tiny", policy=policy, folder=held,
        max_running=ROWS, max_waiting=QUEUE,
        autoscaling={"min_replicas": 2, "max_replicas": 2},
        replica_resources={"num_cpus": 0, "resources": {"replica": 1}},
    )  # fmt: skip
    serve.run(app(settings), name="llm", route_prefix="/")
    served = Served(f"http://127.0.0.1:{port}", held, policy, SteerableHFLLM.demo(policy))
    until(lambda: httpx.get(f"{served.url}/ready").status_code == 200)
    until(lambda: both(served))
    yield served
    serve.shutdown()


@pytest.fixture
def served(deployed: Served) -> Iterator[Served]:
    yield deployed
    for name in ("hold", "slow"):
        deployed.tell(name, there=False)


def test_an_answer_is_that_of_the_same_model_in_one_process(served: Served) -> None:
    right = served.here.generate(QUESTION, step="answer")
    unsteered = served.here.generate(QUESTION, steering=served.here.policy.steering_for("condense"))
    with served.client() as client:
        for model, told in (("tiny:answer", right), ("tiny:condense", unsteered)):
            body: dict[str, Any] = {"model": model, "messages": said(QUESTION)}
            answer = client.chat.completions.create(**body)
            assert answer.choices[0].message.content == told.text
            stream = list(client.chat.completions.create(**body, stream=True))
            assert (
                "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == told.text
            )
            assert stream[-1].steering == answer.steering
            assert answer.steering["policy"] == served.here.policy.digest
            assert answer.steering["applied"] == [each.to_dict() for each in told.steered]
        assert right.steered
        written = client.completions.create(model="tiny", prompt="The shop", max_tokens=8)
        assert written.choices[0].text == served.here.as_written().generate(
            "The shop", step=None, max_new_tokens=8
        ).text  # fmt: skip


def test_what_is_wrong_with_a_request_is_told_before_a_stream_begins(served: Served) -> None:
    with served.client(max_retries=0) as client:
        for fields, code in (
            ({"model": "tiny:nonsense"}, "unknown_step"),
            ({"messages": said("word " * 3000)}, "context_length_exceeded"),
            ({"messages": []}, "invalid_value"),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                client.chat.completions.create(
                    **{"model": "tiny", "messages": said("Hi"), **fields}, stream=True
                )
            assert caught.value.code == code


def test_a_requests_id_comes_back_once(served: Served) -> None:
    for headers in ({}, {"X-Request-Id": "mine"}):
        response = httpx.get(f"{served.url}/v1/models", headers=headers)
        assert len(response.headers.get_list("x-request-id")) == 1
        assert response.headers["x-request-id"] == headers.get("X-Request-Id", mock_any())


class mock_any(str):
    """Equal to whatever it is compared with."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


def test_requests_at_the_same_time_share_passes_on_both_replicas(served: Served) -> None:
    before = {pid: len(rows) for pid, rows in served.passes().items()}
    served.tell("hold", there=True)
    with ThreadPoolExecutor(2 * ROWS) as threads:
        asked = [threads.submit(served.post, served.endless) for _ in range(2 * ROWS)]
        until(lambda: running(served) == 2 * ROWS)
        served.tell("hold", there=False)
        texts = {each.result().json()["choices"][0]["message"]["content"] for each in asked}
    assert len(texts) == 1
    made = {pid: rows[before.get(pid, 0) :] for pid, rows in served.passes().items()}
    assert len(made) == 2
    assert {max(rows) for rows in made.values()} == {ROWS}


def both(served: Served) -> bool:
    """Whether two replicas have loaded the model, and the gateway knows.

    It counts them now and then; until then it refuses what is more than one can take.
    """
    if len(served.passes()) < 2:
        return False
    number = 2 * ROWS + QUEUE
    with ThreadPoolExecutor(number) as threads:
        asked = [threads.submit(served.post, served.endless) for _ in range(number)]
    return all(each.result().status_code == 200 for each in asked)


def running(served: Served) -> int:
    """How many answers replicas have begun, as the gateway counts them."""
    lines = httpx.get(f"{served.url}/metrics").text.splitlines()
    return int(sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("steerable:num_requests_running")
    ))  # fmt: skip


def test_a_changed_policy_reaches_every_replica_by_its_content(served: Served) -> None:
    text = served.policy.read_text()
    try:
        served.policy.write_text(text + ADDED)
        changed = SteerableHFLLM.demo(served.policy)
        right = changed.generate(QUESTION, step="added")
        with ThreadPoolExecutor(2 * ROWS) as threads:
            body = {"model": "tiny:added", "messages": said(QUESTION)}
            told = [each.json() for each in threads.map(served.post, [body] * (2 * ROWS))]
        for answer in told:
            assert "choices" in answer, answer
            assert answer["choices"][0]["message"]["content"] == right.text
            assert answer["steering"]["policy"] == changed.policy.digest
    finally:
        served.policy.write_text(text)
    assert served.post({"model": "tiny:answer", "messages": said("Hi")}).json()["steering"][
        "policy"
    ] == served.here.policy.digest  # fmt: skip


def test_a_full_queue_refuses_at_once_and_answers_the_others(served: Served) -> None:
    served.tell("hold", there=True)
    with ThreadPoolExecutor(2 * ROWS + QUEUE) as threads:
        asked = [threads.submit(served.post, served.endless) for _ in range(2 * ROWS)]
        until(lambda: running(served) == 2 * ROWS)
        asked += [threads.submit(served.post, served.endless) for _ in range(QUEUE)]
        until(lambda: httpx.get(f"{served.url}/ready").status_code == 503)
        refused = served.post(served.endless)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "overloaded"
        served.tell("hold", there=False)
        assert {each.result().status_code for each in asked} == {200}


async def test_a_client_that_goes_away_takes_its_answer_along(served: Served) -> None:
    served.tell("slow", there=True)
    async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        async with await client.chat.completions.create(
            **{**served.endless, "max_tokens": 200}, stream=True
        ) as stream:
            read = 0
            async for chunk in stream:
                read += bool(chunk.choices and chunk.choices[0].delta.content)
                if read == 2:
                    break
    await asyncio.to_thread(until, lambda: running(served) == 0)
    served.tell("slow", there=False)
    passes = served.passes()
    assert served.post({**served.endless, "max_tokens": 1}).status_code == 200
    # One pass more, and not those that the answer would still have taken.
    assert sum(map(len, served.passes().values())) - sum(map(len, passes.values())) < 20


def test_a_replica_that_is_killed_loses_only_what_it_was_making(served: Served) -> None:
    pids = set(served.passes())
    served.tell("slow", there=True)
    body = {**served.endless, "max_tokens": 100}
    before = {pid: len(rows) for pid, rows in served.passes().items()}

    def stream() -> list[Any]:
        events: list[Any] = []
        with httpx.stream(
            "POST", f"{served.url}/v1/chat/completions", json={**body, "stream": True},
            timeout=PATIENCE,
        ) as response:  # fmt: skip
            for line in response.iter_lines():
                if line.startswith("data: "):
                    data = line.removeprefix("data: ")
                    events.append(data if data == "[DONE]" else json.loads(data))
        return events

    with ThreadPoolExecutor(2 * ROWS) as threads:
        streams = [threads.submit(stream) for _ in range(2 * ROWS - 2)]
        wholes = [threads.submit(served.post, body) for _ in range(2)]
        # Every answer has had a token.
        until(lambda: running(served) == 2 * ROWS)
        until(lambda: all(
            len(rows) > before.get(pid, 0) + 8 for pid, rows in served.passes().items()
        ))  # fmt: skip
        victim = min(pids)
        os.kill(victim, signal.SIGKILL)
        served.tell("slow", there=False)
        events = [each.result() for each in streams]
        responses = [each.result() for each in wholes]
    lost = [each for each in events if each[-1] != "[DONE]"]
    assert len(lost) + sum(each.status_code != 200 for each in responses) == ROWS
    for each in lost:
        assert each[-1]["error"]["code"] == "replica_lost"
        assert each[-1]["error"]["type"] == "server_error"
    for response in responses:
        if response.status_code != 200:
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "replica_lost"
            assert int(response.headers["retry-after"]) >= 1
    # While one replica is missing, the other answers; then there are two again.
    assert served.post({**body, "max_tokens": 2}).status_code == 200
    (served.folder / f"{victim}.rows").unlink()
    until(lambda: both(served))


def test_replicas_come_with_the_load_and_go_with_it(deployed: Served, tmp_path: Path) -> None:
    from ray import serve

    at_once = {"upscale_delay_s": 0.5, "downscale_delay_s": 0.5, "metrics_interval_s": 0.5}
    settings = HeldSettings(
        model="demo", name="tiny", folder=tmp_path, max_running=ROWS,
        autoscaling={
            "min_replicas": 1, "max_replicas": 2, "look_back_period_s": 1.0, **at_once,
        },
        replica_resources={"num_cpus": 0},
    )  # fmt: skip
    serve.run(app(settings), name="scaled", route_prefix="/scaled")
    here = Served(f"{deployed.url}/scaled", tmp_path, deployed.policy, deployed.here)
    here.tell("hold", there=True)
    try:
        until(lambda: httpx.get(f"{here.url}/ready").status_code == 200)
        assert len(here.passes()) == 1
        with ThreadPoolExecutor(ROWS + 1) as threads:
            asked = [threads.submit(here.post, here.endless) for _ in range(ROWS + 1)]
            until(lambda: len(here.passes()) == 2)
            # The one that the first had no room for.
            until(lambda: all(here.passes().values()))
            here.tell("hold", there=False)
            assert {each.result().status_code for each in asked} == {200}
        until(lambda: replicas_of("scaled") == {"RUNNING": 1})
        assert here.post(here.endless).status_code == 200
    finally:
        here.tell("hold", there=False)
        serve.delete("scaled")


def replicas_of(name: str) -> dict[str, int]:
    from ray import serve

    deployments = serve.status().applications[name].deployments
    return {str(state): count for state, count in deployments[REPLICA].replica_states.items()}


# Learning on several machines.


def test_workers_build_the_vector_that_one_process_builds(nodes: None) -> None:
    llm, pairs = SteerableHFLLM.demo(), demo.pairs("faithfulness").sample(24, seed=0)
    config = {"attribution": "smoothgrad", "seed": 3}
    with quiet_data():
        shared = [
            build(llm, pairs, workers=RayWorkers(number, part=8), progress=False, **config)
            for number in (1, 2)
        ]
    assert GRAINS.parts is not None
    settings = GrainsConfig(**config)
    parts = [
        GRAINS.parts.gather(llm, pairs[first : first + 8], settings, first=first)
        for first in range(0, len(pairs), 8)
    ]
    same = GRAINS.parts.combine(llm, parts, settings)
    whole = build(llm, pairs, progress=False, **config)
    assert [each.pair_id for each in shared[0].attributions] == [pair.id for pair in pairs]
    for layer, direction in whole.vector.directions.items():
        # To the last bit where the same pairs are read together; else to rounding.
        assert torch.equal(shared[0].vector.directions[layer], same.directions[layer])
        assert torch.equal(shared[1].vector.directions[layer], same.directions[layer])
        torch.testing.assert_close(same.directions[layer], direction, rtol=1e-3, atol=1e-4)
    assert shared[0].vector.provenance.data_digest == whole.vector.provenance.data_digest
    assert shared[0].vector.provenance.pairs == len(pairs)


def test_workers_find_what_one_process_finds_to_the_last_bit(nodes: None) -> None:
    llm = SteerableHFLLM.demo()
    vector = SteeringVector.load(VECTORS / "demo-faithfulness.safetensors", llm)
    test = demo.evaluation_set("faithfulness", "test").sample(8, seed=0)
    settings: dict[str, Any] = {
        "against": ["prompt", "random"], "batch_size": 16, "max_new_tokens": 6, "progress": False,
    }  # fmt: skip
    with quiet_data():
        shared = evaluate(llm, vector, test, workers=RayWorkers(2), **settings)
    assert shared == evaluate(llm, vector, test, **settings)


def test_what_goes_wrong_with_a_worker_is_told_as_without(nodes: None) -> None:
    llm = SteerableHFLLM.demo()
    with quiet_data(), pytest.raises(AttributionError) as shared:
        RayWorkers(1).map(llm, fails, [1])
    assert str(shared.value) == "pair 1: no"


def fails(_: Any, part: int) -> None:
    raise AttributionError(f"pair {part}: no")


# What is told before anything runs.


def test_the_config_that_comes_along_says_what_ray_and_the_server_understand() -> None:
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(
        yaml.safe_load((ROOT / "ray-serve.yaml").read_text(encoding="utf-8"))
    )
    [told] = config.applications
    assert told.import_path == f"{app.__module__.rpartition('.')[0]}:{app.__name__}"
    settings = RaySettings.model_validate(told.args)
    assert app(settings)
    assert {each.name for each in told.deployments} <= {GATEWAY, REPLICA}
    assert (config.http_options.request_timeout_s or 0) > settings.request_timeout


def test_what_is_wrong_with_the_settings_is_told_where_they_are_given(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot read the policy file"):
        app(RaySettings(model="demo", policy=tmp_path / "none.toml"))
    with pytest.raises(ValidationError, match="Extra inputs"):
        RaySettings(model="demo", polycy="p.toml")
    with pytest.raises(ValidationError, match="leave it out"):
        RaySettings(model="demo", revision="main")
