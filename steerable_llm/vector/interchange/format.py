"""What a file format of another tool is, and what every such format can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from steerable_llm.vector.steering import Site

Places: TypeAlias = Mapping[str, tuple[Site, int]]
"""The names of a model's modules, such as "layers.3.mlp", to the site and block that they are."""


@dataclass(frozen=True, eq=False)
class AdditiveVector:
    """A direction per block, added to every position, times one coefficient.

    Attributes:
        directions: Block index, from 0, to float32 `[d]`.
        coefficient: What the directions are multiplied with; None where a format leaves that to
            whoever uses the file.
        name: What it is called; None where the file does not say.
        model_type: The model family, such as "llama"; None where the file does not say.
        site: "block" or "mlp": whose output it is added to.
        method: How it was made; None where the file does not say.
        modules: Block index to the name of the module whose output that is, for formats that go by
            names; else empty.
        facts: Whatever else a file says, plain JSON values.
        notes: What a reader could not take over, one sentence each.
    """

    directions: Mapping[int, Tensor]
    coefficient: float | None = None
    name: str | None = None
    model_type: str | None = None
    site: Site = "block"
    method: str | None = None
    modules: Mapping[int, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def folded(self) -> dict[int, Tensor]:
        """The directions with the coefficient in them, for formats that have none."""
        factor = 1.0 if self.coefficient is None else self.coefficient
        return {layer: factor * direction for layer, direction in self.directions.items()}


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        suffix: Of its files.
        write: What a vector looks like in it, as bytes.
        read: (path, places) -> vector; the places are empty unless the format goes by names.
        recognises: (path, first bytes) -> whether a file is of this format.
        use: How the tool takes the file; `{file}`, `{argument}` (the file as a shell takes it)
            and `{blocks}` are filled in.
        length: Whether the tool can bring states back to their length (eq. 8), and how.
        positions: Which positions the tool steers.
        sites: Whose outputs it can steer.
        blocks: Depth of a model -> the blocks it can steer.
        why: Why not all blocks.
        shift: What the tool calls block 0.
        has_coefficient: Whether the file says how strongly to steer.
        by_name: Whether the file names the modules that it steers, in place of numbering blocks.
    """

    suffix: str
    write: Callable[[AdditiveVector], bytes]
    read: Callable[[Path, Places], AdditiveVector]
    recognises: Callable[[Path, bytes], bool]
    use: str
    length: str
    positions: str = "every position is steered"
    sites: tuple[Site, ...] = ("block",)
    blocks: Callable[[int], range] = range
    why: str = ""
    shift: int = 0
    has_coefficient: bool = False
    by_name: bool = False
