import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.answer.request import GenerationRequest
from steerable_llm.answer.sampling import RowSampler, RowShaping, probabilities
from steerable_llm.errors import SteerableError

logit_rows = st.lists(st.integers(-60, 60), min_size=2, max_size=8, unique=True).map(
    lambda values: [value / 10 for value in values]
)


def slow_probabilities(logits, temperature, top_p, top_k):
    """Temperature, then top-k, then top-p, one token at a time in double precision."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    if top_k:
        order = order[:top_k]
    top = max(logits)
    weights = {i: math.exp((logits[i] - top) / temperature) for i in order}
    total = sum(weights.values())
    kept, reached = {}, 0.0
    for i in order:
        if reached >= top_p:
            break
        kept[i] = weights[i] / total
        reached += kept[i]
    share = sum(kept.values())
    return [kept.get(i, 0.0) / share for i in range(len(logits))]


@given(
    logit_rows,
    st.sampled_from([0.3, 1.0, 2.5]),
    st.sampled_from([0.137, 0.5317, 0.9713, 1.0]),  # never the exact sum of some tokens
    st.integers(0, 8),
)
def test_probabilities_are_those_of_the_slow_way(logits, temperature, top_p, top_k):
    chances = probabilities(torch.tensor(logits), temperature, top_p, top_k)
    expected = torch.tensor(slow_probabilities(logits, temperature, top_p, top_k))
    torch.testing.assert_close(chances, expected, rtol=1e-4, atol=1e-6)


def test_a_tiny_temperature_is_greedy_and_not_a_number_overflow():
    chances = probabilities(torch.tensor([1.0, 3.0, 2.0]), temperature=1e-30)
    assert chances.tolist() == [0.0, 1.0, 0.0]


def draw(requests, logits, times=1):
    sampler = RowSampler(requests)
    return [sampler(logits.clone()).argmax(dim=-1).tolist() for _ in range(times)]


def test_rows_without_a_temperature_stay_greedy():
    logits = torch.randn(3, 20)
    rows = [GenerationRequest("a"), GenerationRequest("b", temperature=1.0, seed=1)] * 2
    drawn = draw(rows[:3], logits)[0]
    assert drawn[0] == int(logits[0].argmax())
    assert drawn[2] == int(logits[2].argmax())


def test_a_seed_draws_the_same_alone_and_in_any_batch():
    logits = torch.zeros(1, 100)
    seeded = GenerationRequest("a", temperature=1.0, seed=7)
    alone = [row[0] for row in draw([seeded], logits, times=20)]
    others = [GenerationRequest("b", temperature=2.0, seed=8), seeded, GenerationRequest("c")]
    together = [row[1] for row in draw(others, logits.expand(3, -1), times=20)]
    assert alone == together
    assert len(set(alone)) > 10


def test_rows_without_a_seed_differ_from_each_other():
    unseeded = GenerationRequest("a", temperature=1.0)
    drawn = draw([unseeded, unseeded], torch.zeros(2, 1000), times=10)
    assert [row[0] for row in drawn] != [row[1] for row in drawn]


def test_draws_follow_the_probabilities():
    logits = torch.tensor([[0.0, math.log(3.0)]])
    drawn = draw([GenerationRequest("a", temperature=1.0, seed=0)], logits, times=2000)
    share = sum(row[0] for row in drawn) / 2000
    assert share == pytest.approx(0.75, abs=0.04)  # four standard deviations


@given(st.integers(0, 1000), st.integers(1, 5))
def test_top_k_never_draws_anything_else(seed, top_k):
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(seed))
    request = GenerationRequest("a", temperature=3.0, top_k=top_k, seed=seed)
    allowed = set(torch.topk(logits[0], top_k).indices.tolist())
    assert {row[0] for row in draw([request], logits, times=10)} <= allowed


def test_scores_that_are_not_numbers_are_an_error():
    with pytest.raises(SteerableError, match="NaN"):
        draw([GenerationRequest("a")], torch.tensor([[0.0, math.nan]]))


def test_the_smallest_temperature_takes_the_likeliest():
    chances = probabilities(torch.tensor([1.0, 3.0, 2.0]), temperature=5e-324)
    assert chances.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    "extreme",
    [
        {"top_p": 5e-324},
        {"logit_bias": {0: 1e308, 1: 1e308}},
        {"logit_bias": dict.fromkeys(range(4), -1e308)},
        {"logit_bias": {3: 1e308}, "repetition_penalty": 1e308},
        {"repetition_penalty": 5e-324},
        {"repetition_penalty": 1e308},
    ],
)
def test_what_is_beyond_float32_still_draws_a_possible_token(extreme):
    request = GenerationRequest("a", temperature=1.0, seed=0, **extreme)
    scores = torch.tensor([[1.0, -2.0, 0.0, -math.inf]])
    shaped = RowShaping([request], [[0, 1, 2, 3]], [[]])(scores)
    [token] = RowSampler([request])(shaped).argmax(dim=-1).tolist()
    assert token != 3
