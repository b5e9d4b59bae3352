"""A policy with its vectors and gates in one piece, so that another machine can have the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from steerable_llm.errors import PolicyError
from steerable_llm.policy.gate import Gate
from steerable_llm.policy.policy import Policy
from steerable_llm.vector.vector import SteeringVector

T = TypeVar("T")


@dataclass(frozen=True)
class PackedPolicy:
    """A policy as plain bytes, with a checksum over them. What it says is told by `Policy.digest`.

    Gates come without what they were trained with: their embedding model must be installed where
    the policy is unpacked.

    Attributes:
        content: What the policy's file says, as JSON.
        vectors: The vector files by the names that steps know them by.
        gates: The gate files, likewise.
        checksum: SHA-256 over all of that, as it was packed.
    """

    content: str
    vectors: Mapping[str, bytes]
    gates: Mapping[str, bytes]
    checksum: str

    @classmethod
    def of(cls, policy: Policy) -> PackedPolicy:
        """Pack a policy."""
        # What a step leaves to the one that it inherits from must stay unsaid.
        content = policy.model_dump_json(exclude_unset=True)
        vectors = _files(policy.vectors)
        gates = _files(policy.gates)
        return cls(content, vectors, gates, _checksum(content, vectors, gates))

    def open(self) -> Policy:
        """Return the policy.

        Raises:
            PolicyError: What arrived is not what was packed.
            VectorFileError: A vector cannot be read.
            GateFileError: A gate cannot be read.
        """
        if _checksum(self.content, self.vectors, self.gates) != self.checksum:
            raise PolicyError("the packed policy does not match its own checksum: pack it again")
        return Policy.from_dict(
            json.loads(self.content),
            vectors=_read(self.vectors, SteeringVector.load),
            gates=_read(self.gates, Gate.load),
            source="the packed policy",
        )


def _files(things: Mapping[str, Any]) -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "packed.safetensors"
        return {name: thing.save(path).read_bytes() for name, thing in sorted(things.items())}


def _read(files: Mapping[str, bytes], load: Callable[[Path], T]) -> dict[str, T]:
    made: dict[str, T] = {}
    with TemporaryDirectory() as folder:
        for number, (name, content) in enumerate(files.items()):
            # A file each: what was loaded may still lie in its file.
            path = Path(folder) / f"{number}.safetensors"
            path.write_bytes(content)
            made[name] = load(path)
    return made


def _checksum(content: str, vectors: Mapping[str, bytes], gates: Mapping[str, bytes]) -> str:
    parts = [content.encode()]
    for files in (vectors, gates):
        parts += [name.encode() for name in files]
        parts += files.values()
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big") + part)
    return hashed.hexdigest()
