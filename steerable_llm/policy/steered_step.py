"""One step of a policy with its vectors looked up, and the conditions on which it gets them."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import normalize

from steerable_llm.errors import InvalidInputError, PolicyError
from steerable_llm.policy.file import Step, When, shortened
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.steering import Directions, Steering, SteeringTerm, WeighedVectors
from steerable_llm.vector.vector import SteeringVector

Kept: TypeAlias = tuple[tuple[str, Mapping[int, float]], ...]
"""Per vector, in order: per block the share of its length that is left, at most 1."""

# A vector of which less than this share is left has nothing of its own in that block.
_NOTHING_LEFT = 1e-4
_MOST_STRENGTH = 1e6  # far below where numbers of 32 bits overflow, far above what text survives


@dataclass(frozen=True)
class SteeredStep:
    """A step with its vectors looked up.

    Attributes:
        terms: What steers it, each with the conditions on which it does.
        contrast: How the context is counted more, with the conditions on which it is.
        instruction: What the model is told, with the conditions on which it is.
        steer_structured: Whether tool calls and JSON are steered, too.
        kept: What orthogonalising left; empty for other steps.
    """

    terms: tuple[tuple[SteeringTerm, When], ...] = ()
    contrast: tuple[Contrast, When] | None = None
    instruction: tuple[str, When] | None = None
    steer_structured: bool = False
    kept: Kept = ()

    @property
    def steering(self) -> Steering:
        """Everything that can steer it, as if all conditions held."""
        return Steering(tuple(term for term, _ in self.terms))

    @property
    def parts(self) -> tuple[tuple[SteeringTerm | Contrast | str, When], ...]:
        """All that the step gets: its vectors in order, its contrast, its instruction."""
        beside = (self.contrast, self.instruction)
        return (*self.terms, *(part for part in beside if part is not None))


def look_up(step: Step, find: Callable[[str], SteeringVector]) -> SteeredStep:
    """Look up a step's vectors and make its steering.

    Args:
        step: What the file says, inheritance resolved.
        find: From a vector's name to the vector.

    Raises:
        PolicyError: A vector lacks a layer, or is not calibrated and has no strength; or
            orthogonalising leaves nothing of one.
    """
    steering = Steering.none()
    kept: Kept = ()
    for use in step.vectors:
        vector = find(use.name)
        try:
            steering += vector.steer(strength=use.strength, layers=use.layers, scope=use.scope)
        except InvalidInputError as error:
            raise PolicyError(str(error)) from error
        if abs(strength := steering.terms[-1].strength) > _MOST_STRENGTH:
            raise PolicyError(
                f"the strength of vector {shortened(use.name)!r} is {strength:g}, which no model "
                "bears: calibrated ones are below 10"
            )
    if step.orthogonalise:
        steering, kept = orthogonalise(steering)
    conditions = [use.when.over(step.when) for use in step.vectors]
    terms = tuple(zip(steering.terms, conditions, strict=True))
    contrast = instruction = None
    if step.contrast is not None and (made := step.contrast.contrast) is not None:
        contrast = (made, step.contrast.when.over(step.when))
    if step.instruction is not None and (text := step.instruction.text.strip()):
        instruction = (text, step.instruction.when.over(step.when))
    return SteeredStep(terms, contrast, instruction, step.steer_structured, kept)


def orthogonalise(steering: Steering) -> tuple[Steering, Kept]:
    """Take from every vector its component along the earlier ones, block by block.

    Of weighed vectors each is one, whatever its gate: what is taken is taken for every state. In a
    vision tower the same is done patch by patch.
    Nothing is scaled up again: what a vector adds to a block gets shorter by what was taken. Where
    less than one ten-thousandth of its length is left, the vector no longer acts on that block.

    Raises:
        PolicyError: Nothing at all is left of a vector; or one comes in a form that only its own
            code can change.
    """
    terms, kept = [], []
    spans: dict[int, list[Tensor]] = defaultdict(list)
    seen: dict[int, list[Tensor]] = defaultdict(list)
    for term in steering.terms:
        left: dict[int, Tensor] = {}
        shares: dict[int, float] = {}
        for layer in term.steered_layers:
            before = _rows(term.vector, layer).double()
            after = _beside(before, spans[layer])
            length = float(before.norm())
            share = float(after.norm()) / length if length else 1.0
            for row in after if term.is_active else ():
                own = _beside(row, spans[layer])
                if float(own.norm()) > _NOTHING_LEFT * length:
                    spans[layer].append(own / own.norm())
            left[layer], shares[layer] = after, min(share, 1.0)
        kept.append((term.vector.name, shares))
        terms.append(_shortened(term, left, shares, _seen_apart(term, seen)))
    return Steering(tuple(terms)), tuple(kept)


def _seen_apart(term: SteeringTerm, seen: dict[int, list[Tensor]]) -> dict[int, Tensor]:
    """Return what is left of a vector's directions in a vision tower, and add them to `seen`.

    Patch by patch; where two were built from unlike numbers of patches, beside the mean of the
    earlier one's.
    """
    left = {}
    for layer, direction in term.tower.items():
        row = direction.double()
        for unit in 2 * seen[layer]:
            if unit.dim() == 2 and unit.shape != row.shape:
                unit = normalize(unit.mean(0), dim=-1)
            row = row - (row * unit).sum(-1, keepdim=True) * unit
        gone = row.norm(dim=-1) <= _NOTHING_LEFT * direction.double().norm(dim=-1)
        left[layer] = row.masked_fill(gone[..., None], 0.0)
        if term.is_active:
            seen[layer].append(normalize(left[layer], dim=-1))
    return left


def _rows(vector: Directions, layer: int) -> Tensor:
    """Return all that a vector may add to a block, `[A, d]`: its direction, or those it weighs."""
    weighed: Mapping[int, WeighedVectors] = getattr(vector, "weighed", {})
    return weighed[layer].vectors if layer in weighed else vector.directions[layer][None]


def _beside(rows: Tensor, span: Sequence[Tensor]) -> Tensor:
    """Return vectors `[..., d]` without their components along unit vectors."""
    for unit in 2 * list(span):  # twice, for what rounding left of a nearly parallel one
        rows = rows - (rows @ unit)[..., None] * unit
    return rows


def _shortened(
    term: SteeringTerm,
    left: Mapping[int, Tensor],
    shares: Mapping[int, float],
    tower: Mapping[int, Tensor],
) -> SteeringTerm:
    tower = {layer: direction.float() for layer, direction in tower.items()}
    if set(shares.values()) == {1.0} and all(
        torch.allclose(direction, term.tower[layer]) for layer, direction in tower.items()
    ):
        return term
    name = term.vector.name
    if not isinstance(term.vector, SteeringVector):
        raise PolicyError(f"{name!r} is no SteeringVector and cannot be orthogonalised")
    acting = tuple(layer for layer, share in shares.items() if share > _NOTHING_LEFT)
    if not acting and any(bool(direction.any()) for direction in tower.values()):
        # It goes on in the tower alone, with nothing to add in any block of the decoder.
        acting = tuple(shares)
        left = {layer: torch.zeros_like(rows) for layer, rows in left.items()}
    if not acting:
        raise PolicyError(
            f"nothing is left of vector {name!r} when it is orthogonalised: "
            "it points along the vectors before it; leave it or `orthogonalise` out"
        )
    before = term.vector.directions
    spread = len(acting) / len(shares) if term.unit == "total" else 1.0
    directions = {layer: left[layer].sum(0).float() for layer in acting}
    vector = replace(
        term.vector,
        name=f"{name}-orthogonalised",
        directions=directions,
        # A strength may count shares of the scale along the unit direction, so the scale has to
        # shrink with the direction; and what is spread over the blocks stays with each as it was.
        scales={
            layer: term.vector.scales[layer] * spread * _ratio(direction, before[layer])
            for layer, direction in directions.items()
        },
        tower=tower,
        weighed={
            layer: WeighedVectors(own.weights, own.biases, left[layer].float())
            for layer, own in term.vector.weighed.items()
            if layer in acting
        },
    )
    return replace(term, vector=vector, layers=acting)


def _ratio(after: Tensor, before: Tensor) -> float:
    """How much of a length is left; of no length all of it."""
    return float(after.norm() / before.norm()) if after.any() else 1.0


def describe(steering: Steering) -> list[dict[str, Any]]:
    """Return all that tells two steerings apart, in plain values for a cache key or a hash."""
    return [
        {
            "vector": f"{term.vector.name}@{term.vector.fingerprint_id}",
            "strength": term.strength,
            "layers": None if term.layers is None else list(term.layers),
            "scope": term.scope,
            "unit": term.unit,
            "renormalise": term.renormalise,
        }
        for term in steering.terms
    ]


def describe_step(steered: SteeredStep, step: Step) -> dict[str, Any]:
    """Return all that a step decides, in plain values for a hash."""
    return {
        "vectors": describe(steered.steering),
        "contrast": None if steered.contrast is None else steered.contrast[0].to_dict(),
        "instruction": None if steered.instruction is None else steered.instruction[0],
        "when": [when.model_dump(by_alias=True) for _, when in steered.parts],
        "steer_structured": steered.steer_structured,
        # A rule's patterns are tried together, so their order decides nothing.
        "match": {kind: sorted(patterns) for kind, patterns in step.match},
    }
