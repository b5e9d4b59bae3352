"""The vector file: named tensors and JSON metadata in one safetensors file, with a hash.

Tensors are `layer.{i}` (float32, [d], i the 0-based block whose output is steered); every
metadata value is JSON text. The hash over both shows a changed or damaged file. No pickle.
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
    TamperedVectorError,
    VectorFileError,
)
from steerable_llm.files import write_whole

FORMAT_VERSION = 1
_KIND = "steerable-llm vector"
_HEADER = ("format_version", "kind", "library_version")


def write_vector_file(
    path: str | os.PathLike[str], content: Mapping[str, Any], directions: Mapping[int, Tensor]
) -> Path:
    """Write a vector file in one step and return its path.

    Args:
        path: where to write; an existing file is replaced.
        content: metadata, plain JSON values; holds "name".
        directions: block index to float32 [d].

    Raises:
        VectorFileError: a metadata value is not plain JSON.
    """
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "kind": _KIND,
        "library_version": _library_version(),
    }
    for key, value in content.items():
        try:
            metadata[key] = _json(value)
        except (TypeError, ValueError) as error:
            raise VectorFileError(
                f"cannot save vector {content.get('name')!r}: its {key} is not plain JSON "
                f"({error}); use texts, numbers, lists and dicts"
            ) from error
    metadata["content_hash"] = content_hash(metadata, directions)
    tensors = {f"layer.{i}": directions[i] for i in sorted(directions)}
    return write_whole(path, to_safetensors(tensors, metadata))


def read_vector_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[int, Tensor]]:
    """Read and verify a vector file: its metadata, and block index to float32 [d].

    Raises:
        NotAVectorError: missing, truncated, or some other kind of file.
        FutureVersionError: written by a later version of this library.
        TamperedVectorError: tensors or metadata were changed after saving.
    """
    source = Path(path)
    if not source.is_file():
        raise NotAVectorError(f"there is no vector file {source}: check the path")
    try:
        with safe_open(source, framework="pt", device="cpu") as file:
            metadata: dict[str, str] = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise NotAVectorError(
            f"{source} is not a whole safetensors file ({error}): it was cut short or is "
            "another kind of file; copy or build it again"
        ) from error
    version = metadata.get("format_version", "")
    if metadata.get("kind") != _KIND or not version.isdecimal():
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
    names = [(name, name.removeprefix("layer.")) for name in tensors]
    if any(not name.startswith("layer.") or not number.isdecimal() for name, number in names):
        raise TamperedVectorError(f"{source} holds tensors other than layer.0, layer.1, ...")
    directions = {int(number): tensors[name] for name, number in names}
    claimed = metadata.pop("content_hash", None)
    if claimed != content_hash(metadata, directions):
        raise TamperedVectorError(
            f"{source} was changed after it was saved (its content hash does not fit): "
            "get the original file or build it again"
        )
    content = {key: json.loads(text) for key, text in metadata.items() if key not in _HEADER}
    return content, directions


def content_hash(header: object, directions: Mapping[int, Tensor]) -> str:
    """Return the SHA-256 over a JSON header and every layer's number, type, shape and bytes."""
    hasher = hashlib.sha256(_json(header).encode())
    for layer in sorted(directions):
        tensor = directions[layer].contiguous()
        hasher.update(f"|{layer}:{tensor.dtype}:{tuple(tensor.shape)}|".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _library_version() -> str:
    try:
        return importlib.metadata.version("steerable-llm")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
