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

from collections.abc import Sequence

import torch
from torch import Tensor

from steerable_llm.vector.provenance import Agreement, LayerAgreement


def agreement_of(differences: Tensor, layers: Sequence[int]) -> Agreement | None:
    """Compare every pair's difference, `[n, L, d]` in L blocks, with the mean of the others.

    Fewer than two pairs have nothing to agree with: None.
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
