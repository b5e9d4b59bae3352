"""Where a vector learnt from TruthfulQA steers: in a policy's step whose gate knows such questions.

The gate is learnt from the questions that the vector is learnt from, and from plain questions for
facts of the build split: a logistic regression over their sentence embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import TypeVar

from experiments.facts import facts
from experiments.questions import closed_book as questions_of
from experiments.truthfulqa_questions import Question
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.conditions import Conditions
from steerable_llm.evaluation.set import EvaluationItem
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.pairs.pair import PreferencePair
from steerable_llm.policy.gate import Gate
from steerable_llm.policy.gate_training import TrainedGate, train_gate
from steerable_llm.policy.policy import Policy
from steerable_llm.runtime.hooked_model import HookedModel

T = TypeVar("T")
#: The step, and its gate.
ASK, MYTH = "ask", "smollm2-myth"
#: Source of the pairs that say what is to be left alone.
LOOKUP = "closed_book"
_LOOKUPS = 208
"""Plain questions that the gate learns from: all that there are in the build split."""
_REGULARISATION = 10.0
_THRESHOLDS = tuple(n / 20 for n in range(1, 20))


@dataclass(frozen=True)
class Step:
    """A policy's step that steers where a gate opens."""

    policy: Policy

    @classmethod
    def of(cls, gate: Gate, above: float | None = None) -> Step:
        """Return the step of a gate.

        Args:
            gate: What it asks.
            above: Steer where it finds a myth more probable than that; None for its own threshold.
        """
        use = {"name": gate.name} | ({} if above is None else {"above": above})
        steps = {ASK: {"when": {"gate": use}}}
        return cls(Policy.from_dict({"steps": steps}, gates={gate.name: gate}))

    @classmethod
    def sparing(
        cls, gate: Gate, llm: HookedModel, closed: Sequence[EvaluationItem], most: float
    ) -> Step:
        """Return the step that steers as much as it may without touching closed-book questions.

        Args:
            gate: What it asks.
            llm: The model.
            closed: Closed-book questions of dev.
            most: Share of them that may be steered.

        Raises:
            InvalidInputError: However sure the gate has to be, it opens for more of them.
        """
        for above in _THRESHOLDS:
            step = cls.of(gate, above)
            if above >= gate.threshold and fmean(step.steers(llm, closed)) <= most:
                return step
        raise InvalidInputError(f"the gate opens for more than {most:.1%} of closed-book questions")

    def steers(self, llm: HookedModel, items: Sequence[EvaluationItem]) -> list[bool]:
        """Return which of these it would steer."""
        conditions = Conditions(self.policy, ASK, self.policy.conditions(ASK))
        return [share > 0 for share in conditions.shares(llm, items)]


def learn_gate(build: Sequence[Question]) -> TrainedGate:
    """Learn to tell questions that invite a myth from plain questions for facts."""
    log = [
        LoggedAnswer(
            id=f"myth-{q.id}",
            messages=q.messages,
            question=q.text,
            answer=q.false[0],
            verdict="bad",
            reason="untrue",
            step=ASK,
        )
        for q in build
    ]
    log += [
        LoggedAnswer(
            id=pair.id,
            messages=pair.messages,
            question=pair.messages[-1].content,
            answer=pair.good,
            verdict="good",
            step=ASK,
        )
        for pair in lookups(_LOOKUPS)
    ]
    return train_gate(log, MYTH, reasons=["untrue"], regularisation=_REGULARISATION)


def as_used(
    arms: Sequence[Arm], rows: Sequence[Sequence[T]], steered: Sequence[bool]
) -> list[list[T]]:
    """Return what arms give where only some prompts are steered, from what they give on all.

    Args:
        arms: The unsteered one first.
        rows: Of each arm, per prompt.
        steered: Which prompts are.
    """
    found = []
    for arm, row in zip(arms, rows, strict=True):
        places = [there or not arm.steering.is_active for there in steered]
        pairs = zip(row, rows[0], places, strict=True)
        found.append([here if there else idle for here, idle, there in pairs])
    return found


def lookups(most: int) -> list[PreferencePair]:
    """Return plain questions for facts of the build split, right against another one's value."""
    known = [fact for fact in facts() if fact.split == "build"]
    Random(0).shuffle(known)
    found = []
    for fact, item in list(zip(known, questions_of("build", known), strict=True))[:most]:
        others = [f.value for f in known if f.relation == fact.relation and f.value != fact.value]
        wrong = Random(item.id).choice(others)
        found.append(
            PreferencePair(
                item.messages, good=f"{fact.value}.", bad=f"{wrong}.", source=LOOKUP, id=item.id
            )
        )
    return found
