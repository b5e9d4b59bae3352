"""What each token of one pass is steered with: rows of strengths, and the row of each token.

The directions of all vectors stay where they are; a row says how much of each is added in each
layer. Requests that are steered alike share a row, and whatever strengths are asked
for, there are rows enough for the most requests that one pass can hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from steerable_vllm.shelf import Shelf
from steerable_vllm.terms import MOST_TERMS, Term

#: Spans of a request's terms cut its positions into at most so many pieces.
_PIECES = MOST_TERMS + 3
_ON, _KEEP = -2, -1


@dataclass(frozen=True)
class Scheduled:
    """One request's part of a pass.

    Attributes:
        terms: What it is steered with.
        prompt: How many tokens its prompt has.
        start: The first position of this pass.
        count: How many.
    """

    terms: tuple[Term, ...]
    prompt: int
    start: int
    count: int

    def pieces(self) -> Iterable[tuple[tuple[Term, ...], int]]:
        """Return which terms touch the next positions, and for how many of them that holds."""
        end = self.start + self.count
        spans = [term.span(self.prompt) for term in self.terms]
        inside = {int(cut) for span in spans for cut in span if self.start < cut < end}
        cuts = [self.start, *sorted(inside), end]
        for first, behind in pairwise(cuts):
            touching = tuple(
                term for term, (a, b) in zip(self.terms, spans, strict=True) if a <= first < b
            )
            yield touching, behind - first


class SteeringTables(nn.Module):
    """What the layers of a model read in each pass; none of it is a weight.

    Attributes:
        directions: `[L, C, d]`.
        weights: `[L, C, d]`, and
        biases: `[L, C]`: of the share that a state takes of each direction; None where all are
            taken whole.
        rows: `[L, R, C + 2]`: factors of the directions, whether the row steers this layer, and
            whether states keep their length. Row 0 steers nothing.
        row: `[tokens]`, the row of each token of the pass.
    """

    directions: Tensor
    weights: Tensor | None
    biases: Tensor | None
    rows: Tensor
    row: Tensor

    def __init__(self, shelf: Shelf, layers: int, width: int, tokens: int, requests: int) -> None:
        """Lay out the tables.

        Args:
            shelf: The vectors.
            layers: Of the model.
            width: Of its hidden states.
            tokens: The most of one pass, padding included.
            requests: The most of one pass.
        """
        super().__init__()
        directions = shelf.directions(layers, width)
        weights, biases = shelf.shares(layers, width) or (None, None)
        self._most = min(requests * _PIECES, tokens) + 1
        self._shelf, self._layers = shelf, layers
        self._known: dict[tuple[str, ...], int] = {}
        rows = torch.zeros(layers, self._most, directions.shape[1] + 2)
        row = torch.zeros(tokens, dtype=torch.long)
        for name, held in (
            ("directions", directions),
            ("weights", weights),
            ("biases", biases),
            ("rows", rows),
            ("row", row),
        ):
            self.register_buffer(name, held, persistent=False)
        self._idle = True

    @property
    def form(self) -> list[int]:
        """What the graph of a pass depends on, compiled or captured."""
        return [*self.rows.shape, self.row.shape[0], int(self.weights is not None)]

    def delta(self, layer: int, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what one layer adds to the states of a pass, `[tokens, d]`.

        Returns:
            Float32 `[tokens, d]`; whether anything is added to a state, `[tokens]`; and whether it
            keeps its length then.
        """
        row = self.rows[layer].index_select(0, self.row[: states.shape[0]])
        factors, on, keep = row[:, :-2], row[:, _ON] > 0, row[:, _KEEP] > 0
        if self.weights is not None and self.biases is not None:
            asked = states.float() @ self.weights[layer].T + self.biases[layer]
            factors = factors * torch.sigmoid(asked)
        return factors @ self.directions[layer], on, keep

    def lay_out(self, scheduled: Sequence[Scheduled]) -> None:
        """Get ready for a pass over these requests, in their order."""
        if not any(each.terms for each in scheduled):
            if not self._idle:
                self.row.zero_()
            self._idle = True
            return
        pieces = [piece for each in scheduled for piece in each.pieces()]
        wanted = {_key(terms) for terms, _ in pieces if terms}
        if len(self._known) + len(wanted - self._known.keys()) >= self._most:
            self._known = {}  # nothing of a pass before is read again
        numbers = [self._row(terms) for terms, _ in pieces]
        lengths = [length for _, length in pieces]
        row = np.zeros(self.row.shape[0], dtype=np.int64)
        row[: sum(lengths)] = np.repeat(numbers, lengths)
        self.row.copy_(torch.from_numpy(row), non_blocking=False)
        self._idle = False

    def _row(self, terms: tuple[Term, ...]) -> int:
        """Return the row of some terms; a new one is filled first."""
        if not terms:
            return 0
        key = _key(terms)
        if key not in self._known:
            new = torch.zeros(self._layers, self.rows.shape[2])
            for term in terms:
                here = list(term.layers)
                new[:, :_ON] += self._shelf.factors(term, self._layers)
                new[here, _ON] = 1.0
                if term.renormalise:
                    new[here, _KEEP] = 1.0
            self._known[key] = len(self._known) + 1
            self.rows[:, self._known[key]] = new.to(self.rows.device)
        return self._known[key]


def _key(terms: Iterable[Term]) -> tuple[str, ...]:
    return tuple(term.digest for term in terms)
