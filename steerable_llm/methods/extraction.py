"""What every method of building a vector returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steerable_llm.attribution import PairAttribution


@dataclass(frozen=True)
class Extraction:
    """The result of one method on one set of pairs.

    Attributes:
        directions: block index to direction, float32 [d].
        scales: block index to the mean norm of its output at the last prompt position.
        attributions: per pair, in the order of the pairs; empty for methods without.
        facts: plain JSON values for the vector's provenance.
    """

    directions: Mapping[int, Tensor]
    scales: Mapping[int, float]
    attributions: tuple[PairAttribution, ...]
    facts: Mapping[str, Any]
