"""The verb that sets methods against each other."""

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
    print_page,
)


def compare(
    pairs: Annotated[Path, InFile],
    dev: Annotated[Path, typer.Option(exists=True, help="Evaluation set to choose on.")],
    test: Annotated[Path, typer.Option(exists=True, help="Held-out evaluation set.")],
    method: Annotated[
        list[str] | None,
        typer.Option(help="Method to compare, such as grains, caa or cad; repeatable. Else all."),
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="At most so many prompts of every category.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Folder for finished results; the same command goes on from there."),
    ] = None,
    capability: Annotated[
        Path | None,
        typer.Option(exists=True, help="Held-out evaluation set of what must not be lost."),
    ] = None,
    dev_capability: Annotated[
        Path | None, typer.Option(exists=True, help="The same for choosing on dev.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Category that is to be changed.")] = None,
    budget: Annotated[float, typer.Option(help="Largest share of capability to lose.")] = 0.01,
    report: Annotated[
        list[Path] | None,
        typer.Option(
            help="Report to write (.md with pictures beside it, .html or .json); repeatable."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the choices and of the intervals.")] = 0,
    model: Model = "demo",
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Compare methods on the same pairs and questions.

    PAIRS is a file of pairs. Each method is built from them, set up on the development set, and
    then answers the test set once; what makes most answers worse is listed first. With --keep an
    interrupted comparison loses nothing that it has measured.
    """
    from steerable_llm.evaluation.compare import compare as run
    from steerable_llm.evaluation.set import EvaluationSet
    from steerable_llm.files import check_writable
    from steerable_llm.pairs.pair import Pairs
    from steerable_llm.reports.page import check_suffix

    for path in report or []:
        check_suffix(path, "a comparison")
        check_writable(path)
    given = Pairs.from_jsonl(pairs)
    dev_set, test_set = EvaluationSet.from_jsonl(dev), EvaluationSet.from_jsonl(test)
    kept = EvaluationSet.from_jsonl(capability) if capability else None
    dev_kept = EvaluationSet.from_jsonl(dev_capability) if dev_capability else None
    if sample is not None:
        dev_set, test_set = dev_set.sample(sample, seed), test_set.sample(sample, seed)
        kept = kept.sample(sample, seed) if kept else None
        dev_kept = dev_kept.sample(sample, seed) if dev_kept else None
    llm = load_model(model, revision)
    found = run(
        llm,
        given,
        dev_set,
        test_set,
        methods=method or None,
        capability=kept,
        dev_capability=dev_kept,
        target=target,
        budget=budget,
        seed=seed,
        progress=not as_json,
        command=f"steerable {shlex.join(sys.argv[1:])}",
        keep=keep,
    )
    for path in report or []:
        found.save(path)
    if as_json:
        print(found.model_dump_json(indent=2))
        return
    print_page(found.table())
    for arm in found.arms:
        if arm.failed:
            print(f"{arm.name} did not take part: {arm.failed}")
