"""EasySteer's GGUF files: repeng's, with the method and what else is known of the vector.

EasySteer (github.com/ZJU-REAL/EasySteer) hooks vLLM's decoder layers and adds `direction.{l}` to
the output of block l, counted from 0. Older releases keep facts as scalars
`controlvector.{key}`; newer ones keep all of them as JSON in `controlvector.easysteer`, together
with the component that the directions belong to. Both are written, either is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steerable_llm.errors import InvalidInputError, NotAVectorError
from steerable_llm.interchange.additive import AdditiveVector
from steerable_llm.interchange.gguf_file import gguf_bytes, read_gguf

_NATIVE = "easysteer"
_BLOCKS = "hidden_states"


def easysteer_bytes(vector: AdditiveVector) -> bytes:
    """Return the file's content: the directions as scale 1 adds them."""
    strength = 1.0 if vector.coefficient is None else vector.coefficient
    native = {
        "version": 1,
        "component": _BLOCKS,
        "metadata": {"mapping": [["strength", strength]]},
    }
    return gguf_bytes(
        vector.folded,
        vector.name,
        vector.model_type,
        facts={
            "method": vector.method or "unknown",
            "strength": strength,
            _NATIVE: json.dumps(native, allow_nan=False),
        },
    )


def read_easysteer(path: Path, _llm: object = None) -> AdditiveVector:
    """Read an EasySteer file.

    Raises:
        NotAVectorError: another kind of file, or a damaged one.
        InvalidInputError: directions of heads or of a router, which are not added to blocks.
    """
    found = read_gguf(path)
    facts = dict(found.facts)
    text = facts.pop(_NATIVE, None)
    if text is not None:
        native = _parsed(path, text)
        component = native.get("component")
        if component not in (None, _BLOCKS):
            raise InvalidInputError(
                f"{path} holds directions for {component!r}, not for the outputs of blocks "
                f"({_BLOCKS!r}), and cannot be imported: extract them from hidden states"
            )
        facts["metadata"] = native.get("metadata")
    return AdditiveVector(
        found.directions,
        name=found.name,
        model_type=found.model_type,
        method=found.method,
        facts=facts,
    )


def _parsed(path: Path, text: object) -> dict[str, Any]:
    try:
        native = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        native = None
    if not isinstance(native, dict):
        raise NotAVectorError(f"{path} has metadata of EasySteer that is not JSON: export it again")
    return native
