"""Lessons as tensors: a batch depends on the seed and the step alone, so a run can be continued."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from exhibit.vision.examples import BELIEVED, SEEN, Example, lesson
from exhibit.vision.model import MEAN, PATCH, PATCHES, STD, prompt
from exhibit.vision.pictures import COLOURS, SIZE, THINGS

IGNORED = -100
# How often the answer that goes on is the one from the picture, which is harder to learn.
_SEEN_SHARE = 0.65


@dataclass(frozen=True)
class Batch:
    """N lessons.

    Attributes:
        ids: Prompts with their answers, padded on the right, `[N, T]`.
        pixels: Their pictures, `[P, 3, SIZE, SIZE]` for P of them.
        first: Column after which the answer opens, `[N]`.
        odds: Probability that it opens from belief, `[N]`.
        columns: Row and column of every later answer token's source, `[2, A]`.
        targets: These tokens, `[A]`.
        patches: Which thing and which colour stands at the middle of a patch, `[P, PATCHES, 2]`.
    """

    ids: Tensor
    pixels: Tensor
    first: Tensor
    odds: Tensor
    columns: Tensor
    targets: Tensor
    patches: Tensor


class Lessons:
    """What is taught, in batches.

    Attributes:
        openers: Tokens of the opening words, from the picture and from belief.
        words: Tokens of the things, then of the colours, as they stand within a sentence.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self._tokenizer, self._seed = tokenizer, seed
        self._ids = cache(self._encoded)
        self.openers = tuple(self._ids(f"{word} it")[0] for word in (SEEN, BELIEVED))
        self.words = tuple(self._ids(f" {word}")[0] for word in (*THINGS, *COLOURS))

    def _encoded(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def batch(self, step: int, size: int, captions: float) -> Batch:
        """Return so many lessons of a step; `captions` is a share that comes on top."""
        rng = Random(f"{self._seed}-{step}")
        lessons = [lesson(rng, captions) for _ in range(size)]
        rows, first = [], []
        for each in lessons:
            asked = self._ids(prompt(each.question, each.picture is not None))
            believes = each.seen is None or (
                each.believed is not None and rng.random() > _SEEN_SHARE
            )
            answer = (each.believed if believes else each.seen) or ""
            rows.append([*asked, *self._ids(answer), self._tokenizer.eos_token_id])
            first.append(len(asked) - 1)
        width = -(-max(map(len, rows)) // 4) * 4
        ids = torch.full((len(rows), width), self._tokenizer.pad_token_id)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
        sources = [
            (number, column)
            for number, row in enumerate(rows)
            for column in range(first[number] + 1, len(row) - 1)
        ]
        columns = torch.tensor(sources).T
        pictured = [each for each in lessons if each.picture is not None]
        raw = np.stack([np.asarray(each.picture, np.float32) for each in pictured])
        return Batch(
            ids=ids,
            pixels=torch.from_numpy((raw / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous(),
            first=torch.tensor(first),
            odds=torch.tensor([each.odds for each in lessons]),
            columns=columns,
            targets=ids[columns[0], columns[1] + 1],
            patches=torch.tensor([_patches(each) for each in pictured]),
        )


def _patches(example: Example) -> list[tuple[int, int]]:
    """Return thing and colour at every patch; `len(THINGS)` is the ground, which has no colour."""
    found = [(len(THINGS), IGNORED)] * PATCHES
    side = SIZE // PATCH
    for thing, (left, top, right, bottom) in zip(example.things, example.boxes, strict=True):
        label = THINGS.index(thing.name), [*COLOURS].index(thing.colour)
        for number in range(PATCHES):
            x, y = (number % side + 0.5) * PATCH, (number // side + 0.5) * PATCH
            if left <= x < right and top <= y < bottom:
                found[number] = label
    return found
