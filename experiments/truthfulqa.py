"""TruthfulQA on SmolLM2, by the protocol of the GrAInS paper (appendix A.1).

``python -m experiments.truthfulqa --data TruthfulQA.csv``

Fifty questions (see `truthfulqa_questions`) are learnt from; of the others a tenth is to
choose by, and nine tenths are asked once. An answer is scored by the sum of its tokens'
log-probabilities after the bare question, the end of turn not counted::

    binary choice    the best answer is likelier than the first false one
    MC1              ... than every false one
    MC2              the true answers' share of the probability that all given answers have

Methods are built on the same pairs. The strengths of those that are computed are found by how far
they move the model, with either sign; those of trained ones are shares of what was trained.

What steers does so as a step of a policy would use it: only where a gate, learnt from the same
fifty questions and from plain questions for facts, finds that a question invites a myth. What
it would do to every question is a table of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.questions import DATA
from experiments.truthfulqa_proof import prove
from experiments.truthfulqa_questions import Question, read_questions, split
from experiments.truthfulqa_scores import METRICS, Scores, scored
from experiments.truthfulqa_step import LOOKUP, Step, as_used, learn_gate, lookups
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.chat.phrases import STRICT_INSTRUCTIONS
from steerable_llm.evaluation.arms import UNSTEERED, Arm
from steerable_llm.evaluation.divergence import KlMeter, effect_of
from steerable_llm.evaluation.measure import answers
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.files import write_whole
from steerable_llm.methods.build import build_vector
from steerable_llm.metrics import difference, estimate
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.reports.numbers import change, percent, share
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.calibration import Calibration, Choice, DataUsed
from steerable_llm.vector.seen import hashes_of, kept
from steerable_llm.vector.steering import Steering
from steerable_llm.vector.vector import SteeringVector

#: Closed-book questions that may be lost on dev.
BUDGET = 0.01
_METERED = 12
"""Questions that the divergence is measured on, along as many tokens of the answers."""
_WORDS = 16
"""Tokens at which closed-book answers are cut: their value comes early."""


@dataclass(frozen=True)
class Recipe:
    """How a method makes its vector, and what dev chooses among.

    Attributes:
        method: A name in `METHODS`.
        preset: Of the method.
        config: Settings on top.
        each: Pairs of one question, at most.
        longest: Tokens of an answer, at most: training on few long ones costs as much as on many.
        lookups: Pairs that say what is to be left alone, see `lookups`.
        shares: Of what was trained. Without any, strengths are found by `divergences`.
        divergences: How far to move the model, in nats per token; each with either sign.
    """

    method: str
    preset: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    each: int = 1
    longest: int | None = None
    lookups: int = 0
    shares: tuple[float, ...] = ()
    divergences: tuple[float, ...] = (0.05, 0.2)


#: The likelihood keeps the preference from pushing both answers down.
_BOTH = {
    "loss": "both",
    "likelihood_weight": 0.1,
    "layers": tuple(range(10, 30)),
    "learning_rate": 0.12,
    "steps": 14,
    "batch_size": 12,
}
#: Of more pairs, in smaller steps and more of them.
_LONGER = {"learning_rate": 0.05, "steps": 80}
_GATED = {
    "loss": "both",
    "likelihood_weight": 0.1,
    "gated": True,
    "keep_sources": (LOOKUP,),
    "learning_rate": 0.05,
    "steps": 12,
    "batch_size": 16,
}
RECIPES: Mapping[str, Recipe] = {
    "grains, paper": Recipe("grains", preset="paper"),
    "grains": Recipe("grains"),
    "caa": Recipe("caa"),
    "icv": Recipe("icv"),
    "iti": Recipe("iti"),
    "bipo": Recipe("bipo", config=_BOTH, each=2, longest=18, shares=(0.25, 0.5)),
    "bipo, many": Recipe(
        "bipo", config={**_BOTH, **_LONGER}, each=12, longest=40, shares=(0.35, 0.5, 0.75)
    ),
    "bipo, gated": Recipe(
        "bipo", config=_GATED, each=2, longest=18, lookups=40, shares=(0.5, 1.0, 2.0)
    ),
}

#: The recipe that is proven by our own rules.
PROVEN = "bipo, many"


@dataclass(frozen=True)
class Dev:
    """What strengths are chosen by.

    Attributes:
        llm: The model.
        questions: With their answers.
        closed: Closed-book questions.
        step: Where what steers is used.
    """

    llm: SteerableHFLLM
    questions: Sequence[Question]
    closed: Sequence[EvaluationItem]
    step: Step

    @cached_property
    def meter(self) -> KlMeter:
        """How far a steering moves the model."""
        return KlMeter(self.llm, [q.item for q in self.questions[:_METERED]], _METERED)

    @cached_property
    def unsteered(self) -> tuple[list[Scores], list[float]]:
        """What is said without steering: to its questions, and to the closed-book ones."""
        (row,) = scored(self.llm, self.questions, [UNSTEERED], whole=False)
        (known,) = right(self.llm, [UNSTEERED], self.closed)
        return row, known

    @cached_property
    def steered(self) -> tuple[list[bool], list[bool]]:
        """Which of either the step would steer."""
        asked = [q.item for q in self.questions]
        return self.step.steers(self.llm, asked), self.step.steers(self.llm, self.closed)

    @cached_property
    def used(self) -> tuple[DataUsed, DataUsed]:
        """The questions, for the record of what was chosen by them."""
        sets = {"TruthfulQA, dev": [q.item for q in self.questions], "capability.dev": self.closed}
        myths, closed = (EvaluationSet(name, items) for name, items in sets.items())
        return _used(self.llm, myths), _used(self.llm, closed)

    def strengths(self, vector: SteeringVector, recipe: Recipe) -> list[float]:
        """Return what is tried for a vector; a divergence that it never reaches is left out."""
        if recipe.shares:
            return list(recipe.shares)
        effect = effect_of(self.meter, vector, scope="generated")
        found = [effect.strength_for(kl, close=0.2, read=4.0) for kl in recipe.divergences]
        return [sign * strength for strength in found if strength is not None for sign in (1, -1)]

    def choose(self, vector: SteeringVector, recipe: Recipe) -> SteeringVector:
        """Return it at the strength that does best within the budget, or else that loses least."""
        strengths = self.strengths(vector, recipe)
        arms = [Arm("steered", vector.steer(s, scope="generated")) for s in strengths]
        every, (row, known), (some, few) = [UNSTEERED, *arms], self.unsteered, self.steered
        said = [row, *scored(self.llm, self.questions, arms, whole=False)]
        before, *after = (_choices(each) for each in as_used(every, said, some))
        facts_left = as_used(every, [known, *right(self.llm, arms, self.closed)], few)
        lost = [fmean(known) - fmean(each) for each in facts_left[1:]]
        best = max(range(len(arms)), key=lambda i: _rank(after[i], lost[i]))
        (term,) = arms[best].steering.terms
        myths, closed = self.used
        choice = Choice(
            dev=myths,
            before=before,
            after=after[best],
            settings=len(arms),
            capability=closed,
            lost={"closed_book": lost[best]},
            budget=BUDGET,
        )
        return vector.with_calibration(
            Calibration(term.strength, term.layers, term.scope, term.unit, term.renormalise, choice)
        )


def _choices(row: Sequence[Scores]) -> float:
    return fmean((scores.binary + scores.mc1) / 2 for scores in row)


def _rank(after: float, lost: float) -> tuple[float, float]:
    return (1.0, after) if lost <= BUDGET else (0.0, -lost)


def _used(llm: SteerableHFLLM, prompts: EvaluationSet) -> DataUsed:
    return DataUsed(prompts.name, prompts.digest, len(prompts), seen=kept(hashes_of(llm, prompts)))


def right(
    llm: HookedModel, arms: Sequence[Arm], items: Sequence[EvaluationItem]
) -> list[list[float]]:
    """Return per arm which questions are answered right."""
    asked = [(arm, item) for arm in arms for item in items]
    texts = iter(answers(llm, asked, _WORDS))
    return [[float(item.succeeds(next(texts))) for item in items] for _ in arms]


@dataclass(frozen=True)
class Row:
    """One arm on test.

    Attributes:
        name: What the table calls it.
        scores: Per question.
        closed: Per closed-book question whether it is answered right.
        kl: How far it moves the model along its own answers to test questions, nats per token;
            None for what does not steer but asks otherwise.
        setting: Strength, in words; empty for what has none.
    """

    name: str
    scores: Sequence[Scores]
    closed: Sequence[float]
    kl: float | None
    setting: str = ""

    def values(self, metric: str) -> list[float]:
        """Return one of the metrics per question."""
        return [METRICS[metric](scores) for scores in self.scores]


def table(rows: Sequence[Row]) -> str:
    """Return all arms as Markdown, with 95 % intervals; the first is the unsteered one."""
    base = rows[0]
    choices = ("binary choice", "MC1")
    head = ["", *METRICS, *(f"{metric}, change" for metric in choices)]
    lines = [[*head, "closed book, change", "KL/token", "setting"]]
    lines.append(["---", *["--:"] * (len(lines[0]) - 2), "---"])
    for row in rows:
        compared = row is not base
        known = difference(row.closed, base.closed) if compared else None
        lines.append(
            [
                row.name,
                *(share(estimate(row.values(metric))) for metric in METRICS),
                *(
                    change(
                        difference(row.values(metric), base.values(metric)) if compared else None
                    )
                    for metric in choices
                ),
                change(known) if compared else percent(fmean(base.closed)),
                "" if row.kl is None else f"{row.kl:.3f}",
                row.setting,
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def controls(name: str, vector: SteeringVector) -> list[Arm]:
    """Return random vectors of the same norms and the opposite one, at the same strength."""
    return [
        Arm(f"{name}: random", vector.randomised(0).steer()),
        Arm(f"{name}: sign flipped", vector.negated().steer()),
    ]


PROMPT = Arm("strict instruction", instruction=STRICT_INSTRUCTIONS["myth"])


def make(
    dev: Dev,
    build: Sequence[Question],
    recipes: Mapping[str, Recipe],
    keep: Path | None = None,
    say: Callable[[str], object] = print,
) -> dict[str, SteeringVector]:
    """Build every method and choose its strength.

    Args:
        dev: What is chosen by.
        build: The questions to learn from.
        recipes: The methods, by what the table calls them.
        keep: Folder of vectors: what is there is taken, and what is made is put there.
        say: Called with what was chosen for each method.
    """
    made: dict[str, SteeringVector] = {}
    for name, recipe in recipes.items():
        called = "".join(c if c.isalnum() else "-" for c in name)
        path = None if keep is None else keep / f"{called}.safetensors"
        if path is not None and path.is_file():
            made[name] = SteeringVector.load(path, dev.llm)
        else:
            vector = build_vector(
                dev.llm,
                learnt_from(dev.llm, build, recipe),
                recipe.method,
                called,
                recipe.preset,
                progress=False,
                **recipe.config,
            )
            made[name] = dev.choose(vector, recipe)
            if path is not None:
                made[name].save(path)
        calibration = made[name].calibration
        assert calibration is not None
        assert calibration.choice is not None
        say(
            f"{name}: {calibration.strength:+.3g} {calibration.unit}, {calibration.choice.sentence}"
        )
    return made


def ask(
    llm: SteerableHFLLM,
    questions: Sequence[Question],
    closed: Sequence[EvaluationItem],
    made: Mapping[str, SteeringVector],
    step: Step,
) -> tuple[list[Row], list[Row]]:
    """Ask test questions once under every arm, and under the controls of the best on dev.

    Returns:
        The arms as a step uses them, and the same where every question is steered.
    """

    def on_dev(name: str) -> tuple[float, float]:
        calibration = made[name].calibration
        choice = calibration and calibration.choice
        return _rank(choice.after, sum(choice.lost.values())) if choice else (0.0, -1.0)

    arms = [UNSTEERED, PROMPT, *(Arm(name, vector.steer()) for name, vector in made.items())]
    if made:
        best = max(made, key=on_dev)
        arms += controls(best, made[best])
    scores, known = scored(llm, questions, arms), right(llm, arms, closed)
    meter = KlMeter(llm, [q.item for q in questions[:_METERED]], _METERED)
    moved = [None if arm.instruction else meter(arm.steering) for arm in arms]
    some, few = step.steers(llm, [q.item for q in questions]), step.steers(llm, closed)

    def rows(said: Sequence[Sequence[Scores]], facts: Sequence[Sequence[float]]) -> list[Row]:
        return [
            Row(arm.name, one, right_ones, kl, _setting(arm.steering))
            for arm, one, right_ones, kl in zip(arms, said, facts, moved, strict=True)
        ]

    return rows(as_used(arms, scores, some), as_used(arms, known, few)), rows(scores, known)


def learnt_from(llm: SteerableHFLLM, build: Sequence[Question], recipe: Recipe) -> Pairs:
    """Return the pairs of a recipe."""
    pairs = [pair for question in build for pair in question.pairs(recipe.each)]
    if recipe.longest is not None:
        pairs = [pair for pair in pairs if _tokens(llm, pair) <= recipe.longest]
    return Pairs([*pairs, *lookups(recipe.lookups)])


def _tokens(llm: SteerableHFLLM, pair: PreferencePair) -> int:
    return max(len(llm.encode_answer(answer)) for answer in (pair.good, pair.bad or ""))


def closed_book(split: str, asked: int | None = None) -> list[EvaluationItem]:
    """Return questions of a split whose answers the model knows."""
    return list(EvaluationSet.from_jsonl(DATA / f"capability.{split}.jsonl", name=split))[:asked]


def _setting(steering: Steering) -> str:
    return ", ".join(f"{term.strength:+.3g} {term.unit}" for term in steering.terms)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="TruthfulQA.csv")
    parser.add_argument("--only", action="append", choices=tuple(RECIPES), help="these methods")
    parser.add_argument("--dev", type=int, help="questions of dev; all unless given")
    parser.add_argument("--test", type=int, help="questions of test; all unless given")
    parser.add_argument("--closed-book", type=int, help="of either split; all unless given")
    parser.add_argument("--keep", type=Path, help="folder for the vectors, and the table")
    parser.add_argument(
        "--prove", type=Path, help=f"evaluate {PROVEN!r} instead, and write vector, gate and cards"
    )
    options = parser.parse_args()
    data = split(read_questions(options.data))
    llm, known = SteerableHFLLM.smollm2(), options.closed_book
    names = [PROVEN] if options.prove is not None else options.only or RECIPES
    recipes = {name: RECIPES[name] for name in names}
    gate, closed = learn_gate(data.build), closed_book("dev", known)
    step = Step.sparing(gate.gate, llm, closed, BUDGET)
    dev = Dev(llm, data.dev[: options.dev], closed, step)
    made = make(dev, data.build, recipes, options.keep)
    if options.prove is not None:
        command = f"python -m experiments.truthfulqa --data {options.data.name} --prove FOLDER"
        asked, facts = data.test[: options.test], closed_book("test", known)
        report = prove(llm, made[PROVEN], gate, step, asked, facts, options.prove, command)
        print(report.verdict.line)
        return
    asked, facts = data.test[: options.test], closed_book("test", known)
    steered = (sum(step.steers(llm, each)) for each in ([q.item for q in asked], facts))
    where = "The step steers {} of {} questions, and {} of {} closed-book ones.".format(
        *chain.from_iterable(zip(steered, (len(asked), len(facts)), strict=True))
    )
    as_step, always = (table(rows) for rows in ask(llm, asked, facts, made, step))
    said = f"{where}\n\n{as_step}\nWhere every question is steered:\n\n{always}"
    print(said)
    if options.keep is not None:
        write_whole(options.keep / "truthfulqa.md", said)


if __name__ == "__main__":
    main()
