"""How the next token of an answer is chosen from its scores."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from steerable_llm.answer.request import GenerationRequest
from steerable_llm.errors import not_numbers, wrong_value


def probabilities(
    logits: Tensor, temperature: float, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0
) -> Tensor:
    """Return what tokens are drawn from.

    Args:
        logits: Scores of one row `[V]`.
        temperature: Above 0; divides the scores first.
        top_p: Then only the likeliest tokens that together reach this probability are kept.
        top_k: Before that, only so many likeliest tokens are kept; 0 keeps all.
        min_p: In the end, only tokens at least this share as likely as the likeliest are kept.

    Returns:
        Probabilities `[V]` in float32, zero for what was not kept, the sum 1.
    """
    # Subtracting the largest first keeps a very small temperature from overflowing, and one that
    # float32 would round to zero from making 0 / 0 of the largest.
    divisor = max(temperature, torch.finfo(torch.float32).tiny)
    scores = (logits.float() - logits.float().max()) / divisor
    if 0 < top_k < scores.numel():
        kept = torch.topk(scores, top_k).indices
        only = torch.full_like(scores, -torch.inf)
        scores = only.index_copy(0, kept, scores[kept])
    chances = torch.softmax(scores, dim=-1)
    if top_p < 1.0:
        top_p = max(top_p, torch.finfo(torch.float32).tiny)  # else float32 may make it 0
        ordered, places = torch.sort(chances, descending=True, stable=True)
        # A token stays if those before it have not reached top_p yet: at least one always stays.
        stays = ordered.cumsum(0) - ordered < top_p
        chances = torch.zeros_like(chances).index_copy(0, places, ordered * stays)
        chances = chances / chances.sum()
    if min_p > 0.0:
        chances = chances * (chances >= min_p * chances.max())
        chances = chances / chances.sum()
    return chances


# Stronger penalties and biases choose no other tokens, and beyond float32 they would be infinite:
# of two scores of which both are, neither is the larger one.
_STRONGEST_PENALTY, _STRONGEST_BIAS = 1e6, 1e30


def shaped(request: GenerationRequest, said: Iterable[int], scores: Tensor) -> Tensor:
    """Return scores with penalties for what was said already, and with biases for single tokens.

    The penalty is that of Keskar et al. 2019 (CTRL, section 4.1) in transformers' form: scores of
    tokens that the prompt or the answer holds are divided by it if positive, else multiplied.

    Args:
        request: Says which.
        said: Tokens of the prompt and of the answer so far.
        scores: Of the next token `[V]`; left as they are.

    Raises:
        InvalidInputError: A bias for a token that the model does not have.
    """
    scores = scores.clone()
    if request.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(set(said)), device=scores.device)
        old, penalty = scores[seen], request.repetition_penalty
        penalty = min(max(penalty, 1 / _STRONGEST_PENALTY), _STRONGEST_PENALTY)
        scores[seen] = torch.where(old < 0, old * penalty, old / penalty)
    for token, bias in (request.logit_bias or {}).items():
        if token >= len(scores):
            raise wrong_value(
                "logit_bias",
                f"logit_bias names token {token}, and the model has {len(scores)}: "
                "give ids of its own tokenizer",
            )
        scores[token] += min(max(bias, -_STRONGEST_BIAS), _STRONGEST_BIAS)
    return scores


class Draws:
    """The tokens that one answer draws.

    It has random numbers of its own, so a seed gives the same draws alone and in any batch.
    """

    def __init__(self, request: GenerationRequest) -> None:
        """Set up the source of random numbers of a request with a temperature."""
        self._shape = request.temperature, request.top_p, request.top_k, request.min_p
        # On the CPU whatever the device is: one seed, one answer.
        self._source = torch.Generator(device="cpu")
        if request.seed is None:
            self._source.seed()
        else:
            self._source.manual_seed(request.seed)

    def draw(self, scores: Tensor) -> int:
        """Return a token drawn by its scores `[V]`.

        Raises:
            SteerableError: The model's scores are not numbers.
        """
        if bool(torch.isnan(scores).any()):
            raise not_numbers()
        chances = probabilities(scores, *self._shape)
        return int(torch.multinomial(chances.cpu(), 1, generator=self._source))
