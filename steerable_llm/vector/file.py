"""The vector file: named tensors and JSON metadata in one safetensors file, with a hash.

Every metadata value is JSON text. The hash over all of it shows a changed or damaged file. No
pickle. Tensors are float32, i is the 0-based block:

| version | tensors | for vectors that |
|---|---|---|
| 1 | `layer.{i}` `[d]` | are added to block outputs |
| 2 | `block.{i}`, `mlp.{i}` or `heads.{i}` `[w]`; `gate.{i}` `[A, 2w + 1]` | act otherwise |

A vector that version 1 can express is written as version 1, so that older releases read it.
"""

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from steerable_llm.errors import (
    FutureVersionError,
    NotAVectorError,
    SteerableError,
    TamperedVectorError,
    VectorFileError,
)
from steerable_llm.files import write_whole
from steerable_llm.json_records import plainly_parsed


def read_tensors(
    path: str | os.PathLike[str], noun: str, again: str, error: type[SteerableError]
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read a safetensors file: its metadata and its tensors, on the CPU.

    Args:
        path: The file.
        noun: What it should hold, for messages.
        again: How to get a good one, for messages.
        error: What to raise.

    Raises:
        SteerableError: The file is missing, cut short, or of another kind.
    """
    source = Path(path)
    if not source.is_file():
        raise error(f"there is no {noun} file {source}: check the path")
    try:
        with safe_open(source, framework="pt", device="cpu") as file:
            metadata: dict[str, str] = dict(file.metadata() or {})
            return metadata, {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as cause:
        raise error(
            f"{source} is not a whole safetensors file ({cause}): it was cut short or is "
            f"another kind of file; {again}"
        ) from cause


def is_count(text: str) -> bool:
    """Tell whether a text is a whole number that a file may count by."""
    return text.isdecimal() and len(text) <= _MOST_DIGITS


def content_hash(header: object, tensors: Mapping[int, Tensor] | Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over a JSON header and every tensor's name, type, shape and bytes."""
    hasher = hashlib.sha256(plain_json(header).encode())
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.contiguous()
        hasher.update(f"|{name}:{tensor.dtype}:{tuple(tensor.shape)}|".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def plain_json(value: object) -> str:
    """Return JSON that is the same for the same value.

    Raises:
        TypeError: A value that JSON does not have.
        ValueError: A number that is not finite.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


FORMAT_VERSION = 3
_KIND = "steerable-llm vector"
_MOST_DIGITS = 9
_HEADER = ("format_version", "kind", "library_version")
_NAMES = {
    "1": ("layer",),
    "2": ("block", "mlp", "heads", "gate"),
    "3": ("block", "mlp", "heads", "gate", "tower"),
}


def write_vector_file(
    path: str | os.PathLike[str],
    content: Mapping[str, Any],
    directions: Mapping[int, Tensor],
    site: str | None = None,
    weighed: Mapping[int, Tensor] | None = None,
    tower: Mapping[int, Tensor] | None = None,
) -> Path:
    """Write a vector file in one step and return its path.

    Args:
        path: Where to write; an existing file is replaced.
        content: Metadata, plain JSON values; holds "name".
        directions: Block index to float32 [d].
        site: Where the vector acts, for version 2; None writes version 1.
        weighed: Block index to the table of its weighed vectors, for version 2.
        tower: Block index of a vision tower to float32 [d] or [T, d]; with one it is version 3.

    Raises:
        VectorFileError: A metadata value is not plain JSON.
    """
    metadata = {
        "format_version": "1" if site is None else "3" if tower else "2",
        "kind": _KIND,
        "library_version": library_version(),
    }
    for key, value in content.items():
        try:
            metadata[key] = plain_json(value)
        except (TypeError, ValueError) as error:
            raise VectorFileError(
                f"cannot save vector {content.get('name')!r}: its {key} is not plain JSON "
                f"({error}); use texts, numbers, lists and dicts"
            ) from error
    tensors = {f"{site or 'layer'}.{i}": directions[i] for i in sorted(directions)}
    tensors |= {f"gate.{i}": table for i, table in sorted((weighed or {}).items())}
    tensors |= {f"tower.{i}": direction for i, direction in sorted((tower or {}).items())}
    metadata["content_hash"] = content_hash(metadata, directions if site is None else tensors)
    return write_whole(path, to_safetensors(tensors, metadata))


def read_vector_file(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[int, Tensor], dict[int, Tensor], dict[int, Tensor]]:
    """Read and verify a vector file.

    Returns:
        Its metadata, and by block index: directions, tables of weighed vectors, and directions of
        a vision tower.

    Raises:
        NotAVectorError: Missing, truncated, or some other kind of file.
        FutureVersionError: Written by a later version of this library.
        TamperedVectorError: Tensors or metadata were changed after saving.
    """
    source = Path(path)
    metadata, tensors = read_tensors(source, "vector", "copy or build it again", NotAVectorError)
    version = metadata.get("format_version", "")
    if metadata.get("kind") != _KIND or not is_count(version):
        raise NotAVectorError(
            f"{source} is a safetensors file but not a steering vector: "
            "use a file that SteeringVector.save wrote"
        )
    if int(version) > FORMAT_VERSION:
        raise FutureVersionError(
            f"{source} has format version {version}, written by steerable-llm "
            f"{metadata.get('library_version', '?')}; this version reads up to "
            f"{FORMAT_VERSION}: update steerable-llm"
        )
    known = _NAMES.get(version, ())
    parts = {name: name.partition(".") for name in tensors}
    of: dict[str, dict[int, Tensor]] = {"gate": {}, "tower": {}, "directions": {}}
    if any(part not in known or not is_count(number) for part, _, number in parts.values()):
        raise TamperedVectorError(
            f"{source} holds tensors other than {', '.join(f'{name}.0' for name in known)}, ..."
        )
    for name, (part, _, number) in parts.items():
        of[part if part in of else "directions"][int(number)] = tensors[name]
    directions = of["directions"]
    claimed = metadata.pop("content_hash", None)
    if claimed != content_hash(metadata, directions if version == "1" else tensors):
        raise TamperedVectorError(
            f"{source} was changed after it was saved (its content hash does not fit): "
            "get the original file or build it again"
        )
    try:
        content = {
            key: plainly_parsed(text) for key, text in metadata.items() if key not in _HEADER
        }
    except ValueError as error:
        raise VectorFileError(
            f"{source} has metadata that is not JSON ({error}): get the original file or build it "
            "again"
        ) from error
    return content, directions, of["gate"], of["tower"]


def library_version() -> str:
    """Return the version of this package; "unknown" where it was not installed."""
    try:
        return importlib.metadata.version("steerable-llm")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
