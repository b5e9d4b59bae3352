"""Build, choose and prove the vectors that are shipped for SmolLM2.

``python -m experiments.vectors [--only faithfulness] [--out vectors] [--prove]``

Each is trained on pairs from the log of its answers (`experiments.questions`), set up on dev and
proven on test, under the conditions of the step of the policy that uses it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.questions import DATA, REFUSAL
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.evaluation.calibration import sweep
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.evaluation.report import Report
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.files import OUR_MARK, write_whole
from steerable_llm.logs.answers import LoggedAnswer, read_answers
from steerable_llm.methods.build import build_vector
from steerable_llm.pairs.kept import CORRECTED, PRAISED, kept_pairs
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.pairs.pairing import pair_answers
from steerable_llm.pairs.wording import sentence_ends
from steerable_llm.policy.gate import Gate
from steerable_llm.policy.gate_training import gate_card, train_gate
from steerable_llm.policy.policy import Policy
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Heading, Picture, Text
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.vector import SteeringVector

#: The steps that use the vectors, without them: what they ask before they steer.
STEPS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "answer": {"when": {"context": "present"}},
    "reply": {"when": {"gate": {"name": "smollm2-rude", "above": 0.2}}},
}
#: What a report compares with: asking for it, and the controls; decoding as well.
ALWAYS = ("none", "prompt", "random", "sign_flipped")
AGAINST = (*ALWAYS, "cad")
#: Of what was trained.
STRENGTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
TEST_PROMPTS = 200
#: How strongly a vector acts while another is trained onto it. That one is calibrated afterwards.
GROUND = 0.5
#: The log of answers about facts of the world and to complaints, and the one over many passages.
LOG, PASSAGES_LOG = "answers.jsonl", "passages.answers.jsonl"
#: Source of the pairs whose prompts ask for no apology.
PLAIN = "log/plain"
#: Sources of pairs of prompts that are to be left alone.
KEPT = (PLAIN, PRAISED, CORRECTED)


@dataclass(frozen=True)
class Behaviour:
    """One behaviour of SmolLM2 that a vector is to change.

    Attributes:
        pairs: Made from the logs.
        target: The category that is to be changed.
        documents: Names of the held-out sets.
        guarded: Other categories of those sets that are run, too, and must not suffer.
        step: The policy's step.
        config: Settings of the method `bipo`.
        onto: The behaviour whose vector this one is trained onto, and takes in.
        against: What the report compares with; decoding that sets off the context against none
            says nothing of refusals.
        logs: Files of the data.
    """

    pairs: Callable[[list[LoggedAnswer]], Pairs]
    target: str
    documents: tuple[str, ...]
    guarded: tuple[str, ...]
    step: str
    config: Mapping[str, Any] = field(default_factory=dict)
    onto: str | None = None
    against: tuple[str, ...] = AGAINST
    logs: tuple[str, ...] = (LOG,)

    def answers(self) -> list[LoggedAnswer]:
        """Read the logs."""
        return [entry for name in self.logs for entry in read_answers(DATA / name)]


def conflicts(log: list[LoggedAnswer]) -> Pairs:
    """Pair what contradicts the documents with the same words over the documents' value."""
    return pair_answers(log, reasons=["contradicts"]).pairs


def refusals(log: list[LoggedAnswer]) -> Pairs:
    """Pair values that no document gives with a refusal, and right answers the other way round.

    The second kind tells a gate which prompts are to be left alone.
    """
    return Pairs(
        [
            *pair_answers(log, reasons=["should have refused"]).pairs,
            *kept_pairs(log, [REFUSAL], step="answer"),
        ]
    )


def civil(log: list[LoggedAnswer]) -> Pairs:
    """Pair rude and deflecting replies with civil ones, and plain answers with an apology.

    The second kind tells the gates which prompts are to be left alone.
    """
    rude = pair_answers(log, reasons=["rude"]).pairs
    apologies = [pair.good for pair in rude]
    kept = [
        PreferencePair(
            entry.messages,
            good=entry.answer[: sentence_ends(entry.answer)[0]],
            bad=apologies[number % len(apologies)],
            source=PLAIN,
            id=f"kept-{entry.id}",
        )
        for number, entry in enumerate(log)
        if entry.verdict == "good"
        and entry.id.startswith(("polite", "closed-book"))
        and sentence_ends(entry.answer)
    ]
    return Pairs([*rude, *kept])


BEHAVIOURS = {
    "faithfulness": Behaviour(
        conflicts, "conflict", ("documents",), ("gold", "other layout"), "answer"
    ),
    "refusal": Behaviour(
        refusals,
        "unanswerable",
        ("documents",),
        ("gold", "conflict"),
        "answer",
        {"gated": True},
        against=ALWAYS,
    ),
    "documents": Behaviour(
        refusals,
        "unanswerable",
        ("documents", "handbooks", "passages"),
        (
            "gold",
            "conflict",
            "gold, handbook",
            "unanswerable, handbook",
            "gold, new kind",
            "unanswerable, new kind",
            "gold, several passages",
            "unanswerable, several passages",
            "gold, several passages of handbooks",
            "unanswerable, several passages of handbooks",
        ),
        "answer",
        # The memory for its long prompts: with the usual quarter of 24 GB they are read anew.
        {
            "gated": True,
            "keep_sources": (PRAISED, CORRECTED),
            "steps": 100,
            "memory_budget": 11_000_000_000,
        },
        onto="faithfulness",
        against=ALWAYS,
        logs=(LOG, PASSAGES_LOG),
    ),
    "civility": Behaviour(
        civil,
        "civility",
        ("civility",),
        ("polite",),
        "reply",
        {"gated": True, "keep_sources": (PLAIN,)},
        against=ALWAYS,
    ),
}
"""By the name of the vector, but for the model's."""

#: Those whose vectors come along; why the others do not is told in tries.md.
SHIPPED = ("faithfulness", "documents", "civility")


def held_out(behaviour: Behaviour, split: str) -> EvaluationSet:
    """Return the prompts of a split that the behaviour is judged by."""
    files = [DATA / f"{name}.{split}.jsonl" for name in behaviour.documents]
    items = [item for file in files for item in EvaluationSet.from_jsonl(file)]
    every = EvaluationSet(f"{' and '.join(behaviour.documents)}.{split}", items)
    wanted = [c for c in (behaviour.target, *behaviour.guarded) if c in every.categories]
    return every.category(*wanted)


def capability(split: str) -> EvaluationSet:
    """Return questions without documents, whose answers the model knows."""
    return EvaluationSet.from_jsonl(DATA / f"capability.{split}.jsonl", name=f"capability.{split}")


def policy_of(step: str, folder: Path) -> Policy:
    """Return a policy with a step's conditions alone; what gates it has lie in the folder."""
    when = STEPS[step]["when"]
    gates = {}
    if "gate" in when:
        name = when["gate"]["name"]
        gates[name] = _gate(folder / "gates" / f"{name}.safetensors")
    return Policy.from_dict({"steps": {step: STEPS[step]}}, gates=gates)


def _gate(file: Path) -> Gate:
    """Load the gate that tells which messages get rude replies, trained where it is missing."""
    if not file.is_file():
        log = DATA / LOG
        trained = train_gate(read_answers(log), file.stem, reasons=["rude"], steps=["reply"])
        file.parent.mkdir(exist_ok=True)
        trained.gate.save(file)
        command = (
            f"steerable policy train-gate experiments/data/{log.name} --reason rude --step reply "
            f"--out vectors/gates/{file.name}"
        )
        card = f"{gate_card(trained, command).to_markdown()}\n{OUR_MARK}\n"
        write_whole(file.with_suffix(".md"), card)
    return Gate.load(file)


def make(
    llm: SteerableHFLLM, name: str, out: Path, test_prompts: int, *, progress: bool = True
) -> Report:
    """Build, calibrate, prove and write one vector."""
    behaviour = BEHAVIOURS[name]
    pairs = behaviour.pairs(behaviour.answers())
    config = dict(behaviour.config)
    if behaviour.onto is not None:
        # Kept: the vector's record names it, and the control "shuffled" needs it.
        ground = ground_of(llm, behaviour.onto, out / "ground", progress=progress)
        config["onto"] = (ground.as_posix(),)
    vector = build_vector(llm, pairs, "bipo", f"smollm2-{name}", progress=progress, **config)
    settings = _settings(name, out, test_prompts, progress=progress)
    found = sweep(
        llm,
        vector,
        held_out(behaviour, "dev"),
        capability("dev"),
        strengths=STRENGTHS,
        controls=False,
        settings=settings,
    )
    report = prove(llm, name, found.vector, out, test_prompts, progress=progress)
    report.save(out / f"smollm2-{name}.json")
    card = report.page()
    parts = [
        *card.parts,
        Heading("The sweep on dev"),
        Text(f"The settings that won: {found.best.label} at {found.best.strength:+g}."),
        Picture("sweep", found.picture, "Success and capability against strength"),
    ]
    Page(card.title, parts).save(out / f"smollm2-{name}.md", report.to_json)
    found.vector.with_evaluation(report.summary()).save(out / f"smollm2-{name}.safetensors")
    return report


def prove(
    llm: SteerableHFLLM,
    name: str,
    vector: SteeringVector,
    out: Path,
    test_prompts: int,
    *,
    progress: bool = True,
) -> Report:
    """Compare a calibrated vector of a behaviour with its controls and rivals on test."""
    behaviour = BEHAVIOURS[name]
    return evaluate(
        llm,
        vector,
        held_out(behaviour, "test").sample(test_prompts),
        capability("test").sample(test_prompts),
        settings=_settings(name, out, test_prompts, progress=progress),
    )


def _settings(name: str, out: Path, test_prompts: int, *, progress: bool) -> EvaluationSettings:
    behaviour = BEHAVIOURS[name]
    return EvaluationSettings(
        target=behaviour.target,
        policy=policy_of(behaviour.step, out),
        step=behaviour.step,
        against=behaviour.against,
        random_vectors=1,
        command=f"python -m experiments.vectors --only {name} --test-prompts {test_prompts}",
        progress=progress,
    )


def ground_of(llm: SteerableHFLLM, name: str, folder: Path, *, progress: bool) -> Path:
    """Write what another vector is trained onto: a behaviour's, at the strength meant for that."""
    behaviour = BEHAVIOURS[name]
    pairs = behaviour.pairs(behaviour.answers())
    vector = build_vector(
        llm, pairs, "bipo", f"smollm2-{name}", progress=progress, **behaviour.config
    )
    fixed = vector.with_calibration(Calibration(GROUND, None, "generated", "absolute", True))
    folder.mkdir(parents=True, exist_ok=True)
    return fixed.save(folder / f"smollm2-{name}.safetensors")


def main() -> None:
    """Make every shipped vector of SmolLM2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("vectors"))
    parser.add_argument("--only", choices=tuple(BEHAVIOURS))
    parser.add_argument("--test-prompts", type=int, default=TEST_PROMPTS, help="of every category")
    parser.add_argument(
        "--prove",
        action="store_true",
        help="build nothing: evaluate the vectors in --out once more, and write their reports",
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    llm = SteerableHFLLM.smollm2()
    for name in SHIPPED if options.only is None else (options.only,):
        file = options.out / f"smollm2-{name}"
        if options.prove:
            vector = SteeringVector.load(file.with_suffix(".safetensors"))
            report = prove(llm, name, vector, options.out, options.test_prompts)
            report.save(file.with_suffix(".json"))
        else:
            report = make(llm, name, options.out, options.test_prompts)
        print(f"smollm2-{name}: {report.verdict.line}")


if __name__ == "__main__":
    main()
