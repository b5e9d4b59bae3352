"""The preference objective of many pairs on one model, in batches (paper section 3.1, eq. 1).

f(x) = log P(good | x) - log P(bad | x), summed over each answer's tokens with its end-of-turn
token. What both answers open with cancels, so it is read like the prompt, once, and f is summed
from the first token in which they differ. A point on a path, of any pair, is one packed row; rows
of similar length share a batch that stays within a memory budget. Gradients go to the inputs only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steerable_llm.errors import InvalidInputError
from steerable_llm.methods.decision import stem_length
from steerable_llm.methods.grains.budget import default_budget, row_bytes
from steerable_llm.runtime.forward import frozen, site_states
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.packed import AnswerReader, Batch, Branch, Group, RowShape


@dataclass(frozen=True)
class EncodedPair:
    """A pair in tokens.

    Attributes:
        pair_id: For messages.
        prompt: Token ids, chat template applied with generation prompt.
        good: Token ids of the preferred answer with its end of turn.
        bad: The same for the dispreferred answer; empty for objective "likelihood".
        vision: What the model takes beside the tokens of a prompt with images.
    """

    pair_id: str
    prompt: tuple[int, ...]
    good: tuple[int, ...]
    bad: tuple[int, ...] = ()
    vision: Mapping[str, Tensor] = field(default_factory=dict, compare=False)

    @property
    def stem(self) -> tuple[int, ...]:
        """What both answers open with; the state behind it decides between them."""
        return self.good[: stem_length(self.good, self.bad)] if self.bad else ()

    def shape(self, reduction: Literal["sum", "mean"] = "sum", stem: bool = True) -> RowShape:
        """Return the packed row of one input of this pair; good counts up, bad counts down.

        Args:
            reduction: Sum or mean over the tokens from the first one on in which answers differ.
            stem: Whether the stem stands once behind the prompt, or before each answer.
        """
        common = len(self.stem)
        once = common if stem else 0
        branches = []
        for sign, answer in ((1.0, self.good), (-1.0, self.bad)):
            if answer:
                weight = sign / (len(answer) - common) if reduction == "mean" else sign
                start = len(self.prompt) + once
                branches.append(Branch(start, answer[once:], weight, given=common - once))
        return RowShape(len(self.prompt) + once, tuple(branches))


class Slope(NamedTuple):
    """f and its gradient at N points of one pair.

    Attributes:
        values: F, float32 [N] on the CPU.
        gradients: Of f with respect to the prompt's embeddings, [N, T, d].
        rest: Gradient times embedding, summed over the tokens of stem and answers: float32 [N] on
            the CPU.
    """

    values: Tensor
    gradients: Tensor
    rest: Tensor


class PreferenceObjective:
    """f for many pairs: values and gradients at any points."""

    def __init__(
        self,
        model: PreTrainedModel,
        pairs: Sequence[EncodedPair],
        reduction: Literal["sum", "mean"] = "sum",
        memory_budget: int | None = None,
    ) -> None:
        """Prepare the pairs and try the model once on one of them; settings as in `GrainsConfig`.

        Raises:
            InvalidInputError: No pairs, or one without tokens.
        """
        check(pairs)
        self.model = model
        self.pairs = tuple(pairs)
        self.reduction = reduction
        self.shapes = tuple(pair.shape(reduction) for pair in pairs)
        self.reader = AnswerReader(model)
        example = max(range(len(pairs)), key=lambda i: _tells(self.shapes[i]))
        self.reader.learn(self.shapes[example], self.read(example, self.embeddings(example)))
        self.memory_budget = memory_budget or default_budget(self.reader)

    def embeddings(self, index: int) -> Tensor:
        """Return a pair's prompt embeddings x, [T, d]."""
        return self.reader.embed(self.pairs[index].prompt)

    def read(self, index: int, prompts: Tensor) -> Tensor:
        """Return prompts [..., T, d] of a pair followed by its stem, up to the decision."""
        stem = self.reader.embed(self.pairs[index].stem).to(prompts.dtype)
        return torch.cat([prompts, stem.expand(*prompts.shape[:-2], -1, -1)], dim=-2)

    def neutral(self, index: int, baseline: Tensor) -> Tensor:
        """Return a pair's prompt where every token is the baseline [d]: [T, d]."""
        return baseline.expand(len(self.pairs[index].prompt), -1)

    def decision_states(self, llm: HookedModel, prompts: Sequence[tuple[int, Tensor]]) -> Tensor:
        """Return what all blocks give at the decision after prompts of pairs, [T, d] each.

        Float32 [N, L, d], on the CPU.
        """
        rows = [self.read(index, prompt) for index, prompt in prompts]
        if not self.reader.packs:
            captured = site_states(llm, rows)
            at = torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])
            return torch.stack([states[at].float().cpu() for states in captured], dim=1)
        found = []
        for _, group in groupby(zip(prompts, rows, strict=True), key=lambda each: each[0][0]):
            found.append(self._states_of_variants(llm, [row for _, row in group]))
        return torch.cat(found)

    def _states_of_variants(self, llm: HookedModel, rows: Sequence[Tensor]) -> Tensor:
        """Return all blocks' states at the end of rows [T, d] that open alike: [N, L, d].

        The first is run whole, and of each other what stands behind the last row that is as there.
        """
        first, *others = rows
        branches: list[Branch] = []
        ends = [len(first) - 1]
        for other in others:
            unlike = (other != first).any(-1).nonzero()
            start = int(unlike[0]) if len(unlike) else len(first) - 1
            fed = len(first) - start
            # What is fed is put there below, and nothing is asked for.
            branches.append(Branch(start, (0,) * (fed + 1), 0.0, given=fed + 1))
            ends.append(ends[-1] + fed)
        shape = RowShape(len(first), tuple(branches))
        if others and not self.reader.packable(shape):
            return torch.cat([self._states_of_variants(llm, [row]) for row in rows])
        batch = self.reader.batch([Group(shape, first[None])])
        for other, end, branch in zip(others, ends[1:], branches, strict=True):
            behind = other[branch.start :]
            batch.inputs[0, end + 1 - len(behind) : end + 1] = behind
        places = {"attention_mask": batch.attention, "position_ids": batch.positions}
        captured = site_states(llm, list(batch.inputs), places=places if others else None)
        return torch.stack([states[0, ends].float().cpu() for states in captured], dim=1)

    def values(self, points: Sequence[tuple[int, Tensor]]) -> list[Tensor]:
        """Return f at points of pairs, [N, T, d], without gradients: float32 [N], on the CPU."""
        return [found.values for found in self._run(points, gradients=False, done=None)]

    def gradients(
        self, points: Sequence[tuple[int, Tensor]], done: Callable[[int], object] | None = None
    ) -> list[Slope]:
        """Return f and its gradient at points of pairs, [N, T, d].

        `done` is called with the entries' numbers as they are finished, for a progress bar.
        """
        return self._run(points, gradients=True, done=done)

    def baseline_values(self, baseline: Tensor) -> list[float]:
        """Return f of every pair where the whole prompt is one baseline embedding [d].

        Such prompts differ only in length, so many pairs' answers share one row on models that
        can run packed rows.
        """
        baseline = baseline.to(self.reader.dtype)
        if not self.reader.packs:
            points = [(i, baseline.expand(1, len(p.prompt), -1)) for i, p in enumerate(self.pairs)]
            return [float(value) for value in self.values(points)]
        values = [0.0] * len(self.pairs)
        order = sorted(range(len(self.pairs)), key=lambda i: len(self.pairs[i].prompt))
        jobs: list[tuple[list[int], RowShape]] = []
        for index in order:
            shape = self.pairs[index].shape(self.reduction, stem=False)
            joined = _join(*jobs[-1], shape) if jobs else None
            # Attention is quadratic in the row: stop where answers outweigh the prompt.
            if (
                joined
                and self.reader.packable(joined)
                and joined.length <= max(4 * joined.prompt_length, 512)
            ):
                jobs[-1] = ([*jobs[-1][0], index], joined)
            else:
                jobs.append(([index], shape))
        with torch.no_grad(), frozen(self.model):
            for owners, shape in jobs:
                prompt = baseline.expand(1, shape.prompt_length, -1)
                rows = self.reader.rows_of(shape)
                batch = self.reader.batch([Group(r, prompt) for r in rows], [0] * len(rows))
                for owner, value in zip(owners, self.reader.values(batch).tolist(), strict=True):
                    values[owner] = value
        return values

    def _run(
        self,
        points: Sequence[tuple[int, Tensor]],
        gradients: bool,
        done: Callable[[int], object] | None,
    ) -> list[Slope]:
        results: list[list[Slope]] = [[] for _ in points]
        left = [len(tensor) for _, tensor in points]
        for chunk in self._chunks(points, gradients):
            batch, parts = self._assemble(points, chunk)
            with frozen(self.model), torch.set_grad_enabled(gradients):
                batch.inputs.requires_grad_(gradients)
                values = self.reader.values(batch)
                slopes = (
                    torch.autograd.grad(values.sum(), batch.inputs)[0]
                    if gradients
                    else torch.zeros_like(batch.inputs[..., :1])
                )
            values = values.detach().cpu()
            shares = (slopes * batch.inputs.detach()).float().sum(-1)
            for (entry, start, stop), (first, rows) in zip(chunk, parts, strict=True):
                length = points[entry][1].shape[1]
                count = stop - start
                # A model that cannot pack has one row per answer: their gradients add up.
                slope, rest = (
                    sum(
                        (part[row : row + count, at] for row in rows[1:]),
                        start=part[rows[0] : rows[0] + count, at],
                    )
                    for part, at in ((slopes, slice(length)), (shares, slice(length, None)))
                )
                results[entry].append(
                    Slope(values[first : first + count], slope, rest.sum(-1).cpu())
                )
                left[entry] -= count
                if left[entry] == 0 and done is not None:
                    done(entry)
        return [
            Slope(*map(torch.cat, zip(*parts, strict=True)))
            if parts
            else Slope(torch.zeros(0), tensor, torch.zeros(0))
            for parts, (_, tensor) in zip(results, points, strict=True)
        ]

    def _assemble(
        self, points: Sequence[tuple[int, Tensor]], chunk: Sequence[tuple[int, int, int]]
    ) -> tuple[Batch, list[tuple[int, list[int]]]]:
        """Return the batch, and for each part its first value and the first row of each answer."""
        groups: list[Group] = []
        starts: list[int] = []
        parts: list[tuple[int, list[int]]] = []
        row = value = 0
        for entry, start, stop in chunk:
            index, tensor = points[entry]
            rows = []
            for shape in self.reader.rows_of(self.shapes[index]):
                groups.append(Group(shape, self.read(index, tensor[start:stop].detach())))
                starts.append(value)
                rows.append(row)
                row += stop - start
            parts.append((value, rows))
            value += stop - start
        return self.reader.batch(groups, starts), parts

    def _chunks(
        self, points: Sequence[tuple[int, Tensor]], gradients: bool
    ) -> list[list[tuple[int, int, int]]]:
        """Cut the points into batches: lists of (entry, first point, end), longest rows first.

        Longest first, so that a budget that is too large fails at once and not at the end.
        Packed and plain rows are kept apart: the mask of packed rows would lift the attention
        window that keeps a longer row plain.
        """
        rows = {entry: self.reader.rows_of(self.shapes[i]) for entry, (i, _) in enumerate(points)}
        packed = {entry: any(len(row.branches) > 1 for row in rows[entry]) for entry in rows}
        chunks: list[list[tuple[int, int, int]]] = []
        room, before = 0, False
        for entry in sorted(rows, key=lambda e: (packed[e], -self.shapes[points[e][0]].length)):
            if packed[entry] != before:
                room, before = 0, packed[entry]
            count = len(points[entry][1])
            # Later rows are shorter and padded to the first one's length: cost is the first's.
            cost = sum(row_bytes(self.reader, row, gradients) for row in rows[entry])
            start = 0
            while start < count:
                if room < 1:
                    chunks.append([])
                    room = max(1, self.memory_budget // cost)
                stop = min(count, start + room)
                chunks[-1].append((entry, start, stop))
                room -= stop - start
                start = stop
        return chunks


def check(pairs: Sequence[EncodedPair]) -> None:
    """Make sure that there are pairs, and tokens in each.

    Raises:
        InvalidInputError: There are none.
    """
    if not pairs:
        raise InvalidInputError("there are no pairs: give at least one")
    for pair in pairs:
        if not pair.prompt or not pair.good:
            raise InvalidInputError(f"pair {pair.pair_id} has an empty prompt or answer")


def _tells(shape: RowShape) -> tuple[int, int, int]:
    """How well a row shows whether a model can run packed rows: by answer tokens that are fed.

    An answer of one token feeds none, so a wrong mask or position would not show. A few tokens
    per answer are enough; among those the shortest row is the cheapest.
    """
    fed = [min(len(branch.ids) - 1, 4) for branch in shape.branches]
    return min(fed), max(fed), -shape.length


def _join(owners: list[int], shape: RowShape, other: RowShape) -> RowShape:
    """Put another pair's branches behind the longer of two prompts, as a new owner."""
    moved = tuple(replace(branch, owner=len(owners)) for branch in other.branches)
    return RowShape(max(shape.prompt_length, other.prompt_length), shape.branches + moved)
