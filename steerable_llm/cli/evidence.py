"""The verbs about finished vectors: what they do elsewhere, and which may go into production."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from steerable_llm.cli.options import (
    AsJson,
    InFile,
    Model,
    Revision,
    load_model,
    load_vector,
    print_json,
    print_page,
    vectors_there,
)


def promote(
    vector: Annotated[Path, InFile],
    report: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="Report of `evaluate` (.json).")
    ],
    to: Annotated[Path, typer.Option(help="Folder of vectors to copy it into.")],
    policy: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Policy file to add it to; needs --step."),
    ] = None,
    step: Annotated[str | None, typer.Option(help="Step of the policy.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of a vector of that name.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy a vector into a folder, and into a policy, if its report proves it.

    The report must be about this vector, model and calibration, on prompts that neither build nor
    calibration has seen, and hold the promotion rules: better than the unsteered model and than the
    strict instruction, capability within its budget. Otherwise this prints why not, one line per
    reason, writes nothing and ends with exit code 1.
    """
    from steerable_llm.evaluation.promotion import promote as run
    from steerable_llm.evaluation.report import Report
    from steerable_llm.files import read_text

    proof = Report.from_json(read_text(report))
    found = run(vector, proof, to, policy=policy, step=step, replace=replace)
    if as_json:
        print_json(
            {
                "promoted": found.promoted,
                "vector": found.vector,
                "refused": list(found.refused),
                "written": [str(path) for path in found.written],
            }
        )
    elif found.promoted:
        print(f"{found.vector}: {found.says}")
        for path in found.written:
            print(f"wrote {path}")
    else:
        for reason in found.refused:
            print(f"not promoted: {reason}", file=sys.stderr)
    if not found.promoted:
        raise typer.Exit(1)


def transfer(
    vectors: Annotated[list[Path], typer.Argument(callback=vectors_there)],
    test: Annotated[
        list[Path], typer.Option(exists=True, help="Evaluation set of one behaviour; repeatable.")
    ],
    sample: Annotated[
        int | None, typer.Option(min=1, help="At most so many prompts of every category.")
    ] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option(help="Report to write (.md, .html or .json); repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample and of the intervals.")] = 0,
    model: Model = "demo",
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Measure what vectors do to other behaviours than their own.

    VECTORS are calibrated vector files, vectors on the Hub, or folders of LoRAs. Each is run on
    every evaluation set; the matrix tells the change of success against the unsteered model, with
    intervals.
    """
    from steerable_llm.evaluation.set import EvaluationSet
    from steerable_llm.evaluation.transfer import transfer as run
    from steerable_llm.files import check_writable
    from steerable_llm.reports.page import check_suffix

    for path in report or []:
        check_suffix(path, "a transfer matrix")
        check_writable(path)
    sets = [EvaluationSet.from_jsonl(path) for path in test]
    if sample is not None:
        sets = [items.sample(sample, seed) for items in sets]
    llm = load_model(model, revision)
    loaded = [load_vector(path, llm, False) for path in vectors]
    found = run(
        llm,
        loaded,
        sets,
        seed=seed,
        progress=not as_json,
        command=f"steerable {shlex.join(sys.argv[1:])}",
    )
    for path in report or []:
        found.save(path)
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        print_page(found.table())
