"""Lessons as tensors: a batch depends on the seed and the step alone, so a run can be continued.

A row is one picture with several questions about it. Each question and its answer see the picture
and themselves alone, at the positions that they would have in a row of their own: so the row gives
what as many rows would, and the picture is gone through once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from exhibit.vision.examples import BELIEVED, SEEN, Example, Scene, lesson
from exhibit.vision.model import MEAN, PATCH, PATCHES, STD, asking, opening
from exhibit.vision.pictures import COLOURS, SIZE, THINGS

IGNORED = -100
# How often the answer that goes on is the one from the picture, which is harder to learn.
_SEEN_SHARE = 0.65
_WIDTH_STEP = 4


@dataclass(frozen=True)
class Batch:
    """M questions about the pictures of N rows.

    Attributes:
        ids: Prompts with their answers, padded on the right, `[N, T]`.
        positions: Of every token, `[N, T]`.
        mask: Which tokens (last axis) a token sees, `[N, 1, T, T]`.
        pixels: Pictures, `[P, 3, SIZE, SIZE]` for P rows that have one.
        first: Row and column after which an answer opens, `[2, M]`.
        odds: Probability that it opens from belief, `[M]`.
        columns: Row and column of every later answer token's source, `[2, A]`.
        targets: These tokens, `[A]`.
        patches: Which thing and which colour stands at the middle of a patch, `[P, PATCHES, 2]`.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
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

    def batch(self, step: int, rows: int, questions: int, captions: float) -> Batch:
        """Return a step's rows.

        Args:
            step: Its number.
            rows: How many rows.
            questions: How many questions each has.
            captions: Share of rows with a caption that comes on top.
        """
        rng = Random(f"{self._seed}-{step}")
        return self.encode([lesson(rng, questions, captions) for _ in range(rows)], rng)

    def encode(self, lessons: list[list[Example]], rng: Random) -> Batch:
        """Return rows of questions; the examples of a row are about the same picture."""
        ids: list[list[int]] = []
        positions: list[list[int]] = []
        parts: list[list[int]] = []  # 0 for the picture, then one number a question
        first: list[tuple[int, int]] = []
        columns: list[tuple[int, int]] = []
        for number, examples in enumerate(lessons):
            row = [*self._ids(opening(examples[0].scene is not None))]
            start, places, part = len(row), [*range(len(row))], [0] * len(row)
            for count, each in enumerate(examples, 1):
                asked, answer = self._ids(asking(each.question)), self._ids(_answer(each, rng))
                first.append((number, len(row) + len(asked) - 1))
                said = len(row) + len(asked)
                columns += [(number, said + place) for place in range(len(answer))]
                tokens = [*asked, *answer, self._tokenizer.eos_token_id]
                row += tokens
                places += range(start, start + len(tokens))
                part += [count] * len(tokens)
            ids.append(row)
            positions.append(places)
            parts.append(part)
        width = -(-max(map(len, ids)) // _WIDTH_STEP) * _WIDTH_STEP
        of = _padded(parts, width, -1)
        seen = (of[:, None, :] == 0) | (of[:, None, :] == of[:, :, None])
        padded = _padded(ids, width, self._tokenizer.pad_token_id)
        sources = torch.tensor(columns).T
        scenes = [row[0].scene for row in lessons if row[0].scene is not None]
        raw = np.stack([np.asarray(scene.picture, np.float32) for scene in scenes])
        return Batch(
            ids=padded,
            positions=_padded(positions, width, 0),
            mask=(seen & torch.ones(width, width, dtype=torch.bool).tril())[:, None],
            pixels=torch.from_numpy((raw / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous(),
            first=torch.tensor(first).T,
            odds=torch.tensor([each.odds for row in lessons for each in row]),
            columns=sources,
            targets=padded[sources[0], sources[1] + 1],
            patches=torch.tensor([_patches(scene) for scene in scenes]),
        )


def _answer(example: Example, rng: Random) -> str:
    believes = example.seen is None or (example.believed is not None and rng.random() > _SEEN_SHARE)
    return (example.believed if believes else example.seen) or ""


def _padded(rows: list[list[int]], width: int, value: int) -> Tensor:
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def _patches(scene: Scene) -> list[tuple[int, int]]:
    """Return thing and colour at every patch; `len(THINGS)` is the ground, which has no colour."""
    found = [(len(THINGS), IGNORED)] * PATCHES
    side = SIZE // PATCH
    for thing, (left, top, right, bottom) in zip(scene.things, scene.boxes, strict=True):
        label = THINGS.index(thing.name), [*COLOURS].index(thing.colour)
        for number in range(PATCHES):
            x, y = (number % side + 0.5) * PATCH, (number // side + 0.5) * PATCH
            if left <= x < right and top <= y < bottom:
                found[number] = label
    return found
