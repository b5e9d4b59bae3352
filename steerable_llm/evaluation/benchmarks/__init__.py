"""Published benchmarks, run on a model with and without steering.

One file per benchmark, and one registry: `BENCHMARKS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from steerable_llm.errors import InvalidInputError, unknown
from steerable_llm.evaluation.benchmarks.benchmark import Benchmark
from steerable_llm.evaluation.benchmarks.faitheval import (
    COUNTERFACTUAL_PART,
    INCONSISTENT_PART,
    UNANSWERABLE_PART,
)
from steerable_llm.evaluation.benchmarks.mmlu import MMLU
from steerable_llm.evaluation.benchmarks.toxigen import TOXIGEN
from steerable_llm.evaluation.benchmarks.truthfulqa import GENERATION, MC1, MC2

BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        MC1,
        MC2,
        GENERATION,
        TOXIGEN,
        COUNTERFACTUAL_PART,
        UNANSWERABLE_PART,
        INCONSISTENT_PART,
        MMLU,
    )
}


def find_benchmark(name: str) -> Benchmark:
    """A benchmark by its name.

    Raises:
        InvalidInputError: There is none; the message lists those there are.
    """
    if name not in BENCHMARKS:
        raise InvalidInputError(unknown("benchmark", name, BENCHMARKS))
    return BENCHMARKS[name]
