"""One direction out of many deltas (paper section 3.2, eq. 5).

Every strategy takes the deltas of one sign at one layer, [n, d], and returns a direction [d].
A principal component has no sign of its own; it is oriented so that the deltas' mean projection
on it is positive.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from steerable_llm.errors import AttributionError


def pca(deltas: Tensor) -> Tensor:
    """Return the first component of the centred deltas, unit length, oriented (the paper's)."""
    if len(deltas) < 2:
        raise AttributionError(
            f"a principal component needs at least 2 deltas and has {len(deltas)}: give more pairs"
        )
    return _first_component(deltas - deltas.mean(0), deltas)


def pca_uncentred(deltas: Tensor) -> Tensor:
    """Return the first right singular vector of the deltas as they are, unit length, oriented.

    Centring removes what all deltas share; this keeps it.
    """
    return _first_component(deltas, deltas)


def mean(deltas: Tensor) -> Tensor:
    """Return the plain mean of the deltas, in the units of the hidden state."""
    return deltas.mean(0)


def pca_plus_mean(deltas: Tensor) -> Tensor:
    """Return the unit centred component, oriented, plus the mean delta (as ICV combines them)."""
    return pca(deltas) + deltas.mean(0)


AGGREGATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "pca": pca,
    "pca_uncentred": pca_uncentred,
    "mean": mean,
    "pca_plus_mean": pca_plus_mean,
}
"""Name to strategy: deltas [n, d] to a direction [d]."""


def aggregate(deltas: Tensor, strategy: str) -> Tensor:
    """Aggregate deltas [n, d] in float64 and return a float32 direction [d].

    Raises:
        AttributionError: Too few deltas for the strategy.
    """
    return AGGREGATIONS[strategy](deltas.double()).float()


def _first_component(rows: Tensor, deltas: Tensor) -> Tensor:
    _, singular, right = torch.linalg.svd(rows, full_matrices=False)
    if float(singular[0]) <= 1e-12 * float(deltas.norm()):
        # All rows are equal (after centring): there is no direction to speak of.
        return torch.zeros_like(rows[0])
    component: Tensor = right[0]
    projection = float(deltas.mean(0) @ component)
    if projection == 0:
        # Any rule will do as long as it is the same everywhere.
        projection = float(component[component.abs().argmax()])
    return component if projection > 0 else -component
