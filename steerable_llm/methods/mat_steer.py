"""MAT-Steer: weighed vectors for several attributes at once (Nguyen et al. 2025, arXiv:2502.12446).

x is the output of one block at the last token of a prompt with its answer. With T attributes::

    f(x) = x + sum_t sigmoid(w_t x + b_t) v_t,  brought back to |x|

w, b and v are trained per layer to make bad states look like good ones, and good ones stay::

    loss = sum_t MMD(f(bad states of t), good states of t)
         + lam_pos  mean sigmoid(w_t x + b_t) over good states           (leave what is right)
         + lam_sparse  mean sigmoid(w_t x + b_t) over bad states of others  (each its own)
         + lam_ortho  sum_{t < u} cos(v_t, v_u)^2                        (do not fight)

MMD is the squared maximum mean discrepancy with a Gaussian kernel, its width the median distance.
Where each pair's behaviour is told by its `source`, `attributes="source"` trains one attribute for
each; else all pairs are one. Applied at one layer.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from steerable_llm.methods.method import Extraction, Grid, Method
from steerable_llm.methods.states import (
    ANSWER_PLACES,
    AnswerStates,
    answer_states,
    chosen_layers,
    prompt_scales,
)
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import Advance
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.steering import Application, WeighedVectors, steer_hidden, weighed_delta


class MatSteerConfig(AnswerStates):
    """Settings of MAT-Steer.

    Attributes:
        attributes: One attribute for all pairs, or one per `source` of the pairs.
        lam_pos: Weight of leaving good states alone.
        lam_sparse: Weight of leaving other attributes' states alone.
        lam_ortho: Weight of vectors standing at right angles.
        steps: Of Adam, on all pairs.
        learning_rate: Of Adam, in units of the typical length of a state's difference.
        seed: Of the first weights.
    """

    attributes: Literal["one", "source"] = "one"
    lam_pos: float = Field(default=0.1, ge=0)
    lam_sparse: float = Field(default=0.1, ge=0)
    lam_ortho: float = Field(default=0.1, ge=0)
    steps: int = Field(default=200, ge=1)
    learning_rate: float = Field(default=0.02, gt=0)
    seed: int = 0


def extract_mat_steer(
    llm: HookedModel, pairs: Pairs, config: MatSteerConfig, progress: Advance | None = None
) -> Extraction:
    """Train weighed vectors for every layer."""
    layers = chosen_layers(llm, config.layers)
    right, wrong = answer_states(llm, pairs, config.answer_tokens, progress=progress)
    names = ["all" if config.attributes == "one" else pair.source for pair in pairs]
    attributes = sorted(set(names))
    members = [torch.tensor([name == a for name in names]) for a in attributes]
    weighed, losses = {}, {}
    for layer in layers:
        weighed[layer], losses[str(layer)] = train_weighed(
            right[:, layer], wrong[:, layer], members, config
        )
    return Extraction(
        directions={layer: found.vectors.sum(0) for layer, found in weighed.items()},
        scales=prompt_scales(llm, pairs, layers),
        provenance=Provenance(facts={"attributes": attributes, "loss": losses}),
        weighed=weighed,
        differences=(right - wrong)[:, list(layers)],
        layers=layers,
    )


def train_weighed(
    good: Tensor, bad: Tensor, members: Sequence[Tensor], config: MatSteerConfig
) -> tuple[WeighedVectors, dict[str, float]]:
    """Train the weighed vectors of one layer on states [n, d]; members are [n] booleans each.

    Returns:
        They, and the first and the last loss.
    """
    # In units in which the states' differences have length 1, one learning rate fits all models.
    unit = float((good - bad).norm(dim=1).mean().clamp_min(torch.finfo(torch.float32).tiny))
    good, bad = good / unit, bad / unit
    widths = [kernel_width(torch.cat([good[m], bad[m]])) for m in members]
    source = torch.Generator().manual_seed(config.seed)
    d = good.shape[1]
    # The vectors start small and different, and each is half let in.
    vectors = (torch.randn(len(members), d, generator=source) * 0.01 / d**0.5).requires_grad_()
    weights = torch.zeros(len(members), d, requires_grad=True)
    biases = torch.zeros(len(members), requires_grad=True)
    optimizer = torch.optim.Adam([vectors, weights, biases], lr=config.learning_rate)
    values = []
    with torch.enable_grad():
        for _ in range(config.steps):
            optimizer.zero_grad()
            loss = objective(
                WeighedVectors(weights, biases, vectors), good, bad, members, widths, config
            )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            values.append(float(loss.detach()))
    weighed = WeighedVectors(weights.detach() / unit, biases.detach(), vectors.detach() * unit)
    return weighed, {"first": values[0], "last": values[-1]}


def objective(
    weighed: WeighedVectors,
    good: Tensor,
    bad: Tensor,
    members: Sequence[Tensor],
    widths: Sequence[float],
    config: MatSteerConfig,
) -> Tensor:
    """Return the loss of this module's equation, a scalar; arguments as for `train_weighed`."""
    steered = steer_hidden(bad[None], weighed_delta(bad, weighed, 1.0)[None], True)[0]
    on_good = torch.sigmoid(good @ weighed.weights.T + weighed.biases)
    on_bad = torch.sigmoid(bad @ weighed.weights.T + weighed.biases)
    loss = torch.zeros(())
    for t, (mine, width) in enumerate(zip(members, widths, strict=True)):
        loss = loss + mmd(steered[mine], good[mine], width)
        loss = loss + config.lam_pos * on_good[:, t].mean()
        if not bool(mine.all()):
            loss = loss + config.lam_sparse * on_bad[~mine, t].mean()
    cosines = normalize(weighed.vectors, dim=1) @ normalize(weighed.vectors, dim=1).T
    return loss + config.lam_ortho * cosines.triu(1).square().sum()


def mmd(one: Tensor, other: Tensor, width: float) -> Tensor:
    """Return the squared maximum mean discrepancy of samples [n, d] and [m, d], a scalar."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = (a[:, None] - b[None]).square().sum(-1)
        return torch.exp(-squares / (2 * width**2)).mean()

    return kernel(one, one) + kernel(other, other) - 2 * kernel(one, other)


def kernel_width(states: Tensor) -> float:
    """Return the median distance between states [n, d]; 1 where all are the same."""
    distances = torch.pdist(states)
    middle = float(distances.median()) if len(distances) else 0.0
    return middle if middle > 0 else 1.0


MAT_STEER = Method(
    MatSteerConfig,
    extract_mat_steer,
    application=Application(rule="weigh", unit="absolute"),
    grid=Grid(unit="absolute", subsets="single", configs=ANSWER_PLACES),
)
