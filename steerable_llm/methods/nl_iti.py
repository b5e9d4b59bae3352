"""Non-linear ITI, NL-ITI (Hoscilowicz et al. 2024, arXiv:2403.18680).

As ITI (see `iti`), but heads are ranked by a small MLP, and states are the mean over the last
four tokens::

    chance of good = sigmoid(W2 relu(batchnorm(W1 x + b1)) + b2),   W1: head size to 16, W2: 16 to 1

Applied from the token before the answer on, with K from 16 to 96 and a from 5 to 30 chosen on dev.
"""

from functools import partial

from pydantic import Field

from steerable_llm.methods.iti import HEADS, ItiConfig, extract_heads
from steerable_llm.methods.method import Extraction, Grid, Method
from steerable_llm.methods.probes import mlp_probes
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import Advance
from steerable_llm.runtime.hooked_model import HookedModel


class NlItiConfig(ItiConfig):
    """Settings of NL-ITI.

    Attributes:
        last_tokens: Tokens at the end of each text whose mean is read.
        hidden: Width of the probe's inner layer.
        epochs: Steps of Adam on all training texts.
        learning_rate: Of Adam.
    """

    last_tokens: int = Field(default=4, ge=1)
    hidden: int = Field(default=16, ge=1)
    epochs: int = Field(default=100, ge=1)
    learning_rate: float = Field(default=1e-2, gt=0)


def extract_nl_iti(
    llm: HookedModel, pairs: Pairs, config: NlItiConfig, progress: Advance | None = None
) -> Extraction:
    """Build the directions of the heads that tell good from bad, judged by small MLPs."""
    how = config.model_dump(include={"hidden", "epochs", "learning_rate", "seed"})
    probe = partial(mlp_probes, **how)
    return extract_heads(llm, pairs, config, probe, config.last_tokens, progress)


NL_ITI = Method(
    NlItiConfig,
    extract_nl_iti,
    application=HEADS,
    grid=Grid(
        unit="absolute",
        scopes=("generated",),
        configs=tuple({"heads": heads} for heads in (8, 16, 32, 64, 96)),
    ),
)
