"""MMLU (Hendrycks et al. 2021, arXiv 2009.03300): multiple choice in 57 subjects, with examples.

The usual prompt: a line that names the subject, worked examples of the same subject from the part
`dev`, then the question with its answers under A to D. The letter is what is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field, field_validator

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.benchmarks.benchmark import (
    Benchmark,
    Question,
    Rows,
    Source,
    likeliest_is_right,
)
from steerable_llm.evaluation.benchmarks.truthfulqa import Text

HEADING = "The following are multiple choice questions (with answers) about {subject}.\n\n"
LETTERS = ("A", "B", "C", "D")


class MmluRow(BaseModel):
    """A row of any configuration; `answer` is a number from 0 or a letter."""

    question: Text
    subject: Text
    choices: Annotated[list[Text], Field(min_length=4, max_length=4)]
    answer: Annotated[int, Field(ge=0, le=3)]

    @field_validator("answer", mode="before")
    @classmethod
    def _as_number(cls, value: object) -> object:
        return LETTERS.index(value) if value in LETTERS else value


def _questions(rows: Rows, examples: Sequence[MmluRow], shots: int) -> list[Question]:
    questions = []
    for number, row in rows.items():
        mine = [example for example in examples if example.subject == row.subject]
        if len(mine) < shots:
            raise InvalidInputError(
                f"mmlu wants {shots} worked examples of {row.subject!r} and finds "
                f"{len(mine)}: give data with a split 'dev', or ask with fewer shots"
            )
        shown = [f"{_asked(x)} {LETTERS[x.answer]}\n\n" for x in mine[:shots]]
        heading = HEADING.format(subject=row.subject.replace("_", " "))
        prompt = heading + "".join(shown) + _asked(row)
        right = [place == row.answer for place in range(len(LETTERS))]
        questions.append(Question.of(number, row.subject, prompt, LETTERS, right))
    return questions


def _asked(row: MmluRow) -> str:
    answers = "\n".join(f"{x}. {y}" for x, y in zip(LETTERS, row.choices, strict=True))
    return f"{row.question.strip()}\n{answers}\nAnswer:"


MMLU = Benchmark(
    name="mmlu",
    title="MMLU",
    paper="Hendrycks et al. 2021, arXiv 2009.03300",
    metric="share of questions whose right letter is the likeliest",
    source=Source("cais/mmlu", "all", "test", shots="dev"),
    row=MmluRow,
    ask=_questions,
    group="subject",
    pick=likeliest_is_right,
    shots=5,
)
