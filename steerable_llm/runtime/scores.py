"""How likely the model finds given answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steerable_llm.chat.vision import on_device
from steerable_llm.errors import InvalidInputError, not_numbers
from steerable_llm.runtime.hooks import steering_hooks
from steerable_llm.runtime.plan import SteeringPlan
from steerable_llm.vector.steering import Steering

Reduction = Literal["sum", "mean", "none"]

# From one answer's log-probabilities [A] to what the caller gets.
REDUCTIONS: dict[Reduction, Callable[[Tensor], Any]] = {
    "sum": lambda log_probs: float(log_probs.sum()),
    "mean": lambda log_probs: float(log_probs.mean()),
    "none": lambda log_probs: log_probs.tolist(),
}


def reduction_of(name: str) -> Callable[[Tensor], Any]:
    """The reduction of this name.

    Raises:
        InvalidInputError: There is none.
    """
    if name not in REDUCTIONS:
        raise InvalidInputError(
            f"unknown reduction {name!r}: choose one of {', '.join(REDUCTIONS)}"
        )
    return REDUCTIONS[name]


# Tokens (padding included) in one forward pass. Large enough to keep the processor busy, small
# enough that the states of a pass fit beside the weights.
TOKENS_PER_PASS = 4096


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


def answer_log_probs(
    model: nn.Module, blocks: Sequence[nn.Module], items: Sequence[Scored], device: torch.device
) -> list[Tensor]:
    """Log-probability (natural logarithm) of every token of every answer.

    Args:
        model: A Hugging Face causal language model.
        blocks: Its decoder blocks.
        items: What to score; batched by length, so their order does not matter.
        device: Where the input goes.

    Returns:
        Per item a float32 tensor ``[A]`` on the CPU, in the order of the items.

    Raises:
        SteeringNotAppliedError: A steering reached no layer.
        SteerableError: The model's scores are not numbers.
    """
    result: dict[int, Tensor] = {}
    for index, logits in answer_logits(model, blocks, items, device):
        target = torch.tensor(items[index].answer, device=logits.device)[:, None]
        result[index] = torch.log_softmax(logits, dim=-1).gather(1, target)[:, 0].cpu()
        if bool(torch.isnan(result[index]).any()):
            raise not_numbers()
    return [result[index] for index in range(len(items))]


@torch.no_grad()
def answer_logits(
    model: nn.Module, blocks: Sequence[nn.Module], items: Sequence[Scored], device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """The scores from which every answer token is predicted, item by item, longest items first.

    Yields:
        Index of the item, and its logits: float32 ``[A, V]`` on the device.
    """
    for batch in _batches(items):
        rows = [items[index] for index in batch]
        yield from zip(batch, _run(model, blocks, rows, device), strict=True)


def _batches(items: Sequence[Scored]) -> Iterator[list[int]]:
    """Indices of items of similar length whose padded size stays within one pass.

    An item with images runs by itself: models lay out the pixels of several in their own ways.
    """
    batch: list[int] = []
    for index in sorted(range(len(items)), key=lambda i: -items[i].length):
        if items[index].vision:
            yield [index]
            continue
        if batch and items[batch[0]].length * (len(batch) + 1) > TOKENS_PER_PASS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _run(
    model: nn.Module, blocks: Sequence[nn.Module], rows: Sequence[Scored], device: torch.device
) -> list[Tensor]:
    # The last token of an answer predicts nothing that is asked for, so it is never fed: a prompt
    # and an answer of one token more than the model holds can still be scored.
    width = max(row.length for row in rows) - 1
    # Padding on the right: the default positions 0, 1, 2 ... are then right for every model, also
    # for those that take no position ids, and no real token ever sees a padded one.
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : row.length - 1] = torch.tensor([*row.prompt, *row.answer[:-1]])
        mask[i, : row.length - 1] = 1
    ids, mask = ids.to(device), mask.to(device)
    plan = SteeringPlan([row.steering for row in rows], mask, [len(row.prompt) - 1 for row in rows])
    # The token at place i is predicted from place i - 1.
    places = [range(len(row.prompt) - 1, row.length - 1) for row in rows]
    needed = sorted(set().union(*places))
    options: dict[str, Any] = {"use_cache": False, **_vision(rows[0], width, model, device)}
    only_needed = "logits_to_keep" in inspect.signature(model.forward).parameters
    if only_needed:
        options["logits_to_keep"] = torch.tensor(needed, device=device)
    with steering_hooks(blocks, plan):
        logits = model(input_ids=ids, attention_mask=mask, **options).logits
    for i, row in enumerate(rows):
        for term in row.steering.active_terms:
            plan.steered_tokens(i, term)
    column = {place: at for at, place in enumerate(needed)} if only_needed else range(width)
    return [logits[i, [column[place] for place in places[i]]].float() for i in range(len(rows))]


def _vision(row: Scored, width: int, model: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """What a row's images are to the forward pass; what counts per token goes on over the answer.

    Kinds of tokens are told so: an answer's are 0, text.
    """
    given = {}
    for name, value in on_device(row.vision, model, device).items():
        per_token = value.shape == (1, len(row.prompt))
        more = width - len(row.prompt) if per_token else 0
        given[name] = nn.functional.pad(value, (0, more)) if more else value
    return given
