"""Published benchmarks: `steerable evaluate --benchmark`, and the harness's own command line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from steerable_llm.cli.options import load_against, load_model, load_subject, print_page
from steerable_llm.errors import MissingExtraError


def lm_eval(context: typer.Context) -> None:
    """Run the lm-evaluation-harness, with steered models.

    Everything after the verb goes to `lm_eval` as it is, which then knows one model more:
    `--model steerable`, steered by --model_args vector=FILE,strength=0.05 or policy=FILE,step=NAME.
    """
    try:
        from lm_eval.__main__ import cli_evaluate

        # Registers the model; the harness looks for no plugins by itself.
        import steerable_llm.adapters.lm_eval  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"the harness is not installed ({error}): pip install 'steerable-llm[benchmarks]'"
        ) from error
    sys.argv = ["lm_eval", *context.args]
    cli_evaluate()


def evaluate_benchmark(
    subject: Path,
    benchmark: str,
    options: Mapping[str, Any],
    against: Sequence[str] | None,
    reports: Sequence[Path],
    seed: int,
    model: str,
    revision: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Run one benchmark, and write and print what it found.

    Args:
        subject: As `load_subject` takes it.
        benchmark: Its name.
        options: Those that only a benchmark has, as the command line names them.
        against: Arms to compare with; None for the usual ones.
        reports: Files to write.
        seed: Of the draw, the controls and the intervals.
        model: As `load_model` takes it.
        revision: Of the model.
        force: Accept vectors of another model of the same shape.
        as_json: Print the report as JSON.
    """
    from steerable_llm.evaluation.benchmarks.benchmark import find_benchmark
    from steerable_llm.evaluation.benchmarks.data import load_data
    from steerable_llm.evaluation.benchmarks.run import run_benchmark
    from steerable_llm.files import check_writable
    from steerable_llm.reports.page import check_suffix

    # What is wrong with the question is said before a model is loaded for it.
    chosen = find_benchmark(benchmark)
    for path in reports:
        check_suffix(path, "a benchmark report")
        check_writable(path)
    shots = chosen.shots_shown(options.get("shots"))
    limit, groups = options.get("limit"), options.get("group")
    data = load_data(chosen, options.get("data"), limit, seed, groups, shots)
    llm = load_model(model, revision)
    found = run_benchmark(
        llm,
        chosen,
        [load_subject(each, llm, force) for each in [subject, *options.get("also", [])]],
        strengths=options.get("strength"),
        data=data,
        limit=limit,
        groups=groups,
        shots=shots,
        normalise=options.get("normalise"),
        against=load_against(against, llm, force),
        seed=seed,
        force=force,
        progress=not as_json,
        command=f"steerable {shlex.join(sys.argv[1:])}",
    )
    for path in reports:
        found.save(path)
    if as_json:
        print(found.to_json())
    else:
        print_page(found.table())
