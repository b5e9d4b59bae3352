"""MAT-Steer: its loss number by number, planted directions, and weights that know their own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from slow_states import PAIRS, slow_states, with_answer

from steerable_llm.methods.build import build_vector
from steerable_llm.methods.mat_steer import (
    MatSteerConfig,
    kernel_width,
    mmd,
    objective,
    train_weighed,
)
from steerable_llm.pairs.pair import PreferencePair
from steerable_llm.vector.steering import WeighedVectors, weighed_delta


def slow_mmd(one: list[list[float]], other: list[list[float]], width: float) -> float:
    def kernel(a: list[float], b: list[float]) -> float:
        return math.exp(-sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / (2 * width**2))

    def mean(xs: list[list[float]], ys: list[list[float]]) -> float:
        return sum(kernel(x, y) for x in xs for y in ys) / (len(xs) * len(ys))

    return mean(one, one) + mean(other, other) - 2 * mean(one, other)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def slow_objective(weighed, good, bad, members, widths, config) -> float:
    """The equation of the module, state by state and attribute by attribute."""
    w, b, v = weighed.weights.tolist(), weighed.biases.tolist(), weighed.vectors.tolist()
    good, bad = good.tolist(), bad.tolist()

    def opened(t, x):
        return sigmoid(dot(w[t], x) + b[t])

    steered = []
    for x in bad:
        moved = list(x)
        for t in range(len(v)):
            moved = [m + opened(t, x) * n for m, n in zip(moved, v[t], strict=True)]
        factor = math.sqrt(dot(x, x) / dot(moved, moved))
        steered.append([m * factor for m in moved])
    total = 0.0
    for t, mine in enumerate(members):
        inside = [i for i, member in enumerate(mine.tolist()) if member]
        outside = [i for i, member in enumerate(mine.tolist()) if not member]
        total += slow_mmd([steered[i] for i in inside], [good[i] for i in inside], widths[t])
        total += config.lam_pos * sum(opened(t, x) for x in good) / len(good)
        if outside:
            total += config.lam_sparse * sum(opened(t, bad[i]) for i in outside) / len(outside)
        for u in range(t + 1, len(v)):
            cosine = dot(v[t], v[u]) / math.sqrt(dot(v[t], v[t]) * dot(v[u], v[u]))
            total += config.lam_ortho * cosine**2
    return total


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_its_equation(seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    good, bad = (torch.randn(6, 5, generator=source) for _ in range(2))
    weighed = WeighedVectors(
        torch.randn(2, 5, generator=source),
        torch.randn(2, generator=source),
        torch.randn(2, 5, generator=source),
    )
    members = [torch.arange(6) < 3, torch.arange(6) >= 3]
    config = MatSteerConfig(lam_pos=0.7, lam_sparse=0.3, lam_ortho=0.9)
    found = objective(weighed, good, bad, members, [1.3, 0.8], config)
    expected = slow_objective(weighed, good, bad, members, [1.3, 0.8], config)
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_discrepancy_of_a_sample_with_itself_is_zero() -> None:
    states = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert float(mmd(states, states, 1.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(mmd(states, states + 3, 1.0)) > 0.1
    assert kernel_width(torch.tensor([[0.0], [3.0], [4.0]])) == 3.0
    assert kernel_width(torch.zeros(3, 2)) == 1.0


def test_a_planted_direction_is_learnt_and_its_weight_leaves_good_states_alone() -> None:
    source = torch.Generator().manual_seed(1)
    planted = torch.nn.functional.normalize(torch.randn(16, generator=source), dim=0)
    good = 5 * torch.randn(40, 16, generator=source)
    good = good - (good @ planted)[:, None] * planted
    bad = good - 4 * planted
    good = good + 4 * planted
    members = [torch.ones(40, dtype=torch.bool)]
    weighed, losses = train_weighed(good, bad, members, MatSteerConfig())
    assert losses["last"] < losses["first"] / 2
    assert float(torch.nn.functional.normalize(weighed.vectors[0], dim=0) @ planted) > 0.9
    moved_bad, moved_good = (weighed_delta(x, weighed, 1.0).norm(dim=1).mean() for x in (bad, good))
    assert moved_bad > 3 * moved_good


def test_each_attribute_finds_its_own_direction() -> None:
    source = torch.Generator().manual_seed(3)
    axes = torch.eye(16)[:2]
    base = torch.randn(60, 16, generator=source)
    base[:, :4] = 0.0
    first = torch.arange(60) < 30
    # The third axis tells the attributes apart, so that weights can.
    base[:, 2] = torch.where(first, 3.0, -3.0)
    push = torch.where(first[:, None], axes[0], axes[1])
    weighed, _ = train_weighed(base + 2 * push, base - 2 * push, [first, ~first], MatSteerConfig())
    cosines = torch.nn.functional.normalize(weighed.vectors, dim=1) @ axes.T
    assert float(cosines.diagonal().min()) > 0.7
    opened = torch.sigmoid((base - 2 * push) @ weighed.weights.T + weighed.biases)
    assert opened[first, 0].mean() > opened[first, 1].mean()
    assert opened[~first, 1].mean() > opened[~first, 0].mean()


def test_bad_answers_are_steered_toward_good_ones(tiny_llm: Any) -> None:
    vector = build_vector(tiny_llm, PAIRS, method="mat_steer", steps=20, progress=False)
    good, bad = (
        torch.tensor(
            np.array(
                [slow_states(tiny_llm, with_answer(tiny_llm, p, getattr(p, name)))[1][-1]
                 for p in PAIRS]
            )
        ).float()
        for name in ("good", "bad")
    )  # fmt: skip
    everyone = [torch.ones(len(PAIRS), dtype=torch.bool)]
    expected, _ = train_weighed(good, bad, everyone, MatSteerConfig(steps=20))
    found = vector.weighed[1]
    # Adam's steps are of one size, so that rounding shows in single numbers.
    for one, other in ((found.vectors, expected.vectors), (found.weights, expected.weights)):
        assert float(torch.cosine_similarity(one, other).min()) > 0.99
    swapped, _ = train_weighed(bad, good, everyone, MatSteerConfig(steps=20))
    assert float(torch.cosine_similarity(found.vectors, swapped.vectors).max()) < 0.5


def test_sources_become_attributes(tiny_llm: Any) -> None:
    mixed = [
        PreferencePair(p.messages, p.good, p.bad, source="rude" if n % 2 else "faithful")
        for n, p in enumerate(PAIRS)
    ]
    one = build_vector(tiny_llm, mixed, method="mat_steer", steps=3, progress=False)
    two = build_vector(
        tiny_llm, mixed, method="mat_steer", attributes="source", steps=3, progress=False
    )
    assert one.weighed[0].vectors.shape == (1, 32)
    assert two.weighed[0].vectors.shape == (2, 32)
    assert two.provenance.facts["attributes"] == ["faithful", "rude"]
    torch.testing.assert_close(two.directions[1], two.weighed[1].vectors.sum(0))
