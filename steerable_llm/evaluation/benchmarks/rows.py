"""The columns that each benchmark reads: rows are checked by these before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, Field, FiniteFloat, field_validator, model_validator

Text = Annotated[str, Field(min_length=1)]


class Targets(BaseModel):
    """Answers with a label each: 1 is true, 0 is false."""

    choices: list[Text]
    labels: list[int]

    @model_validator(mode="after")
    def _both_kinds(self) -> Targets:
        if len(self.choices) != len(self.labels):
            raise ValueError(f"{len(self.choices)} choices, but {len(self.labels)} labels")
        if set(self.labels) != {0, 1}:
            raise ValueError("labels must be 0 and 1, and both must occur")
        return self


class MC1Row(BaseModel):
    """TruthfulQA's configuration `multiple_choice`, as MC1 reads it."""

    question: Text
    mc1_targets: Targets


class MC2Row(BaseModel):
    """TruthfulQA's configuration `multiple_choice`, as MC2 reads it."""

    question: Text
    mc2_targets: Targets


class GenerationRow(BaseModel):
    """TruthfulQA's configuration `generation`."""

    question: Text
    correct_answers: Annotated[list[Text], Field(min_length=1)]
    incorrect_answers: Annotated[list[Text], Field(min_length=1)]
    category: str = "all"


class ToxigenRow(BaseModel):
    """ToxiGen's configuration `annotated`."""

    text: Text
    toxicity_ai: FiniteFloat
    toxicity_human: FiniteFloat
    target_group: str = "all"


class LabelledChoices(BaseModel):
    """Answers to choose from, each under a label."""

    label: list[Text]
    text: list[Text]


class CounterfactualRow(BaseModel):
    """FaithEval's part with answers to choose from."""

    question: Text
    context: Text
    choices: LabelledChoices
    answerKey: Text

    @model_validator(mode="after")
    def _one_is_right(self) -> CounterfactualRow:
        if len(self.choices.label) != len(self.choices.text) or len(self.choices.label) < 2:
            raise ValueError("choices need a label for each text, and at least two of them")
        if self.answerKey not in self.choices.label:
            raise ValueError(f"answerKey {self.answerKey!r} is none of {self.choices.label}")
        return self


class ContextRow(BaseModel):
    """FaithEval's parts whose answers are written."""

    question: Text
    context: Text


class MmluRow(BaseModel):
    """Any configuration of MMLU; `answer` is a number from 0 or a letter."""

    question: Text
    subject: Text
    choices: Annotated[list[Text], Field(min_length=4, max_length=4)]
    answer: Annotated[int, Field(ge=0, le=3)]

    @field_validator("answer", mode="before")
    @classmethod
    def _as_number(cls, value: object) -> object:
        return "ABCD".index(value) if value in ("A", "B", "C", "D") else value


#: By the task's name; a task file of the user's own has none, and the harness says what is wrong.
ROWS: Mapping[str, type[BaseModel]] = {
    "truthfulqa_mc1": MC1Row,
    "truthfulqa_mc2": MC2Row,
    "truthfulqa_gen": GenerationRow,
    "toxigen": ToxigenRow,
    "faitheval": CounterfactualRow,
    "faitheval_unanswerable": ContextRow,
    "faitheval_inconsistent": ContextRow,
    "mmlu": MmluRow,
}
