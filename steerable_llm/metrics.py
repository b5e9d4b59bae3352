"""Numbers with their uncertainty: bootstrap intervals over prompts, and what changed.

A prompt is the unit that is drawn, never a token or a row: two answers to one prompt are not two
pieces of evidence. Differences are drawn in pairs, before and after on the same prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from steerable_llm.errors import InvalidInputError

CONFIDENCE = 0.95
RESAMPLES = 4_000
# Resamples of up to this many prompts are kept for the next metric (16 MB at most each).
_KEPT_UP_TO = 1_000


class Estimate(BaseModel, frozen=True, extra="forbid"):
    """A mean over prompts with its 95 % interval.

    Attributes:
        value: The mean over the prompts.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: How many prompts it rests on.
    """

    value: float
    low: float
    high: float
    n: int

    def above(self, other: Estimate) -> bool:
        """Whether this interval lies wholly above the other one."""
        return self.low > other.high


def estimate(
    values: Sequence[float], seed: int = 0, within: tuple[float, float] | None = (0.0, 1.0)
) -> Estimate:
    """The mean over prompts with a percentile bootstrap interval (Efron 1979).

    Prompts that all agree leave the bootstrap without any spread, and an interval of width zero
    would claim too much. It is widened as far as the share of prompts allows that could differ
    and still not be among n: `1 - 0.025 ** (1 / n)`, the exact binomial bound (Clopper and
    Pearson 1934), each such prompt lying at an end of `within`.

    Args:
        values: One number per prompt, such as 1.0 for a success; at least one.
        seed: Of the bootstrap; the same for two estimates means the same prompts are drawn.
        within: The range a value can have; None for no known range, then agreeing prompts give
            an interval of width zero.

    Raises:
        InvalidInputError: There are no values, or one is not finite or out of range.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0:
        raise InvalidInputError("an estimate needs at least one value, one number per prompt")
    if not np.isfinite(data).all():
        raise InvalidInputError("an estimate needs finite values; one of them is nan or infinite")
    if within is not None and (data.min() < within[0] or data.max() > within[1]):
        raise InvalidInputError(
            f"values from {data.min():g} to {data.max():g} do not lie within {within}; "
            "give the range they can have, or within=None"
        )
    mean, n = float(data.mean()), int(data.size)
    tail = (1 - CONFIDENCE) / 2
    if np.ptp(data) > 0:
        low, high = (
            float(end) for end in np.quantile(_resampled_means(data, seed), [tail, 1 - tail])
        )
    else:
        unseen = 1 - tail ** (1 / n)
        least, most = within if within is not None else (mean, mean)
        low, high = mean - unseen * (mean - least), mean + unseen * (most - mean)
    return Estimate(value=mean, low=min(low, mean), high=max(high, mean), n=n)


def difference(after: Sequence[float], before: Sequence[float], seed: int = 0) -> Estimate:
    """The mean change over prompts, with a paired bootstrap interval.

    Args:
        after: One number per prompt, in [0, 1].
        before: The same prompts in the same order.
        seed: Of the bootstrap.

    Raises:
        InvalidInputError: The two are not about the same number of prompts.
    """
    _same_prompts(after, before)
    return estimate([a - b for a, b in zip(after, before, strict=True)], seed, within=(-1.0, 1.0))


def ratio(
    top: Sequence[float],
    bottom: Sequence[float],
    seed: int = 0,
    before: tuple[Sequence[float], Sequence[float]] | None = None,
    is_share: bool = True,
) -> Estimate | None:
    """One sum over prompts divided by another, such as a precision, with a bootstrap interval.

    Args:
        top: One number per prompt; their sum is divided.
        bottom: One number per prompt, what it is divided by.
        seed: Of the bootstrap.
        before: The same two for the same prompts; then the change from there, drawn in pairs.
        is_share: Whether it lies between 0 and 1; then prompts that all agree get the interval
            that `estimate` gives them.

    Returns:
        None where there is nothing to divide by.

    Raises:
        InvalidInputError: The numbers are not about the same prompts.
    """
    rows = [np.asarray(each, dtype=np.float64) for each in (top, bottom, *(before or ()))]
    for row in rows:
        _same_prompts(row.tolist(), rows[0].tolist())
    if not all(row.sum() for row in rows[1::2]):
        return None
    draws = _draws(rows[0].size, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = [(draws @ a) / (draws @ b) for a, b in zip(rows[::2], rows[1::2], strict=True)]
    value = [float(a.sum() / b.sum()) for a, b in zip(rows[::2], rows[1::2], strict=True)]
    changes = drawn[0] - drawn[1] if before else drawn[0]
    changes = changes[np.isfinite(changes)]
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(end) for end in np.quantile(changes, [tail, 1 - tail]))
    told = value[0] - value[1] if before else value[0]
    if is_share and low == high:
        unseen = 1 - tail ** (1 / int((rows[1] > 0).sum()))
        least = -1.0 if before else 0.0
        low, high = told - unseen * (told - least), told + unseen * (1.0 - told)
    return Estimate(value=told, low=min(low, told), high=max(high, told), n=int(rows[0].size))


def standard_error(after: Sequence[float], before: Sequence[float]) -> float:
    """Of the mean change on the same prompts.

    Raises:
        InvalidInputError: Not the same prompts.
    """
    _same_prompts(after, before)
    changes = [new - old for new, old in zip(after, before, strict=True)]
    return float(np.std(changes) / len(changes) ** 0.5)


def loss_score(lost: float, gained: float, n: int, loss: float) -> float:
    """How many standard errors what was counted lies above a loss: the score test of Tango (1998).

    Args:
        lost: Prompts that became wrong; a mean over runs need not be whole.
        gained: Prompts that became right.
        n: All prompts.
        loss: Share lost, net, that is tested.
    """
    # The likeliest share of gains, were the loss what it is said to be.
    b = (2 * n - lost + gained) * loss - lost - gained
    gains = (math.sqrt(b * b + 8 * n * gained * loss * (1 - loss)) - b) / (4 * n)
    variance = n * (2 * gains + loss * (1 - loss))
    above = lost - gained - n * loss
    if variance <= 1e-12:
        return 0.0 if abs(above) < 1e-9 else math.copysign(math.inf, above)
    return above / math.sqrt(variance)


def loss_interval(lost: float, gained: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a net loss on n prompts (Tango 1998).

    Unlike a bootstrap it has a width where nothing was lost, and one lost prompt of few is not
    taken for the rate of losing any. Without gains its upper end is Wilson's of a share.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    value = (lost - gained) / n
    ends = []
    for sign in (1, -1):  # the low end, then the high one: bisection from the value outwards
        inside, outside = value, -float(sign)
        for _ in range(50):
            middle = (inside + outside) / 2
            if sign * loss_score(lost, gained, n, middle) <= z:
                inside = middle
            else:
                outside = middle
        ends.append(inside)
    return ends[0], ends[1]


def regressed(after: Sequence[float], before: Sequence[float]) -> float:
    """Share of prompts that succeeded before and fail after.

    Args:
        after: Success per prompt, or the share of successes where a control ran several times.
        before: Success per prompt of the unsteered model.

    Raises:
        InvalidInputError: The two are not about the same prompts, or there are none.
    """
    _same_prompts(after, before)
    return float(np.mean([b * (1 - a) for a, b in zip(after, before, strict=True)]))


def fixed(after: Sequence[float], before: Sequence[float]) -> float:
    """Share of prompts that failed before and succeed after; see `regressed`."""
    _same_prompts(after, before)
    return float(np.mean([a * (1 - b) for a, b in zip(after, before, strict=True)]))


def kl_per_token(logits: Tensor, reference: Tensor) -> float:
    """Mean over positions of KL(P || Q), in nats per token.

    Args:
        logits: `[n, V]` next-token logits of P, the model as steered.
        reference: `[n, V]` next-token logits of Q, the unsteered model, at the same positions.

    Raises:
        InvalidInputError: The shapes differ or there is no position.
    """
    if logits.shape != reference.shape or logits.ndim != 2 or not len(logits):
        raise InvalidInputError(
            f"the divergence needs two [n, V] tensors with n >= 1, "
            f"not {tuple(logits.shape)} and {tuple(reference.shape)}"
        )
    p, q = logits.float().log_softmax(-1), reference.float().log_softmax(-1)
    per_token = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    # Rounding can leave a divergence a hair below zero.
    return max(float(per_token.mean()), 0.0)


def _resampled_means(data: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    # Every metric on the same prompts draws the same resamples, so small ones are kept.
    draws = _kept_draws if data.size <= _KEPT_UP_TO else _draws
    means: NDArray[np.float64] = draws(int(data.size), seed) @ data / data.size
    return means


def _draws(n: int, seed: int) -> NDArray[np.float32]:
    """`[RESAMPLES, n]`: how often each prompt is in each resample."""
    random = np.random.default_rng((seed, n))
    return random.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float32)


_kept_draws = lru_cache(maxsize=16)(_draws)


def _same_prompts(after: Sequence[float], before: Sequence[float]) -> None:
    if len(after) != len(before) or not len(after):
        raise InvalidInputError(
            f"before and after must be about the same prompts, not {len(before)} and {len(after)}"
        )
