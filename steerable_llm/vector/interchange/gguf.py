"""Control vectors as GGUF files, the container that repeng, llama.cpp and EasySteer share.

All of them add `direction.{l}` to the output of block l, counted from 0; llama.cpp never steers
block 0. EasySteer (github.com/ZJU-REAL/EasySteer) hooks vLLM's decoder layers. Its older releases
keep facts as scalars `controlvector.{key}`; newer ones keep all of them as JSON in
`controlvector.easysteer`, together with the component that the directions belong to. Both are
written, either is read.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steerable_llm.errors import InvalidInputError, NotAVectorError, from_extra
from steerable_llm.json_records import plainly_parsed
from steerable_llm.vector.interchange.format import AdditiveVector, Format, Places

ARCHITECTURE = "controlvector"
MAGIC = b"GGUF"
_OURS = ("model_hint", "layer_count", "method", "easysteer")
_BLOCKS = "hidden_states"


def _gguf() -> ModuleType:
    with from_extra("interchange", "GGUF files need gguf"):
        import gguf
    return gguf


def write_gguf(vector: AdditiveVector, *, signed: bool = False, easysteer: bool = False) -> bytes:
    """Return a control vector as the bytes of a GGUF file.

    Args:
        vector: The vector; its directions are written as coefficient 1 adds them.
        signed: Write the number of layers as int32, as llama.cpp's own generator does; repeng and
            EasySteer write uint32.
        easysteer: Write EasySteer's facts, too, in its older and its newer form.

    Raises:
        MissingExtraError: The library gguf is not installed.
    """
    facts: dict[str, str | float] = {}
    if easysteer:
        strength = 1.0 if vector.coefficient is None else vector.coefficient
        native = {
            "version": 1, "component": _BLOCKS, "metadata": {"mapping": [["strength", strength]]},
        }  # fmt: skip
        facts = {
            "method": vector.method or "unknown",
            "strength": strength,
            "easysteer": json.dumps(native, allow_nan=False),
        }
    # The library writes to paths only, and a file is to appear whole or not at all.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vector.gguf"
        writer = _gguf().GGUFWriter(path, ARCHITECTURE)
        try:
            if vector.name:
                writer.add_name(vector.name)
            writer.add_string(f"{ARCHITECTURE}.model_hint", vector.model_type or "unknown")
            add_count = writer.add_int32 if signed else writer.add_uint32
            add_count(f"{ARCHITECTURE}.layer_count", len(vector.directions))
            for key, value in facts.items():
                add = writer.add_string if isinstance(value, str) else writer.add_float32
                add(f"{ARCHITECTURE}.{key}", value)
            for layer, direction in sorted(vector.folded.items()):
                writer.add_tensor(f"direction.{layer}", direction.float().numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
        return path.read_bytes()


def read_gguf(path: Path, _places: Places | None = None) -> AdditiveVector:
    """Read a control vector from a GGUF file, by whichever tool it was written.

    Raises:
        NotAVectorError: Another kind of file, or one that is cut short or damaged.
        InvalidInputError: Directions of heads or of a router, which are not added to blocks.
        MissingExtraError: The library gguf is not installed.
    """
    gguf = _gguf()
    try:
        reader = _checked_reader(gguf)(path)
        fields = {key: field.contents() for key, field in reader.fields.items()}
        tensors = [(t.name, t.tensor_type, np.array(t.data, copy=True)) for t in reader.tensors]
    # The library meets damage with whatever the damaged number leads to.
    except (
        ValueError, LookupError, TypeError, OverflowError, OSError, RecursionError,
    ) as error:  # fmt: skip
        raise NotAVectorError(
            f"{path} is not a whole GGUF file ({error}): it was cut short or is another kind of "
            "file; export it again"
        ) from error
    if fields.get("general.architecture") != ARCHITECTURE:
        raise NotAVectorError(
            f"{path} holds {fields.get('general.architecture')!r}, not a control vector: give a "
            f"GGUF file with the architecture {ARCHITECTURE!r}"
        )
    floats = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
    directions: dict[int, Tensor] = {}
    for name, kind, data in tensors:
        part, _, number = name.partition(".")
        if part != "direction" or not number.isdecimal() or data.ndim != 1 or kind not in floats:
            raise NotAVectorError(
                f"{path} has the tensor {name!r} ({kind.name}, {data.ndim} dimensions): expected "
                "float32 tensors direction.1, direction.2, ... of one dimension"
            )
        directions[int(number)] = torch.from_numpy(data.astype(np.float32))
    if not directions:
        raise NotAVectorError(f"{path} has no direction in it: export it again")
    own = {
        key.removeprefix(f"{ARCHITECTURE}."): value
        for key, value in fields.items()
        if key.startswith(f"{ARCHITECTURE}.")
    }
    facts = {key: value for key, value in own.items() if key not in _OURS}
    if "easysteer" in own:
        facts["metadata"] = _easysteer_metadata(path, own["easysteer"])
    return AdditiveVector(
        directions,
        name=_text(fields.get("general.name")),
        model_type=_text(own.get("model_hint")),
        method=_text(own.get("method")),
        facts=facts,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value and value != "unknown" else None


def _easysteer_metadata(path: Path, text: object) -> Any:
    try:
        native = plainly_parsed(text) if isinstance(text, str) else None
    except ValueError:
        native = None
    if not isinstance(native, dict):
        raise NotAVectorError(f"{path} has metadata of EasySteer that is not JSON: export it again")
    component = native.get("component")
    if component not in (None, _BLOCKS):
        raise InvalidInputError(
            f"{path} holds directions for {component!r}, not for the outputs of blocks "
            f"({_BLOCKS!r}), and cannot be imported: extract them from hidden states"
        )
    return native.get("metadata")


def _checked_reader(gguf: ModuleType) -> Any:
    """The library's reader, stopped at the end of the file.

    By itself it slices beyond it without a word, and a damaged count then keeps it busy for ever.
    """

    class Checked(gguf.GGUFReader):  # type: ignore[misc, name-defined]
        def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
            if int(offset) + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise ValueError("it ends too early")
            return super()._get(offset, dtype, count, override_order)

    return Checked


def _is_easysteer(path: Path, start: bytes) -> bool:
    if not start.startswith(MAGIC):
        return False
    found = read_gguf(path)
    return bool(found.method) or "metadata" in found.facts


EASYSTEER = Format(
    ".gguf",
    partial(write_gguf, easysteer=True),
    read_gguf,
    _is_easysteer,
    use='SteerVectorRequest(..., steer_vector_local_path="{file}", scale=1.0, '
    "target_layers={blocks})",
    length="the file cannot ask for it",
    positions="the request says which positions are steered (its triggers)",
)
REPENG = Format(
    ".gguf",
    write_gguf,
    read_gguf,
    lambda _path, start: start.startswith(MAGIC),
    use='ControlModel(model, {blocks}).set_control(ControlVector.import_gguf("{file}"), 1.0)',
    length="give set_control normalize=True to keep it",
)
LLAMA_CPP = Format(
    ".gguf",
    partial(write_gguf, signed=True),
    read_gguf,
    # Its files are those of repeng, and count as such.
    lambda _path, _start: False,
    use="llama-cli --control-vector {argument}",
    length="llama.cpp has no way to keep it",
    blocks=lambda depth: range(1, depth),
    why="llama.cpp never steers block 0",
)
