"""Run rows of embeddings through a model and read the log-probabilities of their answers.

Two things are saved where the model allows it, and a model is tried once to find out: answers
packed behind one prompt (needs a free 4-D attention mask and free position ids), and logits only
at the positions that are read (needs an output layer with nothing behind it). Where a model
disagrees with its own plain forward pass, the plain form is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from steerable_llm.runtime.blocks import text_config
from steerable_llm.runtime.forward import frozen, logits_at


@dataclass(frozen=True)
class Branch:
    """One answer in a row.

    Attributes:
        start: How many prompt tokens it continues, at least 1 where its first token is asked for.
        ids: Its tokens, end of turn included, at least 1.
        weight: Factor of its summed log-probability.
        owner: Index of the value that its log-probability is added to.
        given: How many of its first tokens are fed, and not asked for.
    """

    start: int
    ids: tuple[int, ...]
    weight: float
    owner: int = 0
    given: int = 0


@dataclass(frozen=True)
class RowShape:
    """What one row holds: a prompt of some length and the branches behind it, if any."""

    prompt_length: int
    branches: tuple[Branch, ...]

    @property
    def length(self) -> int:
        """Columns of the row."""
        return self.prompt_length + sum(len(branch.ids) - 1 for branch in self.branches)

    @property
    def reads(self) -> int:
        """Positions whose next-token distribution is needed."""
        return sum(len(branch.ids) - branch.given for branch in self.branches)

    @property
    def span(self) -> int:
        """Highest position in the row plus one."""
        longest = [branch.start + len(branch.ids) - 1 for branch in self.branches]
        return max([self.prompt_length, *longest])

    def split(self) -> tuple["RowShape", ...]:
        """Return the same as plain rows with one branch each, for models that cannot pack."""
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
            targets = list(zip(sources, branch.ids, strict=True))[branch.given :]
            read += [(row, source, token, branch.owner) for source, token in targets]
            weights += [branch.weight] * len(targets)
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


# Relative difference of hidden states that rounding explains; a wrong mask shows far more.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
LOW_PRECISION_TOLERANCE = 3e-2


def agree(logits: Tensor, expected: Tensor) -> bool:
    """Tell whether two computations of logits differ by no more than rounding."""
    if logits.shape != expected.shape:
        return False
    tolerance = TOLERANCE.get(expected.dtype, LOW_PRECISION_TOLERANCE)
    # A common shift of all logits changes no probability, and would hide differences.
    centred = expected - expected.mean(-1, keepdim=True)
    return bool((logits - expected).norm() <= tolerance * centred.norm())


@dataclass(frozen=True)
class Group:
    """N inputs of one shape: `points` is [N, T, d], T the shape's prompt length."""

    shape: RowShape
    points: Tensor


@dataclass(frozen=True)
class Batch:
    """Rows that are run together.

    Attributes:
        inputs: [R, S, d] embeddings, padded on the right; the leaf that gradients are taken of.
        attention: [R or 1, 1, S, S] additive mask, or None for plain causal rows.
        positions: [R, S] or None for plain rows.
        read: [A, 3] row, column and target token id.
        owner: [A] index into the values.
        weights: [A] float32.
        values: How many values the batch gives.
    """

    inputs: Tensor
    attention: Tensor | None
    positions: Tensor | None
    read: Tensor
    owner: Tensor
    weights: Tensor
    values: int


class AnswerReader:
    """Read answers' log-probabilities from one model."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Look at the model; nothing is run before `learn`."""
        self.model = model
        self.embedding: nn.Module = model.get_input_embeddings()
        self.head: nn.Module | None = model.get_output_embeddings()
        weight = next(self.embedding.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.packs = False
        self.reads_positions = False
        # A 4-D mask replaces the sliding window too, so longer rows are not packed.
        windows = [
            getattr(text_config(model), name, None)
            for name in ("sliding_window", "attention_chunk_size")
        ]
        self._window = min((w for w in windows if isinstance(w, int)), default=None)

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """Return the input embeddings of tokens, [T, d]."""
        rows: Tensor = self.embedding(torch.tensor(ids, dtype=torch.long, device=self.device))
        return rows.detach()

    @torch.no_grad()
    def learn(self, shape: RowShape, prompt: Tensor) -> None:
        """Find out what the model allows by comparing with its plain forward pass.

        Args:
            shape: A short example with all its branches.
            prompt: The example's embeddings, [T, d].
        """
        with frozen(self.model):
            plain = self.batch([Group(s, prompt[None, : s.prompt_length]) for s in shape.split()])
            self.reads_positions = False
            expected = self._logits(plain)
            self.reads_positions = True
            self.reads_positions = self._agrees(plain, expected)
            if self.packable(shape):
                packed = self.batch([Group(shape, prompt[None])])
                self.packs = self._agrees(packed, expected)

    def packable(self, shape: RowShape) -> bool:
        """Tell whether the model's attention window allows the shape as one row."""
        return self._window is None or shape.span <= self._window

    def _agrees(self, batch: Batch, expected: Tensor) -> bool:
        try:
            logits = self._logits(batch)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # models refuse masks and positions in many ways; then the plain form
            return False
        return agree(logits, expected)

    def rows_of(self, shape: RowShape) -> tuple[RowShape, ...]:
        """Return the rows that one input of this shape takes on this model."""
        if len(shape.branches) == 1 and shape.branches[0].start == shape.prompt_length:
            return (shape,)
        return (shape,) if self.packs and self.packable(shape) else shape.split()

    def batch(self, groups: Sequence[Group], values: Sequence[int] | None = None) -> Batch:
        """Assemble rows, each group's inputs one after the other.

        Args:
            groups: What to run; shapes are taken as they are, see `rows_of`.
            values: For each group, where its first input's values start; an input of a group has
                as many values as its shape has owners. None counts them one after the other.
        """
        layout = lay_out([group.shape for group in groups])
        counts = np.array([len(group.points) for group in groups])
        firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        owners = [1 + max((b.owner for b in g.shape.branches), default=0) for g in groups]
        sizes = counts * np.array(owners)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if values is None else values
        rows, columns = int(counts.sum()), layout.positions.shape[1]
        inputs = groups[0].points.new_zeros((rows, columns, groups[0].points.shape[-1]))
        for group, first in zip(groups, firsts, strict=True):
            length = group.shape.prompt_length
            inputs[first : first + len(group.points), :length] = group.points[:, :length]
        fed, _ = _repeat(layout.fed, counts, firsts)
        if len(fed):
            index = torch.from_numpy(fed).to(self.device)
            inputs[index[:, 0], index[:, 1]] = self.embed(fed[:, 2].tolist()).to(inputs.dtype)
        read, (shape_index, copy) = _repeat(layout.read, counts, firsts)
        owner = np.array(starts)[shape_index] + copy * np.array(owners)[shape_index] + read[:, 3]
        weights, _ = _repeat(
            np.column_stack([layout.read[:, 0], np.arange(len(layout.read))]), counts, firsts
        )
        attention, positions = self._attention(groups, layout, counts)
        return Batch(
            inputs,
            attention,
            positions,
            torch.from_numpy(read[:, :3]).to(self.device),
            torch.from_numpy(owner).to(self.device),
            torch.from_numpy(layout.weights[weights[:, 1]]).to(self.device),
            int(sizes.sum() if values is None else max(owner) + 1),
        )

    def _attention(
        self, groups: Sequence[Group], layout: Layout, counts: NDArray[np.int64]
    ) -> tuple[Tensor | None, Tensor | None]:
        if all(
            len(g.shape.branches) == 1 and g.shape.branches[0].start == g.shape.prompt_length
            for g in groups
        ):
            # Padding stands behind everything that is read: the model's own causal mask will do.
            return None, None
        visible = layout.visible.to(self.device)
        mask = torch.zeros(visible.shape, dtype=self.dtype, device=self.device)
        mask.masked_fill_(~visible, torch.finfo(self.dtype).min)
        positions = layout.positions.to(self.device)
        if len(groups) == 1:  # one mask for all rows: a view, no copies
            return mask[:, None].expand(int(counts[0]), -1, -1, -1), positions.expand(
                int(counts[0]), -1
            )
        which = torch.from_numpy(np.repeat(np.arange(len(groups)), counts)).to(self.device)
        return mask[which][:, None], positions[which]

    def values(self, batch: Batch) -> Tensor:
        """Return the weighted sums of log-probabilities, float32 [values]."""
        logits = self._logits(batch).float()
        target = batch.read[:, 2].to(logits.device)
        log_probs = -nn.functional.cross_entropy(logits, target, reduction="none")
        total = torch.zeros(batch.values, device=logits.device)
        weighted = log_probs * batch.weights.to(logits.device)
        return total.index_add(0, batch.owner.to(logits.device), weighted)

    def _logits(self, batch: Batch) -> Tensor:
        """Return the logits at the positions that are read, [A, V]."""
        inputs: dict[str, Tensor | None] = {"inputs_embeds": batch.inputs}
        if batch.attention is not None:
            inputs |= {"attention_mask": batch.attention, "position_ids": batch.positions}
        head = self.head if self.reads_positions else None
        return logits_at(self.model, inputs, batch.read[:, 0], batch.read[:, 1], head)


def _repeat(
    entries: NDArray[np.int64], counts: NDArray[np.int64], firsts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Repeat a layout's entries for every input of their shape, moving the row number along.

    Returns:
        The repeated entries, and for each of them its shape's index and its number within it.
    """
    shape_index = np.repeat(entries[:, 0], counts[entries[:, 0]])
    repeated = np.repeat(entries, counts[entries[:, 0]], axis=0)
    total = counts[entries[:, 0]]
    copy = np.arange(len(repeated)) - np.repeat(np.cumsum(total) - total, total)
    repeated[:, 0] = firsts[shape_index] + copy
    return repeated, (shape_index, copy)
