"""What a method is: its settings, what it takes from pairs, how it is applied."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel
from torch import Tensor

from steerable_llm.methods.grains.attribution import PairAttribution
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.steering import Application, Scope, Unit, WeighedVectors

#: How far to move the model, in nats per token along its own answers, where nothing else is said.
#: Below the first hardly any answer changes; beyond the last many are no language any more.
DIVERGENCES = (0.02, 0.05, 0.15, 0.4, 1.0)

_THIRDS_FROM = 6  # blocks; in fewer, thirds are hardly more than single blocks
_MOST_SINGLE_BLOCKS = 8


@dataclass(frozen=True)
class Grid:
    """The settings of one method that its source leaves open.

    Attributes:
        strengths: Magnitudes in `unit`, each tried with both signs; none for `divergences`.
        unit: What a strength counts.
        scopes: Positions to steer.
        subsets: Which blocks to try: all and thirds of them; single ones, as methods that steer one
            do; or the whole alone, as what was trained together belongs together.
        configs: Settings of the method to build a candidate vector with, one after the other.
        divergences: How far to move the model, in nats per token; the strengths that do so are
            found for each sign, scope and layer subset.
    """

    strengths: tuple[float, ...] = ()
    unit: Unit = "total"
    scopes: tuple[Scope, ...] = ("generated", "all")
    subsets: Literal["thirds", "single", "whole"] = "thirds"
    configs: tuple[Mapping[str, Any], ...] = ({},)
    divergences: tuple[float, ...] = DIVERGENCES

    def layers(self, of: tuple[int, ...]) -> tuple[tuple[int, ...] | None, ...]:
        """Return the layer subsets to try for a vector that has these layers; None is all."""
        if self.subsets == "single":
            step = -(-len(of) // _MOST_SINGLE_BLOCKS)
            return tuple((layer,) for layer in of[step // 2 :: step])
        if self.subsets == "whole" or len(of) < _THIRDS_FROM:
            return (None,)
        cuts = [round(part * len(of) / 3) for part in range(4)]
        return (None, *(of[start:end] for start, end in pairwise(cuts)))

    def usual_layers(self, of: tuple[int, ...], depth: int) -> tuple[int, ...] | None:
        """Return the blocks to steer of those that a vector has, with no dev data; None is all.

        For methods of one layer it is the one nearest to the middle of the model, of this depth:
        about where their sources found the best one. In later blocks there is too little left to
        turn, and earlier ones do not yet tell good from bad.
        """
        middle = (depth - 1) / 2
        return (
            (min(of, key=lambda layer: abs(layer - middle)),) if self.subsets == "single" else None
        )


@dataclass(frozen=True)
class Extraction:
    """The result of one method on one set of pairs.

    Attributes:
        directions: Block index to direction, float32, as wide as the site the method steers.
        scales: Block index to the mean norm of what is steered there, at the last prompt position.
        provenance: What the method has to tell of how it went.
        attributions: Per pair, in the order of the pairs; empty for methods without.
        weighed: Block index to weighed vectors, for the rule "weigh".
        tower: Block index of the vision tower to what steers it there (`SteeringVector.tower`).
        differences: [n, L, width], what every pair says by itself about the L blocks that were
            asked for; None where a method has no such thing.
        layers: Those L blocks.
        places: Which pairs the n differences are of; None is all of them, in order.
        application: How these directions are applied, where that hangs on the settings; None is
            as the method's vectors always are.
        saw: Hashes of the prompts that went into it beside those of the pairs, by way of other
            vectors; None where nobody wrote them down.
    """

    directions: Mapping[int, Tensor]
    scales: Mapping[int, float]
    provenance: Provenance = Provenance()  # noqa: RUF009 - frozen
    attributions: tuple[PairAttribution, ...] = ()
    weighed: Mapping[int, WeighedVectors] = field(default_factory=dict)
    tower: Mapping[int, Tensor] = field(default_factory=dict)
    differences: Tensor | None = None
    layers: tuple[int, ...] = ()
    places: tuple[int, ...] | None = None
    application: Application | None = None
    saw: tuple[str, ...] | None = ()


@dataclass(frozen=True)
class Parts:
    """How a method builds a vector of pairs that are read in parts, wherever that is.

    Attributes:
        gather: (llm, pairs, config, progress, first) -> anything that can be pickled, from some of
            the pairs, of which the first is so many-th of all.
        combine: (llm, gathered, config) -> Extraction, from what all parts gave, in order.
    """

    gather: Callable[..., Any]
    combine: Callable[..., Extraction]


@dataclass(frozen=True)
class Method:
    """How to build a vector.

    Attributes:
        config: Its settings, a frozen pydantic model.
        extract: (llm, pairs, config, progress) -> Extraction, from an unsteered model, pairs (one
            at least) and the method's settings; `progress` is called with the number of pairs that
            are done since the last call. It raises `PairError` for a pair that the method cannot
            use (no bad answer, an image that the model does not read), `PromptTooLongError` where
            prompt and answer do not fit the context window, and `InvalidInputError` for a layer the
            model does not have.
        presets: Named settings.
        application: What its vectors steer, and how.
        grid: What is tried for it on dev data.
        images: Whether it learns from images, and so nothing from pairs without any.
        parts: How it reads pairs in parts, on several machines; None where it needs all together.
    """

    config: type[BaseModel]
    extract: Callable[..., Extraction]
    presets: Mapping[str, BaseModel] = field(default_factory=dict)
    application: Application = Application()  # noqa: RUF009 - frozen
    grid: Grid = Grid()
    images: bool = False
    parts: Parts | None = None
