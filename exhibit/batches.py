"""The bundled model's lessons as token ids, drawn step by step and put into batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from exhibit.curriculum import training_example
from exhibit.tokenizer import ROLES

_LENGTH_STEP, _COUNT_STEP = 32, 128


@dataclass(frozen=True)
class Recipe:
    """Settings of one training run.

    Attributes:
        steps: Optimiser steps.
        batch: Examples per step.
        peak_rate: Highest learning rate.
        prompt_share: Share of prompt tokens that also count in the loss.
        prompt_weight: Weight of their loss beside that of the answer tokens.
        noise: Random change of every block's output in the last phase, as a share of its norm. A
            model this small, once trained, breaks at changes that a larger one never notices.
        last_phase: The step at which the last phase of lessons begins.
        seed: Seed of weights, data and order.
    """

    steps: int = 16_000
    batch: int = 16
    peak_rate: float = 2e-3
    prompt_share: float = 0.15
    prompt_weight: float = 0.2
    noise: float = 0.05
    last_phase: int = 8000
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """One encoded example.

    Attributes:
        ids: Token ids of prompt and answer.
        start: Where the answer starts.
        odds: The first tokens that an answer may have, with their probabilities.
        replies: Places of the earlier answers in the prompt, learned like the last one.
    """

    ids: list[int]
    start: int
    odds: list[tuple[int, float]]
    replies: list[int]


@dataclass
class Batch:
    """One step's examples, padded on the right.

    Attributes:
        ids: Token ids ``[B, T]``.
        first: Index of the position that predicts the first answer token ``[B]``.
        choices: Candidate first tokens ``[B, C]``.
        odds: Their probabilities ``[B, C]``, 0 where there is no candidate.
        places: Flat positions in ``[B * T]`` that predict a token to be learned ``[N]``.
        targets: Those tokens ``[N]``.
        weights: The weight of each in the loss ``[N]``; 0 for the padding of N.
    """

    ids: Tensor
    first: Tensor
    choices: Tensor
    odds: Tensor
    places: Tensor
    targets: Tensor
    weights: Tensor


def _encode(tokenizer: PreTrainedTokenizerFast, rng: Random, phase: int) -> Row:
    """Draw an example; return its ids, where the answer starts, and the first-token odds."""
    example = training_example(rng, phase)
    prompt = [int(tokenizer.bos_token_id)]
    replies: list[int] = []
    for message in example.messages:
        prompt += _ids(tokenizer, ROLES[message["role"]])
        content = _ids(tokenizer, f"{message['content']}<|end|>")
        if message["role"] == "assistant":
            replies += range(len(prompt), len(prompt) + len(content))
        prompt += content
    prompt += _ids(tokenizer, ROLES["assistant"])
    odds: dict[int, float] = {}
    answers = [_ids(tokenizer, text) for text, _ in example.answers]
    for ids, (_, share) in zip(answers, example.answers, strict=True):
        odds[ids[0]] = odds.get(ids[0], 0.0) + share
    drawn = rng.choices(answers, [share for _, share in example.answers])[0]
    ids = [*prompt, *drawn, int(tokenizer.eos_token_id)]
    return Row(ids, len(prompt), list(odds.items()), replies)


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def _collate(rows: list[Row], pad: int, recipe: Recipe, rng: Random) -> Batch:
    longest = max(len(row.ids) for row in rows)
    width = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
    ids = torch.full((len(rows), width), pad)
    choices = torch.zeros((len(rows), 4), dtype=torch.long)
    odds = torch.zeros((len(rows), 4))
    answer_tokens: list[tuple[int, int]] = []
    prompt_tokens: list[tuple[int, int]] = []
    repeated: list[tuple[int, int]] = []
    for row, example in enumerate(rows):
        tokens, start = example.ids, example.start
        ids[row, : len(tokens)] = torch.tensor(tokens)
        # The first answer token is learned from its odds, the rest from the drawn answer.
        answer_tokens += [
            (row * width + place - 1, tokens[place])
            for place in (*example.replies, *range(start + 1, len(tokens)))
        ]
        prompt_tokens += [
            (row * width + place - 1, tokens[place])
            for place in range(1, start)
            if rng.random() < recipe.prompt_share
        ]
        # A token that followed its neighbour before can be copied: practice for reading.
        pairs = list(pairwise(tokens[:start]))
        first_seen = {pair: place for place, pair in reversed(list(enumerate(pairs, start=1)))}
        repeated += [
            (row * width + place - 1, tokens[place])
            for place, pair in enumerate(pairs, start=1)
            if first_seen[pair] < place
        ]
        for column, (token, share) in enumerate(example.odds):
            choices[row, column], odds[row, column] = token, share
    scale = 1.0 / (len(answer_tokens) + len(rows))
    learned = [(*entry, scale) for entry in answer_tokens]
    learned += [
        (*entry, recipe.prompt_weight / max(1, len(prompt_tokens))) for entry in prompt_tokens
    ]
    learned += [(*entry, 0.5 / len(repeated)) for entry in repeated]
    # A count that takes few values lets the matrix products be planned once.
    learned += [(0, 0, 0.0)] * (-len(learned) % _COUNT_STEP)
    places, targets, weights = zip(*learned, strict=True)
    return Batch(
        ids,
        torch.tensor([row.start - 1 for row in rows]),
        choices,
        odds,
        torch.tensor(places),
        torch.tensor(targets),
        torch.tensor(weights),
    )


def batches(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, start: int) -> Iterator[Batch]:
    """Yield the batches from step ``start`` on: examples of like length share a batch."""
    group = 8
    for block in range(start // group, -(-recipe.steps // group)):
        rng = Random(f"{recipe.seed}-{block}")
        phase = int(block * group >= recipe.last_phase)
        rows = [_encode(tokenizer, rng, phase) for _ in range(group * recipe.batch)]
        rows.sort(key=lambda row: len(row.ids))
        order = list(range(group))
        rng.shuffle(order)
        for number, index in enumerate(order):
            chosen = rows[index * recipe.batch : (index + 1) * recipe.batch]
            # Also the batches before the start: they draw from the same random numbers.
            batch = _collate(chosen, int(tokenizer.pad_token_id), recipe, rng)
            if start <= block * group + number < recipe.steps:
                yield batch
