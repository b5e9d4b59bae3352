"""The gate file: two tensors and JSON metadata in one safetensors file, with a hash. No pickle."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_safetensors
from torch import Tensor

from steerable_llm.errors import GateFileError
from steerable_llm.files import write_whole
from steerable_llm.tensor_file import content_hash, plain_json, read_tensors

FORMAT_VERSION = 1
_KIND = "steerable-llm gate"


def write_gate_file(
    path: str | os.PathLike[str], content: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Path:
    """Write a gate file in one step and return its path; an existing file is replaced."""
    metadata = {
        "kind": _KIND,
        "format_version": str(FORMAT_VERSION),
        "content": plain_json(content),
        "content_hash": content_hash(content, tensors),
    }
    return write_whole(path, to_safetensors(dict(tensors), metadata))


def read_gate_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read and verify a gate file: its metadata and its tensors.

    Raises:
        GateFileError: missing, cut short, changed, of another kind, or of a newer version.
    """
    source = Path(path)
    again = "copy it again, or train the gate again"
    metadata, tensors = read_tensors(source, "gate", again, GateFileError)
    version = metadata.get("format_version", "")
    if metadata.get("kind") != _KIND or not version.isdecimal():
        raise GateFileError(
            f"{source} is a safetensors file but not a gate: "
            "use a file that `steerable policy train-gate` wrote"
        )
    if int(version) > FORMAT_VERSION:
        raise GateFileError(
            f"{source} has format version {version} and this version of steerable-llm reads up to "
            f"{FORMAT_VERSION}: update steerable-llm"
        )
    try:
        content: dict[str, Any] = json.loads(metadata["content"])
    except (KeyError, json.JSONDecodeError) as error:
        raise GateFileError(f"{source} has no readable metadata: train the gate again") from error
    if metadata.get("content_hash") != content_hash(content, tensors):
        raise GateFileError(
            f"{source} was changed after it was saved (its content hash does not fit): "
            "get the original file or train the gate again"
        )
    return content, tensors
