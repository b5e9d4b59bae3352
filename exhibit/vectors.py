"""Rebuild the shipped vectors and their cards: ``python -m exhibit.vectors``.

For every behaviour: 50 pairs from the answer log, GrAInS with several settings, one sweep on
dev that chooses settings, sign, strength and layers, and one evaluation on test. The paper's preset
goes through a sweep and an evaluation of its own and is reported beside the settings that won.
"""

from __future__ import annotations

import argparse
import itertools
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exhibit.steerability import TARGETS
from steerable_llm import demo
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import CalibrationError
from steerable_llm.evaluation.calibration import Sweep
from steerable_llm.evaluation.calibration import sweep as search
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.evaluation.report import Report
from steerable_llm.methods.build import build_vector
from steerable_llm.pairs.pair import Pairs
from steerable_llm.reports.numbers import percent, share, signed_points
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Heading, Mono, Part, Picture, Text
from steerable_llm.vector.vector import SteeringVector

PAIRS = 50
BASELINES = ("zero", "mean", "eos")
AGGREGATIONS = ("pca", "mean")
STRENGTHS = (0.03, 0.05, 0.065, 0.08, 0.1, 0.12)


def with_every_setting(
    llm: SteerableHFLLM,
    pairs: Pairs,
    name: str,
    baselines: Sequence[str] = BASELINES,
    **options: Any,
) -> dict[str, SteeringVector]:
    """Build GrAInS with every combination of baseline and aggregation, and other `options`."""
    built = {}
    for baseline, aggregation in itertools.product(baselines, AGGREGATIONS):
        label = f"{baseline} {aggregation}"
        with warnings.catch_warnings():  # the completeness error is kept with the vector
            warnings.simplefilter("ignore", UserWarning)
            built[label] = build_vector(
                llm,
                pairs,
                name=name,
                progress=False,
                baseline=baseline,
                aggregation=aggregation,
                **options,
            )
    return built


def sweep(
    llm: SteerableHFLLM,
    vectors: dict[str, SteeringVector],
    behaviour: demo.Behaviour,
    *,
    progress: bool = True,
) -> Sweep:
    """Choose the best of the vectors and its setting on the behaviour's dev prompts."""
    return search(
        llm,
        vectors,
        demo.evaluation_set(behaviour, "dev"),
        demo.evaluation_set("capability", "dev"),
        target=TARGETS[behaviour],
        strengths=STRENGTHS,
        unit="relative",
        layers=(None,),
        scopes=("generated", "last_prompt"),
        progress=progress,
    )


def prove(
    llm: SteerableHFLLM,
    vector: SteeringVector,
    pairs: Pairs,
    behaviour: demo.Behaviour,
    *,
    progress: bool = True,
) -> Report:
    """Evaluate on the behaviour's test prompts, all categories, with controls."""
    return evaluate(
        llm,
        vector,
        demo.evaluation_set(behaviour, "test"),
        capability=demo.evaluation_set("capability", "test"),
        pairs=pairs,
        target=TARGETS[behaviour],
        command="make vectors",
        progress=progress,
    )


def paper_preset(
    llm: SteerableHFLLM, pairs: Pairs, behaviour: demo.Behaviour, *, progress: bool = True
) -> Text:
    """Tell what the paper's preset reaches on the same pairs."""
    target = TARGETS[behaviour]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        vector = build_vector(llm, pairs, name=f"{behaviour}-paper", preset="paper", progress=False)
    missed = vector.provenance.completeness_error
    error = math.inf if missed is None or missed.median is None else missed.median
    preset = Mono('preset="paper"')
    start = (
        " (zero baseline, 5 right-Riemann steps, k = 3, centred PCA, all layers; median "
        f"completeness error {percent(error, 0)}), calibrated on the same dev prompts: "
    )
    try:
        found = sweep(llm, {"paper": vector}, behaviour, progress=progress)
    except CalibrationError as problem:
        return Text((preset, f"{start}{problem}"))
    report = prove(llm, found.vector, pairs, behaviour, progress=progress)
    steered, plain = report.row("steered").main, report.row("none").main

    def before(category: str) -> float:
        return report.row("none", category).main.value

    def after(category: str) -> float:
        return report.row("steered", category).main.value

    losses = ", ".join(
        f"{category} {signed_points(before(category) - after(category))}"
        for category in ("closed_book", "reading")
    )
    said = (
        f"{start}strength {found.best.strength:+g}; on test {target} goes from "
        f"{percent(plain.value)} to {share(steered)}, points of capability lost: {losses}."
    )
    return Text((preset, said))


def _pairs(behaviour: demo.Behaviour) -> Pairs:
    return demo.pairs(behaviour).sample(PAIRS, seed=0)


def make(
    llm: SteerableHFLLM, behaviour: demo.Behaviour, out: Path, *, progress: bool = True
) -> Report:
    """Build, calibrate, prove and write one shipped vector."""
    name = f"demo-{behaviour}"
    pairs = _pairs(behaviour)
    found = sweep(llm, with_every_setting(llm, pairs, name), behaviour, progress=progress)
    report = prove(llm, found.vector, pairs, behaviour, progress=progress)
    write(
        out / name,
        found,
        report,
        Heading("The paper's preset on the same pairs"),
        paper_preset(llm, pairs, behaviour, progress=progress),
    )
    return report


def write(file: Path, found: Sweep, report: Report, *more: Part) -> None:
    """Write a vector that won a sweep, its report, and its card with the sweep and more."""
    card = report.page()
    parts = [
        *card.parts,
        Heading("The sweep on dev"),
        Text(f"The settings that won: {found.best.label}."),
        Picture("sweep", found.picture, "Success and capability against strength"),
        *more,
    ]
    report.save(file.with_suffix(".json"))
    Page(card.title, parts).save(file.with_suffix(".md"), report.to_json)
    found.vector.with_evaluation(report.summary()).save(file.with_suffix(".safetensors"))


def main() -> None:
    """Rebuild every shipped vector."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("vectors"))
    parser.add_argument("--only", choices=tuple(TARGETS))
    parser.add_argument(
        "--prove",
        action="store_true",
        help="build nothing: evaluate the vectors in --out once more, and write their reports",
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    llm = SteerableHFLLM.demo()
    for behaviour in TARGETS:
        if options.only in (None, behaviour):
            file = options.out / f"demo-{behaviour}"
            if options.prove:
                vector = SteeringVector.load(file.with_suffix(".safetensors"), llm)
                report = prove(llm, vector, _pairs(behaviour), behaviour)
                report.save(file.with_suffix(".json"))
            else:
                report = make(llm, behaviour, options.out)
            print(f"demo-{behaviour}: {report.verdict.line}")


if __name__ == "__main__":
    main()
