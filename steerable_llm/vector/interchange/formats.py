"""What every other format can hold: directions that are added at every position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steerable_llm.vector.interchange.additive import AdditiveVector
from steerable_llm.vector.interchange.gguf import (
    blocks_without_the_first,
    easysteer_bytes,
    llama_cpp_bytes,
    read_easysteer,
    read_gguf,
    repeng_bytes,
)
from steerable_llm.vector.interchange.lm_eval import lm_eval_bytes, read_lm_eval
from steerable_llm.vector.interchange.svec import (
    SHIFT,
    blocks_without_the_last,
    read_svec,
    svec_bytes,
)
from steerable_llm.vector.steering import Site

if TYPE_CHECKING:
    from steerable_llm.runtime.hooked_model import HookedModel


# The formats of other tools, by name.


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        suffix: of its files.
        write: what a vector looks like in it, as bytes.
        read: (path, model) -> vector.
        use: how the tool takes the file; `{file}` and `{blocks}` are filled in.
        length: whether the tool can bring states back to their length (eq. 8), and how.
        positions: which positions the tool steers.
        sites: whose outputs it can steer.
        blocks: depth of a model -> the blocks it can steer.
        why: why not all blocks.
        shift: what the tool calls block 0.
        has_coefficient: whether the file says how strongly to steer.
    """

    suffix: str
    write: Callable[[AdditiveVector], bytes]
    read: Callable[[Path, HookedModel], AdditiveVector]
    use: str
    length: str
    positions: str = "every position is steered"
    sites: tuple[Site, ...] = ("block",)
    blocks: Callable[[int], range] = range
    why: str = ""
    shift: int = 0
    has_coefficient: bool = False


FORMATS: dict[str, Format] = {
    "repeng": Format(
        ".gguf",
        repeng_bytes,
        read_gguf,
        use='ControlModel(model, {blocks}).set_control(ControlVector.import_gguf("{file}"), 1.0)',
        length="give set_control normalize=True to keep it",
    ),
    "llama.cpp": Format(
        ".gguf",
        llama_cpp_bytes,
        read_gguf,
        use="llama-cli --control-vector {file}",
        length="llama.cpp has no way to keep it",
        blocks=blocks_without_the_first,
        why="llama.cpp never steers block 0",
    ),
    "easysteer": Format(
        ".gguf",
        easysteer_bytes,
        read_easysteer,
        use='SteerVectorRequest(..., steer_vector_local_path="{file}", scale=1.0, '
        "target_layers={blocks})",
        length="the file cannot ask for it",
        positions="the request says which positions are steered (its triggers)",
    ),
    "lm-eval": Format(
        ".pt",
        lm_eval_bytes,
        read_lm_eval,
        use="lm_eval --model steered --model_args pretrained=MODEL,steer_path={file}",
        length="lm-eval has no way to keep it",
        sites=("block", "mlp"),
        has_coefficient=True,
    ),
    "svec": Format(
        ".svec",
        svec_bytes,
        read_svec,
        use='MalleableModel.steer(SteeringVector.load("{file}"), behavior_layer_ids={blocks})',
        length="activation-steering only shortens states that have grown "
        "(use_ooi_preventive_normalization=True)",
        blocks=blocks_without_the_last,
        why="activation-steering steers the inputs of blocks, and the last output is none",
        shift=SHIFT,
    ),
}
