"""The columns that each benchmark reads: rows are checked by these before a model is loaded."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    FiniteFloat,
    computed_field,
    field_validator,
    model_validator,
)

from steerable_llm.chat.images import ImagePart, image_of

Text = Annotated[str, Field(min_length=1)]


def _image(given: Any) -> ImagePart:
    """Read an image as data sets hold it: PIL's, its bytes or path in a record, or an address."""
    if isinstance(given, ImagePart):
        return given
    if isinstance(given, Mapping):
        given = given.get("bytes") or given.get("path")
    if given is None or given == "":
        raise ValueError("there is no image: give its bytes, a path or an address")
    return image_of(given)


Image = Annotated[Any, BeforeValidator(_image)]
"""An image of a row, which becomes a part of its message."""


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


class PopeRow(BaseModel):
    """POPE: its own lines, whose images are files of COCO, or the Hub's, which hold them."""

    also: ClassVar[Mapping[str, str]] = {"text": "question", "label": "answer"}

    text: Text
    label: Literal["yes", "no"]
    image: Image
    category: str = "all"


MMHAL_TYPES = (
    "attribute", "adversarial", "comparison", "counting",
    "relation", "environment", "holistic", "other",
)  # fmt: skip


class MmhalRow(BaseModel):
    """MMHal-Bench's `response_template.json`; a question's type is told by its place."""

    also: ClassVar[Mapping[str, str]] = {"image": "image_src"}

    place: int = 0
    question: Text
    gt_answer: Text
    image: Image
    image_content: list[str] = []

    @computed_field
    def type(self) -> str:
        """What is asked for: every eighth question is of one type."""
        return MMHAL_TYPES[self.place % len(MMHAL_TYPES)]


class MmmuRow(BaseModel):
    """MMMU: text with places for images; options, and several answers, are the text of a list."""

    id: Text
    question: Text
    options: list[str]
    answer: list[str]
    question_type: Literal["multiple-choice", "open"]
    image_1: Image
    image_2: Image | None = None
    image_3: Image | None = None
    image_4: Image | None = None
    image_5: Image | None = None
    image_6: Image | None = None
    image_7: Image | None = None

    @computed_field
    def subject(self) -> str:
        """The subject, as in validation_Art_Theory_3."""
        return "_".join(self.id.split("_")[1:-1]) or "all"

    @field_validator("options", "answer", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        try:
            found = ast.literal_eval(str(value)) if str(value).startswith("[") else value
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # also what is too deep
            found = value
        return found if isinstance(found, list) else [found]


class SpaVlRow(BaseModel):
    """SPA-VL: one question with a preferred and a dispreferred answer."""

    question: Text
    chosen: Text
    rejected: Text
    image: Image


class ChairRow(BaseModel):
    """An image of COCO with what is on it, as `folders.coco_rows` makes it of COCO's files."""

    image: Image
    objects: list[Text]
    synonyms: Text


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
    "pope": PopeRow,
    "mmhal": MmhalRow,
    "mmmu": MmmuRow,
    "spa_vl": SpaVlRow,
    "chair": ChairRow,
}
