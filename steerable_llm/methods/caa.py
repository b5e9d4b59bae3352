"""Contrastive activation addition, CAA (Rimsky et al. 2024, arXiv:2312.06681).

Per layer, over the pairs (prompt p, good answer g, bad answer b), with h_l(t) the output of block l
at the last token of text t::

    v_l = mean over pairs of  h_l(p g) - h_l(p b)

Applied at one layer by plain addition, `h' = h + s * v_l`, without bringing the state back to its
length. Which layer, and how strongly, is chosen on dev data.
"""

from steerable_llm.methods.method import Extraction, Grid, Method
from steerable_llm.methods.states import ANSWER_PLACES, AnswerStates, answer_deltas, prompt_scales
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import Advance
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.provenance import Deltas, Provenance
from steerable_llm.vector.steering import Application


class CaaConfig(AnswerStates):
    """Settings of CAA; all are those of `AnswerStates`."""


def extract_caa(
    llm: HookedModel, pairs: Pairs, config: CaaConfig, progress: Advance | None = None
) -> Extraction:
    """Build the mean difference of every layer."""
    layers, deltas = answer_deltas(llm, pairs, config, progress)
    return Extraction(
        directions={layer: deltas[:, row].mean(0) for row, layer in enumerate(layers)},
        scales=prompt_scales(llm, pairs, layers),
        provenance=Provenance(deltas=Deltas(len(deltas))),
        differences=deltas,
        layers=layers,
    )


CAA = Method(
    CaaConfig,
    extract_caa,
    application=Application(renormalise=False),
    grid=Grid(scopes=("generated",), subsets="single", configs=ANSWER_PLACES),
)
