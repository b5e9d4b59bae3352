import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.answer.request import GenerationRequest
from steerable_llm.answer.sampling import Draws, probabilities, shaped
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


def draw(request, logits, times=1):
    draws = Draws(request)
    return [draws.draw(logits) for _ in range(times)]


def test_a_seed_draws_the_same_alone_and_beside_others():
    logits = torch.zeros(100)
    seeded = GenerationRequest("a", temperature=1.0, seed=7)
    alone = draw(seeded, logits, times=20)
    draws, others = Draws(seeded), Draws(GenerationRequest("b", temperature=2.0, seed=8))
    together = [(draws.draw(logits), others.draw(logits))[0] for _ in range(20)]
    assert alone == together
    assert len(set(alone)) > 10


def test_answers_without_a_seed_differ_from_each_other():
    unseeded = GenerationRequest("a", temperature=1.0)
    one, other = (draw(unseeded, torch.zeros(1000), times=10) for _ in range(2))
    assert one != other


def test_draws_follow_the_probabilities():
    logits = torch.tensor([0.0, math.log(3.0)])
    share = sum(draw(GenerationRequest("a", temperature=1.0, seed=0), logits, times=2000)) / 2000
    assert share == pytest.approx(0.75, abs=0.04)  # four standard deviations


@given(st.integers(0, 1000), st.integers(1, 5))
def test_top_k_never_draws_anything_else(seed, top_k):
    logits = torch.randn(12, generator=torch.Generator().manual_seed(seed))
    request = GenerationRequest("a", temperature=3.0, top_k=top_k, seed=seed)
    allowed = set(torch.topk(logits, top_k).indices.tolist())
    assert set(draw(request, logits, times=10)) <= allowed


def test_scores_that_are_not_numbers_are_an_error():
    with pytest.raises(SteerableError, match="NaN"):
        draw(GenerationRequest("a", temperature=1.0), torch.tensor([0.0, math.nan]))


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
    scores = torch.tensor([1.0, -2.0, 0.0, -math.inf])
    assert Draws(request).draw(shaped(request, [0, 1, 2, 3], scores)) != 3
