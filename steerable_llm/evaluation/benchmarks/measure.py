"""What the model does on a benchmark's questions under each arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.benchmarks.benchmark import Benchmark, Normalisation, Question
from steerable_llm.evaluation.measure import Job, Running, groups, running
from steerable_llm.evaluation.measure import measure as measure_answers
from steerable_llm.metrics import kl_per_token
from steerable_llm.progress import Advance
from steerable_llm.runtime.forward import log_probability
from steerable_llm.runtime.hooked_model import HookedModel


@dataclass(frozen=True)
class Reading:
    """What one arm gave on one question.

    Attributes:
        answer: The likeliest choice, or the written answer.
        score: In [0, 1], by the benchmark's own metric.
        kl_per_token: Divergence from the unsteered model, nats per token, along what that model
            chose or wrote.
        log_probs: Per choice, as normalised; empty where answers are written.
    """

    answer: str
    score: float
    kl_per_token: float
    log_probs: tuple[float, ...] = ()


def too_long(
    llm: HookedModel, benchmark: Benchmark, questions: Sequence[Question], extra: int = 0
) -> list[bool]:
    """Per question, whether its prompt and an answer do not fit the context window.

    Args:
        llm: The model.
        benchmark: Says how long written answers may be.
        questions: What would be asked.
        extra: Tokens that a arm may add to a prompt, such as a system message.
    """

    def needed(question: Question) -> int:
        if benchmark.pick is None:
            return benchmark.max_new_tokens
        return max(len(answer_tokens(llm, choice)) for choice in question.choices)

    return [
        len(llm.encode(question.item.prompt)) + extra + needed(question) > llm.context_window
        for question in questions
    ]


def measure(
    llm: HookedModel,
    benchmark: Benchmark,
    questions: Sequence[Question],
    arms: Sequence[Arm],
    normalise: Normalisation | None = None,
    batch_size: int = 64,
    advance: Advance | None = None,
) -> list[list[Reading]]:
    """Runs every arm on every question.

    Args:
        llm: The model.
        benchmark: Says how an answer is judged.
        questions: What is asked.
        arms: One of them is called "none": the divergence is taken from it.
        normalise: What choices are scored by; None for the benchmark's own.
        batch_size: Rows that run together.
        advance: Called with the number of prompts done, counted once per arm.

    Returns:
        Per arm, in the order given, a reading per question, in order.

    Raises:
        PromptTooLongError: A prompt with an answer does not fit the context window.
    """
    if benchmark.judge is not None:
        judge = benchmark.judge
        items = [question.item for question in questions]
        found = measure_answers(llm, arms, items, benchmark.max_new_tokens, batch_size, advance)
        return [
            [
                Reading(made.text, judge(question, made.text), made.kl_per_token)
                for question, made in zip(questions, outcomes, strict=True)
            ]
            for outcomes in found
        ]
    by = normalise or benchmark.normalise
    readings: dict[int, list[Reading]] = {}
    longest_first = sorted(
        range(len(questions)), key=lambda i: -len(questions[i].item.messages[-1].content)
    )
    # A question's arms share a batch: its prompt serves them all.
    size = max(1, batch_size // len(arms))
    for start in range(0, len(questions), size):
        chunk = longest_first[start : start + size]
        rows = _choose(llm, benchmark, [questions[i] for i in chunk], arms, by)
        readings.update(zip(chunk, rows, strict=True))
        if advance is not None:
            advance(len(chunk) * len(arms))
    return [[readings[i][c] for i in range(len(questions))] for c in range(len(arms))]


def answer_tokens(llm: HookedModel, choice: str) -> list[int]:
    """A choice's tokens after the prompt, without the end of turn.

    Raises:
        InvalidInputError: The text has no token.
    """
    tokens = llm.encode_answer(choice)
    if llm.chat_format.end_of_turn_id is not None:
        tokens = tokens[:-1]
    if not tokens:
        raise InvalidInputError(f"the choice {choice!r} has no token, so it has no probability")
    return tokens


def _choose(
    llm: HookedModel,
    benchmark: Benchmark,
    questions: Sequence[Question],
    arms: Sequence[Arm],
    normalise: Normalisation,
) -> list[list[Reading]]:
    """Per question, a reading per arm: which choice is the likeliest."""
    assert benchmark.pick is not None
    none = [arm.name for arm in arms].index("none")
    tokens = [[answer_tokens(llm, choice) for choice in q.choices] for q in questions]
    longest = max(len(answer) for answers in tokens for answer in answers)
    scores: dict[tuple[int, int], list[float]] = {}
    picked: dict[int, int] = {}
    reference: dict[int, Tensor] = {}
    divergences: dict[tuple[int, int], float] = {}
    # The first group holds all that only steer or prompt, "none" among them.
    for group in groups(arms):
        places = [(i, c) for i in range(len(questions)) for c in group]
        jobs = [Job(arms[c], questions[i].item) for i, c in places]
        prompts = [llm.encode(job.arm.messages(job.item)) for job in jobs]
        with running(llm, jobs, prompts, longest) as batch:
            sums = _sums(batch, [tokens[i] for i, _ in places])
            for (i, c), values in zip(places, sums, strict=True):
                scores[i, c] = [
                    value / _length(normalise, choice, answer)
                    for value, choice, answer in zip(
                        values, questions[i].choices, tokens[i], strict=True
                    )
                ]
            for i in range(len(questions)):
                picked.setdefault(i, _largest(scores[i, none]))
            along = batch.forced([tokens[i][picked[i]] for i, _ in places])
        by_place = dict(zip(places, along, strict=True))
        for (i, c), logits in by_place.items():
            assert logits is not None  # every choice has a token
            if c == none:
                reference[i] = logits
        for (i, c), logits in by_place.items():
            assert logits is not None
            divergences[i, c] = 0.0 if c == none else kl_per_token(logits, reference[i])
    return [
        [
            Reading(
                question.choices[_largest(scores[i, c])],
                benchmark.pick(question, scores[i, c]),
                divergences[i, c],
                tuple(scores[i, c]),
            )
            for c in range(len(arms))
        ]
        for i, question in enumerate(questions)
    ]


def _sums(batch: Running, answers: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
    """Per row, the log-probability of each of its answers; rows may have unequally many."""
    found: list[list[float]] = [[] for _ in answers]
    for place in range(max(map(len, answers))):
        given = [row[place] if place < len(row) else [] for row in answers]
        for row, (logits, answer) in enumerate(zip(batch.forced(given), given, strict=True)):
            if logits is not None:
                found[row].append(log_probability(logits, answer))
    return found


def _length(normalise: Normalisation, choice: str, tokens: Sequence[int]) -> int:
    return {"sum": 1, "token": len(tokens), "character": len(choice)}[normalise]


def _largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
