"""From another tool's file to a steering vector, and back, with every loss said.

The files themselves are `vector.interchange`. What they need to know of a model is told here: how
its modules are called, and how long its states are.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from steerable_llm.errors import (
    InvalidInputError,
    ModelMismatchError,
    NotAVectorError,
    UnknownArchitectureError,
    unknown,
)
from steerable_llm.files import write_whole
from steerable_llm.runtime.blocks import module_name, module_names
from steerable_llm.runtime.forward import site_states
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.file import library_version
from steerable_llm.vector.interchange import FORMATS
from steerable_llm.vector.interchange.format import AdditiveVector, Format, Places
from steerable_llm.vector.provenance import Imported, Provenance
from steerable_llm.vector.steering import SITES, Application, Scope, Site, SteeringTerm, Unit
from steerable_llm.vector.vector import SteeringVector

# On these the lengths of the model's states are measured, since no format brings them along.
_PROMPTS = (
    "What is the capital of France?",
    "Summarise what a steering vector is in one sentence.",
    "Hello! Can you help me with a question about my order?",
    "Answer from the text only. Text: The shop opens at nine. Question: When does it open?",
)


def import_vector(
    path: str | os.PathLike[str],
    llm: HookedModel,
    format: str | None = None,
    *,
    name: str | None = None,
    force: bool = False,
) -> SteeringVector:
    """Read another tool's file as a steering vector for a model.

    The vector is added to every position as it is, without keeping lengths (eq. 7 alone), as these
    tools do. It has no calibration unless the file has a coefficient: calibrate it before you rely
    on it. No format says which weights a file was made for. The model given here is
    taken at your word; `provenance.imported.unknown` says so, and from then on the vector
    fits this model alone.

    Args:
        path: The file.
        llm: The model to use it with; the lengths of its states are measured on a few prompts.
        format: One of `FORMATS`; None tells it from the file.
        name: What to call the vector; else what the file says, or its name.
        force: Accept a file that names another model family.

    Raises:
        InvalidInputError: An unknown format, or content that a vector cannot express.
        NotAVectorError: No such file, or damaged, or another kind of file.
        ModelMismatchError: The file names another model family, or does not fit in width or depth.
        MissingExtraError: GGUF without the library gguf.
    """
    source = Path(path)
    if not source.is_file():
        raise NotAVectorError(f"there is no file {source}: check the path")
    chosen = format or guess_format(source)
    if chosen not in FORMATS:
        raise InvalidInputError(unknown("format", chosen, FORMATS))
    found = FORMATS[chosen].read(source, places_of(llm) if FORMATS[chosen].by_name else {})
    _check_fit(source, found, llm, force)
    application = Application(site=found.site, unit="absolute", scope="all", renormalise=False)
    lengths = _lengths(llm, found.site)
    # A name from a stranger's file, unless it would play tricks with a terminal.
    told = found.name if found.name and found.name.isprintable() else None
    return SteeringVector(
        name=name or told or source.stem,
        directions=found.directions,
        scales={layer: lengths[layer] for layer in found.directions},
        fingerprint=llm.fingerprint,
        provenance=_provenance(source, chosen, found, llm),
        calibration=None
        if found.coefficient is None
        else Calibration(
            found.coefficient,
            scope="all",
            unit="absolute",
            renormalise=False,
            remark="the coefficient in the imported file; not chosen on dev data of this model",
        ),
        application=application,
    )


def guess_format(path: str | os.PathLike[str]) -> str:
    """Tell a file's format from its suffix and content.

    repeng's and llama.cpp's files are alike, and count as repeng's.

    Raises:
        InvalidInputError: It could be anything.
    """
    source = Path(path)
    with source.open("rb") as file:
        start = file.read(64).lstrip()
    for name, one in FORMATS.items():
        if one.recognises(source, start):
            return name
    raise InvalidInputError(
        f"cannot tell the format of {source}: name it with --format, one of {', '.join(FORMATS)}"
    )


def places_of(llm: HookedModel) -> Places:
    """Return the names of a model's modules, as formats read them that go by names."""
    places: dict[str, tuple[Site, int]] = {}
    for site in SITES[:2]:  # heads have no output of their own
        try:
            names = module_names(llm.model, llm.blocks, site)
        except UnknownArchitectureError:  # a family without a module for its MLP
            continue
        places |= {name: (site, layer) for name, layer in names.items()}
    return places


def _lengths(llm: HookedModel, site: Site) -> list[float]:
    """Return the mean length of what a site gives in each block, at the end of a few prompts."""
    ends = [
        torch.stack([states[0, -1].float().cpu() for states in site_states(llm, [ids], site)])
        for ids in map(llm.encode, _PROMPTS)
    ]
    return [float(length) for length in torch.stack(ends).norm(dim=-1).mean(0)]


def _check_fit(source: Path, found: AdditiveVector, llm: HookedModel, force: bool) -> None:
    ours, theirs = llm.fingerprint, found.model_type
    wide = {layer: v.numel() for layer, v in found.directions.items()}
    if any(width != ours.hidden_size for width in wide.values()):
        raise ModelMismatchError(
            f"{source} has directions of width {sorted(set(wide.values()))}, but the model "
            f"{ours.short} has width {ours.hidden_size}: give the model that it was made for"
        )
    if max(wide) >= ours.num_layers:
        raise ModelMismatchError(
            f"{source} steers block {max(wide)}, but the model {ours.short} has blocks 0 to "
            f"{ours.num_layers - 1}: give the model that it was made for"
        )
    from transformers import CONFIG_MAPPING

    family = str(llm.model.config.model_type)
    # Anything but a family that transformers knows is free text.
    if not force and theirs in CONFIG_MAPPING and theirs != family:
        raise ModelMismatchError(
            f"{source} was made for a model of the family {theirs!r}, but {ours.short} is "
            f"{family!r}: give the model that it was made for, or pass force=True (--force)"
        )


def _provenance(source: Path, chosen: str, found: AdditiveVector, llm: HookedModel) -> Provenance:
    """What is known of the vector, and what is not."""
    said = f"only the model family {found.model_type!r}" if found.model_type else "no model"
    missing = [
        f"which weights it was made for: the file names {said}, and {llm.fingerprint.short} was "
        "given at import",
        "on which data and positions it was found, and what it does: evaluate it",
        "how long the states were where it was found: measured on prompts of this library",
    ]
    if found.method is None:
        missing.insert(1, "by which method it was made")
    if found.coefficient is None:
        missing.append("how strongly to steer with it: calibrate it, or give a strength")
    return Provenance(
        method="imported",
        library_version=library_version(),
        imported=Imported(
            format=chosen,
            file=source.name,
            sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
            model_type=found.model_type,
            method=found.method,
            facts={key: _plain(value) for key, value in found.facts.items()},
            left_out=found.notes,
            unknown=tuple(missing),
        ),
    )


def _plain(value: Any) -> Any:
    """A value as a vector file can hold it; numbers that JSON does not know become text."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return str(value)


_WHERE: dict[Scope, str] = {
    "prompt": "the prompt",
    "generated": "the positions from the last one of the prompt on",
    "decision": "the positions from the last one of the prompt to where its pairs part",
    "last_prompt": "the last position of the prompt",
}


@dataclass(frozen=True)
class Export:
    """What became of an export.

    Attributes:
        path: The file.
        format: Its format.
        blocks: The blocks that it steers.
        changes: How the file steers otherwise than the vector does, one sentence each.
        notes: What else the file does not hold, and how to use it.
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
        vector: What to export.
        path: The file to write; an existing one is replaced.
        format: One of `FORMATS`.
        strength: In place of the calibrated one.
        strict: Refuse, and write nothing, if the file would steer otherwise than the vector.

    Raises:
        InvalidInputError: An unknown format, a vector that no addition can express, a strength too
            large for any number, or with `strict` a vector that this format changes.
        UnknownArchitectureError: Lm-eval needs names of modules, and they cannot be told.
        MissingExtraError: GGUF without the library gguf.
    """
    if format not in FORMATS:
        raise InvalidInputError(unknown("format", format, FORMATS))
    target, how = FORMATS[format], vector.application
    if how.rule != "add":
        raise InvalidInputError(
            f"vector {vector.name!r} adds what depends on each state (rule {how.rule!r}), and the "
            f"format {format!r} adds the same to all: there is nothing to export it as"
        )
    if how.site not in target.sites:
        raise InvalidInputError(
            f"vector {vector.name!r} acts at the site {how.site!r}, and the format {format!r} "
            f"steers the outputs of {' or '.join(target.sites)} only: there is no place for it"
        )
    calibrated = vector.calibration is not None or strength is not None
    [term] = vector.steer(strength if calibrated else 1.0).terms
    if not term.is_active:
        raise InvalidInputError(
            f"vector {vector.name!r} has strength 0, which steers nothing: give another --strength"
        )
    depth = vector.fingerprint.num_layers
    blocks = tuple(layer for layer in term.steered_layers if layer in target.blocks(depth))
    if not blocks:
        raise InvalidInputError(
            f"vector {vector.name!r} steers the blocks {list(term.steered_layers)} only, and the "
            f"format {format!r} has none of them ({target.why}): choose another format"
        )
    one = replace(term, strength=1.0)  # the strength itself is the coefficient
    directions = {layer: one.delta(layer) for layer in blocks}
    if not all(bool((term.strength * v).isfinite().all()) for v in directions.values()):
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
            model_type=_model_type(architecture) or architecture,
            site=term.site,
            modules={layer: module_name(architecture, term.site, layer) for layer in blocks}
            if target.by_name
            else {},
            method=vector.provenance.method,
        )
    )
    written = write_whole(path, content)
    notes = _notes(vector, term, target, blocks, written, calibrated)
    return Export(written, format, blocks, changes, notes)


def _model_type(architecture: str) -> str | None:
    """The model family of a class, such as "llama"; None if transformers does not have it."""
    import transformers

    found = getattr(getattr(transformers, architecture, None), "config_class", None)
    return getattr(found, "model_type", None)


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


_COUNTED: dict[Unit, str] = {
    "total": "times the residual norm, spread over the blocks",
    "relative": "times the layer's residual norm",
    "absolute": "times the direction",
}


def _notes(
    vector: SteeringVector,
    term: SteeringTerm,
    target: Format,
    blocks: tuple[int, ...],
    path: Path,
    calibrated: bool,
) -> tuple[str, ...]:
    unit = _COUNTED[term.unit]
    if not calibrated:
        strength = (
            "the vector is not calibrated: the file adds at coefficient 1 what strength 1 adds "
            f"({unit})"
        )
    elif target.has_coefficient:
        strength = f"the coefficient in the file is the strength, {term.strength:+g} {unit}"
    else:
        strength = f"the strength {term.strength:+g} is in the directions: use coefficient 1"
    behind = {
        "calibration": vector.calibration is not None,
        "evaluation": bool(vector.evaluation),
        "provenance": vector.provenance != Provenance(),
    }
    left = " and the ".join(name for name, there in behind.items() if there)
    use = target.use.format(
        file=path,
        argument=shlex.quote(str(path)),
        blocks=[block + target.shift for block in blocks],
    )
    return (
        strength,
        f"the file does not say which weights it fits: {vector.fingerprint.short}",
        *((f"left behind: the {left}",) if left else ()),
        f"use it as {use}",
    )
