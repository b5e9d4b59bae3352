"""A real vLLM with SmolLM2 beside the hooked model: the same requests, the same tokens."""

import json
from itertools import islice
from pathlib import Path

import httpx
import pytest

from steerable_llm import Constraint, SteerableHFLLM, Steering
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.errors import InvalidInputError
from steerable_llm.vector.contrast import Contrast
from steerable_vllm.engine import VLLMEngine
from steerable_vllm.served import ServedModel
from steerable_vllm.terms import sent

SCOPES = ("all", "prompt", "generated", "last_prompt", "decision")
NAMES = ("civility", "documents", "faithfulness")
# Longer than a chunk of 64 tokens, so that it is read in pieces, and shared by many requests.
PASSAGE = "The shop opens at nine and closes at six, and items can be returned within 23 days. " * 4
QUESTIONS = ("When does the shop open?", "Why is the sky blue?")
POLICIES = Path(__file__).parents[3] / "vectors" / "policies"
LENGTH = 10


@pytest.fixture(scope="session")
def far(server, checkpoint) -> ServedModel:
    return ServedModel.connect(server.url, checkpoint)


def asked(steering: Steering | None, question: str = QUESTIONS[0]) -> GenerationRequest:
    text = f"Context: {PASSAGE}\n{question}"
    return GenerationRequest(text, steering or Steering.none(), max_new_tokens=LENGTH)


def same(local, far, requests) -> list[tuple[int, ...]]:
    """Hold the answers of both against each other: tokens, and the record of what was applied."""
    wanted, found = local.generate_batch(requests), far.generate_batch(requests)
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in wanted]
    assert [answer.steered for answer in found] == [answer.steered for answer in wanted]
    return [answer.token_ids for answer in wanted]


def test_a_served_model_is_the_model_of_the_checkpoint(local, far) -> None:
    assert not far.fingerprint.differences(local.fingerprint)


@pytest.mark.parametrize("scope", SCOPES)
def test_answers_are_those_of_the_hooked_model_for_every_scope(scope, local, far, vectors) -> None:
    """All at once, in chunks; then again out of the prefix cache, each alone."""
    requests = [asked(vectors[name].steer(scope=scope), q) for name in NAMES for q in QUESTIONS]
    wanted = same(local, far, requests)
    again = [far.generate_batch([request])[0].token_ids for request in requests[::2]]
    assert again == wanted[::2]
    assert wanted != same(local, far, [asked(None, q) for _ in NAMES for q in QUESTIONS])


def test_terms_of_many_scopes_meet_as_in_the_hooked_model(local, far, vectors) -> None:
    steering = vectors["documents"].steer(0.5, scope="all")
    steering += vectors["faithfulness"].steer(0.2, layers=(3, 9), scope="decision")
    steering += vectors["civility"].steer(0.1, scope="generated", renormalise=False)
    same(local, far, [asked(steering), asked(None), asked(vectors["documents"].steer())])


def test_a_steered_prompt_leaves_nothing_in_the_cache_for_others(local, far, vectors) -> None:
    text = "Another passage, which no other test has. " * 20
    ways = [vectors["documents"].steer(scope="all"), None, vectors["civility"].steer(scope="all")]
    for steering in [*ways, *ways]:
        request = GenerationRequest(text, steering or Steering.none(), max_new_tokens=LENGTH)
        same(local, far, [request])


def test_a_second_turn_reads_no_steered_states_of_the_first(local, far, vectors) -> None:
    """Scope `generated` steers an answer when it is written, not when it is read."""
    steering = vectors["documents"].steer()
    first = f"{PASSAGE}{QUESTIONS[0]}"
    answer = far.generate(first, steering, max_new_tokens=24).text
    turns = [
        {"role": "user", "content": first},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": QUESTIONS[1]},
    ]
    for each in (Steering.none(), steering):
        same(local, far, [GenerationRequest(turns, each, max_new_tokens=LENGTH)])


def test_prompts_of_other_steps_share_their_passage(far, server, vectors) -> None:
    """The case of a retrieval chain: one passage, several steps that steer what is generated."""
    passage = "A passage that only this test reads, over and over, at some length. " * 12

    def hits() -> float:
        lines = httpx.get(f"{server.url}/metrics", trust_env=False).text.splitlines()
        [line] = [x for x in lines if x.startswith("vllm:prefix_cache_hits_total{")]
        return float(line.rpartition(" ")[2])

    found = []
    for steering in (Steering.none(), *(vectors[name].steer() for name in NAMES)):
        before = hits()
        far.generate(passage, steering, max_new_tokens=1)
        found.append(hits() - before)
    length = len(far.encode(passage))
    assert min(found[1:]) > 0.5 * length
    before = hits()
    far.generate(passage, vectors["documents"].steer(scope="all"), max_new_tokens=1)
    assert hits() == before, "a prompt that is steered itself shares nothing with others"


def test_the_ready_policy_runs_on_it_unchanged(server, checkpoint, local) -> None:
    file = POLICIES / "smollm2.toml"
    far = ServedModel.connect(server.url, checkpoint, policy=file)
    local = SteerableHFLLM(local.model, local.tokenizer, policy=file)
    prompt = f"Context: {PASSAGE}\nQuestion: Who is the mayor?"
    both = [llm.generate(prompt, step="answer", max_new_tokens=LENGTH) for llm in (local, far)]
    assert both[0] == both[1]
    assert both[1].steered
    assert both[0].decision.reasons == both[1].decision.reasons


def test_a_langchain_chain_runs_on_it_unchanged(local, far, vectors) -> None:
    from langchain_core.output_parsers import StrOutputParser

    steering = vectors["documents"].steer()
    text = f"{PASSAGE}{QUESTIONS[0]}"
    wanted = local.generate(text, steering, max_new_tokens=LENGTH).text
    chain = far.as_langchain(steering=steering, max_tokens=LENGTH) | StrOutputParser()
    assert chain.invoke(text) == "".join(chain.stream(text)) == wanted
    assert chain.batch([text, text]) == [wanted, wanted]


def test_the_openai_server_runs_on_it_unchanged(server, checkpoint, local, vectors) -> None:
    from fastapi.testclient import TestClient

    from steerable_llm.server.application import application
    from steerable_llm.server.serving import Serving
    from steerable_llm.server.settings import ServerSettings

    far = ServedModel.connect(server.url, checkpoint, policy=POLICIES / "smollm2.toml")
    prompt = f"Context: {PASSAGE}\nQuestion: Who is the mayor?"
    wanted = far.generate(prompt, step="answer", max_new_tokens=LENGTH)
    state = Serving(ServerSettings(name="smollm2"))
    state.take(far)
    with TestClient(application(state)) as client:
        body = {
            "model": "smollm2:answer", "max_tokens": LENGTH,
            "messages": [{"role": "user", "content": prompt}],
        }  # fmt: skip
        said = client.post("/v1/chat/completions", json=body).json()
    assert said["choices"][0]["message"]["content"] == wanted.text
    assert said["steering"]["applied"] == [each.to_dict() for each in wanted.steered]


def test_a_model_that_is_loaded_may_answer_through_it_as_well(local, server, vectors) -> None:
    steering = vectors["faithfulness"].steer()
    wanted = local.generate(PASSAGE, steering, max_new_tokens=4)
    other = SteerableHFLLM(local.model, local.tokenizer)
    other.engine = VLLMEngine(other, server.url)
    assert other.generate(PASSAGE, steering, max_new_tokens=4) == wanted


def test_a_constraint_is_followed_as_by_the_local_engine(local, far, vectors) -> None:
    schema = {
        "type": "object",
        "properties": {"opens": {"type": "integer"}, "day": {"enum": ["Monday", "Friday"]}},
        "required": ["opens", "day"],
    }
    for constraint in (Constraint.json_schema(schema), Constraint.choice(["at nine", "at six"])):
        request = GenerationRequest(
            f"{PASSAGE}{QUESTIONS[0]}",
            vectors["faithfulness"].steer(),
            constraint=constraint,
            max_new_tokens=40,
        )
        assert same(local, far, [request])


def test_likelihoods_are_those_of_the_hooked_model(local, far, vectors) -> None:
    request = {"logprobs": True, "top_logprobs": 3, "max_new_tokens": 3}
    steering = vectors["documents"].steer()
    both = [llm.generate(PASSAGE, steering, **request).logprobs for llm in (local, far)]
    for wanted, found in zip(*both, strict=True):
        assert [(each.token_id, each.text) for each in found] == [
            (each.token_id, each.text) for each in wanted
        ]
        assert [each.logprob for each in found] == pytest.approx(
            [each.logprob for each in wanted], abs=1e-3
        )


def test_a_seed_on_a_cpu_is_refused_and_the_server_lives(far) -> None:
    """There it ends vLLM 0.32 itself."""
    with pytest.raises(InvalidInputError, match="seed"):
        far.generate(PASSAGE, temperature=1.0, seed=5)
    assert far.generate(PASSAGE, temperature=1.0, max_new_tokens=3).token_ids


def test_a_strength_that_would_end_vllm_is_refused_and_the_server_lives(far, vectors) -> None:
    with pytest.raises(InvalidInputError, match="smaller one"):
        far.generate(PASSAGE, vectors["documents"].steer(1e300))
    assert far.generate(PASSAGE, vectors["documents"].steer(), max_new_tokens=1).steered


def test_several_answers_to_one_request_are_all_steered(server, far, vectors) -> None:
    body = {
        "prompt": far.encode(PASSAGE), "max_tokens": LENGTH, "temperature": 0.0001, "n": 2,
        "return_token_ids": True, "vllm_xargs": {"steering": sent(vectors["documents"].steer(0.5))},
    }  # fmt: skip
    reply = httpx.post(f"{server.url}/v1/completions", json=body, trust_env=False, timeout=60)
    wanted = far.generate(PASSAGE, vectors["documents"].steer(0.5), max_new_tokens=LENGTH)
    assert wanted.token_ids != far.generate(PASSAGE, max_new_tokens=LENGTH).token_ids
    found = [tuple(choice["token_ids"]) for choice in reply.json()["choices"]]
    assert found == [wanted.token_ids] * 2


def test_a_beam_search_that_is_to_be_steered_is_refused(server) -> None:
    """vLLM makes the requests of one by itself, and would answer unsteered."""
    steering = {"steering": "smollm2-civility"}
    body = {"use_beam_search": True, "max_tokens": 1, "vllm_xargs": steering}
    for path, asks in (
        ("completions", {"prompt": "Hello"}),
        ("chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
    ):
        address = f"{server.url}/v1/{path}"
        reply = httpx.post(address, json={**asks, **body}, trust_env=False, timeout=60)
        assert reply.status_code == 400
        assert "beam search" in reply.json()["error"]["message"]


def test_penalties_and_biases_are_those_of_the_local_engine(far, local) -> None:
    shaped = {"repetition_penalty": 1.3, "logit_bias": {260: -5.0}, "max_new_tokens": LENGTH}
    both = [llm.generate(PASSAGE, **shaped).token_ids for llm in (local, far)]
    assert both[0] == both[1]


def test_a_stream_that_is_closed_frees_its_place(far, server) -> None:
    stream = far.stream("Count from one to a thousand.", max_new_tokens=1500)
    assert len(list(islice(stream, 3))) == 3
    stream.close()
    for _ in range(100):
        lines = httpx.get(f"{server.url}/metrics", trust_env=False).text.splitlines()
        if any(x.startswith("vllm:num_requests_running{") and x.endswith(" 0.0") for x in lines):
            return
    raise AssertionError("vLLM still runs it")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"steering": "smollm2-nothing"}, "not a known vector"),
        ({"steering": '[{"vector": "smollm2-documents", "strength": "much"}]'}, "cannot be read"),
        ({"steering": '[{"vector": "smollm2-documents", "layers": [99]}]'}, "no direction"),
        ({"steering.checked": "[]"}, "no argument"),
    ],
)
def test_a_wrong_steering_is_refused_and_the_server_lives(arguments, why, server) -> None:
    body = {"prompt": "Hello", "max_tokens": 2, "vllm_xargs": arguments}
    reply = httpx.post(f"{server.url}/v1/completions", json=body, trust_env=False, timeout=60)
    assert reply.status_code == 400
    assert why in reply.json()["error"]["message"]
    assert "\n" not in reply.json()["error"]["message"]
    body["vllm_xargs"] = {"steering": "smollm2-documents"}
    reply = httpx.post(f"{server.url}/v1/completions", json=body, trust_env=False, timeout=60)
    assert reply.is_success


def test_any_client_steers_chats_by_the_name_of_a_vector(server, far, vectors) -> None:
    message = {"role": "user", "content": f"{PASSAGE}{QUESTIONS[0]}"}
    body = {
        "messages": [message], "temperature": 0, "max_tokens": LENGTH,
        "vllm_xargs": {"steering": "smollm2-documents"},
    }  # fmt: skip
    reply = httpx.post(f"{server.url}/v1/chat/completions", json=body, trust_env=False, timeout=60)
    wanted = far.generate(message["content"], vectors["documents"].steer(), max_new_tokens=LENGTH)
    assert reply.json()["choices"][0]["message"]["content"].strip() == wanted.text.strip()


def test_contrast_is_refused(far) -> None:
    with pytest.raises(InvalidInputError, match="contrast"):
        far.generate(f"Documents: {PASSAGE}\n{QUESTIONS[0]}", contrast=Contrast("cad", 0.5))


def test_the_window_is_the_servers_where_it_holds_less(far, server, checkpoint) -> None:
    assert far.context_window == 2048
    wide = ServedModel.connect(server.url, checkpoint, context_window=4096)
    assert wide.context_window == 2048
    narrow = ServedModel.connect(server.url, checkpoint, context_window=64)
    assert narrow.context_window == 64


def test_the_server_says_what_it_serves(server, vectors) -> None:
    told = httpx.get(f"{server.url}/v1/steering", trust_env=False).json()
    assert told["vectors"] == {each.name: each.fingerprint_id for each in vectors.values()}
    assert json.dumps(told)
