"""What our files with tensors have in common: safetensors, JSON metadata, a hash over both."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steerable_llm.errors import SteerableError


def read_tensors(
    path: str | os.PathLike[str], noun: str, again: str, error: type[SteerableError]
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read a safetensors file: its metadata and its tensors, on the CPU.

    Args:
        path: the file.
        noun: what it should hold, for messages.
        again: how to get a good one, for messages.
        error: what to raise.

    Raises:
        SteerableError: the file is missing, cut short, or of another kind.
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
        TypeError: a value that JSON does not have.
        ValueError: a number that is not finite.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
