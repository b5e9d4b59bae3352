"""What a benchmark is: where its data lies, how it asks, and how an answer is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import BaseModel

from steerable_llm.chat.message import Message
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.set import EvaluationItem

# One question of a benchmark, in the form in which every benchmark is run.


@dataclass(frozen=True)
class Question:
    """A prompt, the answers that are given with it, and which of them are right.

    Attributes:
        item: The prompt; its category is the question's group, such as a subject.
        choices: The answers to choose from, or to hold a written answer against.
        right: Per choice, whether it is right.
    """

    item: EvaluationItem
    choices: tuple[str, ...] = ()
    right: tuple[bool, ...] = ()

    @classmethod
    def of(
        cls,
        number: int,
        group: str,
        prompt: str,
        choices: Sequence[str] = (),
        right: Sequence[bool] = (),
        accept: Sequence[str] = (),
    ) -> Question:
        """A question asked as one user message.

        Args:
            number: Its place in the data, from 0; names it in reports.
            group: What it belongs to.
            prompt: The text.
            choices: See the class.
            right: See the class.
            accept: Phrases of a right answer; the right choices unless given.
        """
        good = [choice for choice, is_right in zip(choices, right, strict=True) if is_right]
        item = EvaluationItem(
            id=str(number),
            category=group,
            messages=(Message(role="user", content=prompt),),
            accept=tuple(accept or good),
        )
        return cls(item, tuple(choices), tuple(bool(x) for x in right))

    @property
    def expected(self) -> str:
        """What a right answer is, for a report."""
        right = [c for c, is_right in zip(self.choices, self.right, strict=True) if is_right]
        return " | ".join(right or self.item.accept)


Normalisation = Literal["sum", "token", "character"]
"""What a choice is scored by: the log-probability of its text, or the same per token or per
character. The end of turn is not counted, so that scores are those of the published protocols."""

NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)


@dataclass(frozen=True)
class Source:
    """A data set on the Hugging Face Hub.

    Attributes:
        path: Its id.
        config: Its configuration; None for the only one.
        split: The part that is asked.
        shots: The part that worked examples come from; None where there are none.
    """

    path: str
    config: str | None
    split: str
    shots: str | None = None


Rows = Mapping[int, Any]
"""Rows by their place in the data, from 0."""

Ask = Callable[[Rows, Sequence[Any], int], list[Question]]
"""Makes questions of rows, rows of worked examples, and the number of examples to show."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark. Exactly one of `pick` and `judge` is given.

    Attributes:
        name: What the registry calls it.
        title: What a report calls it.
        paper: Who proposed it, and the identifier of the paper.
        metric: What the score is, in words.
        source: Where its data lies.
        row: The columns that are read, as a model that a row is validated by.
        ask: Makes the questions.
        group: The column that groups questions, such as a subject; None for no groups.
        pick: The score in [0, 1] of a question from the log-probabilities of its choices.
        judge: The score in [0, 1] of a written answer.
        normalise: What choices are scored by unless the user says otherwise.
        only_sums: Whether the metric is defined on plain log-probabilities alone.
        shots: Worked examples before each question, unless the user says otherwise.
        max_new_tokens: Where written answers are cut.
        strict_instruction: The system message of the arm `prompt`; None where asking for
            better answers in so many words makes no sense.
        sample: Name of the bundled sample, where several benchmarks share one.
        settings: What else a reader should know, for the report.
    """

    name: str
    title: str
    paper: str
    metric: str
    source: Source
    row: type[BaseModel]
    ask: Ask
    group: str | None = None
    pick: Callable[[Question, Sequence[float]], float] | None = None
    judge: Callable[[Question, str], float] | None = None
    normalise: Normalisation = "sum"
    only_sums: bool = False
    shots: int = 0
    max_new_tokens: int = 64
    strict_instruction: str | None = None
    sample: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    def shots_shown(self, wanted: int | None) -> int:
        """How many worked examples stand before each question.

        Raises:
            InvalidInputError: A negative number, or some where the benchmark has none.
        """
        if wanted is not None and wanted < 0:
            raise InvalidInputError(f"shots is {wanted}: give 0 or more")
        if wanted and not self.shots:
            raise InvalidInputError(f"{self.name} has no worked examples: leave shots out")
        return self.shots if wanted is None else wanted

    def normalisation(self, wanted: Normalisation | None) -> Normalisation | None:
        """What choices are scored by; None where answers are written.

        Raises:
            InvalidInputError: An unknown one, or one that the metric is not defined for.
        """
        if wanted is None:
            return self.normalise if self.pick else None
        if wanted not in NORMALISATIONS:
            raise InvalidInputError(
                f"unknown normalisation {wanted!r}: choose one of {', '.join(NORMALISATIONS)}"
            )
        if self.pick is None or (self.only_sums and wanted != "sum"):
            raise InvalidInputError(
                f"{self.name} cannot be scored per {wanted}: its metric is {self.metric}; "
                "leave the normalisation out"
            )
        return wanted


def likeliest_is_right(question: Question, log_probs: Sequence[float]) -> float:
    """1.0 when a right choice is likelier than every wrong one, which a tie is not; else 0.0."""
    right = [x for x, is_right in zip(log_probs, question.right, strict=True) if is_right]
    wrong = [x for x, is_right in zip(log_probs, question.right, strict=True) if not is_right]
    return float(max(right) > max(wrong))


def phrase_is_said(question: Question, answer: str) -> float:
    """1.0 when the answer contains one of the phrases that the question accepts, else 0.0."""
    return float(question.item.contains_good(answer))
