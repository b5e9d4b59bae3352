"""Steered generation on every decoder family that is supported."""

import threading
from dataclasses import replace

import pytest
import torch
from conftest import FAMILIES
from transformers import GenerationConfig

from steerable_llm.answer.request import GenerationRequest
from steerable_llm.runtime.contrast import bare_prompt, contrasted
from steerable_llm.runtime.decoding import greedy_tokens
from steerable_llm.runtime.forward import padded, run_prompts
from steerable_llm.runtime.hooks import capture_block_outputs, steering_hooks
from steerable_llm.runtime.plan import SteeringPlan
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.steering import Steering

QUESTIONS = [
    "The capital of France is what?",
    "Hi",
    "Documents:\n[1] The shop in Lyon opens at nine.\n\nQuestion: When does the shop open?",
    "When?",
]


@pytest.fixture(params=FAMILIES)
def llm(request, make_llm):
    return make_llm(request.param)


@pytest.fixture
def vector(llm, make_vector):
    return replace(make_vector(llm), decision_tokens=2)


def mixed_requests(llm, make_vector):
    first, second = make_vector(llm, 1), make_vector(llm, 2)
    steerings = [
        Steering.of(first, 0.4),
        Steering.none(),
        Steering.of(second, -0.5, layers=(1,), scope="all") + Steering.of(first, 0.2),
        Steering.of(second, 0.6, scope="prompt", renormalise=False),
    ]
    return [
        GenerationRequest(question, steering, max_new_tokens=8 + 3 * i)
        for i, (question, steering) in enumerate(zip(QUESTIONS, steerings, strict=True))
    ]


def test_a_mixed_left_padded_batch_equals_one_by_one(llm, make_vector):
    requests = mixed_requests(llm, make_vector)
    together = llm.generate_batch(requests)
    alone = [llm.generate_batch([request])[0] for request in requests]
    assert together == alone


@pytest.mark.parametrize("contrast", [False, True])
def test_rows_that_are_done_leave_and_the_others_answer_as_alone(llm, make_vector, contrast):
    asked = mixed_requests(llm, make_vector) * 2
    prompts = [llm.chat_format.encode(request.messages) for request in asked]
    bare = [bare_prompt(llm.chat_format, request.messages) for request in asked]
    how = [Contrast("cad", 0.5) if contrast else None for _ in asked]
    most = [1 + 3 * (i % 4) + i // 4 for i in range(len(asked))]

    def run(rows):
        full = run_prompts(llm, [prompts[i] for i in rows], [asked[i].steering for i in rows])
        return contrasted(llm, full, [bare[i] for i in rows], [how[i] for i in rows])

    alone = [greedy_tokens(run([i]), llm.end_ids, most[i])[0] for i in range(len(asked))]
    stream = run(range(len(asked)))
    sizes: list[int] = []
    count = llm.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, given: sizes.append(len(given[0]))
    )
    together = greedy_tokens(stream, llm.end_ids, most)
    count.remove()
    assert together == alone
    assert min(sizes) < len(asked)
    # The stream itself is left as it was.
    assert greedy_tokens(stream, llm.end_ids, most) == alone


@pytest.mark.parametrize("steered", [False, True])
def test_answers_are_those_of_transformers_own_generate(llm, make_vector, steered):
    requests = mixed_requests(llm, make_vector)
    if not steered:
        requests = [replace(request, steering=Steering.none()) for request in requests]
    longest = max(request.max_new_tokens for request in requests)
    for rows in (requests, requests[:1]):
        ids, mask = padded([llm.encode(request.messages) for request in rows], "left")
        plan = SteeringPlan([request.steering for request in rows], mask, ids.shape[1] - 1)
        options = GenerationConfig(max_new_tokens=longest, do_sample=False, pad_token_id=0)
        with steering_hooks(llm.blocks, plan):
            expected = llm.model.generate(ids, attention_mask=mask, generation_config=options)
        for answer, made in zip(llm.generate_batch(rows), expected.tolist(), strict=True):
            tokens = made[ids.shape[1] :][: len(answer.token_ids)]
            assert tokens == list(answer.token_ids)
            assert answer.finish_reason == "length" or tokens[-1] in llm.end_ids


def test_steering_changes_the_answer_and_strength_zero_does_not(llm, vector):
    plain = llm.generate(QUESTIONS[0], max_new_tokens=12)
    assert llm.generate(QUESTIONS[0], vector.steer(0.0), max_new_tokens=12) == plain
    assert llm.generate(QUESTIONS[0], vector.steer(0.6), max_new_tokens=12) != plain
    assert llm.generate(QUESTIONS[0], max_new_tokens=12) == plain


@pytest.mark.parametrize("scope", ["all", "prompt", "generated", "decision", "last_prompt"])
def test_cached_decoding_equals_the_full_pass(llm, vector, scope):
    steering = vector.steer(0.4, scope=scope)
    prompt = llm.encode(QUESTIONS[0])
    answer = llm.generate(QUESTIONS[0], steering, max_new_tokens=10)
    ids = torch.tensor([[*prompt, *answer.token_ids]])
    plan = SteeringPlan([steering], torch.ones_like(ids), len(prompt) - 1)
    with torch.no_grad(), steering_hooks(llm.blocks, plan):
        logits = llm.model(ids, use_cache=False).logits[0]
    likeliest = logits[len(prompt) - 1 : -1].argmax(dim=-1).tolist()
    assert likeliest == list(answer.token_ids)


def test_cached_states_equal_those_of_the_full_pass(llm, vector):
    steering = vector.steer(0.4, scope="all")
    ids = torch.tensor([llm.encode(QUESTIONS[2])])
    split = ids.shape[1] - 3
    whole, parts = (
        SteeringPlan([steering], torch.ones_like(ids), split - 1),
        SteeringPlan([steering], torch.ones_like(ids[:, :split]), split - 1),
    )
    with torch.no_grad(), steering_hooks(llm.blocks, whole), capture_block_outputs(llm.blocks) as a:
        llm.model(ids, use_cache=False)
    with torch.no_grad(), steering_hooks(llm.blocks, parts), capture_block_outputs(llm.blocks) as b:
        cache = llm.model(ids[:, :split], use_cache=True).past_key_values
        for place in range(split, ids.shape[1]):
            options = {"past_key_values": cache, "use_cache": True}
            if llm.model.config.model_type == "bloom":  # takes the length from the mask alone
                options["attention_mask"] = torch.ones_like(ids[:, : place + 1])
            llm.model(ids[:, place : place + 1], **options)
    for layer in range(len(llm.blocks)):
        # float32, a few hundred additions in another order
        torch.testing.assert_close(a[layer][:, -1:], b[layer], rtol=1e-3, atol=1e-4)


def test_left_padding_changes_nothing(llm, vector):
    for steering in (Steering.none(), vector.steer(0.5, scope="all")):
        short = GenerationRequest(QUESTIONS[1], steering, max_new_tokens=10)
        alone = llm.generate_batch([short])[0]
        long = GenerationRequest(QUESTIONS[2], steering, max_new_tokens=10)
        assert llm.generate_batch([long, short, long])[1] == alone


@pytest.mark.parametrize("scope", ["all", "prompt", "generated", "decision", "last_prompt"])
def test_the_result_says_what_was_steered(llm, vector, scope):
    answer = llm.generate(
        QUESTIONS[0], vector.steer(0.3, layers=(0, 2), scope=scope), max_new_tokens=6
    )
    prompt, new = answer.usage.prompt_tokens, answer.usage.completion_tokens
    assert prompt == len(llm.encode(QUESTIONS[0]))
    assert new == len(answer.token_ids) > 0
    (applied,) = answer.steered
    assert applied.name == vector.name
    assert applied.fingerprint == vector.fingerprint_id
    assert applied.layers == (0, 2)
    # The last generated token is chosen, but never read: no state of it exists.
    expected = {
        "all": prompt + new - 1,
        "prompt": prompt,
        "generated": new,
        "decision": min(3, new),
        "last_prompt": 1,
    }
    assert applied.steered_tokens == expected[scope]


def test_every_state_keeps_its_length_while_generating(llm, vector):
    prompt = torch.tensor([llm.encode(QUESTIONS[0])])
    plan = SteeringPlan([vector.steer(0.5, layers=(1,), scope="all")], torch.ones_like(prompt), 0)
    with (
        torch.no_grad(),
        capture_block_outputs(llm.blocks) as raw,  # registered first: before steering
        steering_hooks(llm.blocks, plan),
        capture_block_outputs(llm.blocks) as steered,
    ):
        llm.model(prompt)
    torch.testing.assert_close(steered[1].norm(dim=-1), raw[1].norm(dim=-1))
    assert not torch.allclose(steered[1], raw[1])


def test_threads_with_different_steerings_get_what_they_get_alone(tiny_llm, make_vector):
    requests = mixed_requests(tiny_llm, make_vector)
    alone = [tiny_llm.generate_batch([request])[0] for request in requests]
    results: dict[int, list] = {}

    def run(index: int) -> None:
        results[index] = [tiny_llm.generate_batch([requests[index]])[0] for _ in range(4)]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: [answer] * 4 for i, answer in enumerate(alone)}
