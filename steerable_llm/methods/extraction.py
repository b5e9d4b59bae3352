"""What every method of building a vector returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from steerable_llm.attribution import PairAttribution
from steerable_llm.rules import Gates


@dataclass(frozen=True)
class Extraction:
    """The result of one method on one set of pairs.

    Attributes:
        directions: block index to direction, float32, as wide as the site the method steers.
        scales: block index to the mean norm of what is steered there, at the last prompt position.
        attributions: per pair, in the order of the pairs; empty for methods without.
        facts: plain JSON values for the vector's provenance.
        gates: block index to gates, for methods whose vectors are gated.
        differences: [n, L, width], what every pair says by itself about the L blocks that were
            asked for; None where a method has no such thing.
        layers: those L blocks.
    """

    directions: Mapping[int, Tensor]
    scales: Mapping[int, float]
    attributions: tuple[PairAttribution, ...]
    facts: Mapping[str, Any]
    gates: Mapping[int, Gates] = field(default_factory=dict)
    differences: Tensor | None = None
    layers: tuple[int, ...] = ()
