"""From another tool's file to a steering vector that knows where it comes from."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerable_llm.errors import InvalidInputError, ModelMismatchError, NotAVectorError
from steerable_llm.interchange.additive import AdditiveVector
from steerable_llm.interchange.formats import FORMATS
from steerable_llm.interchange.gguf_file import MAGIC, read_gguf
from steerable_llm.methods.states import read_states
from steerable_llm.names import unknown
from steerable_llm.steering import Application
from steerable_llm.vector import Calibration, SteeringVector

if TYPE_CHECKING:
    from steerable_llm.model.hooked_model import SteerableHFLLM

# On these the lengths of the model's states are measured, since no format brings them along.
_PROMPTS = (
    "What is the capital of France?",
    "Summarise what a steering vector is in one sentence.",
    "Hello! Can you help me with a question about my order?",
    "Answer from the text only. Text: The shop opens at nine. Question: When does it open?",
)


def import_vector(
    path: str | os.PathLike[str],
    llm: SteerableHFLLM,
    format: str | None = None,
    *,
    name: str | None = None,
    force: bool = False,
) -> SteeringVector:
    """Read another tool's file as a steering vector for a model.

    The vector is added to every position as it is, without keeping lengths (eq. 7 alone), as these
    tools do. It has no calibration unless the file has a coefficient: calibrate it before you rely
    on it. No format says which weights a file was made for. The model given here is
    taken at your word; `provenance["imported"]["unknown"]` says so, and from then on the vector
    fits this model alone.

    Args:
        path: the file.
        llm: the model to use it with; the lengths of its states are measured on a few prompts.
        format: one of `FORMATS`; None tells it from the file.
        name: what to call the vector; else what the file says, or its name.
        force: accept a file that names another model family.

    Raises:
        InvalidInputError: an unknown format, or content that a vector cannot express.
        NotAVectorError: no such file, or damaged, or another kind of file.
        ModelMismatchError: the file names another model family, or does not fit in width or depth.
        MissingExtraError: GGUF without the library gguf.
    """
    source = Path(path)
    if not source.is_file():
        raise NotAVectorError(f"there is no file {source}: check the path")
    chosen = format or guess_format(source)
    if chosen not in FORMATS:
        raise InvalidInputError(unknown("format", chosen, FORMATS))
    found = FORMATS[chosen].read(source, llm)
    _check_fit(source, found, llm, force)
    application = Application(site=found.site, unit="absolute", scope="all", renormalise=False)
    lengths = read_states(llm, [llm.encode(prompt) for prompt in _PROMPTS], found.site)
    means = lengths.norm(dim=-1).mean(0)
    return SteeringVector(
        name=name or _printable(found.name) or source.stem,
        directions=found.directions,
        scales={layer: float(means[layer]) for layer in found.directions},
        fingerprint=llm.fingerprint,
        provenance=_provenance(source, chosen, found, llm),
        calibration=None
        if found.coefficient is None
        else Calibration(
            found.coefficient,
            scope="all",
            unit="absolute",
            renormalise=False,
            note="the coefficient in the imported file; not chosen on dev data of this model",
        ),
        application=application,
    )


def guess_format(path: str | os.PathLike[str]) -> str:
    """Tell a file's format from its suffix and content.

    repeng's and llama.cpp's files are read alike, and count as repeng's.

    Raises:
        InvalidInputError: it could be anything.
    """
    source = Path(path)
    with source.open("rb") as file:
        start = file.read(64).lstrip()
    if start.startswith(MAGIC):
        facts = read_gguf(source)
        return "easysteer" if facts.method or "easysteer" in facts.facts else "repeng"
    if source.suffix == ".svec":
        return "svec"
    if source.suffix in (".pt", ".pth"):
        return "lm-eval"
    if start.startswith(b"{") and _is_svec(source):
        return "svec"
    raise InvalidInputError(
        f"cannot tell the format of {source}: name it with --format, one of {', '.join(FORMATS)}"
    )


def _is_svec(source: Path) -> bool:
    try:
        content = json.loads(source.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"model_type", "directions"} <= content.keys()


def _check_fit(source: Path, found: AdditiveVector, llm: SteerableHFLLM, force: bool) -> None:
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
    if not force and theirs and _is_family(theirs) and theirs != _family(llm):
        raise ModelMismatchError(
            f"{source} was made for a model of the family {theirs!r}, but {ours.short} is "
            f"{_family(llm)!r}: give the model that it was made for, or pass force=True (--force)"
        )


def _family(llm: SteerableHFLLM) -> str:
    return str(llm.model.config.model_type)


def _is_family(hint: str) -> bool:
    """Whether a hint is a family that transformers knows, and no free text."""
    from transformers import CONFIG_MAPPING

    return hint in CONFIG_MAPPING


def _provenance(
    source: Path, chosen: str, found: AdditiveVector, llm: SteerableHFLLM
) -> dict[str, Any]:
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
    return {
        "method": "imported",
        "imported": {
            "format": chosen,
            "file": source.name,
            "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
            "model_type": found.model_type,
            "method": found.method,
            "facts": {key: _plain(value) for key, value in found.facts.items()},
            "left_out": list(found.notes),
            "unknown": missing,
        },
    }


def _printable(name: str | None) -> str | None:
    """A name from a stranger's file, unless it would play tricks with a terminal."""
    return name if name and name.isprintable() else None


def _plain(value: Any) -> Any:
    """A value as a vector file can hold it; numbers that JSON does not know become text."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return str(value)
