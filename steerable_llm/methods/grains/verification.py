"""Scores that were checked: the most sensitive tokens are masked one at a time.

A gradient tells what a small change of a token's embedding does to f. What is asked is what the
token's absence does, which is a large one, and on a real model often another. So the gradient
chooses candidates, and f is read again without each of them; that is a forward pass per
candidate, whatever the length of the prompt. The tokens that were not checked keep the
attribution's scores, brought to the same scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from steerable_llm.methods.grains.merged import Objective


@dataclass(frozen=True)
class Unchecked:
    """What an attribution says of one prompt.

    Attributes:
        scores: A_j, float32 [T] on the CPU.
        sensitivity: The most that each score could be, see `AttributionPath.sensitivity`; [T].
        selectable: Whether each token may be a candidate.
    """

    scores: Tensor
    sensitivity: Tensor
    selectable: Sequence[bool]

    def candidates(self, count: int) -> tuple[int, ...]:
        """Return the most sensitive tokens, `count` at most; ties go to the earlier one."""
        places = [i for i, flag in enumerate(self.selectable) if flag]
        places.sort(key=lambda i: -float(self.sensitivity[i]))
        return tuple(places[:count])


def verified_scores(
    objective: Objective,
    unchecked: Mapping[int, Unchecked],
    baseline: Tensor,
    count: int,
    values: Mapping[int, float],
) -> dict[int, tuple[Tensor, tuple[int, ...]]]:
    """Return pairs' scores with the candidates' replaced by what f loses without them.

    Args:
        objective: Of the pairs.
        unchecked: By the pair's index.
        baseline: What a masked token's embedding is replaced by, see `Objective.neutral`.
        count: Candidates per pair, at most.
        values: F of the whole prompts, by the pair's index, where it is known.

    Returns:
        By the pair's index its scores [T] and the positions that were checked.
    """
    chosen = {i: each.candidates(count) for i, each in unchecked.items()}
    read: dict[int, Tensor] = {}
    points: list[tuple[int, Tensor]] = []

    def read_them() -> None:
        read.update(zip((i for i, _ in points), objective.values(points), strict=True))
        points.clear()

    for i, places in chosen.items():
        x = objective.embeddings(i)
        rows = x.repeat(len(places) + (i not in values), 1, 1)
        neutral = objective.neutral(i, baseline)[list(places)]
        rows[range(len(places)), list(places)] = neutral.to(x.dtype)
        points.append((i, rows))
        # Prompts without a token wait on the device until they are read.
        if sum(each.nbytes for _, each in points) > objective.memory_budget:
            read_them()
    read_them()
    found = {}
    for i, places in chosen.items():
        whole = values[i] if i in values else float(read[i][-1])
        scores = _joined(unchecked[i].scores, places, whole - read[i][: len(places)])
        found[i] = scores, places
    return found


def _joined(scores: Tensor, places: Sequence[int], lost: Tensor) -> Tensor:
    """Put checked scores among the others, which are scaled to predict them best."""
    own = scores[list(places)]
    power = float((own * own).sum())
    # Where they predict nothing, or the contrary, the others say nothing.
    scale = max(0.0, float((own * lost).sum()) / power) if power else 0.0
    joined = scale * scores
    joined[list(places)] = lost
    return joined
