"""In-context vectors (ICV; Liu et al. 2024, arXiv:2311.06668).

With H(t) the outputs of all blocks at the last token of text t, one after the other, [L d]::

    D = {H(p g) - H(p b)}                                       over the pairs
    v = first principal component of D, centred + mean of D     (one vector over all layers)

Applied to the output x of each MLP, with v_l the layer's piece of v::

    x' = |x| normalise(x / |x| + lam s v_l / |v_l|),   s = 1 + max(0, cos(x, -v_l))

which pushes up to twice as hard where the state points away from the direction, and keeps its
length. The component is oriented so that the mean difference projects on it positively.
"""

from steerable_llm.methods.aggregation import aggregate
from steerable_llm.methods.method import Extraction, Grid, Method
from steerable_llm.methods.states import ANSWER_PLACES, AnswerStates, answer_deltas, prompt_scales
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import Advance
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.provenance import Deltas, Provenance
from steerable_llm.vector.steering import Application


class IcvConfig(AnswerStates):
    """Settings of in-context vectors; all are those of `AnswerStates`."""


def extract_icv(
    llm: HookedModel, pairs: Pairs, config: IcvConfig, progress: Advance | None = None
) -> Extraction:
    """Build the in-context vector and cut it into its layers' pieces.

    Raises:
        AttributionError: Fewer than two pairs.
        UnknownArchitectureError: The model's MLPs cannot be told.
    """
    layers, deltas = answer_deltas(llm, pairs, config, progress)
    pieces = aggregate(deltas.flatten(1), "pca_plus_mean").view(len(layers), -1)
    return Extraction(
        directions=dict(zip(layers, pieces, strict=True)),
        scales=prompt_scales(llm, pairs, layers, "mlp"),
        provenance=Provenance(deltas=Deltas(len(deltas))),
        differences=deltas,
        layers=layers,
    )


ICV = Method(
    IcvConfig,
    extract_icv,
    application=Application(site="mlp", rule="icv", scope="all"),
    grid=Grid(scopes=("all", "generated"), configs=ANSWER_PLACES),
)
