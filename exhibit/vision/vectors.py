"""Rebuild the vision exhibit's shipped vector and card: ``python -m exhibit.vision.vectors``.

Joint GrAInS of 50 pairs with several settings, one sweep on dev that chooses settings, sign and
strength, and one evaluation on test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from exhibit.vectors import PAIRS, with_every_setting, write
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.demo import vision
from steerable_llm.evaluation.calibration import Sweep
from steerable_llm.evaluation.calibration import sweep as search
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.evaluation.report import Report
from steerable_llm.pairs.pair import Pairs
from steerable_llm.vector.vector import SteeringVector

NAME = "vision-pictures"
BASELINES = ("zero", "mean")
K = 5  # pieces and words of each sign, of some 36 and ten
STRENGTHS = (0.06, 0.1, 0.15, 0.2)


def sweep(
    llm: SteerableHFLLM, vectors: dict[str, SteeringVector], *, progress: bool = True
) -> Sweep:
    """Choose the best of the vectors and its setting on dev."""
    return search(
        llm,
        vectors,
        vision.evaluation_set("pictures", "dev"),
        vision.evaluation_set("capability", "dev"),
        target=vision.TARGET,
        strengths=STRENGTHS,
        unit="relative",
        layers=(None,),
        scopes=("generated", "last_prompt"),
        max_new_tokens=vision.MAX_TOKENS,
        progress=progress,
    )


def prove(
    llm: SteerableHFLLM, vector: SteeringVector, pairs: Pairs, *, progress: bool = True
) -> Report:
    """Evaluate on test, with controls."""
    return evaluate(
        llm,
        vector,
        vision.evaluation_set("pictures", "test"),
        capability=vision.evaluation_set("capability", "test"),
        pairs=pairs,
        target=vision.TARGET,
        max_new_tokens=vision.MAX_TOKENS,
        command="python -m exhibit.vision.vectors --prove",
        progress=progress,
    )


def main() -> None:
    """Rebuild the shipped vector."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("vectors"))
    parser.add_argument(
        "--prove",
        action="store_true",
        help="build nothing: evaluate the vector in --out once more, and write its report",
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    llm = SteerableHFLLM.vision_demo()
    pairs, file = vision.pairs().sample(PAIRS, seed=0), options.out / NAME
    if options.prove:
        vector = SteeringVector.load(file.with_suffix(".safetensors"), llm)
        report = prove(llm, vector, pairs)
        report.save(file.with_suffix(".json"))
    else:
        found = sweep(llm, with_every_setting(llm, pairs, NAME, BASELINES, k=K))
        report = prove(llm, found.vector, pairs)
        write(file, found, report)
    print(f"{NAME}: {report.verdict.line}")


if __name__ == "__main__":
    main()
