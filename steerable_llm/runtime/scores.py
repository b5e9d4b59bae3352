"""How likely the model finds given answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from steerable_llm.chat.vision import ReadPrompt, in_one_batch, on_device
from steerable_llm.errors import InvalidInputError, not_numbers
from steerable_llm.runtime.decoding import log_probs
from steerable_llm.runtime.forward import TOKENS_PER_PASS, Prefixes, logits_at, padded
from steerable_llm.runtime.hooks import steering_hooks
from steerable_llm.runtime.plan import SteeringPlan
from steerable_llm.vector.steering import Scope, Steering

if TYPE_CHECKING:
    from steerable_llm.runtime.hooked_model import HookedModel

Reduction = Literal["sum", "mean", "none"]

# From one answer's log-probabilities [A] to what the caller gets.
REDUCTIONS: dict[Reduction, Callable[[Tensor], Any]] = {
    "sum": lambda log_probs: float(log_probs.sum()),
    "mean": lambda log_probs: float(log_probs.mean()),
    "none": lambda log_probs: log_probs.tolist(),
}


def reduction_of(name: str) -> Callable[[Tensor], Any]:
    """Return the reduction of this name.

    Raises:
        InvalidInputError: There is none.
    """
    if name not in REDUCTIONS:
        raise InvalidInputError(
            f"unknown reduction {name!r}: choose one of {', '.join(REDUCTIONS)}"
        )
    return REDUCTIONS[name]


@dataclass(frozen=True)
class Scored:
    """A prompt with the answer to be scored, as tokens, its steering, and its images' pixels."""

    prompt: list[int]
    answer: list[int]
    steering: Steering
    vision: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens of both together."""
        return len(self.prompt) + len(self.answer)


def answer_log_probs(llm: HookedModel, items: Sequence[Scored]) -> list[Tensor]:
    """Return the log-probability (natural logarithm) of every token of every answer.

    Args:
        llm: The model.
        items: What to score; batched by length, so their order does not matter.

    Returns:
        Per item float32 `[A]`, in the order of the items.

    Raises:
        SteeringNotAppliedError: A steering reached no layer.
        SteerableError: The model's scores are not numbers.
    """
    result: dict[int, Tensor] = {}
    for index, logits in answer_logits(llm, items):
        result[index] = log_probs(logits, items[index].answer)
        if bool(torch.isnan(result[index]).any()):
            raise not_numbers()
    return [result[index] for index in range(len(items))]


def answer_logits(llm: HookedModel, items: Sequence[Scored]) -> Iterator[tuple[int, Tensor]]:
    """Run items and return what every answer token is predicted from, longest items first.

    Gradients are kept unless the caller turns them off.

    Yields:
        Index of the item, and its logits: float32 `[A, V]` on the device.
    """
    for batch in _batches(llm, items):
        yield from zip(batch, _run(llm, [items[index] for index in batch]), strict=True)


def _batches(llm: HookedModel, items: Sequence[Scored]) -> Iterator[list[int]]:
    """Indices of items of similar length whose padded size stays within one pass."""
    batch: list[int] = []
    order = sorted(range(len(items)), key=lambda i: -items[i].length)
    pictured = [index for index in order if items[index].vision]
    if torch.is_grad_enabled():  # what is kept for gradients is many times what a pass needs
        yield from ([index] for index in pictured)
    elif pictured:
        reads = [_whole(llm, items[index]) for index in pictured]
        keys = [items[index].steering.tower_key for index in pictured]
        places = llm.image_batches.split(
            reads, range(len(reads)), TOKENS_PER_PASS, keys, side="right"
        )
        yield from ([pictured[place] for place in some] for some in places)
    for index in order:
        if items[index].vision:
            continue
        if batch and items[batch[0]].length * (len(batch) + 1) > TOKENS_PER_PASS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _whole(llm: HookedModel, item: Scored) -> ReadPrompt:
    """A prompt with what is fed of its answer."""
    return llm.followed(ReadPrompt(item.prompt, item.vision), item.answer[:-1])


def _run(llm: HookedModel, rows: Sequence[Scored]) -> list[Tensor]:
    # The last token of an answer predicts nothing that is asked for, so it is never fed: a prompt
    # and an answer of one token more than the model holds can still be scored.
    ids, mask = padded([[*row.prompt, *row.answer[:-1]] for row in rows])
    ends = [len(row.prompt) - 1 for row in rows]
    plan = SteeringPlan([row.steering for row in rows], mask, ends, bool(rows[0].vision))
    # The token at place i is predicted from place i - 1.
    places = [(i, end + k) for i, end in enumerate(ends) for k in range(len(rows[i].answer))]
    inputs = {"input_ids": ids.to(llm.device), "attention_mask": mask.to(llm.device)}
    if rows[0].vision:
        vision = in_one_batch([_whole(llm, row) for row in rows], "right")
        inputs |= on_device(vision, llm.model, llm.device)
    with steering_hooks(llm.blocks, plan, llm.tower):
        at = torch.tensor(places, device=llm.device)
        logits = logits_at(llm.model, inputs, at[:, 0], at[:, 1])
    plan.check_applied()
    return list(torch.split(logits.float(), [len(row.answer) for row in rows]))


class Prefilled:
    """Prompts that were run once, up to their last token, and whose answers are scored many times.

    That serves all that steers from the last prompt token on: nothing before it depends on it.
    """

    def __init__(self, llm: HookedModel, prompts: Sequence[Sequence[int]]) -> None:
        """Run the prompts, each of two tokens at least; see `serves`."""
        self._prefixes = Prefixes(llm, prompts)

    @staticmethod
    def serves(llm: HookedModel, prompts: Sequence[Sequence[int]], scope: Scope) -> bool:
        """Tell whether a model keeps such prompts, and a scope leaves them as they are."""
        return (
            scope in Prefixes.SHARED
            and Prefixes.serve(llm, prompts, [])
            and not llm.model._is_stateful  # a recurrent state is written over by every token
        )

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._prefixes.size

    def answer_logits(
        self, answers: Sequence[tuple[int, Sequence[int]]], steering: Steering
    ) -> list[Tensor]:
        """Return what the tokens of answers are predicted from, as `answer_logits` does.

        Args:
            answers: Each with the place of its prompt.
            steering: What all of them are steered with; gradients reach it.

        Returns:
            Per answer float32 `[A, V]` on the device.

        Raises:
            SteeringNotAppliedError: The steering reached no layer.
        """
        rows = [row for row, _ in answers]
        stream, last = self._prefixes.spread(rows, [steering] * len(answers))
        ids, _ = padded([[first, *a[:-1]] for first, (_, a) in zip(last, answers, strict=True)])
        logits = stream.feed(ids, gradients=torch.is_grad_enabled())
        stream.plan.check_applied()
        return [one[: len(answer)] for one, (_, answer) in zip(logits, answers, strict=True)]
