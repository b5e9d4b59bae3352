"""Running a benchmark on a model, unsteered, steered, and under the controls."""

from __future__ import annotations

from collections.abc import Sequence

from steerable_llm import __version__
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import Arm, Setting
from steerable_llm.evaluation.benchmarks import find_benchmark
from steerable_llm.evaluation.benchmarks.benchmark import Benchmark, Normalisation, Question
from steerable_llm.evaluation.benchmarks.contenders import benchmark_arms, contenders_of
from steerable_llm.evaluation.benchmarks.measure import Reading, measure, too_long
from steerable_llm.evaluation.benchmarks.result import BenchmarkReport
from steerable_llm.evaluation.benchmarks.rows import Data, load_data
from steerable_llm.evaluation.benchmarks.summary import item_rows, score_rows
from steerable_llm.policy.policy import describe
from steerable_llm.progress import progress_bar
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.vector import SteeringVector

#: What a vector is compared with unless something else is asked for; prompts of benchmarks carry
#: their own instructions, so the strict one is only run on request.
DEFAULT_AGAINST = ("none", "random", "sign_flipped")


def run_benchmark(
    llm: HookedModel,
    benchmark: str | Benchmark,
    vectors: Sequence[SteeringVector],
    *,
    strengths: Sequence[float] | None = None,
    data: str | Data | None = None,
    limit: int | None = None,
    groups: Sequence[str] | None = None,
    shots: int | None = None,
    against: Sequence[str] = DEFAULT_AGAINST,
    normalise: Normalisation | None = None,
    random_vectors: int = 3,
    cad_alpha: float = 0.5,
    seed: int = 0,
    batch_size: int = 64,
    force: bool = False,
    progress: bool = True,
    command: str = "",
) -> BenchmarkReport:
    """Asks a benchmark's questions, unsteered, steered, and under the controls.

    All intervals are bootstraps over questions, and changes are paired with the unsteered model on
    the same questions. `random` is the average of several random vectors per question.

    Args:
        llm: The model.
        benchmark: One of `BENCHMARKS`, by name or itself.
        vectors: What to steer with, one after the other.
        strengths: In place of each vector's calibrated strength; several are run one by one.
        data: Where the questions come from, see `rows.load_data`, or what that returned for the
            same limit, groups and shots.
        limit: Ask so many questions, drawn with the seed.
        groups: Only questions of these groups, such as subjects of MMLU.
        shots: Worked examples before each question; None for the benchmark's own number.
        against: Arms to compare with: none, random, sign_flipped, prompt, cad, adacad. The
            unsteered model is always run.
        normalise: What choices are scored by; None for the benchmark's own.
        random_vectors: How many random vectors are averaged.
        cad_alpha: How much more the context counts under `cad`.
        seed: Of the draw, the random vectors and the intervals.
        batch_size: Rows that run together.
        force: Accept vectors of another model of the same shape.
        progress: Show a progress bar on the error stream.
        command: What to run to get the report again.

    Raises:
        InvalidInputError: An unknown benchmark, arm or normalisation, data that cannot be
            read, a vector without a strength, or no question that fits the model.
        ModelMismatchError: A vector belongs to another model.
        MissingExtraError: A package that the data or the metric needs is not installed.
    """
    chosen = find_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    by = chosen.normalisation(normalise)
    shown = chosen.shots_shown(shots)
    contenders = contenders_of(vectors, strengths)
    for vector in contenders.values():
        vector.check(llm.fingerprint, force=force)
    setting = Setting(
        next(iter(contenders.values())),
        chosen.strict_instruction or "",
        seed,
        random_vectors,
        cad_alpha,
    )
    runs = benchmark_arms(chosen, contenders, against, setting)
    found = data if isinstance(data, Data) else load_data(chosen, data, limit, seed, groups, shown)
    questions = chosen.ask(found.rows, found.examples, shown)
    longer = too_long(llm, chosen, questions, _added_tokens(llm, runs, questions))
    asked = [question for question, out in zip(questions, longer, strict=True) if not out]
    if not asked:
        raise InvalidInputError(
            f"no question of {found.source} fits the model's context window of "
            f"{llm.context_window} tokens: take fewer shots, or a model with a longer window"
        )
    with progress_bar(chosen.name, len(asked) * len(runs), progress) as advance:
        readings = measure(llm, chosen, asked, runs, by, batch_size, advance)
    by_arm: dict[str, list[list[Reading]]] = {}
    for arm, row in zip(runs, readings, strict=True):
        by_arm.setdefault(arm.name, []).append(row)
    names = list(dict.fromkeys(question.item.category for question in asked))
    return BenchmarkReport(
        benchmark=chosen.name,
        title=chosen.title,
        paper=chosen.paper,
        metric=chosen.metric,
        model=llm.fingerprint.short,
        data=found.source,
        data_digest=found.digest,
        total=found.total,
        left_out=tuple(q.item.id for q, out in zip(questions, longer, strict=True) if out),
        seed=seed,
        settings=_settings(chosen, by, shown, limit, groups),
        vectors={label: describe(x.steer())[0] for label, x in contenders.items()},
        rows=tuple(score_rows(by_arm, asked, seed)),
        group_rows=tuple(
            row
            for group in (names if len(names) > 1 else [])
            for row in score_rows(by_arm, asked, seed, group)
        ),
        items=tuple(item_rows(by_arm, asked)),
        library_version=__version__,
        command=command or _python(chosen, vectors, seed),
    )


def _added_tokens(llm: HookedModel, runs: Sequence[Arm], questions: Sequence[Question]) -> int:
    """The most tokens that a arm's system message adds to a prompt."""
    item = questions[0].item
    bare = len(llm.encode(item.prompt))
    return max(len(llm.encode(arm.messages(item))) - bare for arm in runs)


def _settings(
    benchmark: Benchmark,
    normalise: Normalisation | None,
    shots: int,
    limit: int | None,
    groups: Sequence[str] | None,
) -> dict[str, str]:
    by = {
        "sum": "log-probability of each choice, end of turn not counted",
        "token": "log-probability of each choice per token, end of turn not counted",
        "character": "log-probability of each choice per character, end of turn not counted",
    }
    how = (
        f"written greedily, at most {benchmark.max_new_tokens} tokens"
        if normalise is None
        else by[normalise]
    )
    return {
        "scored by": how,
        **({"worked examples": str(shots)} if benchmark.shots else {}),
        **({"limit": f"{limit}, drawn with the seed"} if limit is not None else {}),
        **({str(benchmark.group): ", ".join(groups)} if groups else {}),
        **benchmark.settings,
    }


def _python(benchmark: Benchmark, vectors: Sequence[SteeringVector], seed: int) -> str:
    names = ", ".join(
        f'SteeringVector.load("{vector.name}.safetensors", llm)' for vector in vectors
    )
    return f'run_benchmark(llm, "{benchmark.name}", [{names}], seed={seed})'
