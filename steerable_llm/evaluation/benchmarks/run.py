"""Running a benchmark on a model, unsteered, steered, and under the controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from steerable_llm import __version__
from steerable_llm.chat.phrases import STRICT_INSTRUCTIONS
from steerable_llm.errors import InvalidInputError, MissingExtraError, unknown
from steerable_llm.evaluation.arms import ARMS, UNSTEERED, Arm, arm_of, arms_of
from steerable_llm.evaluation.benchmarks.benchmark import (
    INSTALL,
    Benchmark,
    Normalisation,
    find_benchmark,
)
from steerable_llm.evaluation.benchmarks.data import Data, load_data
from steerable_llm.evaluation.benchmarks.report import BenchmarkReport, ItemRow, score_rows
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.policy.policy import describe
from steerable_llm.progress import progress_bar
from steerable_llm.runtime.contrast import Contrast
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.vector import SteeringVector

#: What a vector is compared with unless something else is asked for; prompts of benchmarks carry
#: their own instructions, so the strict one is only run on request.
DEFAULT_AGAINST = ("none", "random", "sign_flipped")
#: Arms that are made from a vector; the others are the same for all vectors.
OF_A_VECTOR = ("steered", "random", "sign_flipped")
_SHOWN = 300  # characters of a prompt's end that a report keeps


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
    """Ask a benchmark's questions, unsteered, steered, and under the controls.

    All intervals are bootstraps over questions, and changes are paired with the unsteered model on
    the same questions. `random` is the average of several random vectors per question.

    Args:
        llm: The model.
        benchmark: Its name, its task file, or what `find_benchmark` returned.
        vectors: What to steer with, one after the other.
        strengths: In place of each vector's calibrated strength; several are run one by one.
        data: Where the questions come from, see `load_data`, or what that returned for the same
            limit, groups and shots.
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
        MissingExtraError: The harness is not installed, or what reads the data.
    """
    chosen = find_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    by = chosen.normalisation(normalise)
    shown = chosen.shots_shown(shots)
    labelled = labelled_vectors(vectors, strengths)
    for vector in labelled.values():
        vector.check(llm.fingerprint, force=force)
    how = EvaluationSettings(
        strict_instruction=STRICT_INSTRUCTIONS[chosen.behaviour] if chosen.behaviour else None,
        random_vectors=random_vectors,
        seed=seed,
    )
    runs = benchmark_arms(chosen, labelled, against, how, cad_alpha)
    found = data if isinstance(data, Data) else load_data(chosen, data, limit, seed, groups, shown)
    try:
        from steerable_llm.evaluation.benchmarks.harness import ask
    except ImportError as error:
        raise MissingExtraError(
            f"benchmarks need the lm-evaluation-harness: {INSTALL} ({error})"
        ) from error
    with progress_bar(chosen.name, len(found.rows) * len(runs), progress) as advance:
        readings, left_out = ask(
            llm, chosen, list(found.rows.values()), runs, by, batch_size, advance
        )
    places = list(found.rows)
    numbers = _numbers_of_runs(runs)
    items = [
        ItemRow(
            id=str(places[reading.question]),
            group=str(found.rows[places[reading.question]].get(chosen.group or "", "all")),
            arm=runs[reading.arm].name,
            run=numbers[reading.arm],
            question=reading.prompt[-_SHOWN:],
            expected=reading.expected,
            answer=reading.answer,
            score=reading.score,
            kl_per_token=reading.kl_per_token,
            log_probs=reading.log_probs,
        )
        for reading in sorted(readings, key=lambda reading: (reading.arm, reading.question))
    ]
    names = list(dict.fromkeys(item.group for item in items))
    return BenchmarkReport(
        benchmark=chosen.name,
        title=chosen.title,
        paper=chosen.paper,
        metric=chosen.metric,
        model=llm.fingerprint.short,
        data=found.source,
        data_digest=found.digest,
        total=found.total,
        left_out=tuple(str(places[question]) for question in left_out),
        seed=seed,
        settings=_settings(chosen, by, shown, limit, groups),
        vectors={label: describe(vector.steer())[0] for label, vector in labelled.items()},
        rows=tuple(score_rows(items, seed)),
        group_rows=tuple(
            row
            for group in (names if len(names) > 1 else [])
            for row in score_rows(items, seed, group)
        ),
        items=tuple(items),
        library_version=__version__,
        command=command or _python(chosen, vectors, seed),
    )


def labelled_vectors(
    vectors: Sequence[SteeringVector], strengths: Sequence[float] | None
) -> dict[str, SteeringVector]:
    """Return the vectors at their strengths, by the labels that a report calls them.

    One alone is "steered". Several are called by their names, with the strength where each is
    run at more than one.

    Raises:
        InvalidInputError: No vector, one without a strength, or two of one label.
    """
    if not vectors:
        raise InvalidInputError("a benchmark needs a vector to steer with: give at least one")
    found: dict[str, SteeringVector] = {}
    alone = len(vectors) * max(1, len(strengths or ())) == 1
    wanted: Sequence[float | None] = strengths or [None]
    for vector in vectors:
        for strength in wanted:
            set_to = vector if strength is None else _at_strength(vector, strength)
            if set_to.calibration is None:
                raise InvalidInputError(
                    f"vector {vector.name!r} is not calibrated: give a strength, such as 0.05"
                )
            many = len(strengths or ()) > 1
            label = f"{vector.name} {set_to.calibration.strength:+g}" if many else vector.name
            label = "steered" if alone else label
            if label in found or (not alone and label in (*OF_A_VECTOR, "none")):
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
    return vector.with_calibration(replace(own, strength=strength, remark="strength given by hand"))


def benchmark_arms(
    benchmark: Benchmark,
    labelled: Mapping[str, SteeringVector],
    against: Sequence[str],
    settings: EvaluationSettings,
    cad_alpha: float,
) -> list[Arm]:
    """Return the unsteered model, each vector with its controls, then what needs no vector.

    Args:
        benchmark: Says whether it has a strict instruction.
        labelled: As `labelled_vectors` makes them.
        against: Names of arms.
        settings: What arms are made from.
        cad_alpha: How much more the context counts under `cad`.

    Raises:
        InvalidInputError: An unknown arm, or `prompt` where there is no instruction.
    """
    for name in against:
        if name not in ARMS:
            raise InvalidInputError(unknown("arm", name, ARMS))
    if "prompt" in against and benchmark.behaviour is None:
        raise InvalidInputError(
            f"{benchmark.name} has no strict instruction: leave the arm 'prompt' out"
        )
    controls = [name for name in against if name in OF_A_VECTOR]
    found: list[Arm] = []
    for label, vector in labelled.items():
        for arm in arms_of(vector, replace(settings, against=controls)):
            if arm.name != "none":
                found.append(replace(arm, name=_called(label, arm.name)))
    contrast = Contrast("cad", cad_alpha)
    others = [
        arm_of(contrast if name == "cad" else name, settings)
        for name in dict.fromkeys(against)
        if name not in (*OF_A_VECTOR, "none")
    ]
    return [UNSTEERED, *found, *others]


def _called(label: str, kind: str) -> str:
    if label == "steered":
        return kind
    return label if kind == "steered" else f"{label}: {kind}"


def _numbers_of_runs(runs: Sequence[Arm]) -> list[int]:
    """Per arm, the number among those of its name: random vectors have several."""
    names = [arm.name for arm in runs]
    return [names[:place].count(name) for place, name in enumerate(names)]


def _settings(
    benchmark: Benchmark,
    normalise: Normalisation | None,
    shots: int,
    limit: int | None,
    groups: Sequence[str] | None,
) -> dict[str, str]:
    per = {"sum": "", "token": " per token", "character": " per character"}
    how = (
        f"written greedily, at most {benchmark.max_new_tokens} tokens"
        if normalise is None
        else f"log-probability of each choice{per[normalise]}, end of turn not counted"
    )
    phrases = benchmark.config.get("doc_to_target")
    return {
        "scored by": how,
        **({"worked examples": str(shots)} if benchmark.shots else {}),
        **({"limit": f"{limit}, drawn with the seed"} if limit is not None else {}),
        **({str(benchmark.group): ", ".join(groups)} if groups else {}),
        **({"phrases": ", ".join(map(str, phrases))} if isinstance(phrases, list) else {}),
    }


def _python(benchmark: Benchmark, vectors: Sequence[SteeringVector], seed: int) -> str:
    names = ", ".join(
        f'SteeringVector.load("{vector.name}.safetensors", llm)' for vector in vectors
    )
    return f'run_benchmark(llm, "{benchmark.name}", [{names}], seed={seed})'
