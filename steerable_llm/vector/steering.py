"""What one request is steered with: vectors, strengths, layers, scope and norm rule.

A steering is an argument of a call, never a mode of the model. The arithmetic is that of the
GrAInS paper, section 4: ``h' = h + s * v`` (eq. 7), then ``h'`` is brought back to the length of
``h`` (eq. 8), per token, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import normalize

from steerable_llm.errors import InvalidInputError

Scope = Literal["all", "prompt", "generated", "decision", "last_prompt"]
"""Which positions are steered.

``generated`` starts at the *last prompt position*, whose state chooses the first new token;
``last_prompt`` is that position alone, so that an answer is turned at its start and its later
words are left alone; ``decision`` is that position and as many generated ones as the vector's pairs
take until good and bad answers part (`SteeringVector.decision_tokens`); ``prompt`` is every prompt
position, the last one included; ``all`` is every position.
"""

Unit = Literal["total", "relative", "absolute"]
"""What a strength counts.

``total``: shares of the typical residual norm that are added in all, each of the L steered blocks
adding one L-th of it. What a block adds goes on to those behind it, so that shares sum up, and one
number means about the same effect on few blocks and on many. ``relative``: shares that every
steered block adds by itself, as vectors of 0.2 and before have them. ``absolute``: multiples of the
direction as it is stored (the paper's ``s``)."""

Site = Literal["block", "mlp", "heads"]
"""Which activations are steered: a block's output, its MLP's output, or the input of its
attention's output projection, where the heads lie side by side."""

Rule = Literal["add", "icv", "weigh", "turn"]
"""What is added: the vector itself; more of it where the state points away (in-context vectors);
as much of it as the state itself asks for (MAT-Steer); or the vector times the state's length, so
that all states turn by about the same angle (VTI)."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
UNITS: tuple[Unit, ...] = get_args(Unit)
SITES: tuple[Site, ...] = get_args(Site)
RULES: tuple[Rule, ...] = get_args(Rule)


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidInputError(f"unknown {what} {value!r}: choose one of {', '.join(choices)}")


@dataclass(frozen=True)
class Application:
    """How a method means its vectors to be applied; strength and layers are chosen on dev data.

    Attributes:
        site: Which activations are steered.
        rule: What is added to them.
        unit: What a strength counts.
        scope: Which positions are steered.
        renormalise: Bring each steered state back to its length.

    Raises:
        InvalidInputError: An unknown name.
    """

    site: Site = "block"
    rule: Rule = "add"
    unit: Unit = "total"
    scope: Scope = "generated"
    renormalise: bool = True

    def __post_init__(self) -> None:
        """Refuse names that a later version may know."""
        _check_choice("site", self.site, SITES)
        _check_choice("rule", self.rule, RULES)
        _check_choice("unit", self.unit, UNITS)
        _check_choice("scope", self.scope, SCOPES)


#: What a vector means that does not say how it is applied: what the first files hold.
PLAIN = Application(unit="relative")


@dataclass(frozen=True, eq=False)
class WeighedVectors:
    """Vectors of one layer, one per attribute, each weighed by `sigmoid(w x + b)` of the state x.

    Attributes:
        weights: W, `[A, d]`.
        biases: B, `[A]`.
        vectors: `[A, d]`.
    """

    weights: Tensor
    biases: Tensor
    vectors: Tensor
    _elsewhere: dict[torch.device, WeighedVectors] = field(
        default_factory=dict, init=False, repr=False
    )

    def on(self, device: torch.device) -> WeighedVectors:
        """Return the same on a device; copied there once, not anew in each pass."""
        if device == self.weights.device:
            return self
        if device not in self._elsewhere:
            parts = (self.weights, self.biases, self.vectors)
            self._elsewhere[device] = WeighedVectors(*(part.to(device) for part in parts))
        return self._elsewhere[device]

    @property
    def table(self) -> Tensor:
        """All of it as one tensor `[A, 2d + 1]`: weights, bias, vector; how a file stores it."""
        return torch.cat([self.weights, self.biases[:, None], self.vectors], dim=1)

    @classmethod
    def from_table(cls, table: Tensor) -> WeighedVectors:
        """Take a table apart again.

        Raises:
            ValueError: It is no such table.
        """
        if table.ndim != 2 or table.shape[1] % 2 == 0 or not bool(torch.isfinite(table).all()):
            raise ValueError(
                "weighed vectors are stored as [A, 2d + 1] finite numbers, which this is not"
            )
        width = table.shape[1] // 2
        # Copies: views lie elsewhere in memory, and matrix products then round otherwise.
        parts = (table[:, :width], table[:, width], table[:, width + 1 :])
        return cls(*(part.clone() for part in parts))


class Directions(Protocol):
    """The part of a steering vector that steering needs; ``SteeringVector`` has it."""

    @property
    def name(self) -> str:
        """Name of the vector."""

    @property
    def directions(self) -> Mapping[int, Tensor]:
        """Block index (from 0) to direction, float32 ``[d]``."""

    @property
    def scales(self) -> Mapping[int, float]:
        """Block index to the typical length of that block's output."""

    @property
    def fingerprint_id(self) -> str:
        """Short hash of name and directions, for the record of what was applied."""


@dataclass(frozen=True)
class SteeringTerm:
    """One vector at one strength.

    Attributes:
        vector: The directions, one per block.
        strength: Signed. See ``unit``.
        layers: Blocks to steer (from 0), or None for every block the vector has.
        scope: Which positions to steer.
        unit: ``total``: the added vectors have together ``strength`` times the layers' typical
            residual norm, whatever the length of the directions; each layer adds its equal share.
            ``relative``: each layer adds ``strength`` times its norm. ``absolute``: eq. 7 as
            printed, ``strength`` times the direction.
        renormalise: Bring each steered state back to its length (eq. 8).

    Raises:
        InvalidInputError: A strength that is not finite, an unknown scope or unit, a layer that
            the vector does not have, or a strength in shares of a norm without a scale for a layer.
    """

    vector: Directions
    strength: float
    layers: tuple[int, ...] | None = None
    scope: Scope = "generated"
    unit: Unit = "total"
    renormalise: bool = True

    def __post_init__(self) -> None:
        """Refuse what could only fail later, in the middle of a forward pass."""
        if not math.isfinite(self.strength):
            raise InvalidInputError(
                f"the strength of vector {self.vector.name!r} is {self.strength}: "
                "give a finite number, such as 0.3"
            )
        _check_choice("scope", self.scope, SCOPES)
        _check_choice("unit", self.unit, UNITS)
        known = sorted(self.vector.directions)
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))
        missing = [layer for layer in self.steered_layers if layer not in self.vector.directions]
        if missing or not self.steered_layers:
            raise InvalidInputError(
                f"vector {self.vector.name!r} has no direction for layers "
                f"{missing if missing else '()'}: choose from {known}, or leave layers out"
            )
        if self.unit != "absolute":
            unscaled = [x for x in self.steered_layers if x not in self.vector.scales]
            if unscaled:
                raise InvalidInputError(
                    f"vector {self.vector.name!r} has no residual norm for layers {unscaled}: "
                    "use unit='absolute', or build the vector with scales"
                )
        if self.rule == "icv" and self.unit == "absolute":
            raise InvalidInputError(
                f"vector {self.vector.name!r} is applied relative to each state's own length: "
                "use unit='total' or 'relative'"
            )

    @property
    def application(self) -> Application:
        """The vector's own; bare directions are added to block outputs."""
        found: Application = getattr(self.vector, "application", PLAIN)
        return found

    @property
    def site(self) -> Site:
        """Which activations the term acts on."""
        return self.application.site

    @property
    def rule(self) -> Rule:
        """What the term adds."""
        return self.application.rule

    @property
    def reach(self) -> Scope | int:
        """The scope; for ``decision`` the number of generated tokens that it holds."""
        tokens: int = getattr(self.vector, "decision_tokens", 0)
        return tokens if self.scope == "decision" else self.scope

    @property
    def steered_layers(self) -> tuple[int, ...]:
        """The blocks this term acts on, ascending."""
        return tuple(sorted(self.vector.directions)) if self.layers is None else self.layers

    @property
    def is_active(self) -> bool:
        """Whether the term changes anything: its strength is not zero."""
        return self.strength != 0.0

    def delta(self, layer: int) -> Tensor:
        """Return what is added to the output of one block, before eq. 8.

        Args:
            layer: Block index, one of ``steered_layers``.

        Returns:
            float32 ``[d]``: ``strength * direction``, or for strengths in shares of the norm
            ``strength * scale * direction / |direction|`` (zeros where the direction is zero),
            of which the unit ``total`` gives each of L layers one L-th.
        """
        return self.factor(layer) * self.vector.directions[layer].float()

    def delta_at(self, layer: int, h: Tensor) -> Tensor:
        """Return what is added to states that the rule looks at first (all but `add`).

        Args:
            layer: Block index, one of ``steered_layers``.
            h: The states ``[..., d]`` as they come.

        Returns:
            float32 ``[..., d]``.
        """
        if self.rule == "icv":
            return icv_delta(h, self.vector.directions[layer].detach(), self.per_layer)
        if self.rule == "weigh":
            weighed: Mapping[int, WeighedVectors] = getattr(self.vector, "weighed", {})
            return weighed_delta(h, weighed[layer], self.factor(layer))
        if self.rule == "turn":
            return self._turned(h, self.vector.directions[layer], len(self.steered_layers))
        return self.delta(layer).to(h.device).expand(h.shape)

    @property
    def tower(self) -> Mapping[int, Tensor]:
        """The vector's directions in a vision tower, whatever blocks of the decoder are named."""
        found: Mapping[int, Tensor] = getattr(self.vector, "tower", {})
        return found

    def tower_delta(self, layer: int, h: Tensor) -> Tensor:
        """Return what is added in one block of a vision tower.

        Args:
            layer: One of ``tower``.
            h: What the block's MLP gives, ``[..., T, d]`` for T patches.

        Returns:
            float32 ``[..., T, d]``.
        """
        direction = self.tower[layer]
        if direction.dim() == 2 and len(direction) != h.shape[-2]:
            # An image of another size than those it was built from has its patches elsewhere.
            direction = normalize(direction.mean(0), dim=0) * vector_norm(direction, dim=-1).mean()
        return self._turned(h, direction, len(self.tower))

    def _turned(self, h: Tensor, direction: Tensor, blocks: int) -> Tensor:
        """Return the share of each state's length that is added, of so many steered blocks."""
        v = direction.detach().to(h.device, torch.float32)
        if self.unit == "absolute":
            share = self.strength * v
        else:
            share = normalize(v, dim=-1) * (
                self.strength / blocks if self.unit == "total" else self.strength
            )
        return turn_delta(h, share)

    @property
    def per_layer(self) -> float:
        """The strength of one steered layer by itself."""
        return self.strength / len(self.steered_layers) if self.unit == "total" else self.strength

    def factor(self, layer: int) -> float:
        """Return what the stored direction of a block is multiplied with."""
        if self.unit == "absolute":
            return self.strength
        norm = float(vector_norm(self.vector.directions[layer].detach().float()))
        return self.per_layer * float(self.vector.scales[layer]) / norm if norm else 0.0


@dataclass(frozen=True)
class Steering:
    """Any number of terms that act together; ``a + b`` joins two steerings.

    Where several terms meet on one token their deltas are summed first, and the sum is brought
    back to the token's length once if any of these terms asks for it.
    """

    terms: tuple[SteeringTerm, ...] = ()

    @classmethod
    def none(cls) -> Steering:
        """Return no steering at all. Unlike None as an argument, it also overrides a policy."""
        return cls(())

    @classmethod
    def of(
        cls,
        vector: Directions,
        strength: float,
        layers: tuple[int, ...] | None = None,
        scope: Scope = "generated",
        unit: Unit = "total",
        renormalise: bool = True,
    ) -> Steering:
        """Steer with one vector; the arguments are those of :class:`SteeringTerm`."""
        return cls((SteeringTerm(vector, strength, layers, scope, unit, renormalise),))

    def __add__(self, other: Steering) -> Steering:
        """Return both steerings together."""
        return Steering(self.terms + other.terms)

    @property
    def active_terms(self) -> tuple[SteeringTerm, ...]:
        """The terms whose strength is not zero."""
        return tuple(term for term in self.terms if term.is_active)

    @property
    def is_active(self) -> bool:
        """Whether any term has a strength other than zero."""
        return bool(self.active_terms)

    @property
    def tower_terms(self) -> tuple[SteeringTerm, ...]:
        """The active terms that steer a vision tower."""
        return tuple(term for term in self.active_terms if term.tower)

    @property
    def tower_key(self) -> tuple[object, ...]:
        """What is alike for steerings that do the same to a vision tower."""
        # Not by the term's own hash: a vector of somebody else may have none.
        return tuple((id(t.vector), t.strength, t.unit, t.renormalise) for t in self.tower_terms)

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks on which an active term acts, ascending."""
        return tuple(sorted({layer for _, layer in self.places}))

    @property
    def places(self) -> tuple[tuple[Site, int], ...]:
        """Sites and blocks on which an active term acts, in order."""
        return tuple(
            sorted({(t.site, layer) for t in self.active_terms for layer in t.steered_layers})
        )

    def terms_at(self, layer: int, site: Site = "block") -> list[SteeringTerm]:
        """Return the active terms that act on one site of one block."""
        return [t for t in self.active_terms if t.site == site and layer in t.steered_layers]

    def deltas(self, layer: int, site: Site = "block") -> list[tuple[SteeringTerm, Tensor]]:
        """Return the active terms that add the same to every state, and what (``[d]``)."""
        return [(t, t.delta(layer)) for t in self.terms_at(layer, site) if t.rule == "add"]


_NO_LENGTH = 1e-20
"""Shorter states are as good as zero; a float32 state divided by it stays finite up to 1e18."""


def steer_hidden(
    h: Tensor,
    delta: Tensor,
    renormalise: bool | Tensor = True,
    mask: Tensor | None = None,
) -> Tensor:
    """Apply eq. 7 and eq. 8 of the GrAInS paper to hidden states.

    Args:
        h: Hidden states ``[B, T, d]``, any floating dtype.
        delta: What to add: ``[d]``, ``[B, d]`` (per row) or ``[B, T, d]`` (per token).
        renormalise: Apply eq. 8; one flag, or booleans ``[B, T]`` per token.
        mask: Booleans ``[B, T]``, the tokens to steer; None steers all.

    Returns:
        ``[B, T, d]`` in the dtype of ``h``. Computed in float32; tokens outside the mask come back
        bit for bit as they were.
    """
    if delta.dim() == 2:
        delta = delta[:, None, :]
    # A pass does this in every block, on states so small that each operation costs the same:
    # what counts is how many there are. Adding float32 to any floating dtype gives float32.
    if delta.dtype is not torch.float32 or delta.device != h.device:
        delta = delta.to(h.device, torch.float32)
    after = h + delta
    if renormalise is not False:
        length = vector_norm(h, dim=-1, keepdim=True, dtype=torch.float32)
        # A state that cancelled has no direction to stretch, and must not become infinity times 0.
        new_length = vector_norm(after, dim=-1, keepdim=True).clamp_min(_NO_LENGTH)
        factor = length / new_length
        if renormalise is not True:
            factor = torch.where(renormalise[..., None], factor, torch.ones_like(factor))
        # Memory that was just written is at hand; gradients need it as it was.
        after = after * factor if after.requires_grad else after.mul_(factor)
    steered = after if h.dtype is torch.float32 else after.to(h.dtype)
    return steered if mask is None else torch.where(mask[..., None], steered, h)


def steer_states(h: Tensor, short: Tensor) -> Tensor:
    """Apply eq. 7 and eq. 8 of the GrAInS paper to one state of every row, on the processor.

    It is `steer_hidden` of the usual case in three operations instead of six: on states so small
    an operation costs more than what it computes.

    Args:
        h: States ``[B, 1, d]``, float32.
        short: What to add, made by `just_short`: ``[1, 1, d]`` or ``[B, 1, d]``, zero for no row.

    Returns:
        ``[B, 1, d]``. A state that the whole would cancel stays as it is.
    """
    steered: Tensor = torch._weight_norm_interface(h + short, vector_norm(h, 2, -1, True), 0)[0]
    return steered


def just_short(delta: Tensor) -> Tensor:
    """Return what is to be added, shorter by a millionth.

    A sum of zero has no direction that could be brought to a length: so a state that is the
    opposite of delta to the last bit is not cancelled.
    """
    return delta.float() * (1 - 2**-20)


def icv_delta(h: Tensor, direction: Tensor, strength: float) -> Tensor:
    """Return what is added to states before they are brought back to their length.

    `|x| lam (1 + max(0, cos(x, -v))) v / |v|`, so that with the length kept the state becomes
    `|x| normalise(x / |x| + lam s v / |v|)`. A negative strength turns v round.

    Args:
        h: States `[..., d]`.
        direction: V, `[d]`.
        strength: Lam.

    Returns:
        float32 `[..., d]`.
    """
    x = h.float()
    towards = normalize(direction.to(x.device).float(), dim=0) * (1.0 if strength > 0 else -1.0)
    length = vector_norm(x, dim=-1, keepdim=True)
    away = (normalize(x, dim=-1) @ -towards).clamp_min(0.0)
    added: Tensor = length * (abs(strength) * (1.0 + away))[..., None] * towards
    return added


def turn_delta(h: Tensor, share: Tensor) -> Tensor:
    """Return `|x| share` of every state x, `[..., d]`, float32.

    With the length kept the state becomes `|x| normalise(x / |x| + share)`.
    """
    added: Tensor = vector_norm(h, dim=-1, keepdim=True, dtype=torch.float32) * share
    return added


def weighed_delta(h: Tensor, weighed: WeighedVectors, factor: float) -> Tensor:
    """Return `factor * sum_t sigmoid(w_t x + b_t) v_t` for every state.

    Args:
        h: States `[..., d]`.
        weighed: Of this layer.
        factor: The strength.

    Returns:
        float32 `[..., d]`.
    """
    x = h.float()
    here = weighed.on(x.device)
    shares = torch.sigmoid(x @ here.weights.T + here.biases)
    added: Tensor = shares @ here.vectors
    return factor * added
