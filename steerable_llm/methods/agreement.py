"""Do the pairs agree on a direction? A badge before anything is evaluated.

Every pair moves the hidden state by a difference of its own, and a vector is some average of them.
If each difference points roughly where the average of the *others* points, the pairs share one
behaviour and their average is worth trying; if not, the average is noise or several behaviours at
once. A pair never takes part in the average that it is compared with, so pairs without anything in
common have an expected cosine of 0 whatever their number.

The badge predicts and proves nothing: pairs may agree on something the model cannot be steered by,
or on a difference in wording. Only an evaluation on held-out questions shows that a vector works.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

Badge = Literal["strong", "fair", "weak"]
#: Badge to the least cosine and the least share of agreeing pairs; below all of them it is "weak".
#: The share also has to be more than chance explains: two standard errors above one half. The
#: numbers are a convention; docs/evidence.md has what the bundled model's pairs reach, as they are
#: and with half of their answers swapped.
THRESHOLDS: Mapping[Badge, tuple[float, float]] = {"strong": (0.3, 0.8), "fair": (0.05, 0.65)}


class LayerAgreement(BaseModel):
    """Agreement in one block.

    Attributes:
        cosine: Mean cosine of a pair's difference with the mean of the others.
        share: Share of pairs whose cosine is positive.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cosine: float
    share: float


class Agreement(BaseModel):
    """How far the pairs of a vector agree.

    Attributes:
        pairs: How many differences were compared.
        cosine: Mean over pairs and blocks of the cosine with the mean of the others.
        share: Share of pairs whose cosine, averaged over the blocks, is positive.
        layers: The same per block.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: int
    cosine: float
    share: float
    layers: dict[int, LayerAgreement]

    @property
    def badge(self) -> Badge:
        """`strong`, `fair` or `weak`, by `THRESHOLDS`."""
        chance = 0.5 + 1 / math.sqrt(
            self.pairs
        )  # the standard error of a fair coin is 0.5 / root n
        for badge, (cosine, share) in THRESHOLDS.items():
            if self.cosine >= cosine and self.share >= max(share, chance):
                return badge
        return "weak"

    @property
    def line(self) -> str:
        """The badge in one line, with what it is worth."""
        return (
            f"pre-flight {self.badge}: {100 * self.share:.0f} % of {self.pairs} pairs agree with "
            f"the others, mean cosine {self.cosine:+.2f} (predicts, proves nothing)"
        )

    def record(self) -> dict[str, Any]:
        """Plain JSON values for a vector's provenance, the badge included."""
        return {"badge": self.badge, **self.model_dump(mode="json")}

    @classmethod
    def of_provenance(cls, provenance: Mapping[str, Any]) -> Self | None:
        """Read what `record` wrote into a vector's provenance; None where there is none."""
        found = provenance.get("agreement")
        if not isinstance(found, Mapping):
            return None
        try:
            return cls.model_validate({k: v for k, v in found.items() if k != "badge"})
        except ValidationError:  # of a version that kept something else
            return None


def agreement_of(differences: Tensor, layers: Sequence[int]) -> Agreement | None:
    """Compare every pair's difference with the mean of the others.

    Args:
        differences: `[n, L, d]`, one row per pair: what the vector is an average of.
        layers: The L blocks.

    Returns:
        None for fewer than two pairs, which have nothing to agree with.
    """
    n = len(differences)
    if n < 2:
        return None
    deltas = differences.double()
    others = (deltas.sum(0, keepdim=True) - deltas) / (n - 1)
    # A difference of zeros points nowhere: its cosine counts as 0.
    cosines = torch.nn.functional.cosine_similarity(deltas, others, dim=-1, eps=1e-12)
    return Agreement(
        pairs=n,
        cosine=float(cosines.mean()),
        share=float((cosines.mean(1) > 0).double().mean()),
        layers={
            layer: LayerAgreement(
                cosine=float(column.mean()), share=float((column > 0).double().mean())
            )
            for layer, column in zip(layers, cosines.T, strict=True)
        },
    )
