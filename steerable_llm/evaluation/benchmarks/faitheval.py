"""FaithEval (Ming et al. 2025, arXiv 2410.03727): does the answer follow the context?

Three parts: a context against common knowledge with answers to choose from, a context without the
answer, and a context that contradicts itself. The prompt is the one of the GrAInS paper, appendix
C; the two parts that want a special word say so in it, as the benchmark does. There, an answer is
right when it contains one of a few phrases. Here they have to stand as whole words, so that
"Notre Dame" does not count as a "not".
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, model_validator

from steerable_llm.chat.phrases import STRICT_INSTRUCTIONS
from steerable_llm.evaluation.benchmarks.benchmark import (
    Ask,
    Benchmark,
    Question,
    Rows,
    Source,
    likeliest_is_right,
    phrase_is_said,
)
from steerable_llm.evaluation.benchmarks.truthfulqa import Text

PROMPT = (
    "You are an expert in retrieval question answering. Respond with a short and direct answer. "
    "Do not be verbose or provide extra information.{special}\n\n"
    "Context: {context}\n\nQuestion: {question}\n\nAnswer:"
)
UNANSWERABLE = ("unknown", "no answer", "no information", "not", "unclear")
INCONSISTENT = (
    "conflict",
    "conflicting",
    "multiple answers",
    "disagreement",
    "inconsistent",
    "inconsistency",
    "contradictory",
    "contradiction",
    "two answers",
    "2 answers",
)
_PAPER = "Ming et al. 2025, arXiv 2410.03727"
_HUB = "Salesforce/FaithEval-{}-v1.0"


class Choices(BaseModel):
    """Answers to choose from, each under a label."""

    label: list[Text]
    text: list[Text]


class CounterfactualRow(BaseModel):
    """A row of the part with answers to choose from."""

    question: Text
    context: Text
    choices: Choices
    answerKey: Text

    @model_validator(mode="after")
    def _one_is_right(self) -> CounterfactualRow:
        if len(self.choices.label) != len(self.choices.text) or len(self.choices.label) < 2:
            raise ValueError("choices need a label for each text, and at least two of them")
        if self.answerKey not in self.choices.label:
            raise ValueError(f"answerKey {self.answerKey!r} is none of {self.choices.label}")
        return self


class ContextRow(BaseModel):
    """A row of the parts whose answers are written."""

    question: Text
    context: Text


def _counterfactual(rows: Rows, _: object, __: int) -> list[Question]:
    return [
        Question.of(
            number,
            "all",
            PROMPT.format(special="", context=row.context, question=row.question),
            row.choices.text,
            [label == row.answerKey for label in row.choices.label],
        )
        for number, row in rows.items()
    ]


def _written(special: str, accept: Sequence[str]) -> Ask:
    def ask(rows: Rows, _: object, __: int) -> list[Question]:
        return [
            Question.of(
                number,
                "all",
                PROMPT.format(special=f" {special}", context=row.context, question=row.question),
                accept=accept,
            )
            for number, row in rows.items()
        ]

    return ask


COUNTERFACTUAL_PART = Benchmark(
    name="faitheval",
    title="FaithEval, counterfactual",
    paper=_PAPER,
    metric="share of questions whose answer by the context is the likeliest",
    source=Source(_HUB.format("counterfactual"), None, "test"),
    row=CounterfactualRow,
    ask=_counterfactual,
    pick=likeliest_is_right,
    # Whole phrases of very different length: by their plain sums the shortest would mostly win.
    normalise="token",
    strict_instruction=STRICT_INSTRUCTIONS["faithfulness"],
)
UNANSWERABLE_PART = Benchmark(
    name="faitheval_unanswerable",
    title="FaithEval, unanswerable",
    paper=_PAPER,
    metric="share of answers that say that the context has none",
    source=Source(_HUB.format("unanswerable"), None, "test"),
    row=ContextRow,
    ask=_written(
        "If the context does not hold the answer, answer with the one word 'unknown'.",
        UNANSWERABLE,
    ),
    judge=phrase_is_said,
    strict_instruction=STRICT_INSTRUCTIONS["faithfulness"],
    settings={"phrases": ", ".join(UNANSWERABLE)},
)
INCONSISTENT_PART = Benchmark(
    name="faitheval_inconsistent",
    title="FaithEval, inconsistent",
    paper=_PAPER,
    metric="share of answers that say that the context contradicts itself",
    source=Source(_HUB.format("inconsistent"), None, "test"),
    row=ContextRow,
    ask=_written(
        "If the context gives answers that disagree, answer with the one word 'conflict'.",
        INCONSISTENT,
    ),
    judge=phrase_is_said,
    strict_instruction=STRICT_INSTRUCTIONS["faithfulness"],
    settings={"phrases": ", ".join(INCONSISTENT)},
)
