"""What `steerable evaluate` does with a published benchmark in place of an evaluation set."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steerable_llm.cli.options import load_model


def evaluate_benchmark(
    vector: Path,
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
    """Runs one benchmark and writes and prints what it found.

    Args:
        vector: The vector's file.
        benchmark: Its name.
        options: Those that only a benchmark has, as the command line names them.
        against: Conditions to compare with; None for the usual ones.
        reports: Files to write.
        seed: Of the draw, the controls and the intervals.
        model: As `load_model` takes it.
        revision: Of the model.
        force: Accept vectors of another model of the same shape.
        as_json: Print the report as JSON.
    """
    from rich.console import Console

    from steerable_llm.benchmarks import find_benchmark
    from steerable_llm.benchmarks.result import check_suffix
    from steerable_llm.benchmarks.rows import load_data
    from steerable_llm.benchmarks.run import DEFAULT_AGAINST, run_benchmark
    from steerable_llm.files import check_writable
    from steerable_llm.vector import SteeringVector

    # What is wrong with the question is said before a model is loaded for it.
    chosen = find_benchmark(benchmark)
    for path in reports:
        check_suffix(path)
        check_writable(path)
    shots = chosen.shots_shown(options.get("shots"))
    limit, groups = options.get("limit"), options.get("group")
    data = load_data(chosen, options.get("data"), limit, seed, groups, shots)
    files = [vector, *options.get("also", [])]
    llm = load_model(model, revision)
    found = run_benchmark(
        llm,
        chosen,
        [SteeringVector.load(file, model=llm, force=force) for file in files],
        strengths=options.get("strength"),
        data=data,
        limit=limit,
        groups=groups,
        shots=shots,
        normalise=options.get("normalise"),
        against=tuple(against or DEFAULT_AGAINST),
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
        Console().print(found.table())
