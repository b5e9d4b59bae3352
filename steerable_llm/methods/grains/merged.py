"""The preference objective of pairs with images, over merged sequences of words and pieces.

It says what `PreferenceObjective` says of pairs of text, and is asked the same way. The rows of a
prompt are the embeddings of its words and, behind the vision tower and the projector, those of the
pieces of its images; where features of an image enter again in later blocks, they stand beside
their piece and are scored and taken away with it. Both answers are read behind one prompt where
the model allows it, which is tried once, and else each by itself; the vision tower sees an image
once for each of them, whatever the number of points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from steerable_llm.chat.vision import ReadPrompt
from steerable_llm.methods.grains.budget import default_budget, row_bytes
from steerable_llm.methods.grains.objective import EncodedPair, PreferenceObjective, Slope, check
from steerable_llm.runtime.forward import frozen
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.merged import Merged, MergedDecoder
from steerable_llm.runtime.packed import AnswerReader, Branch, agree


@dataclass(frozen=True)
class _Row:
    """A text with one answer or both, and what is read of it.

    Attributes:
        text: As the decoder reads it.
        columns: A positions whose next token is asked for.
        targets: These tokens, `[A]`.
        weights: What each counts, `[A]`.
    """

    text: Merged
    columns: tuple[int, ...]
    targets: Tensor
    weights: Tensor

    @classmethod
    def of(cls, text: Merged, answers: Sequence[tuple[Branch, int]]) -> _Row:
        """Return what is read of answers, each with the column of its first token."""
        columns: list[int] = []
        for answer, first in answers:
            sources = [answer.start - 1, *range(first, first + len(answer.ids) - 1)]
            columns += sources[answer.given :]
        asked = [answer.ids[answer.given :] for answer, _ in answers]
        weights = [answer.weight for answer, _ in answers for _ in answer.ids[answer.given :]]
        targets = torch.tensor([token for ids in asked for token in ids])
        return cls(text, tuple(columns), targets, torch.tensor(weights))


class MergedObjective:
    """f for many pairs of which some have images: values and gradients at any points."""

    def __init__(
        self,
        llm: HookedModel,
        pairs: Sequence[EncodedPair],
        reduction: Literal["sum", "mean"] = "sum",
        memory_budget: int | None = None,
    ) -> None:
        """Prepare the pairs and try the model once on one of them; settings as in `GrainsConfig`.

        Raises:
            InvalidInputError: No pairs, or one without tokens.
            UnknownArchitectureError: The model does not read words and images as one sequence.
        """
        check(pairs)
        self.pairs = tuple(pairs)
        self.model = llm.model
        self.shapes = tuple(pair.shape(reduction) for pair in pairs)
        self.reader = AnswerReader(llm.model)
        self.memory_budget = memory_budget or default_budget(self.reader)
        self._llm = llm
        self._answers = [pair.shape(reduction, stem=False).branches for pair in pairs]
        self._decoder = MergedDecoder(llm)
        self._kept: dict[tuple[int, int], Merged] = {}
        self._pictured = next((i for i, pair in enumerate(pairs) if pair.vision), 0)
        self._decoder.learn(self._text(self._pictured))
        # What a row costs depends on it: the output layer reads the answers' columns alone.
        self.reader.reads_positions = self._decoder.head is not None
        self.reader.packs = self._learn_packing()

    def _learn_packing(self) -> bool:
        """Try a pair whose answers feed as many tokens as any, since these show a wrong mask."""
        able = [
            i
            for i, pair in enumerate(self.pairs)
            if len(pair.bad) > 1 and len(pair.good) > 1 and self._packable(i)
        ]
        example = max(
            able,
            key=lambda i: (bool(self.pairs[i].vision), *(len(b.ids) for b in self._answers[i])),
            default=None,
        )
        if example is None:
            return False
        rows = self.embeddings(example)[None]
        with torch.no_grad(), frozen(self.model):
            apart = [self._logits(row, rows) for row in self._apart(example)]
            try:
                [together] = [self._logits(row, rows) for row in self._together(example)]
            except torch.OutOfMemoryError:
                raise
            except Exception:  # models refuse masks and positions in many ways
                return False
        return agree(together, torch.cat(apart, dim=1))

    def embeddings(self, index: int) -> Tensor:
        """Return the rows of a pair's prompt, [T, w]."""
        return self._text(index).rows[: len(self.pairs[index].prompt)]

    def image(self, index: int) -> Tensor:
        """Return which positions of a pair's prompt are pieces of an image, [T]."""
        return self._text(index).image[: len(self.pairs[index].prompt)]

    def baseline(self, word: Tensor, mean: bool) -> Tensor:
        """Return the neutral rows of a word and of a piece, float32 [2, w].

        Args:
            word: The neutral embedding of a word, [d].
            mean: The neutral piece is the mean over the pieces of all pairs; else it is as a word
                is, and no feature enters again.
        """
        rows = word.new_zeros(2, self.embeddings(self._pictured).shape[-1])
        rows[:, : len(word)] = word
        if mean:
            pictured = [i for i, pair in enumerate(self.pairs) if pair.vision]
            pieces = [self.embeddings(i)[self.image(i)].float() for i in pictured]
            rows[1] = torch.cat(pieces).mean(0)
        return rows

    def neutral(self, index: int, baseline: Tensor) -> Tensor:
        """Return a pair's prompt where every row is the baseline [2, w] of its kind: [T, w]."""
        # A prompt without an image has no features beside its words.
        return baseline[self.image(index).long(), : self.embeddings(index).shape[-1]]

    def values(self, points: Sequence[tuple[int, Tensor]]) -> list[Tensor]:
        """Return f at points of pairs, [N, T, w], without gradients: float32 [N], on the CPU."""
        return [found.values for found in self._run(points, gradients=False, done=None)]

    def gradients(
        self, points: Sequence[tuple[int, Tensor]], done: Callable[[int], object] | None = None
    ) -> list[Slope]:
        """Return f and its gradient at points of pairs, [N, T, w]; `done` is told of each entry."""
        return self._run(points, gradients=True, done=done)

    def baseline_values(self, baseline: Tensor) -> list[float]:
        """Return f of every pair where the whole prompt is the baseline [2, w]."""
        pairs = range(len(self.pairs))
        points = [(i, self.neutral(i, baseline)[None].to(self.reader.dtype)) for i in pairs]
        return [float(value) for value in self.values(points)]

    def decision_states(self, _: HookedModel, prompts: Sequence[tuple[int, Tensor]]) -> Tensor:
        """Return what all blocks give at the decision after prompts of pairs, [T, w] each.

        Float32 [N, L, d], on the CPU.
        """
        found = []
        for index, group in groupby(prompts, key=lambda each: each[0]):
            text = self._text(index)
            points = torch.stack([prompt for _, prompt in group])
            column = self.shapes[index].prompt_length - 1
            found.append(self._decoder.states(text, self._answered(text, points), column))
        return torch.cat(found)

    def _run(
        self,
        points: Sequence[tuple[int, Tensor]],
        gradients: bool,
        done: Callable[[int], object] | None,
    ) -> list[Slope]:
        found = []
        for entry, (index, tensor) in enumerate(points):
            if not len(tensor):
                found.append(Slope(torch.zeros(0), tensor, torch.zeros(0)))
                continue
            packed = self.reader.packs and self._packable(index)
            rows = self._together(index) if packed else self._apart(index)
            cost = row_bytes(self.reader, self.shapes[index], gradients)
            room = self.memory_budget - self.kept_bytes
            parts = [
                self._slope(rows, part, gradients)
                for part in torch.split(tensor, max(1, room // cost))
            ]
            found.append(Slope(*map(torch.cat, zip(*parts, strict=True))))
            if done is not None:
                done(entry)
        return found

    def _slope(self, texts: Sequence[_Row], points: Tensor, gradients: bool) -> Slope:
        length = points.shape[1]
        values, rest = torch.zeros(2, len(points))
        slope = torch.zeros_like(points if gradients else points[..., :1])
        for row in texts:
            with frozen(self.model), torch.set_grad_enabled(gradients):
                rows = self._answered(row.text, points.detach()).requires_grad_(gradients)
                logits = self._decoder.logits(row.text, rows, row.columns).float()
                target = row.targets.to(logits.device).repeat(len(points))
                losses = cross_entropy(logits.flatten(0, 1), target, reduction="none")
                value = -(losses.view(len(points), -1) @ row.weights.to(logits.device))
            values += value.detach().cpu()
            if gradients:
                [found] = torch.autograd.grad(value.sum(), rows)
                slope += found[:, :length]
                rest += (found * rows.detach())[:, length:].float().sum((1, 2)).cpu()
        return Slope(values, slope, rest)

    def _logits(self, row: _Row, points: Tensor) -> Tensor:
        return self._decoder.logits(row.text, self._answered(row.text, points), row.columns)

    def _packable(self, index: int) -> bool:
        return len(self._answers[index]) == 2 and self.reader.packable(self.shapes[index])

    def _apart(self, index: int) -> list[_Row]:
        """Return a row for each answer of a pair."""
        start = len(self.pairs[index].prompt)
        answers = enumerate(self._answers[index])
        return [_Row.of(self._text(index, n), [(answer, start)]) for n, answer in answers]

    def _together(self, index: int) -> list[_Row]:
        """Return one row with both answers of a pair."""
        good, bad = self._answers[index]
        start = len(self.pairs[index].prompt)
        key = index, -1
        if key not in self._kept:
            text = self._text(index)
            fed = bad.ids[:-1]
            # Of unlike lengths, whatever the last token is: nothing that is read sees it.
            more = bad.ids if len(fed) == len(good.ids) - 1 else fed
            other = self._captured(index, more)
            self._keep(key, self._decoder.pack(text, other, start, len(fed)))
        behind = start + len(good.ids) - 1
        return [_Row.of(self._kept[key], [(good, start), (bad, behind)])]

    @staticmethod
    def _answered(text: Merged, points: Tensor) -> Tensor:
        """Return prompts [N, T, w] with the text's answer behind each."""
        answer = text.rows[points.shape[1] :]
        return torch.cat([points.to(answer.dtype), answer.expand(len(points), -1, -1)], dim=1)

    def _text(self, index: int, number: int = 0) -> Merged:
        """Return a pair's prompt with one of its answers, as the decoder reads it."""
        key = index, number
        if key not in self._kept:
            self._keep(key, self._captured(index, self._answers[index][number].ids[:-1]))
        return self._kept[key]

    def _captured(self, index: int, answer: Sequence[int]) -> Merged:
        pair = self.pairs[index]
        prompt = ReadPrompt(list(pair.prompt), pair.vision)
        return self._decoder.capture(self._llm.followed(prompt, answer))

    def _keep(self, key: tuple[int, int], text: Merged) -> None:
        """Keep a text, and forget the oldest ones where they would fill half of the budget."""
        while self._kept and self.kept_bytes + text.size > self.memory_budget // 2:
            self._kept.pop(next(iter(self._kept)))
        self._kept[key] = text

    @property
    def kept_bytes(self) -> int:
        """Bytes of the texts that are kept as the decoder reads them."""
        return sum(text.size for text in self._kept.values())


Objective: TypeAlias = PreferenceObjective | MergedObjective
"""Both are asked alike; `neutral` says what a baseline makes of each row."""
