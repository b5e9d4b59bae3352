"""Running a benchmark on a model, unsteered, steered, and under the controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from steerable_llm import __version__
from steerable_llm.benchmarks import find_benchmark
from steerable_llm.benchmarks.benchmark import Benchmark, Normalisation
from steerable_llm.benchmarks.measure import Reading, measure, too_long
from steerable_llm.benchmarks.question import Question
from steerable_llm.benchmarks.result import BenchmarkReport, ItemRow, ScoreRow, ordered
from steerable_llm.benchmarks.rows import Data, load_data
from steerable_llm.conditions import CONDITIONS, Condition, Setting, conditions
from steerable_llm.errors import InvalidInputError
from steerable_llm.metrics import difference, estimate, made_worse, mended
from steerable_llm.model import SteerableHFLLM
from steerable_llm.names import unknown
from steerable_llm.policy import describe
from steerable_llm.progress import progress_bar
from steerable_llm.vector import Calibration, SteeringVector

#: What a vector is compared with unless something else is asked for; prompts of benchmarks carry
#: their own instructions, so the strict one is only run on request.
DEFAULT_AGAINST = ("none", "random", "sign_flipped")
#: Conditions that are made from a vector; the others are the same for all vectors.
_OF_A_VECTOR = ("steered", "random", "sign_flipped")
_SHOWN = 300  # characters of a prompt's end that a report keeps


def run_benchmark(
    llm: SteerableHFLLM,
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
        against: Conditions to compare with: none, random, sign_flipped, prompt, cad, adacad. The
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
        InvalidInputError: An unknown benchmark, condition or normalisation, data that cannot be
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
    runs = _conditions(chosen, contenders, against, setting)
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
    by_condition: dict[str, list[list[Reading]]] = {}
    for condition, row in zip(runs, readings, strict=True):
        by_condition.setdefault(condition.name, []).append(row)
    names = list(dict.fromkeys(question.item.variant for question in asked))
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
        rows=ordered([_row(name, None, by_condition, asked, seed) for name in by_condition]),
        group_rows=ordered(
            [
                _row(name, group, by_condition, asked, seed)
                for group in (names if len(names) > 1 else [])
                for name in by_condition
            ]
        ),
        items=tuple(_items(by_condition, asked)),
        library_version=__version__,
        command=command or _python(chosen, vectors, seed),
    )


def contenders_of(
    vectors: Sequence[SteeringVector], strengths: Sequence[float] | None
) -> dict[str, SteeringVector]:
    """The vectors at their strengths, by the labels that a report calls them.

    One alone is "steered". Several are called by their names, with the strength where each is
    run at more than one.

    Raises:
        InvalidInputError: A vector without a strength, strengths without a vector, or two
            contenders of one label.
    """
    if not vectors:
        raise InvalidInputError("a benchmark needs a vector to steer with: give at least one")
    found: dict[str, SteeringVector] = {}
    alone = len(vectors) * max(1, len(strengths or ())) == 1
    for vector in vectors:
        for strength in strengths or [None]:
            set_to = vector if strength is None else _at_strength(vector, strength)
            if set_to.calibration is None:
                raise InvalidInputError(
                    f"vector {vector.name!r} is not calibrated: give a strength, such as 0.05"
                )
            many = len(strengths or ()) > 1
            label = f"{vector.name} {set_to.calibration.strength:+g}" if many else vector.name
            label = "steered" if alone else label
            if label in found or (not alone and label in (*_OF_A_VECTOR, "none")):
                raise InvalidInputError(
                    f"two vectors or strengths are called {label!r}: give each its own name"
                )
            found[label] = set_to
    return found


def _at_strength(vector: SteeringVector, strength: float) -> SteeringVector:
    how = vector.application
    own = vector.calibration or Calibration(
        strength=strength, scope=how.scope, unit=how.unit, renormalise=how.renormalise
    )
    return vector.with_calibration(replace(own, strength=strength, note="strength given by hand"))


def _conditions(
    benchmark: Benchmark,
    contenders: Mapping[str, SteeringVector],
    against: Sequence[str],
    setting: Setting,
) -> list[Condition]:
    """The unsteered model, each contender with its controls, then what needs no vector."""
    for name in against:
        if name not in CONDITIONS:
            raise InvalidInputError(unknown("condition", name, CONDITIONS))
    if "prompt" in against and benchmark.strict_instruction is None:
        raise InvalidInputError(
            f"{benchmark.name} has no strict instruction: leave the condition 'prompt' out"
        )
    controls = [name for name in against if name in _OF_A_VECTOR]
    found: list[Condition] = []
    for label, vector in contenders.items():
        for condition in conditions(replace(setting, vector=vector), controls):
            if condition.name != "none":
                found.append(replace(condition, name=_called(label, condition.name)))
    shared = conditions(setting, [name for name in against if name not in _OF_A_VECTOR])
    none, *others = [condition for condition in shared if condition.name != "steered"]
    return [none, *found, *others]


def _called(label: str, kind: str) -> str:
    if label == "steered":
        return kind
    return label if kind == "steered" else f"{label}: {kind}"


def _added_tokens(
    llm: SteerableHFLLM, runs: Sequence[Condition], questions: Sequence[Question]
) -> int:
    """The most tokens that a condition's system message adds to a prompt."""
    item = questions[0].item
    bare = len(llm.encode(item.prompt))
    return max(len(llm.encode(condition.messages(item))) - bare for condition in runs)


def _row(
    condition: str,
    group: str | None,
    found: Mapping[str, Sequence[Sequence[Reading]]],
    questions: Sequence[Question],
    seed: int,
) -> ScoreRow:
    places = [i for i, q in enumerate(questions) if group in (None, q.item.variant)]
    runs = [[run[i] for i in places] for run in found[condition]]
    unsteered = [found["none"][0][i] for i in places]
    scores = _means([[reading.score for reading in run] for run in runs])
    before = [reading.score for reading in unsteered]
    # Whether a question is right is told per run: a mean of several runs is neither.
    right = _means([[float(reading.score > 0.5) for reading in run] for run in runs])
    right_before = [float(score > 0.5) for score in before]
    compared = condition != "none"
    return ScoreRow(
        condition=condition,
        group=group,
        n=len(places),
        score=estimate(scores, seed),
        change=difference(scores, before, seed) if compared else None,
        kl_per_token=estimate(
            _means([[reading.kl_per_token for reading in run] for run in runs]), seed, within=None
        ),
        made_worse=made_worse(right, right_before) if compared else None,
        mended=mended(right, right_before) if compared else None,
        runs=tuple(
            sum(reading.score for reading in run) / len(run) for run in runs if len(runs) > 1
        ),
    )


def _means(runs: Sequence[Sequence[float]]) -> list[float]:
    """Per question, the mean over the runs of a condition."""
    return [sum(values) / len(values) for values in zip(*runs, strict=True)]


def _items(
    found: Mapping[str, Sequence[Sequence[Reading]]], questions: Sequence[Question]
) -> list[ItemRow]:
    return [
        ItemRow(
            id=question.item.id,
            group=question.item.variant,
            condition=condition,
            run=number,
            question=question.item.question[-_SHOWN:],
            expected=question.expected,
            answer=reading.answer,
            score=reading.score,
            kl_per_token=reading.kl_per_token,
            log_probs=reading.log_probs,
        )
        for condition, runs in found.items()
        for number, run in enumerate(runs)
        for question, reading in zip(questions, run, strict=True)
    ]


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
