"""Which prompt tokens speak for the good answer and which against it (paper section 3.1).

Every method says at which points to take gradients and how to fold them into one score per
token; an `AttributionPath` holds that. So points of many prompts can share one batch: the paths
first, then the gradients from wherever they are cheapest, then `path.scores`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from steerable_llm.chat.context import Segment
from steerable_llm.chat.pieces import Pieces
from steerable_llm.errors import AttributionError, InvalidInputError
from steerable_llm.reports.heatmap import LEGEND, TokenScores, heatmap
from steerable_llm.reports.numbers import percent
from steerable_llm.reports.page import Page

Quadrature = Literal["right", "gauss_legendre"]


@dataclass(frozen=True)
class AttributionPath:
    """Where to take gradients for one prompt, and what to make of them.

    Attributes:
        points: [N, T, d] in the dtype of the embeddings; N is 0 when no gradient is needed.
        weights: [N] float32, weight of each point's gradient.
        factor: [T, d] float32, multiplies the weighted gradient before the sum over d.
        given: [T] float32, scores that need no gradient, or None.
    """

    points: Tensor
    weights: Tensor
    factor: Tensor
    given: Tensor | None = None

    def scores(self, gradients: Tensor) -> Tensor:
        """Fold the gradients at the points [N, T, d] into one score per token, float32 [T].

        Raises:
            AttributionError: A gradient is not finite.
        """
        if self.given is not None:
            return self.given
        if not bool(torch.isfinite(gradients).all()):
            raise AttributionError(
                "the gradients hold NaN or infinite values: use float32 or bfloat16 instead of "
                "float16, another baseline, or leave the pair out"
            )
        return (self.factor * self._slope(gradients)).sum(-1)

    def sensitivity(self, gradients: Tensor) -> Tensor:
        """Return the most that each token's score could be, whichever way its gradient pointed.

        Float32 [T]: the length of the weighted gradient times that of the factor.
        """
        if self.given is not None:
            return self.given.abs()
        most: Tensor = self._slope(gradients).norm(dim=-1) * self.factor.norm(dim=-1)
        return most

    def _slope(self, gradients: Tensor) -> Tensor:
        return torch.einsum("n,ntd->td", self.weights, gradients.float())


def quadrature_nodes(steps: int, quadrature: Quadrature = "right") -> tuple[Tensor, Tensor]:
    """Return nodes in [0, 1] and weights that sum to 1, both float32 [steps].

    "right" is the paper's right Riemann sum (k/m, k = 1..m); "gauss_legendre" is exact for
    polynomials up to degree 2m - 1.
    """
    if quadrature == "right":
        return torch.arange(1, steps + 1) / steps, torch.full((steps,), 1 / steps)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    # From [-1, 1] to [0, 1].
    return torch.from_numpy((nodes + 1) / 2).float(), torch.from_numpy(weights / 2).float()


def integrated_gradients_path(
    embeddings: Tensor,
    baseline: Tensor,
    steps: int = 5,
    quadrature: Quadrature = "right",
    **_: object,
) -> AttributionPath:
    """Follow the straight line from the baseline (eq. 2)."""
    nodes, weights = quadrature_nodes(steps, quadrature)
    # One rounding only: low-precision embeddings are interpolated in float32.
    x, b = embeddings.float(), baseline.float().expand_as(embeddings)
    points = b + nodes.to(x.device)[:, None, None] * (x - b)
    return AttributionPath(points.to(embeddings.dtype), weights.to(x.device), x - b)


def gradient_path(embeddings: Tensor, *_: object, **__: object) -> AttributionPath:
    """Take the vanilla gradient at the prompt itself (paper appendix B)."""
    one = torch.ones(1, device=embeddings.device)
    return AttributionPath(embeddings[None], one, torch.ones_like(embeddings, dtype=torch.float32))


def gradient_input_path(embeddings: Tensor, *_: object, **__: object) -> AttributionPath:
    """Take the gradient at the prompt, times the prompt.

    Where gradients are conservative (see `conservation`), these scores and those of the answers'
    tokens add up to f, so that no baseline is needed; but for what the answers' entropies add from
    their second token on, and for biases.
    """
    one = torch.ones(1, device=embeddings.device)
    return AttributionPath(embeddings[None], one, embeddings.float())


SMOOTHGRAD_NOISE = 0.15
"""Standard deviation of SmoothGrad's noise, in units of the embeddings' standard deviation."""


def smoothgrad_path(
    embeddings: Tensor, _baseline: Tensor, steps: int = 5, *_: object, seed: int = 0
) -> AttributionPath:
    """Take the mean gradient over `steps` noisy copies of the prompt (paper appendix B)."""
    x = embeddings.float()
    source = torch.Generator().manual_seed(seed)  # on the CPU: the same noise on every device
    noise = torch.randn((steps, *x.shape), generator=source).to(x.device)
    points = x + SMOOTHGRAD_NOISE * x.std() * noise
    weights = torch.full((steps,), 1 / steps, device=x.device)
    return AttributionPath(points.to(embeddings.dtype), weights, torch.ones_like(x))


def random_path(embeddings: Tensor, *_: object, seed: int = 0) -> AttributionPath:
    """Draw normal scores without any gradient: the paper's lower bound (table 6)."""
    source = torch.Generator().manual_seed(seed)
    given = torch.randn(embeddings.shape[0], generator=source).to(embeddings.device)
    factor = torch.ones_like(embeddings, dtype=torch.float32)
    return AttributionPath(
        embeddings[None][:0], torch.zeros(0, device=embeddings.device), factor, given
    )


ATTRIBUTIONS: dict[str, Callable[..., AttributionPath]] = {
    "conservative": gradient_input_path,
    "integrated_gradients": integrated_gradients_path,
    "gradient": gradient_path,
    "gradient_input": gradient_input_path,
    "smoothgrad": smoothgrad_path,
    "random": random_path,
}
"""Name to the function that plans the path.

It takes embeddings [T, d], baseline [d] or [T, d], steps, quadrature and, by name, seed; each
uses what it needs of these. Gradients for "conservative" are taken inside `conservation`.
"""


def completeness_error(scores: Tensor, value: float, baseline_value: float) -> float:
    """Return |sum_j a_j - (f(x) - f(b))| / |f(x) - f(b)|; 0 is perfect, infinite without a gap."""
    gap = value - baseline_value
    missing = abs(float(scores.double().sum()) - gap)
    if gap == 0:
        return 0.0 if missing == 0 else math.inf
    return missing / abs(gap)


def select_tokens(
    scores: Tensor | Sequence[float], selectable: Tensor | Sequence[bool], k: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Pick the k most positive and the k most negative tokens (eq. 3).

    A token is only picked for the sign it has, so either list may be shorter than k or empty.

    Returns:
        Positions of the positive and of the negative tokens among the selectable ones, strongest
        first; ties go to the earlier token.
    """
    values = [float(score) for score in scores]
    candidates = [i for i, flag in enumerate(selectable) if flag]
    positive = sorted((i for i in candidates if values[i] > 0), key=lambda i: -values[i])
    negative = sorted((i for i in candidates if values[i] < 0), key=lambda i: values[i])
    return tuple(positive[:k]), tuple(negative[:k])


@dataclass(frozen=True, eq=False)
class PairAttribution:
    """What the attribution saw in one pair.

    Attributes:
        pair_id: The pair's id.
        token_ids: The prompt as the model sees it, T ids.
        tokens: The text of each token.
        segments: The part of the prompt each token belongs to.
        scores: a_j per token, float32 [T] on the CPU; positive speaks for the good answer.
        selectable: Whether each token could be picked.
        positive: Picked positions with positive scores, strongest first.
        negative: Picked positions with negative scores, strongest first.
        value: F(x), natural logarithm.
        baseline_value: F(b), or None when the method has no baseline.
        completeness_error: Relative, see `completeness_error`, of the scores before any of them
            was verified; None for methods whose scores are not meant to add up to f.
        good: The preferred answer.
        bad: The dispreferred answer, if there is one.
        verified: Positions whose scores are what f really loses without the token.
        pieces: Where the pieces of the prompt's images lie.
    """

    pair_id: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    segments: tuple[Segment, ...]
    scores: Tensor
    selectable: tuple[bool, ...]
    positive: tuple[int, ...]
    negative: tuple[int, ...]
    value: float | None
    baseline_value: float | None
    completeness_error: float | None
    good: str
    bad: str | None
    verified: tuple[int, ...] = ()
    pieces: tuple[Pieces, ...] = ()

    def token_scores(self) -> TokenScores:
        """Return what a heatmap shows of it."""
        said = [f"pair {self.pair_id}"]
        if self.value is not None:
            said.append(f"preference for the good answer {self.value:+.2f} nats")
        if self.completeness_error is not None:
            said.append(f"completeness error {percent(self.completeness_error, 0)}")
        return TokenScores(
            title=", ".join(said),
            tokens=self.tokens,
            segments=self.segments,
            scores=self.scores.tolist(),
            selectable=self.selectable,
            picked={*self.positive, *self.negative},
            pieces=self.pieces,
            beside={"good": self.good} | ({"bad": self.bad} if self.bad is not None else {}),
        )


def attribution_page(attributions: Sequence[PairAttribution]) -> Page:
    """Return a page with the heatmaps of all pairs, for a browser or a rich console.

    Raises:
        InvalidInputError: There is nothing to show.
    """
    if not attributions:
        raise InvalidInputError(
            "there are no attributions to show: steerable_llm.methods.build.build returns them "
            "beside the vector, for methods that have them"
        )
    maps = [heatmap(attribution.token_scores()) for attribution in attributions]
    return Page("Token attributions", [LEGEND, *maps])
