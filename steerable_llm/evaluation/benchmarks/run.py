"""Running a benchmark on a model: unsteered, under every arm that is given, and under controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Unpack

from steerable_llm.chat.phrases import STRICT_INSTRUCTIONS
from steerable_llm.errors import InvalidInputError, from_extra
from steerable_llm.evaluation.arms import (
    CONTROLS,
    UNSTEERED,
    Arm,
    Subject,
    arm_of,
    arms_of,
    check_fits,
)
from steerable_llm.evaluation.benchmarks.benchmark import (
    Benchmark,
    Normalisation,
    find_benchmark,
)
from steerable_llm.evaluation.benchmarks.data import Data, load_data
from steerable_llm.evaluation.benchmarks.rating import Judge, RatingJudge, judge_of, rated
from steerable_llm.evaluation.benchmarks.report import BenchmarkReport, figure_rows, score_rows
from steerable_llm.evaluation.settings import DEFAULTS, Changes, EvaluationSettings
from steerable_llm.policy.steered_step import describe
from steerable_llm.progress import progress_bar
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.vector import SteeringVector
from steerable_llm.version import __version__

#: What a vector is compared with unless something else is asked for; prompts of benchmarks carry
#: their own instructions, so the strict one is only run on request.
DEFAULT_AGAINST = ("random", "sign_flipped")


def run_benchmark(
    llm: HookedModel,
    benchmark: str | Benchmark,
    subjects: Sequence[Subject],
    *,
    strengths: Sequence[float] | None = None,
    data: str | Data | None = None,
    limit: int | None = None,
    groups: Sequence[str] | None = None,
    shots: int | None = None,
    normalise: Normalisation | None = None,
    judge: Judge | RatingJudge | str | None = None,
    settings: EvaluationSettings = DEFAULTS,
    **changes: Unpack[Changes],
) -> BenchmarkReport:
    """Ask a benchmark's questions of the unsteered model, and under every arm.

    All intervals are bootstraps over questions, and changes are paired with the unsteered model on
    the same questions. `random` is the average of several random vectors per question.

    Args:
        llm: The model.
        benchmark: Its name, its task file, or what `find_benchmark` returned.
        subjects: What is run, one after the other, each vector with its own controls: vectors,
            LoRAs, decoding methods.
        strengths: In place of each vector's calibrated strength; several are run one by one.
        data: Where the questions come from, see `load_data`, or what that returned for the same
            limit, groups and shots.
        limit: Ask so many questions, drawn with the seed.
        groups: Only questions of these groups, such as subjects of MMLU.
        shots: Worked examples before each question; None for the benchmark's own number.
        normalise: What choices are scored by; None for the benchmark's own.
        judge: Who rates written answers where the benchmark wants that: a function from a prompt to
            what is said of it, or the address of an OpenAI-compatible server, see `rating`.
        settings: What they are compared with (`against`: random and sign_flipped unless told
            otherwise; prompt, cad and adacad on request), and how arms are run. Where answers are
            cut is said by the task.
        **changes: Single settings in place of those in `settings`, such as `seed=1`.

    Raises:
        InvalidInputError: An unknown benchmark, arm or normalisation, data that cannot be
            read, a vector without a strength, or no question that fits the model.
        ModelMismatchError: A vector or a LoRA belongs to another model.
        MissingExtraError: The harness is not installed, or what reads the data.
    """
    chosen = find_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    settings = replace(settings, **changes)
    by = chosen.normalisation(normalise)
    shown = chosen.shots_shown(shots)
    asked_judge = judge_of(chosen, judge)
    if asked_judge is not None:
        asked_judge.greet()
    labelled = labelled_subjects(subjects, strengths)
    for subject in [*labelled.values(), *(settings.against or ())]:
        check_fits(subject, llm, settings.force)
    arms = benchmark_arms(chosen, labelled, settings)
    seed = settings.seed
    found = data if isinstance(data, Data) else load_data(chosen, data, limit, seed, groups, shown)
    with from_extra("benchmarks", "benchmarks need the lm-evaluation-harness"):
        from steerable_llm.evaluation.benchmarks.harness import ask
    with progress_bar(chosen.name, len(found.rows) * len(arms), settings.progress) as advance:
        items, left_out = ask(llm, chosen, found, arms, by, settings.batch_size, advance)
    if asked_judge is not None:
        items = rated(items, found.rows, asked_judge, settings.progress)
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
        left_out=tuple(left_out),
        seed=seed,
        settings={
            **_settings(chosen, by, shown, limit, groups),
            **({"judge": asked_judge.name} if asked_judge is not None else {}),
        },
        subjects={
            label: next(iter(describe(arm_of(subject, settings).steering)), {})
            for label, subject in labelled.items()
        },
        rows=tuple(score_rows(items, seed)),
        group_rows=tuple(
            row
            for group in (names if len(names) > 1 else [])
            for row in score_rows(items, seed, group)
        ),
        figures=tuple(
            row
            for group in (None, *(names if len(names) > 1 else []))
            for row in figure_rows(chosen, items, seed, group)
        ),
        items=tuple(items),
        library_version=__version__,
        command=settings.command or _python(chosen, subjects, seed),
    )


def labelled_subjects(
    subjects: Sequence[Subject], strengths: Sequence[float] | None
) -> dict[str, Subject]:
    """Return what is run, vectors at their strengths, by the labels that a report calls it by.

    One vector alone is "steered". Several are called by their names, with the strength where each
    is run at more than one.

    Raises:
        InvalidInputError: Nothing, a vector without a strength, or two of one label.
    """
    if not subjects:
        raise InvalidInputError("a benchmark needs a vector to steer with: give at least one")
    wanted: Sequence[float | None] = strengths or [None]
    runs: list[tuple[str, Subject]] = []
    for subject in subjects:
        if not isinstance(subject, SteeringVector):
            runs.append((arm_of(subject, DEFAULTS).name, subject))
            continue
        for strength in wanted:
            vector = subject if strength is None else _at_strength(subject, strength)
            if vector.calibration is None:
                raise InvalidInputError(
                    f"vector {subject.name!r} is not calibrated: give a strength, such as 0.05"
                )
            label = f"{subject.name} {strength:+g}" if len(wanted) > 1 else subject.name
            runs.append(("steered" if len(subjects) * len(wanted) == 1 else label, vector))
    labels = [*CONTROLS, "none", *(label for label, _ in runs)]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise InvalidInputError(
            f"two vectors or strengths are called {twice[0]!r}: give each its own name"
        )
    return dict(runs)


def _at_strength(vector: SteeringVector, strength: float) -> SteeringVector:
    how = vector.application
    own = vector.calibration or Calibration(
        strength=strength, scope=how.scope, unit=how.unit, renormalise=how.renormalise
    )
    remark = "; ".join(filter(None, (own.remark, "strength given by hand")))
    return vector.with_calibration(replace(own, strength=strength, remark=remark))


def benchmark_arms(
    benchmark: Benchmark, labelled: Mapping[str, Subject], settings: EvaluationSettings
) -> list[Arm]:
    """Return the unsteered model, each subject with its controls, then what needs no vector.

    Raises:
        InvalidInputError: An unknown arm, or `prompt` where there is no instruction.
    """
    against = DEFAULT_AGAINST if settings.against is None else settings.against
    if settings.strict_instruction is None and benchmark.behaviour is not None:
        instruction = STRICT_INSTRUCTIONS[benchmark.behaviour]
        settings = replace(settings, strict_instruction=instruction)
    if "prompt" in against and settings.strict_instruction is None:
        raise InvalidInputError(
            f"{benchmark.name} has no strict instruction: leave the arm 'prompt' out, or give one"
        )
    controls = [name for name in against if name in CONTROLS]
    found = [UNSTEERED]
    for label, subject in labelled.items():
        own = controls if isinstance(subject, SteeringVector) else []
        mine, _, *others = arms_of(subject, replace(settings, against=own))
        found.append(replace(mine, name=label))
        prefix = "" if label == "steered" else f"{label}: "
        found += [replace(arm, name=f"{prefix}{arm.name}") for arm in others]
    for other in dict.fromkeys(against):
        if other not in (*CONTROLS, "none"):
            found.append(arm_of(other, settings))
            if found[-1].name in [arm.name for arm in found[:-1]]:
                raise InvalidInputError(f"two arms are called {found[-1].name!r}: rename one")
    return found


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


def _python(benchmark: Benchmark, subjects: Sequence[Subject], seed: int) -> str:
    names = ", ".join(
        f'SteeringVector.load("{subject.name}.safetensors", llm)'
        if isinstance(subject, SteeringVector)
        else repr(subject)
        for subject in subjects
    )
    return f'run_benchmark(llm, "{benchmark.name}", [{names}], seed={seed})'
