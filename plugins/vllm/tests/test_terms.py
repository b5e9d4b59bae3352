"""What travels to vLLM, which positions it touches, and what the prefix cache is keyed by."""

import json
from itertools import product

import numpy as np
import pytest
import torch

from steerable_llm import Steering, SteeringVector
from steerable_llm.errors import InvalidInputError
from steerable_llm.runtime.plan import SteeringPlan
from steerable_llm.vector.fingerprint import ModelFingerprint
from steerable_llm.vector.steering import Application, SteeringTerm, WeighedVectors, steer_hidden
from steerable_vllm.passes import Scheduled, SteeringTables
from steerable_vllm.shelf import Shelf
from steerable_vllm.terms import (
    MOST_TERMS,
    Term,
    block_keys,
    checked_terms,
    sent,
    sent_terms,
    steered_count,
    written,
)

SCOPES = ("all", "prompt", "generated", "last_prompt", "decision")
LAYERS, WIDTH = 2, 4
MODEL = ModelFingerprint(
    model_id="m", architecture="A", hidden_size=WIDTH, num_layers=LAYERS,
    config_hash="c", weights_hash="w", tokenizer_hash="t", template_hash="p",
)  # fmt: skip


def vector(name: str = "v", seed: int = 0, **facts) -> SteeringVector:
    source = torch.Generator().manual_seed(seed)
    return SteeringVector(
        name=name,
        directions={layer: torch.randn(WIDTH, generator=source) for layer in range(LAYERS)},
        fingerprint=MODEL,
        **{"scales": dict.fromkeys(range(LAYERS), 1.5), "decision_tokens": 2, **facts},
    )


V, W = vector(), vector("w", 1)


def terms(steering: Steering) -> tuple[Term, ...]:
    return tuple(Term.of(term) for term in steering.active_terms)


@pytest.mark.parametrize(
    "text",
    ["", "[", '[{"strength": 1}]', '[{"vector": "v", "strenght": 1}]', 3, None,
     json.dumps([{"vector": "v"}] * (MOST_TERMS + 1)), '[{"vector": "v", "strength": "1"}]'],
)  # fmt: skip
def test_an_argument_that_is_no_steering_is_refused(text) -> None:
    with pytest.raises(InvalidInputError, match="steering"):
        sent_terms(text)


def test_a_steering_arrives_as_it_was_sent() -> None:
    steering = V.steer(0.3, layers=(1,), scope="decision") + W.steer(-1.0, unit="absolute")
    arrived = Shelf([V, W]).steering(sent_terms(sent(steering)))
    assert terms(arrived) == terms(steering)
    assert checked_terms({"steering.checked": written(terms(steering))}) == terms(steering)


@pytest.mark.parametrize("make", [int, float, np.float32, np.int64])
def test_a_number_of_any_kind_means_the_same_after_its_journey(make) -> None:
    steering = Steering((SteeringTerm(V, make(1), layers=(np.int64(1),)),))
    arrived = Shelf([V]).steering(sent_terms(sent(steering)))
    assert terms(arrived) == terms(steering)


def test_an_argument_is_quoted_in_brief() -> None:
    with pytest.raises(InvalidInputError) as refused:
        sent_terms(["v"] * 100_000)
    assert len(str(refused.value)) < 200


def test_a_vector_that_acts_within_a_block_is_refused_before_it_is_sent() -> None:
    inside = vector(application=Application(site="mlp"))
    with pytest.raises(InvalidInputError, match="block outputs only"):
        sent(inside.steer(0.3))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("prompt", "answer"), [(1, 1), (3, 1), (3, 5)])
def test_counts_are_those_of_the_hooks(scope, prompt, answer) -> None:
    steering = V.steer(0.3, scope=scope)
    plan = SteeringPlan([steering], torch.ones(1, prompt), prompt - 1)
    for width in [prompt, *[1] * (answer - 1)]:
        for layer in range(LAYERS):
            plan.apply(layer, torch.randn(1, width, WIDTH))
    [term] = steering.active_terms
    assert steered_count(term, prompt, answer) == plan.steered_tokens(0, term)


@pytest.mark.parametrize("cuts", [(7,), (3, 4), (2, 1, 1, 3)])
def test_a_pass_steers_what_the_plan_of_the_hooked_model_steers(cuts) -> None:
    """However a prompt is cut, and whatever else is in the pass."""
    prompt, length = 4, 7
    mixed = V.steer(0.4, scope="all") + W.steer(0.7, layers=(1,), scope="decision")
    steerings = [*(V.steer(0.5, scope=scope) for scope in SCOPES), mixed, Steering.none()]
    steerings.append(W.steer(0.9, scope="generated", renormalise=False))
    states = torch.randn(LAYERS, len(steerings), length, WIDTH)
    tables = SteeringTables(Shelf([V, W]), LAYERS, WIDTH, 100, len(steerings))
    found, start = states.clone(), 0
    for count in cuts:
        tables.lay_out([Scheduled(terms(each), prompt, start, count) for each in steerings])
        for layer in range(LAYERS):
            flat = states[layer, :, start : start + count].reshape(-1, WIDTH)
            delta, on, keep = tables.delta(layer, flat)
            steered = steer_hidden(flat[None], delta[None], keep[None], on[None])[0]
            found[layer, :, start : start + count] = steered.reshape(-1, count, WIDTH)
        start += count
    for row, steering in enumerate(steerings):
        plan = SteeringPlan([steering], torch.ones(1, prompt), prompt - 1)
        for layer in steering.layers:
            parts = (states[layer, row, :prompt], *states[layer, row, prompt:].split(1))
            wanted = torch.cat([plan.apply(layer, part[None])[0] for part in parts])
            torch.testing.assert_close(found[layer, row], wanted, rtol=1e-6, atol=1e-6)
        for layer in set(range(LAYERS)) - set(steering.layers):
            assert torch.equal(found[layer, row], states[layer, row])


def test_ever_new_strengths_never_run_out_of_rows() -> None:
    tables = SteeringTables(Shelf([V]), LAYERS, WIDTH, 8, 2)
    for number in range(1, 100):
        each = terms(V.steer(number / 10, renormalise=False, unit="absolute"))
        tables.lay_out([Scheduled(each, 1, 5, 1), Scheduled(each, 3, 0, 3)])
        delta, on, _ = tables.delta(0, torch.zeros(4, WIDTH))
        assert on.tolist() == [True, False, False, True]
        torch.testing.assert_close(delta[3], number / 10 * V.directions[0])


def test_a_graph_for_plain_vectors_is_not_taken_for_weighed_ones() -> None:
    """vLLM keeps compiled graphs on disk by what is told of them."""
    made = WeighedVectors(torch.ones(1, WIDTH), torch.zeros(1), torch.ones(1, WIDTH))
    weighed = vector(
        weighed=dict.fromkeys(range(LAYERS), made), application=Application(rule="weigh")
    )
    forms = [SteeringTables(Shelf([each]), LAYERS, WIDTH, 8, 2).form for each in (V, weighed)]
    assert forms[0] != forms[1]


def test_an_unsteered_pass_after_a_steered_one_steers_nothing() -> None:
    tables = SteeringTables(Shelf([V]), LAYERS, WIDTH, 8, 2)
    tables.lay_out([Scheduled(terms(V.steer(1.0)), 1, 0, 4)])
    tables.lay_out([Scheduled((), 1, 0, 4)])
    assert not tables.delta(0, torch.ones(8, WIDTH))[1].any()


def test_blocks_are_shared_exactly_where_states_are_the_same() -> None:
    """Two requests share a block if, and only if, each of its positions is steered alike."""
    size, length = 4, 16
    steerings = [Steering.none(), V.steer(0.3, scope="all"), V.steer(0.4, scope="all")]
    steerings += [V.steer(0.3, scope=scope) for scope in SCOPES[1:]]
    steerings.append(V.steer(0.3, scope="all") + W.steer(0.3, scope="generated"))
    requests = [(terms(each), prompt) for each, prompt in product(steerings, (3, 6, 9))]

    def touched(request, position) -> list[str]:
        many, prompt = request
        spans = [(each.digest, *each.span(prompt)) for each in many]
        return [digest for digest, first, behind in spans if first <= position < behind]

    def alike(one, other, block) -> bool:
        return all(touched(one, p) == touched(other, p) for p in block)

    same = 0
    for one, other in product(requests, requests):
        for start in range(0, length, size):
            block = range(start, start + size)
            keys = [block_keys(*request, start, start + size) for request in (one, other)]
            # A digest also tells how far the term reaches, so that other scopes share nothing.
            if {t.reach for t in one[0]} == {t.reach for t in other[0]}:
                assert (keys[0] == keys[1]) == alike(one, other, block)
            elif keys[0] == keys[1]:
                assert alike(one, other, block)
            same += keys[0] == keys[1]
    assert same > len(requests) * length // size, "nothing is shared"
    plain = [block_keys((), 6, start, start + size) for start in range(0, length, size)]
    assert plain == [[]] * 4, "unsteered blocks are keyed by their tokens alone"
