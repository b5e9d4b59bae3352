"""Representation engineering (Zou et al. 2023, arXiv:2310.01405, linear artificial tomography).

Per layer, with d_i the difference of the states at the last token of two contrasting texts::

    H = {(-1)^(r_i) d_i},  r_i a coin            (random order within each pair)
    v_l = first principal component of H, centred

The coin keeps the centring from taking away what all differences share. A component has no sign
of its own; it gets the one by which most pairs' good texts project higher than their bad ones.

The contrasting texts are the prompt with its good and with its bad answer, or, when `positive` and
`negative` are given, the prompt under either of these system instructions.

Applied by plain addition at the chosen layers (their "linear combination" operator).
"""

from collections.abc import Sequence

import torch
from pydantic import model_validator
from torch import Tensor

from steerable_llm.chat.message import instructed
from steerable_llm.errors import AttributionError
from steerable_llm.methods.aggregation import aggregate
from steerable_llm.methods.method import Extraction, Grid, Method
from steerable_llm.methods.states import (
    ANSWER_PLACES,
    AnswerStates,
    answer_states,
    chosen_layers,
    prompt_scales,
    read_prompt,
    read_states,
)
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import Advance
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.steering import Application


class RepeConfig(AnswerStates):
    """Settings of RepE.

    Attributes:
        positive: A system instruction that asks for the behaviour; None contrasts the answers.
        negative: The instruction that asks for its opposite.
        seed: Of the coins.
    """

    positive: str | None = None
    negative: str | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _both_or_neither(self) -> "RepeConfig":
        if (self.positive is None) != (self.negative is None):
            raise ValueError("give both a positive and a negative instruction, or neither")
        return self


def extract_repe(
    llm: HookedModel, pairs: Pairs, config: RepeConfig, progress: Advance | None = None
) -> Extraction:
    """Build the reading vector of every layer.

    Raises:
        AttributionError: Fewer than two pairs.
    """
    if len(pairs) < 2:
        raise AttributionError(f"a principal component needs at least 2 pairs, not {len(pairs)}")
    layers = chosen_layers(llm, config.layers)
    if config.positive is None or config.negative is None:
        good, bad = answer_states(llm, pairs, config.answer_tokens, progress=progress)
    else:
        good, bad = (
            read_states(
                llm,
                [read_prompt(llm, instructed(pair.messages, told), pair.id) for pair in pairs],
            )
            for told in (config.positive, config.negative)
        )
        if progress is not None:
            progress(len(pairs))
    deltas = good - bad
    coins = _coins(len(pairs), config.seed)
    return Extraction(
        directions={x: reading_vector(deltas[:, x], coins) for x in layers},
        scales=prompt_scales(llm, pairs, layers),
        provenance=Provenance(
            facts={"contrast": "answers" if config.positive is None else "instructions"}
        ),
        differences=deltas[:, list(layers)],
        layers=layers,
    )


def reading_vector(deltas: Tensor, coins: Sequence[int]) -> Tensor:
    """Return the first component of differences in random order, signed as the majority is.

    Of deltas [n, d], good minus bad, and n coins, 1 or -1; float32 [d], of length 1.
    """
    component = aggregate(deltas * torch.tensor(coins)[:, None], "pca")
    higher = (deltas @ component > 0).float().mean()
    return component if higher >= 0.5 else -component


def _coins(number: int, seed: int) -> list[int]:
    """Half heads and half tails, shuffled: the differences then have a mean near zero."""
    source = torch.Generator().manual_seed(seed)
    signs = torch.tensor([1, -1]).repeat(number // 2 + 1)[:number]
    return [int(sign) for sign in signs[torch.randperm(number, generator=source)]]


REPE = Method(
    RepeConfig,
    extract_repe,
    application=Application(renormalise=False),
    grid=Grid(configs=ANSWER_PLACES),
)
