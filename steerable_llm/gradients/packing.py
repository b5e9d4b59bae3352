"""Several answers behind one prompt in one row, so that the prompt is run only once.

A row is `[prompt | answer | answer | ... | padding]`. Each answer is a branch: it sees the first
`start` tokens of the prompt and itself, never another branch, and its positions count on from
`start`. The last token of an answer is only predicted, so it is not fed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Branch:
    """One answer in a row.

    Attributes:
        start: how many prompt tokens it continues, at least 1.
        ids: its tokens, end of turn included, at least 1.
        weight: factor of its summed log-probability.
        owner: index of the value that its log-probability is added to.
    """

    start: int
    ids: tuple[int, ...]
    weight: float
    owner: int = 0


@dataclass(frozen=True)
class RowShape:
    """What one row holds: a prompt of some length and the branches behind it."""

    prompt_length: int
    branches: tuple[Branch, ...]

    @property
    def length(self) -> int:
        """Columns of the row."""
        return self.prompt_length + sum(len(branch.ids) - 1 for branch in self.branches)

    @property
    def reads(self) -> int:
        """Positions whose next-token distribution is needed."""
        return sum(len(branch.ids) for branch in self.branches)

    @property
    def span(self) -> int:
        """Highest position in the row plus one."""
        longest = (branch.start + len(branch.ids) - 1 for branch in self.branches)
        return max(self.prompt_length, *longest)

    def split(self) -> tuple["RowShape", ...]:
        """The same as plain rows with one branch each, for models that cannot run packed rows."""
        return tuple(RowShape(branch.start, (branch,)) for branch in self.branches)


@dataclass(frozen=True)
class Layout:
    """Where everything stands in a batch of P row shapes padded to S columns.

    Attributes:
        positions: [P, S] position ids.
        visible: [P, S, S] booleans, whether a query (second axis) sees a key (third axis).
        fed: [F, 3] row, column and token id of the answer tokens that are fed.
        read: [A, 4] row, column, target token id and owner of each answer token's prediction.
        weights: [A] factor of each answer token's log-probability.
    """

    positions: Tensor
    visible: Tensor
    fed: NDArray[np.int64]
    read: NDArray[np.int64]
    weights: NDArray[np.float32]


def lay_out(shapes: Sequence[RowShape]) -> Layout:
    """Place the branches of every row shape; rows are padded on the right."""
    columns = max(shape.length for shape in shapes)
    positions = np.zeros((len(shapes), columns), dtype=np.int64)
    kind = np.full((len(shapes), columns), -1, dtype=np.int64)  # -1 padding, 0 prompt, 1.. branch
    limit = np.zeros((len(shapes), columns), dtype=np.int64)  # prompt tokens a column may see
    fed: list[tuple[int, int, int]] = []
    read: list[tuple[int, int, int, int]] = []
    weights: list[float] = []
    for row, shape in enumerate(shapes):
        prompt = shape.prompt_length
        positions[row, :prompt] = np.arange(prompt)
        kind[row, :prompt] = 0
        limit[row, :prompt] = prompt
        column = prompt
        for number, branch in enumerate(shape.branches, start=1):
            end = column + len(branch.ids) - 1
            positions[row, column:end] = np.arange(branch.start, branch.start + end - column)
            kind[row, column:end] = number
            limit[row, column:end] = branch.start
            fed += [(row, column + i, token) for i, token in enumerate(branch.ids[:-1])]
            sources = [branch.start - 1, *range(column, end)]
            targets = zip(sources, branch.ids, strict=True)
            read += [(row, source, token, branch.owner) for source, token in targets]
            weights += [branch.weight] * len(branch.ids)
            column = end
    order = np.arange(columns)
    own = kind[:, :, None] == kind[:, None, :]
    of_prompt = (kind == 0)[:, None, :] & (order[None, None, :] < limit[:, :, None])
    visible = (order[None, :] <= order[:, None])[None] & (own | of_prompt)
    return Layout(
        torch.from_numpy(positions),
        torch.from_numpy(visible),
        np.array(fed, dtype=np.int64).reshape(-1, 3),
        np.array(read, dtype=np.int64).reshape(-1, 4),
        np.array(weights, dtype=np.float32),
    )
