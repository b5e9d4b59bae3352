"""What the model did on each prompt under each condition: the raw material of every number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

from steerable_llm.evaluation.conditions import Condition
from steerable_llm.evaluation.running import Job, groups, running
from steerable_llm.evaluation_set import EvaluationItem
from steerable_llm.metrics import kl_per_token
from steerable_llm.model.answer_text import AnswerText
from steerable_llm.model.forced_answers import log_probability
from steerable_llm.model.hooked_model import SteerableHFLLM
from steerable_llm.progress import Advance

__all__ = ["Job", "Outcome", "answers", "measure"]

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What one condition did on one prompt.

    Attributes:
        item: The prompt.
        text: The answer, greedy.
        tokens: The answer's token ids, the end of turn included.
        margin: f(x) of paper eq. 1, log P(good) - log P(bad), sums over tokens; None when the
            item lacks one of them.
        kl_per_token: Divergence from the unsteered model along its own answer, nats per token.
    """

    item: EvaluationItem
    text: str
    tokens: tuple[int, ...] = field(repr=False)
    margin: float | None = None
    kl_per_token: float = 0.0

    @property
    def success(self) -> float | None:
        """1.0 or 0.0 by the item's accept and reject phrases; None when it has none."""
        return float(self.item.succeeds(self.text)) if self.item.has_verdict else None

    @property
    def main(self) -> float:
        """What differences are taken of: success, or f > 0 where the item says nothing of it."""
        success = self.success
        return success if success is not None else float((self.margin or 0.0) > 0)


def answers(
    llm: SteerableHFLLM,
    jobs: Sequence[Job],
    max_new_tokens: int,
    batch_size: int = 64,
    advance: Advance | None = None,
) -> list[str]:
    """Greedy answers, batched whatever their conditions.

    Raises:
        PromptTooLongError: A prompt with its answer does not fit the context window.
    """
    prompts = [llm.encode(job.condition.messages(job.item)) for job in jobs]
    done: dict[int, str] = {}
    for group in groups([job.condition for job in jobs]):
        # Jobs on one prompt stand together, those of a scope that can share it apart from others.
        order = sorted(
            group, key=lambda i: (_shares(jobs[i].condition), -len(prompts[i]), prompts[i])
        )
        for chunk in _chunks(order, batch_size):
            rows = [jobs[i] for i in chunk]
            with running(llm, rows, [prompts[i] for i in chunk], max_new_tokens) as batch:
                tokens = batch.greedy(max_new_tokens)
            done.update(zip(chunk, (_text(llm, answer) for answer in tokens), strict=True))
            if advance is not None:
                advance(len(chunk))
    return [done[i] for i in range(len(jobs))]


def measure(
    llm: SteerableHFLLM,
    conditions: Sequence[Condition],
    items: Sequence[EvaluationItem],
    max_new_tokens: int = 32,
    batch_size: int = 64,
    advance: Advance | None = None,
) -> list[list[Outcome]]:
    """Runs every condition on every item and scores the items' own answers as well.

    Args:
        llm: The model.
        conditions: One of them is called "none": the divergence is taken from it.
        items: The prompts.
        max_new_tokens: Where answers are cut.
        batch_size: Rows that run together.
        advance: Called with the number of prompts done, counted once per condition.

    Returns:
        Per condition, in the order given, the outcomes in the order of the items.

    Raises:
        PromptTooLongError: A prompt with an answer does not fit the context window.
    """
    done: dict[int, list[Outcome]] = {}
    longest_first = sorted(
        range(len(items)), key=lambda i: -sum(len(m.content) for m in items[i].messages)
    )
    # An item's conditions share a batch: its prompt, and its unsteered logits, serve them all.
    for chunk in _chunks(longest_first, max(1, batch_size // len(conditions))):
        found = _measure(llm, conditions, [items[i] for i in chunk], max_new_tokens)
        done.update(zip(chunk, found, strict=True))
        if advance is not None:
            advance(len(chunk) * len(conditions))
    return [[done[i][number] for i in range(len(items))] for number in range(len(conditions))]


@dataclass(frozen=True)
class _Reading:
    """What one row gave.

    Attributes:
        tokens: Its answer.
        along: Logits along the unsteered answer to the same item, `[n, V]`.
        margin: log P(good) - log P(bad), where the item has both.
    """

    tokens: list[int]
    along: Tensor
    margin: float | None


def _measure(
    llm: SteerableHFLLM,
    conditions: Sequence[Condition],
    items: Sequence[EvaluationItem],
    max_new_tokens: int,
) -> list[list[Outcome]]:
    """Per item, its outcome under each condition."""
    none = [condition.name for condition in conditions].index("none")
    found: dict[tuple[int, int], _Reading] = {}
    for group in groups(conditions):
        places = [(i, number) for i in range(len(items)) for number in group]
        jobs = [Job(conditions[number], items[i]) for i, number in places]
        # The unsteered answers are made in the first group and known in all later ones.
        beside: Sequence[int | Sequence[int]] = (
            [places.index((i, none)) for i, _ in places]
            if none in group
            else [found[i, none].tokens for i, _ in places]
        )
        found.update(zip(places, _read(llm, jobs, beside, max_new_tokens), strict=True))
    return [
        [
            Outcome(
                item,
                _text(llm, reading.tokens),
                tuple(reading.tokens),
                reading.margin,
                0.0 if number == none else kl_per_token(reading.along, found[i, none].along),
            )
            for number in range(len(conditions))
            for reading in [found[i, number]]
        ]
        for i, item in enumerate(items)
    ]


def _read(
    llm: SteerableHFLLM,
    jobs: Sequence[Job],
    beside: Sequence[int | Sequence[int]],
    max_new_tokens: int,
) -> list[_Reading]:
    """Runs rows that may share a batch.

    Args:
        llm: The model.
        jobs: One per row.
        beside: Per row the unsteered answer to its item, or the row that makes it.
        max_new_tokens: Where answers are cut.
    """
    prompts = [llm.encode(job.condition.messages(job.item)) for job in jobs]
    good, bad = (
        [
            llm.encode_answer(text) if job.item.has_preference and text is not None else []
            for job in jobs
            for text in [getattr(job.item, name)]
        ]
        for name in ("good", "bad")
    )
    longest = max(max_new_tokens, *map(len, good), *map(len, bad))
    margins: list[float | None] = [None] * len(jobs)
    with running(llm, jobs, prompts, longest) as batch:
        made = batch.greedy(max_new_tokens)
        along = batch.forced([made[x] if isinstance(x, int) else x for x in beside])
        if any(good):
            plus, minus = (
                [0.0 if x is None else log_probability(x, a) for x, a in rows]
                for given in (good, bad)
                for rows in [zip(batch.forced(given), given, strict=True)]
            )
            margins = [
                p - m if job.item.has_preference else None
                for job, p, m in zip(jobs, plus, minus, strict=True)
            ]
    readings = []
    for tokens, logits, margin in zip(made, along, margins, strict=True):
        assert logits is not None  # every answer has a token, if only the end of turn
        readings.append(_Reading(tokens, logits, margin))
    return readings


def _text(llm: SteerableHFLLM, tokens: Sequence[int]) -> str:
    text = AnswerText(llm.tokenizer)
    for token in tokens:
        if token not in llm.end_ids:
            text.push(token)
    text.finish()
    return text.text


def _shares(condition: Condition) -> bool:
    return all(
        term.scope in ("generated", "last_prompt") for term in condition.steering.active_terms
    )


def _chunks(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
