"""What the model did on each prompt under each condition: the raw material of every number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from steerable_llm.answer_text import AnswerText
from steerable_llm.conditions import Condition
from steerable_llm.errors import PromptTooLongError
from steerable_llm.evaluation_set import EvaluationItem
from steerable_llm.forced_answers import forced_logits, greedy_tokens, log_probability
from steerable_llm.metrics import kl_per_token
from steerable_llm.model import SteerableHFLLM
from steerable_llm.progress import Advance
from steerable_llm.prompt_state import PromptState, run_prompts

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One prompt to run under one condition."""

    condition: Condition
    item: EvaluationItem


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
    # Jobs on one prompt stand together, those of a scope that can share it apart from the others.
    order = sorted(
        range(len(jobs)), key=lambda i: (_shares(jobs[i].condition), -len(prompts[i]), prompts[i])
    )
    done: dict[int, str] = {}
    for chunk in _chunks(order, batch_size):
        conditions = [jobs[i].condition for i in chunk]
        state = _state(llm, conditions, [prompts[i] for i in chunk], max_new_tokens)
        tokens = _greedy(llm, state, max_new_tokens)
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


def _measure(
    llm: SteerableHFLLM,
    conditions: Sequence[Condition],
    items: Sequence[EvaluationItem],
    max_new_tokens: int,
) -> list[list[Outcome]]:
    """Per item, its outcome under each condition."""
    rows = [Job(condition, item) for item in items for condition in conditions]
    prompts = [llm.encode(row.condition.messages(row.item)) for row in rows]
    good, bad = (
        [llm.encode_answer(text) if row.item.has_preference and text is not None else []
         for row, text in ((row, getattr(row.item, name)) for row in rows)]
        for name in ("good", "bad")
    )  # fmt: skip
    longest = max(max_new_tokens, *map(len, good), *map(len, bad))
    state = _state(llm, [row.condition for row in rows], prompts, longest)
    made = _greedy(llm, state, max_new_tokens)
    unsteered = [condition.name for condition in conditions].index("none")
    # Row of the same item under "none".
    beside = [n - n % len(conditions) + unsteered for n in range(len(rows))]
    own = forced_logits(llm.model, llm.blocks, state, [made[n] for n in beside])
    margins: list[float | None] = [None] * len(rows)
    if any(good):
        sums = [
            [0.0 if x is None else log_probability(x, a) for x, a in zip(found, given, strict=True)]
            for given in (good, bad)
            for found in [forced_logits(llm.model, llm.blocks, state, given)]
        ]
        margins = [
            plus - minus if row.item.has_preference else None
            for row, plus, minus in zip(rows, *sums, strict=True)
        ]
    outcomes = []
    for n, row in enumerate(rows):
        logits, reference = own[n], own[beside[n]]
        assert logits is not None  # every answer has a token, if only the end of turn
        assert reference is not None
        divergence = 0.0 if n == beside[n] else kl_per_token(logits, reference)
        text = _text(llm, made[n])
        outcomes.append(Outcome(row.item, text, tuple(made[n]), margins[n], divergence))
    return list(map(list, _chunks(outcomes, len(conditions))))


def _state(
    llm: SteerableHFLLM,
    conditions: Sequence[Condition],
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
) -> PromptState:
    longest = max(map(len, prompts))
    if longest + new_tokens > llm.context_window:
        raise PromptTooLongError(longest, new_tokens, llm.context_window)
    steerings = [condition.steering for condition in conditions]
    return run_prompts(llm.model, llm.blocks, prompts, steerings)


def _greedy(llm: SteerableHFLLM, state: PromptState, max_new_tokens: int) -> list[list[int]]:
    return greedy_tokens(llm.model, llm.blocks, state, llm._end_ids, max_new_tokens)


def _text(llm: SteerableHFLLM, tokens: Sequence[int]) -> str:
    text = AnswerText(llm.tokenizer)
    for token in tokens:
        if token not in llm._end_ids:
            text.push(token)
    text.finish()
    return text.text


def _shares(condition: Condition) -> bool:
    return all(term.scope == "generated" for term in condition.steering.active_terms)


def _chunks(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
