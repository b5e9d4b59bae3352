"""Probes that tell good from bad by one attention head's output, all heads trained at once."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus


@dataclass(frozen=True)
class Split:
    """Texts to train probes on and to judge them by.

    Attributes:
        states: [n, H, e], H heads.
        labels: [n], 1 for texts with a good answer and 0 for a bad one.
        training: [n] booleans; the others judge.
    """

    states: Tensor
    labels: Tensor
    training: Tensor


def fit_logistic(
    states: Tensor, positive: Tensor, c: float = 1.0, counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Fit one logistic regression per head, L2-regularised, the bias free.

    Minimises `|w|^2 / 2 + C sum k log(1 + exp(-y (w x + b)))` by L-BFGS over all heads together:
    they share nothing, so each is at its own minimum.

    Args:
        states: `[n, H, e]`.
        positive: `[n]` booleans; y is 1 where true, else -1.
        c: Smaller is flatter.
        counts: K, `[n]`; each text counts once without.

    Returns:
        W, float64 `[H, e]`, and b, `[H]`.
    """
    x = states.double()
    y = torch.where(positive, 1.0, -1.0).double()[:, None]
    heads, size = x.shape[1:]
    k = torch.ones(len(x)) if counts is None else counts
    k = c * k.double()[:, None]
    weights = torch.zeros(heads, size, dtype=torch.float64, requires_grad=True)
    biases = torch.zeros(heads, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, biases],
        max_iter=500,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        margins = torch.einsum("nhe,he->nh", x, weights) + biases
        loss = weights.square().sum() / 2 + (k * softplus(-y * margins)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach(), biases.detach()


def logistic_probes(split: Split) -> Tensor:
    """Return the accuracy of every head's logistic regression on the texts that judge.

    Returns:
        [H], between 0 and 1.
    """
    weights, biases = fit_logistic(split.states[split.training], split.labels[split.training] > 0)
    judged = split.states[~split.training].double()
    scores = torch.einsum("nhe,he->nh", judged, weights) + biases
    return _accuracy(scores, split.labels[~split.training])


class MlpProbes(nn.Module):
    """Per head: linear to `hidden`, batch norm, ReLU, linear to 1 (its sigmoid is the chance)."""

    def __init__(self, heads: int, size: int, hidden: int = 16) -> None:
        """Draw the first weights as `nn.Linear` does, from torch's current generator."""
        super().__init__()

        def drawn(fan_in: int, *shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape).uniform_(-1, 1) / fan_in**0.5)

        self.w1, self.b1 = drawn(size, heads, size, hidden), drawn(size, heads, hidden)
        self.w2, self.b2 = drawn(hidden, heads, hidden), drawn(hidden, heads)
        self.norm = nn.BatchNorm1d(heads * hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, H] of states [n, H, e]."""
        inner = torch.einsum("nhe,hek->nhk", x, self.w1) + self.b1
        inner = torch.relu(self.norm(inner.flatten(1)).view_as(inner))
        return torch.einsum("nhk,hk->nh", inner, self.w2) + self.b2


def mlp_probes(
    split: Split, hidden: int = 16, epochs: int = 100, learning_rate: float = 1e-2, seed: int = 0
) -> Tensor:
    """Return the accuracy of every head's small MLP on the texts that judge.

    Trained by Adam on all training texts at once, binary cross-entropy per head.

    Returns:
        [H], between 0 and 1.
    """
    x, y = split.states[split.training], split.labels[split.training].float()
    # States of a head may be tiny or large; one scale for all keeps one learning rate fit for all.
    scale = x.std().clamp_min(torch.finfo(x.dtype).tiny)
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        probes = MlpProbes(x.shape[1], x.shape[2], hidden)
        optimizer = torch.optim.Adam(probes.parameters(), lr=learning_rate)
        for _ in range(epochs):
            optimizer.zero_grad()
            logits = probes(x / scale)
            # Summed over heads, so that each head learns as if it were alone.
            loss = binary_cross_entropy_with_logits(
                logits, y[:, None].expand_as(logits), reduction="none"
            )
            loss.mean(0).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    probes.eval()
    with torch.no_grad():
        judged = probes(split.states[~split.training] / scale)
    return _accuracy(judged, split.labels[~split.training])


def _accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    return ((scores > 0) == (labels[:, None] > 0)).float().mean(0)
