"""Steering vectors: one direction per layer, the model they fit, and what is known of them."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from steerable_llm.errors import InvalidInputError, ModelMismatchError, VectorFileError
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.file import content_hash, read_vector_file, write_vector_file
from steerable_llm.vector.fingerprint import ModelFingerprint
from steerable_llm.vector.hub import local_file, refuse_to_write
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.steering import PLAIN, Application, Scope, Steering, Unit, WeighedVectors

_APART = ("choice", "remark")


class HasFingerprint(Protocol):
    """Anything that knows which model it is, such as `HookedModel`."""

    @property
    def fingerprint(self) -> ModelFingerprint:
        """The model's fingerprint."""
        ...


_Versions: TypeAlias = "tuple[tuple[int, int], ...]"
_FINGERPRINTS: "WeakKeyDictionary[SteeringVector, tuple[_Versions, str]]" = WeakKeyDictionary()
"""What was worked out, with the tensors and how often they were written to."""


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """One direction per layer, bound to the model it was built from.

    Attributes:
        name: What policies call it.
        directions: Block index to float32 [d], exactly as eq. 6 gives it.
        scales: Block index to the mean norm of that block's output at the last prompt position.
        fingerprint: The model it was built from.
        provenance: How it was made, from which pairs.
        calibration: Strength and sign chosen on dev; None before that.
        evaluation: Summary of the last report; None before that.
        application: Which activations it acts on and how; directions have the width of that site.
        weighed: Block index to weighed vectors, for the rule "weigh"; the direction is then their
            sum.
        tower: Block index of a vision tower to what steers the output of its MLP, float32 [d], or
            [T, d] for T patches, by the rule "turn".
        usual_layers: Blocks that are steered as long as neither a call nor a calibration names
            any, such as the one of a method that steers one; None means every block.
        decision_tokens: How many generated tokens scope "decision" holds behind the last prompt
            position: as many as good and bad answers have in common, in nine of ten pairs.
    """

    name: str
    directions: Mapping[int, Tensor] = field(repr=False)
    scales: Mapping[int, float] = field(repr=False)
    fingerprint: ModelFingerprint = field(repr=False)
    provenance: Provenance = field(default=Provenance(), repr=False)
    calibration: Calibration | None = None
    evaluation: Mapping[str, Any] | None = field(default=None, repr=False)
    application: Application = Application()  # noqa: RUF009 - frozen
    weighed: Mapping[int, WeighedVectors] = field(default_factory=dict, repr=False)
    tower: Mapping[int, Tensor] = field(default_factory=dict, repr=False)
    usual_layers: tuple[int, ...] | None = None
    decision_tokens: int = 0

    def __post_init__(self) -> None:
        """Check shapes and bring the directions to float32 on the CPU.

        Raises:
            InvalidInputError: No layers, wrong shapes, values that are not finite.
        """
        if not self.directions:
            raise InvalidInputError(f"vector {self.name!r} has no layers: give at least one")
        width, depth = self.fingerprint.hidden_size, self.fingerprint.num_layers
        if self.application.site == "heads":  # which is not always as wide as the hidden state
            width = max(direction.numel() for direction in self.directions.values())
        clean: dict[int, Tensor] = {}
        for layer in sorted(self.directions):
            direction = self.directions[layer].detach().to("cpu", torch.float32).contiguous()
            if not 0 <= layer < depth:
                raise InvalidInputError(
                    f"vector {self.name!r} has layer {layer}, but the model has blocks 0 to "
                    f"{depth - 1}"
                )
            if direction.shape != (width,):
                raise InvalidInputError(
                    f"layer {layer} of vector {self.name!r} has shape {tuple(direction.shape)}, "
                    f"expected ({width},), the model's hidden size"
                    + (" times its heads" if self.application.site == "heads" else "")
                )
            if not bool(torch.isfinite(direction).all()):
                raise InvalidInputError(
                    f"layer {layer} of vector {self.name!r} has values that are not finite"
                )
            if self.application.rule == "weigh" and (
                layer not in self.weighed or self.weighed[layer].weights.shape[1:] != (width,)
            ):
                raise InvalidInputError(
                    f"vector {self.name!r} has no vectors of width {width} to weigh for layer "
                    f"{layer}"
                )
            if layer not in self.scales or not 0 < self.scales[layer] < float("inf"):
                raise InvalidInputError(
                    f"vector {self.name!r} has no positive residual norm (scale) for layer {layer}"
                )
            clean[layer] = direction
        if self.usual_layers is not None and not set(self.usual_layers) <= set(clean):
            raise InvalidInputError(
                f"vector {self.name!r} is to steer layers {self.usual_layers}, but has only "
                f"{tuple(clean)}"
            )
        tower = {
            layer: self.tower[layer].detach().to("cpu", torch.float32).contiguous()
            for layer in sorted(self.tower)
        }
        if tower and self.application.rule != "turn":
            raise InvalidInputError(
                f"vector {self.name!r} steers a vision tower by the rule "
                f'{self.application.rule!r}: a tower is steered by the rule "turn"'
            )
        for layer, direction in tower.items():
            known = layer >= 0 and direction.dim() in (1, 2)
            if not known or not bool(torch.isfinite(direction).all()):
                raise InvalidInputError(
                    f"layer {layer} of vector {self.name!r} in the vision tower has shape "
                    f"{tuple(direction.shape)}: give [d] or [patches, d], finite numbers"
                )
        object.__setattr__(self, "tower", tower)
        object.__setattr__(self, "directions", clean)
        object.__setattr__(self, "scales", {i: float(self.scales[i]) for i in clean})

    @property
    def fingerprint_id(self) -> str:
        """Sixteen hexadecimal digits over the name and the tensors: what steered an answer."""
        # Every steered answer asks for it. Whoever writes into a tensor gets another.
        weighed = [(w.weights, w.biases, w.vectors) for w in self.weighed.values()]
        tensors = [*self.directions.values(), *self.tower.values(), *chain(*weighed)]
        if any(tensor.is_inference() for tensor in tensors):  # which count no writing
            return self._fingerprint()
        versions = tuple((id(tensor), tensor._version) for tensor in tensors)
        known = _FINGERPRINTS.get(self)
        if known is None or known[0] != versions:
            known = _FINGERPRINTS[self] = versions, self._fingerprint()
        return known[1]

    def _fingerprint(self) -> str:
        if _is_plain(self.application):
            return content_hash(self.name, self.directions)[:16]
        tensors = {f"layer.{i}": v for i, v in self.directions.items()}
        tensors |= {f"gate.{i}": weighed.table for i, weighed in self.weighed.items()}
        tensors |= {f"tower.{i}": v for i, v in self.tower.items()}
        return content_hash([self.name, _stored(self.application)], tensors)[:16]

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks it has a direction for, in order."""
        return tuple(self.directions)

    def steer(
        self,
        strength: float | None = None,
        layers: tuple[int, ...] | None = None,
        scope: Scope | None = None,
        unit: Unit | None = None,
        renormalise: bool | None = None,
    ) -> Steering:
        """Return what one request needs to be steered by this vector.

        Every value left out comes from the calibration; without one the strength must be given,
        and the rest is as the method means it: for GrAInS every layer, scope "generated", unit
        "total", renormalised; for methods of one layer `usual_layers`.

        Raises:
            InvalidInputError: No strength given and the vector is not calibrated.
        """
        defaults = self.calibration
        if strength is None and defaults is None:
            raise InvalidInputError(
                f"vector {self.name!r} is not calibrated: give a strength, such as "
                "vector.steer(0.3), or calibrate it on dev data first"
            )
        how = self.application
        defaults = defaults or Calibration(
            strength=0.0,
            layers=self.usual_layers,
            scope=how.scope,
            unit=how.unit,
            renormalise=how.renormalise,
        )
        return Steering.of(
            self,
            strength=defaults.strength if strength is None else float(strength),
            layers=defaults.layers if layers is None else tuple(layers),
            scope=scope or defaults.scope,
            unit=unit or defaults.unit,
            renormalise=defaults.renormalise if renormalise is None else renormalise,
        )

    def negated(self) -> "SteeringVector":
        """Return the sign-flipped control: the same vector, pointing the other way."""
        return replace(
            self,
            name=f"{self.name}-negated",
            directions={i: -v for i, v in self.directions.items()},
            weighed={i: replace(w, vectors=-w.vectors) for i, w in self.weighed.items()},
            tower={i: -v for i, v in self.tower.items()},
        )

    def randomised(self, seed: int = 0) -> "SteeringVector":
        """Return the random control: Gaussian directions with the same norm in each layer.

        Heads that the vector leaves alone stay so; what is weighed is random, and weighed alike.
        """
        source = torch.Generator().manual_seed(seed)
        directions, weighed, tower = {}, {}, {}
        for layer, direction in self.directions.items():
            noise = torch.randn(direction.shape, generator=source)
            if self.application.site == "heads":
                noise = noise * (direction != 0)
            # A direction of zeros has no length to keep, and stays.
            directions[layer] = noise * (direction.norm() / noise.norm().clamp_min(1e-12))
        for layer, own in self.weighed.items():
            noise = torch.randn(own.vectors.shape, generator=source)
            lengths = own.vectors.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
            weighed[layer] = replace(own, vectors=noise * lengths)
            directions[layer] = weighed[layer].vectors.sum(0)
        for layer, direction in self.tower.items():
            noise = torch.randn(direction.shape, generator=source)
            lengths = direction.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
            tower[layer] = noise * lengths
        return replace(
            self,
            name=f"{self.name}-random{seed}",
            directions=directions,
            weighed=weighed,
            tower=tower,
        )

    def with_calibration(self, calibration: Calibration | None) -> "SteeringVector":
        """Return the same vector with this calibration; without layers it has the usual ones.

        Prompts that the one before looked at stay looked at; None alone forgets them.
        """
        if calibration is not None:
            before = () if self.calibration is None else self.calibration.used
            new = tuple(used for used in before if used not in calibration.used)
            calibration = replace(
                calibration,
                layers=self.usual_layers if calibration.layers is None else calibration.layers,
                earlier=(*calibration.earlier, *new),
            )
        return replace(self, calibration=calibration)

    def with_evaluation(self, evaluation: Mapping[str, Any] | None) -> "SteeringVector":
        """Return the same vector with this summary of an evaluation (plain JSON values)."""
        return replace(self, evaluation=evaluation)

    def check(self, model: ModelFingerprint | HasFingerprint, force: bool = False) -> None:
        """Make sure that the vector fits a model.

        Args:
            model: The model, or its fingerprint.
            force: Accept another model as long as width and depth are the same.

        Raises:
            ModelMismatchError: Another model; the message names both.
        """
        other = model if isinstance(model, ModelFingerprint) else model.fingerprint
        differences = self.fingerprint.differences(other)
        if not differences:
            return
        same_shape = not {"hidden_size", "num_layers"} & set(differences)
        if force and same_shape:
            return
        mend = (
            "build it again for this model, or pass force=True (the shapes are the same)"
            if same_shape
            else "build it again for this model (force does not help: the shapes differ)"
        )
        raise ModelMismatchError(
            f"vector {self.name!r} was built for {self.fingerprint.short}, but the model is "
            f"{other.short} (different: {', '.join(differences)}): {mend}"
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the vector file atomically and return its path.

        Raises:
            VectorFileError: The provenance or evaluation holds something that is not JSON.
            InvalidInputError: The path names a vector on the Hub (see `hub.push_to_hub`).
        """
        refuse_to_write(path)
        plain = _is_plain(self.application)
        # Left out where there is nothing to say, so that such files stay as they always were.
        beyond: dict[str, Any] = {} if plain else {"application": _stored(self.application)}
        if plain and self.application != PLAIN:
            beyond["unit"] = self.application.unit
        if self.usual_layers is not None:
            beyond["usual_layers"] = self.usual_layers
        if self.decision_tokens:
            beyond["decision_tokens"] = self.decision_tokens
        try:
            provenance = self.provenance.record()
        except ValueError as error:
            raise VectorFileError(
                f"cannot save vector {self.name!r}: its provenance is not plain JSON ({error}); "
                "use texts, numbers, lists and dicts"
            ) from error
        calibration = None if self.calibration is None else self.calibration.record()
        if calibration is not None:
            # Apart, for releases that know neither; the note tells them what they look for.
            apart = {name: calibration.pop(name) for name in _APART if name in calibration}
            if apart:
                beyond["calibration_facts"] = apart
        return write_vector_file(
            path,
            {
                **beyond,
                "name": self.name,
                "scales": {str(i): s for i, s in self.scales.items()},
                "fingerprint": self.fingerprint.model_dump(),
                "provenance": provenance,
                "calibration": calibration,
                "evaluation": None if self.evaluation is None else dict(self.evaluation),
            },
            self.directions,
            site=None if plain else self.application.site,
            weighed={layer: weighed.table for layer, weighed in self.weighed.items()},
            tower=self.tower,
        )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: ModelFingerprint | HasFingerprint | None = None,
        force: bool = False,
        token: str | None = None,
    ) -> "SteeringVector":
        """Read a vector file.

        Args:
            path: The file, or `hub:organisation/name@revision` for one on the Hugging Face Hub.
            model: When given, the vector must fit it.
            force: Accept another model of the same shape.
            token: Of the Hub; default is the one that `hf auth login` or HF_TOKEN has set.

        Raises:
            HubError: It cannot be downloaded.
            NotAVectorError: Missing, truncated, or some other kind of file.
            FutureVersionError: Written by a later version of this library.
            TamperedVectorError: Tensors or metadata were changed after saving.
            ModelMismatchError: The vector belongs to another model.
        """
        source = local_file(path, token)
        content, directions, tables, tower = read_vector_file(source)
        try:
            usual = content.get("usual_layers")
            calibration = content["calibration"]
            if calibration is not None:
                calibration = Calibration.from_record(
                    {**calibration, **content.get("calibration_facts", {})}
                )
            vector = cls(
                name=content["name"],
                directions=directions,
                scales={int(i): s for i, s in content["scales"].items()},
                fingerprint=ModelFingerprint.from_record(content["fingerprint"]),
                provenance=Provenance.from_record(content["provenance"]),
                calibration=calibration,
                evaluation=content["evaluation"],
                application=_application(content.get("application"), content.get("unit")),
                weighed={i: WeighedVectors.from_table(table) for i, table in tables.items()},
                tower=tower,
                usual_layers=None if usual is None else tuple(usual),
                decision_tokens=int(content.get("decision_tokens", 0)),
            )
        except (KeyError, TypeError, ValueError, AttributeError, InvalidInputError) as error:
            raise VectorFileError(
                f"{source} has metadata that this version cannot read ({error}): save it again"
            ) from error
        if model is not None:
            vector.check(model, force=force)
        return vector


def _is_plain(application: Application) -> bool:
    """Whether an application is that of the first files, give or take what a strength counts."""
    return replace(application, unit=PLAIN.unit) == PLAIN and application.unit != "absolute"


# Files of 0.1 call the rule "gate", and so do all since, whose hashes would otherwise change.


def _stored(application: Application) -> dict[str, Any]:
    facts = asdict(application)
    return {**facts, "rule": "gate"} if application.rule == "weigh" else facts


def _application(stored: dict[str, Any] | None, unit: Unit | None) -> Application:
    """Read how a vector acts; files that name no unit are of releases that had but one."""
    if stored is None:
        return replace(PLAIN, unit=unit or PLAIN.unit)
    return Application(**({**stored, "rule": "weigh"} if stored.get("rule") == "gate" else stored))
