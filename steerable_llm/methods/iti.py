"""Inference-time intervention, ITI (Li et al. 2023, arXiv:2306.03341).

x is what one attention head hands to the output projection, at the last token of a prompt with its
answer. Per head:

1. a logistic probe tells good from bad answers; its accuracy on texts it has not seen ranks heads;
2. for the best K heads, the direction is the unit mean difference,
   theta = normalise(mean x_good - mean x_bad), and sigma the standard deviation of all theta x.

Applied at those heads, at the last position of every step, without keeping the length::

    x' = x + a sigma theta,   a = 15 and K = 48 in the paper

A vector of this method holds sigma theta, and zeros for all other heads.
"""

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from steerable_llm.errors import PairError
from steerable_llm.methods.method import Extraction, Grid, Method
from steerable_llm.methods.probes import Split, logistic_probes
from steerable_llm.methods.states import (
    ANSWER_PLACES,
    AnswerStates,
    answer_states,
    chosen_layers,
    prompt_scales,
)
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import Advance
from steerable_llm.runtime.blocks import text_config
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.steering import Application


class ItiConfig(AnswerStates):
    """Settings of ITI.

    Attributes:
        heads: K, how many heads to steer; all of them where a model has fewer.
        validation: Share of the prompts that judge the probes.
        seed: Of the choice of these prompts.
    """

    heads: int = Field(default=48, ge=1)
    validation: float = Field(default=0.25, gt=0, lt=1)
    seed: int = 0


def extract_iti(
    llm: HookedModel, pairs: Pairs, config: ItiConfig, progress: Advance | None = None
) -> Extraction:
    """Build the directions of the heads that tell good from bad.

    Raises:
        PairError: Fewer than two prompts.
        UnknownArchitectureError: The model's attention cannot be told.
    """
    return extract_heads(llm, pairs, config, logistic_probes, last=1, progress=progress)


def extract_heads(
    llm: HookedModel,
    pairs: Pairs,
    config: ItiConfig,
    probe: Callable[[Split], Tensor],
    last: int,
    progress: Advance | None,
) -> Extraction:
    """Build the directions of the best heads by `probe`, from states to every head's accuracy.

    ITI and NL-ITI choose them differently. States are means over so many `last` tokens.
    """
    layers = chosen_layers(llm, config.layers)
    training = training_pairs(pairs, config.validation, config.seed)
    number = int(text_config(llm.model).num_attention_heads)
    states = torch.cat(answer_states(llm, pairs, config.answer_tokens, "heads", last, progress))
    states = states[:, list(layers)].reshape(len(states), len(layers) * number, -1)
    labels = torch.cat([torch.ones(len(pairs)), torch.zeros(len(pairs))])
    accuracy = probe(Split(states, labels, training.repeat(2)))
    rows, chosen = best_heads(states, labels, accuracy, layers, config.heads)
    steered = sorted({head["layer"] for head in chosen})
    return Extraction(
        directions={layer: rows[layers.index(layer)] for layer in steered},
        scales=prompt_scales(llm, pairs, steered, "heads"),
        provenance=Provenance(facts={"heads": chosen, "judged_on": int((~training).sum())}),
        # Of all heads: those that were chosen for telling good from bad agree by selection.
        differences=(states[: len(pairs)] - states[len(pairs) :]).view(len(pairs), *rows.shape),
        layers=layers,
    )


def best_heads(
    states: Tensor, labels: Tensor, accuracy: Tensor, layers: tuple[int, ...], heads: int
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Return the directions of the heads with the best accuracy, and which they are.

    Args:
        states: `[n, H, e]`, H heads of all the layers.
        labels: `[n]`, 1 or 0.
        accuracy: `[H]`.
        layers: L blocks.
        heads: How many to take.

    Returns:
        Float32 `[L, width]`, zero for all other heads; and per head where it is.
    """
    # A stable order, so that heads which are equally good are taken from the first layer on.
    best = torch.argsort(accuracy, descending=True, stable=True)[:heads].tolist()
    number = states.shape[1] // len(layers)
    directions = torch.zeros(states.shape[1:])
    for head in best:
        directions[head] = head_direction(states[:, head], labels)
    chosen = [
        {"layer": layers[h // number], "head": h % number, "accuracy": round(float(accuracy[h]), 4)}
        for h in best
    ]
    return directions.view(len(layers), -1), chosen


def head_direction(states: Tensor, labels: Tensor) -> Tensor:
    """Return sigma theta of one head, float32 [e], from states [n, e] and labels [n], 1 or 0."""
    x = states.double()
    theta = torch.nn.functional.normalize(x[labels > 0].mean(0) - x[labels == 0].mean(0), dim=0)
    sigma = (x @ theta).std(correction=0)
    return (sigma * theta).float()


def training_pairs(pairs: Pairs, validation: float, seed: int) -> Tensor:
    """Return which pairs train, [n] booleans; pairs of one prompt stay together.

    Raises:
        PairError: Fewer than two prompts.
    """
    prompts = list(dict.fromkeys(pair.messages for pair in pairs))
    if len(prompts) < 2:
        raise PairError(
            f"probes need at least two different prompts, to train on and to be judged by, not "
            f"{len(prompts)}: give more pairs"
        )
    source = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(prompts), generator=source).tolist()
    held = min(len(prompts) - 1, max(1, round(validation * len(prompts))))
    judging = {prompts[i] for i in order[:held]}
    return torch.tensor([pair.messages not in judging for pair in pairs])


HEADS = Application(site="heads", unit="absolute", renormalise=False)

ITI = Method(
    ItiConfig,
    extract_iti,
    application=HEADS,
    grid=Grid(
        unit="absolute",
        scopes=("generated",),
        configs=tuple({**place, "heads": heads} for place in ANSWER_PLACES for heads in (8, 48)),
    ),
)
