"""How well a score tells two classes apart, with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from steerable_llm.errors import InvalidInputError
from steerable_llm.metrics import CONFIDENCE, RESAMPLES, Estimate


class RocPoint(BaseModel):
    """What a threshold does.

    Attributes:
        threshold: Scores from here on count as positive.
        caught: Share of the positives that count as such (true positive rate).
        false_alarms: Share of the negatives that count as positive (false positive rate).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float
    caught: float
    false_alarms: float


def roc_points(
    positives: Sequence[float], negatives: Sequence[float], thresholds: Sequence[float]
) -> list[RocPoint]:
    """What each of some thresholds does to the scores of both classes.

    Raises:
        InvalidInputError: A class is empty.
    """
    high, low = _scores(positives, negatives)
    return [
        RocPoint(
            threshold=float(threshold),
            caught=float(np.mean(high >= threshold)),
            false_alarms=float(np.mean(low >= threshold)),
        )
        for threshold in thresholds
    ]


def best_threshold(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """The threshold with the largest distance between caught and false alarms (Youden's J).

    It lies half-way between two neighbouring scores, so that it does not hang on one of them; of
    equals, the lowest.

    Raises:
        InvalidInputError: A class is empty.
    """
    high, low = _scores(positives, negatives)
    scores = np.unique(np.concatenate([high, low]))
    between = [float(scores[0]), *((scores[:-1] + scores[1:]) / 2).tolist()]
    points = roc_points(positives, negatives, between)
    return max(points, key=lambda point: point.caught - point.false_alarms).threshold


def roc_auc(
    positives: Sequence[float],
    negatives: Sequence[float],
    groups: tuple[Sequence[int], Sequence[int]] | None = None,
    seed: int = 0,
) -> Estimate:
    """The area under the ROC curve, with a 95 % bootstrap interval over groups.

    The area is the probability that a positive scores above a negative, ties counted half. Scores
    that separate the classes wholly leave the bootstrap without spread; the interval then ends
    where `n` disjoint pairs, n the smaller class, could all be in order by chance in one case of
    forty (exact binomial bound).

    Args:
        positives: Scores of one class.
        negatives: Scores of the other.
        groups: What is drawn as a whole, such as a question: its number for each score of either
            class. None draws every score by itself.
        seed: Of the bootstrap.

    Raises:
        InvalidInputError: A class is empty.
    """
    high, low = _scores(positives, negatives)
    order = (high[:, None] > low[None, :]) + 0.5 * (high[:, None] == low[None, :])
    value = float(order.mean())
    if groups is None:
        groups = list(range(high.size)), list(range(high.size, high.size + low.size))
    names, index = np.unique([*groups[0], *groups[1]], return_inverse=True)
    count = names.size
    draws = np.random.default_rng((seed, count)).multinomial(
        count, np.full(count, 1 / count), size=RESAMPLES
    )
    weights = draws[:, index].astype(np.float64)
    w_high, w_low = weights[:, : high.size], weights[:, high.size :]
    pairs = w_high.sum(1) * w_low.sum(1)
    usable = pairs > 0  # a resample may miss a class
    areas = np.einsum("bi,ij,bj->b", w_high[usable], order, w_low[usable], optimize=True)
    areas = areas / pairs[usable]
    tail = (1 - CONFIDENCE) / 2
    if areas.size and np.ptp(areas) > 0:
        lower, upper = (float(end) for end in np.quantile(areas, [tail, 1 - tail]))
    else:
        reach = float(tail ** (1 / min(high.size, low.size)))
        lower, upper = min(value, reach), max(value, 1 - reach)
    return Estimate(
        value=value, low=min(lower, value), high=max(upper, value), n=int(high.size + low.size)
    )


def _scores(
    positives: Sequence[float], negatives: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not len(positives) or not len(negatives):
        raise InvalidInputError(
            f"a ROC curve needs both classes, not {len(positives)} positives and "
            f"{len(negatives)} negatives"
        )
    return np.asarray(positives, dtype=np.float64), np.asarray(negatives, dtype=np.float64)
