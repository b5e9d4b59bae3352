"""How the state that decides moves when prompt tokens are taken away (paper section 3.2, eq. 4).

It is the one before the first token in which the answers differ. The paper reads the last prompt
position, which is the same for answers that differ at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steerable_llm.methods.grains.budget import forward_bytes
from steerable_llm.methods.grains.merged import Objective
from steerable_llm.runtime.hooked_model import HookedModel


@dataclass(frozen=True)
class _Job:
    """One input to run: a pair's prompt without the tokens of one sign (0: with all)."""

    pair: int
    sign: int
    removed: tuple[int, ...]
    length: int


def contrastive_deltas(
    llm: HookedModel,
    objective: Objective,
    selected: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    baseline: Tensor,
    layers: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return h(x) - h(x without I+), h(x) - h(x without I-) and h(x).

    h is the raw output of L blocks at the decision, and I+ and I- are the positions
    `selected` per pair, whose embeddings the baseline replaces. A pair without tokens of a sign
    gives no delta of it.

    Returns:
        [n+, L, d], [n-, L, d] and [n, L, d], float32 on the CPU.
    """
    states: dict[tuple[int, int], Tensor] = {}
    for batch in _batches(_jobs(objective, selected), objective, len(llm.blocks)):
        inputs = []
        for job in batch:
            row = objective.embeddings(job.pair).clone()
            removed = list(job.removed)
            row[removed] = objective.neutral(job.pair, baseline)[removed].to(row.dtype)
            inputs.append((job.pair, row))
        found = objective.decision_states(llm, inputs)[:, list(layers)]
        states.update({(job.pair, job.sign): h for job, h in zip(batch, found, strict=True)})
    whole = torch.stack([states[pair, 0] for pair in range(len(selected))])
    plus, minus = (
        [h - states[i, sign] for i, h in enumerate(whole) if (i, sign) in states]
        for sign in (1, -1)
    )
    none = whole[:0]
    return torch.stack(plus) if plus else none, torch.stack(minus) if minus else none, whole


def _jobs(
    objective: Objective, selected: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
) -> list[_Job]:
    jobs = []
    for pair, (positive, negative) in enumerate(selected):
        length = objective.shapes[pair].prompt_length
        jobs.append(_Job(pair, 0, (), length))
        jobs += [
            _Job(pair, sign, removed, length)
            for sign, removed in ((1, positive), (-1, negative))
            if removed
        ]
    return sorted(jobs, key=lambda job: -job.length)  # stable: a pair's inputs stay together


def _batches(jobs: Sequence[_Job], objective: Objective, depth: int) -> Iterator[list[_Job]]:
    start = 0
    while start < len(jobs):
        cost = forward_bytes(objective.reader, jobs[start].length, kept_blocks=depth)
        stop = start + max(1, objective.memory_budget // cost)
        yield list(jobs[start:stop])
        start = stop
