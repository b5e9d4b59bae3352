"""Prove a vector learnt from TruthfulQA as every other vector is, and write it with its proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.truthfulqa_questions import Question
from experiments.truthfulqa_step import ASK, Step
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.evaluation.report import Report
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.files import OUR_MARK, write_whole
from steerable_llm.policy.gate_training import TrainedGate, gate_card
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.vector import SteeringVector

NAME = "smollm2-truthfulness"
#: What the report compares with.
AGAINST = ("none", "prompt", "random", "sign_flipped")
_WORDS = 16
"""Tokens at which written answers are cut: what is chosen is told by the given answers."""


def prove(
    llm: HookedModel,
    vector: SteeringVector,
    gate: TrainedGate,
    step: Step,
    questions: Sequence[Question],
    closed: Sequence[EvaluationItem],
    out: Path,
    command: str,
    *,
    progress: bool = True,
) -> Report:
    """Evaluate a calibrated vector on test, by the choice between the best and a false answer.

    Args:
        llm: The model.
        vector: With its calibration.
        gate: What the step asks.
        step: Where it steers.
        questions: Of test.
        closed: Closed-book questions of test.
        out: Where vector, gate, cards and report are written.
        command: What was typed, for the cards.
        progress: Show how far it is.
    """
    vector = replace(vector, name=NAME)
    report = evaluate(
        llm,
        vector,
        EvaluationSet("TruthfulQA.test", [question.item for question in questions]),
        EvaluationSet("capability.test", closed),
        settings=EvaluationSettings(
            target="myth",
            policy=step.policy,
            step=ASK,
            against=AGAINST,
            random_vectors=1,
            command=command,
            progress=progress,
            max_new_tokens=_WORDS,
        ),
    )
    (out / "gates").mkdir(parents=True, exist_ok=True)
    file = gate.gate.save(out / "gates" / f"{gate.gate.name}.safetensors")
    write_whole(file.with_suffix(".md"), f"{gate_card(gate, command).to_markdown()}\n{OUR_MARK}\n")
    report.save(out / f"{NAME}.json")
    report.page().save(out / f"{NAME}.md", report.to_json)
    vector.with_evaluation(report.summary()).save(out / f"{NAME}.safetensors")
    return report
