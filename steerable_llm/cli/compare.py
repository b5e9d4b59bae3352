"""The verb that sets methods, or settings of one method, against each other."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from steerable_llm.cli.options import (
    AsJson,
    InFile,
    Model,
    Revision,
    load_model,
    settings_of,
)
from steerable_llm.errors import InvalidInputError


def compare(
    pairs: Annotated[Path, InFile],
    dev: Annotated[Path, typer.Option(exists=True, help="Evaluation set to choose on.")],
    test: Annotated[Path, typer.Option(exists=True, help="Held-out evaluation set.")],
    method: Annotated[
        list[str] | None,
        typer.Option(help="Method to compare, such as grains, caa or cad; repeatable. Else all."),
    ] = None,
    ablation: Annotated[
        list[str] | None,
        typer.Option(
            help="In place of methods, what to change in GrAInS: attribution, objective, k, "
            "strength, layers, pairs (learning curve) or tokens; repeatable, or 'all'."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of GrAInS for all ablations, such as baseline=eos."),
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(
            help="Pairs in a point of the learning curve; repeatable. Else 10, 25, 50, 100."
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Orders of the learning curve, draws of random scores.")
    ] = 3,
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
    """Compare methods, or settings of GrAInS, on the same pairs and questions.

    PAIRS is a file of pairs. Each method is built from them, set up on the development set, and
    then answers the test set once; what makes most answers worse is listed first. With --keep an
    interrupted comparison loses nothing that it has measured.
    """
    from rich.console import Console

    from experiments.ablations import NAMES, SIZES, ablate
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
    if method and ablation:
        raise InvalidInputError(
            "--method compares methods and --ablation settings of one: give only one of them"
        )
    if not ablation and (setting or size):
        raise InvalidInputError(
            "--set and --size belong to --ablation: name one, or leave them out"
        )
    if sample is not None:
        dev_set, test_set = dev_set.sample(sample, seed), test_set.sample(sample, seed)
        kept = kept.sample(sample, seed) if kept else None
        dev_kept = dev_kept.sample(sample, seed) if dev_kept else None
    llm = load_model(model, revision)
    shared: dict[str, Any] = {
        "capability": kept,
        "dev_capability": dev_kept,
        "target": target,
        "budget": budget,
        "seed": seed,
        "progress": not as_json,
        "command": f"steerable {shlex.join(sys.argv[1:])}",
        "keep": keep,
    }
    if ablation:
        found = ablate(
            llm,
            given,
            dev_set,
            test_set,
            NAMES if "all" in ablation else ablation,
            config=settings_of(setting or []),
            sizes=size or SIZES,
            seeds=seeds,
            **shared,
        )
    else:
        found = run(llm, given, dev_set, test_set, methods=method or None, **shared)
    for path in report or []:
        found.save(path)
    if as_json:
        print(found.model_dump_json(indent=2))
        return
    Console().print(found.table())
    for contender in found.contenders:
        if contender.failed:
            print(f"{contender.name} did not take part: {contender.failed}")
