"""What every other format can hold: directions that are added at every position."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from steerable_llm.vector.steering import Site


@dataclass(frozen=True, eq=False)
class AdditiveVector:
    """A direction per block, added to every position, times one coefficient.

    Attributes:
        directions: block index, from 0, to float32 `[d]`.
        coefficient: what the directions are multiplied with; None where a format leaves that to
            whoever uses the file.
        name: what it is called; None where the file does not say.
        model_type: the model family, such as "llama"; None where the file does not say.
        architecture: the model class, such as "LlamaForCausalLM"; None after reading.
        site: "block" or "mlp": whose output it is added to.
        method: how it was made; None where the file does not say.
        facts: whatever else a file says, plain JSON values.
        notes: what a reader could not take over, one sentence each.
    """

    directions: Mapping[int, Tensor]
    coefficient: float | None = None
    name: str | None = None
    model_type: str | None = None
    architecture: str | None = None
    site: Site = "block"
    method: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def folded(self) -> dict[int, Tensor]:
        """The directions with the coefficient in them, for formats that have none."""
        factor = 1.0 if self.coefficient is None else self.coefficient
        return {layer: factor * direction for layer, direction in self.directions.items()}
