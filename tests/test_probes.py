"""Probes of all heads at once against scikit-learn and against one plain network per head."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from steerable_llm.methods.probes import MlpProbes, Split, logistic_probes, mlp_probes

HEADS, SIZE, TEXTS = 5, 6, 60


def noisy(seed: int = 0) -> Split:
    """Heads that know the label better and better; the last by a curve that no line can tell."""
    source = torch.Generator().manual_seed(seed)
    labels = (torch.arange(TEXTS) % 2).float()
    states = torch.randn(TEXTS, HEADS, SIZE, generator=source)
    for head in range(HEADS - 1):
        states[:, head, 0] += 0.6 * head * (2 * labels - 1)
    states[:, -1, 0] = torch.where(labels > 0, 3.0, 0.0) * torch.sign(states[:, -1, 1])
    return Split(states, labels, torch.arange(TEXTS) % 4 > 0)


@pytest.mark.parametrize("seed", range(3))
def test_logistic_probes_are_those_of_scikit_learn(seed: int) -> None:
    split = noisy(seed)
    found = logistic_probes(split)
    for head in range(HEADS):
        x = split.states[:, head].double().numpy()
        train, judge = split.training.numpy(), ~split.training.numpy()
        slow = LogisticRegression(C=1.0, tol=1e-9, max_iter=5000).fit(x[train], split.labels[train])
        assert float(found[head]) == pytest.approx(slow.score(x[judge], split.labels[judge]))


def test_mlp_probes_are_plain_networks_trained_one_by_one() -> None:
    split = noisy()
    hidden, epochs, rate = 8, 20, 1e-2
    found = mlp_probes(split, hidden, epochs, rate, seed=4)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        start = MlpProbes(HEADS, SIZE, hidden)
    scale = split.states[split.training].std()
    for head in range(HEADS):
        plain = nn.Sequential(
            nn.Linear(SIZE, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 1),
            nn.Sigmoid(),
        )  # fmt: skip
        with torch.no_grad():
            plain[0].weight.copy_(start.w1[head].T)
            plain[0].bias.copy_(start.b1[head])
            plain[3].weight.copy_(start.w2[head][None])
            plain[3].bias.copy_(start.b2[head][None])
        optimizer = torch.optim.Adam(plain.parameters(), lr=rate)
        x = split.states[:, head] / scale
        for _ in range(epochs):
            optimizer.zero_grad()
            chance = plain(x[split.training])[:, 0]
            nn.functional.binary_cross_entropy(chance, split.labels[split.training]).backward()
            optimizer.step()
        plain.eval()
        told = plain(x[~split.training])[:, 0] > 0.5
        right = (told == (split.labels[~split.training] > 0)).float().mean()
        assert float(found[head]) == pytest.approx(float(right))


def test_a_curve_is_told_by_the_small_network_only() -> None:
    split = noisy()
    assert float(logistic_probes(split)[-1]) < 0.8
    assert float(mlp_probes(split)[-1]) > 0.9
