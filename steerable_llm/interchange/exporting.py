"""From a steering vector to another tool's file, with every loss said."""

import os
from dataclasses import dataclass
from pathlib import Path

from steerable_llm.errors import InvalidInputError
from steerable_llm.files import write_whole
from steerable_llm.interchange.additive import AdditiveVector
from steerable_llm.interchange.formats import FORMATS, Format
from steerable_llm.interchange.hook_points import model_type_of
from steerable_llm.names import unknown
from steerable_llm.steering import Scope, SteeringTerm
from steerable_llm.vector import SteeringVector

_WHERE: dict[Scope, str] = {
    "prompt": "the prompt",
    "generated": "the positions from the last one of the prompt on",
    "last_prompt": "the last position of the prompt",
}


@dataclass(frozen=True)
class Export:
    """What became of an export.

    Attributes:
        path: the file.
        format: its format.
        blocks: the blocks that it steers.
        changes: how the file steers otherwise than the vector does, one sentence each.
        notes: what else the file does not hold, and how to use it.
    """

    path: Path
    format: str
    blocks: tuple[int, ...]
    changes: tuple[str, ...]
    notes: tuple[str, ...]


def export_vector(
    vector: SteeringVector,
    path: str | os.PathLike[str],
    format: str,
    *,
    strength: float | None = None,
    strict: bool = False,
) -> Export:
    """Write a vector as a file of another tool.

    All these formats add directions to the outputs of blocks, and nothing else. So the file holds
    what the vector adds (eq. 7) at its strength: used there with coefficient 1, it adds the same.
    lm-eval's files have a coefficient of their own, which is then the strength. A vector without
    calibration is written at strength 1, and the other tool's coefficient takes its place.

    Args:
        vector: what to export.
        path: the file to write; an existing one is replaced.
        format: one of `FORMATS`.
        strength: in place of the calibrated one.
        strict: refuse, and write nothing, if the file would steer otherwise than the vector.

    Raises:
        InvalidInputError: an unknown format, a vector that no addition can express, a strength too
            large for any number, or with `strict` a vector that this format changes.
        UnknownArchitectureError: lm-eval needs names of modules, and they cannot be told.
        MissingExtraError: GGUF without the library gguf.
    """
    if format not in FORMATS:
        raise InvalidInputError(unknown("format", format, FORMATS))
    target = FORMATS[format]
    _check_expressible(vector, format, target)
    calibrated = vector.calibration is not None or strength is not None
    steering = vector.steer(strength if calibrated else 1.0)
    if not steering.is_active:
        raise InvalidInputError(
            f"vector {vector.name!r} has strength 0, which steers nothing: give another --strength"
        )
    [term] = steering.terms
    depth = vector.fingerprint.num_layers
    blocks = tuple(layer for layer in term.steered_layers if layer in target.blocks(depth))
    if not blocks:
        raise InvalidInputError(
            f"vector {vector.name!r} steers the blocks {list(term.steered_layers)} only, and the "
            f"format {format!r} has none of them ({target.why}): choose another format"
        )
    directions = {layer: term.vector.directions[layer] * _unit(term, layer) for layer in blocks}
    if not all(bool((term.strength * v.float()).isfinite().all()) for v in directions.values()):
        raise InvalidInputError(
            f"vector {vector.name!r} at strength {term.strength:g} has numbers that no file can "
            "hold: give a smaller --strength"
        )
    changes = _changes(term, target, blocks)
    if strict and changes:
        raise InvalidInputError(
            f"the format {format!r} changes how vector {vector.name!r} steers: "
            f"{'; '.join(changes)}: leave --strict out to export it all the same"
        )
    architecture = vector.fingerprint.architecture
    content = target.write(
        AdditiveVector(
            directions,
            coefficient=term.strength,
            name=vector.name,
            model_type=model_type_of(architecture) or architecture,
            architecture=architecture,
            site=term.site,
            method=str(vector.provenance.get("method", "")) or None,
        )
    )
    written = write_whole(path, content)
    notes = _notes(vector, term, target, blocks, written, calibrated)
    return Export(written, format, blocks, changes, notes)


def _unit(term: SteeringTerm, layer: int) -> float:
    """What strength 1 multiplies the stored direction with."""
    if term.unit == "absolute":
        return 1.0
    length = float(term.vector.directions[layer].norm())
    return float(term.vector.scales[layer]) / length if length else 0.0


def _check_expressible(vector: SteeringVector, name: str, target: Format) -> None:
    how = vector.application
    if how.rule != "add":
        raise InvalidInputError(
            f"vector {vector.name!r} adds what depends on each state (rule {how.rule!r}), and the "
            f"format {name!r} adds the same to all: there is nothing to export it as"
        )
    if how.site not in target.sites:
        raise InvalidInputError(
            f"vector {vector.name!r} acts at the site {how.site!r}, and the format {name!r} "
            f"steers the outputs of {' or '.join(target.sites)} only: there is no place for it"
        )


def _changes(term: SteeringTerm, target: Format, blocks: tuple[int, ...]) -> tuple[str, ...]:
    changes = []
    dropped = [layer for layer in term.steered_layers if layer not in blocks]
    if dropped:
        changes.append(f"blocks {dropped} are left out: {target.why}")
    if term.renormalise:
        changes.append(f"states do not keep their length (eq. 8): {target.length}")
    if term.scope != "all":
        changes.append(
            f"{target.positions}; this vector steers only {_WHERE[term.scope]}, and its strength "
            "was chosen for that"
        )
    return tuple(changes)


def _notes(
    vector: SteeringVector,
    term: SteeringTerm,
    target: Format,
    blocks: tuple[int, ...],
    path: Path,
    calibrated: bool,
) -> tuple[str, ...]:
    unit = "times the layer's residual norm" if term.unit == "relative" else "times the direction"
    if not calibrated:
        strength = (
            "the vector is not calibrated: the file adds at coefficient 1 what strength 1 adds "
            f"({unit})"
        )
    elif target.has_coefficient:
        strength = f"the coefficient in the file is the strength, {term.strength:+g} {unit}"
    else:
        strength = f"the strength {term.strength:+g} is in the directions: use coefficient 1"
    behind = [
        name
        for name, there in (
            ("calibration", vector.calibration),
            ("evaluation", vector.evaluation),
            ("provenance", vector.provenance),
        )
        if there
    ]
    kept = "" if not behind else f"the {', '.join(behind)} stay behind"
    return tuple(
        note
        for note in (
            strength,
            f"the file does not say which weights it fits: {vector.fingerprint.short}",
            kept,
            f"use it as {target.use.format(file=path, blocks=[b + target.shift for b in blocks])}",
        )
        if note
    )
