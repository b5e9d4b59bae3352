"""The verbs that measure: vectors, methods and benchmarks, and which vectors may be used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerable_llm.cli.options import (
    LARGEST_SEED,
    AsJson,
    Budget,
    Capability,
    Dev,
    Force,
    ImageHosts,
    InFile,
    Model,
    PolicyStep,
    Reports,
    Revision,
    Sample,
    StepPolicy,
    SubjectIn,
    TemplateArguments,
    Workers,
    check_folder,
    check_reports,
    command_line,
    load_against,
    load_model,
    load_subject,
    load_vector,
    read_set,
    say,
    tell,
    tell_report,
    vectors_there,
    workers_of,
)
from steerable_llm.cli.steering import (
    Kls,
    Layers,
    LayerSets,
    OneOrMore,
    Scope,
    Scopes,
    Strength,
    Strengths,
    search,
    use,
)
from steerable_llm.errors import InvalidInputError, from_extra

if TYPE_CHECKING:
    from steerable_llm.vector.vector import SteeringVector


def evaluate(
    subject: Annotated[Path, SubjectIn],
    test: Annotated[Path | None, typer.Argument(exists=True, dir_okay=False)] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Arm to compare with: a name such as cad=0.5, a vector file or the folder of a "
            "LoRA; repeatable. Else the usual ones."
        ),
    ] = None,
    capability: Capability = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Category that is to be changed; else the calibration's, or the first of TEST."
        ),
    ] = None,
    budget: Budget = 0.01,
    pairs: Annotated[
        Path | None,
        typer.Option(
            exists=True, help="Pairs the vector was built from, for the shuffled control."
        ),
    ] = None,
    policy: StepPolicy = None,
    step: PolicyStep = None,
    report: Reports = None,
    benchmark: Annotated[
        str | None, typer.Option(help="Benchmark to run in place of TEST; see docs/benchmarks.md.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Its data: a file, a Hub id or 'sample'; else its own on the Hub."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Ask so many of its questions, drawn with the seed.")
    ] = None,
    shots: Annotated[int | None, typer.Option(help="Worked examples before each question.")] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="Only this subject or category; repeatable.")
    ] = None,
    normalise: Annotated[
        str | None, typer.Option(help="Score choices by: sum, token or character.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(exists=True, help="Folder of the images that its data names by a path."),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="Who rates answers (mmhal): address of an OpenAI-compatible server."),
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="Model that server is asked for.")] = None,
    judge_template: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="File with the judge's prompt."),
    ] = None,
    also: Annotated[
        list[Path] | None,
        typer.Option(callback=vectors_there, help="Another vector for it; repeatable."),
    ] = None,
    strength: OneOrMore = None,
    scope: Scope = None,
    layers: Layers = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep a summary in the vector file itself.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Of the random controls and the intervals.")
    ] = 0,
    model: Model = "demo",
    revision: Revision = None,
    template: TemplateArguments = None,
    image_host: ImageHosts = None,
    workers: Workers = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Measure a vector, or another arm, on held-out questions or on a published benchmark.

    TEST is an evaluation set (JSON lines) that neither the build nor the calibration has seen. A
    vector is steered as calibrated, and compared with the unsteered model, a strict instruction,
    and random and sign-flipped vectors; with --pairs, also with vectors of pairs whose labels were
    shuffled. A LoRA or a decoding method is compared with the first two. With --policy and --step
    it steers only where the conditions of that step hold, and the figures without them stand
    beside. The options from --benchmark to --also are for a benchmark in its place. A report of
    --strength, --scope or --layers is about a vector that is calibrated so, and promotes no other.
    """
    from steerable_llm.evaluation.settings import DEFAULTS

    given = {
        "data": data, "limit": limit, "shots": shots, "group": group, "normalise": normalise,
        "images": images, "judge": judge, "judge-model": judge_model,
        "judge-template": judge_template, "also": also,
    }  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None and value != []}
    if (test is None) == (benchmark is None):
        raise InvalidInputError("give either TEST, an evaluation set, or --benchmark NAME")
    of_test = {
        "keep": keep or None, "capability": capability, "target": target, "pairs": pairs,
        "budget": None if budget == DEFAULTS.budget else budget,
        "policy": policy, "step": step, "workers": workers,
    }  # fmt: skip
    wrong = [name for name, value in of_test.items() if value is not None]
    if benchmark is not None and wrong:
        raise InvalidInputError(f"--{wrong[0]} goes with TEST, not with --benchmark")
    if options and benchmark is None:
        raise InvalidInputError(f"--{next(iter(options))} goes with --benchmark, not with TEST")
    strengths = strength or []
    if len(strengths) > 1 and benchmark is None:
        raise InvalidInputError("TEST is run at one strength: give one --strength, not several")
    if keep and (strengths or scope or layers):
        raise InvalidInputError(
            "--keep writes about the vector as it is calibrated: leave --strength, --scope and "
            "--layers out, or calibrate it to them"
        )
    from steerable_llm.vector.hub import refuse_to_write
    from steerable_llm.vector.vector import SteeringVector

    if keep:
        refuse_to_write(subject)
    # What is wrong with the question is said before a model is loaded for it.
    read = [subject, test, capability, policy, pairs, *(also or ())]
    if benchmark is not None:
        check_reports(report, "a benchmark report", inputs=read)
        measure = _on_benchmark(benchmark, {**options, "strength": strength}, seed)
    else:
        assert test is not None  # one of the two was given
        check_reports(report, "a report", ".png", inputs=read)
        under = {
            "target": target, "budget": budget,
            "policy": policy, "step": step, "workers": workers_of(workers),
        }  # fmt: skip
        measure = _on_set(test, capability, pairs, under)
    llm = load_model(model, revision, template=template, image_hosts=image_host)
    first = strengths[0] if strengths else None
    subjects = [load_subject(each, llm, force) for each in (subject, *(also or ()))]
    loaded, *others = use(subjects, first, scope, layers)
    if keep and not isinstance(loaded, SteeringVector):
        raise InvalidInputError(f"--keep writes into a vector file, and {subject} is none")
    found = measure(
        llm,
        [loaded, *others],
        against=load_against(against, llm, force),
        seed=seed,
        progress=not as_json,
        force=force,
        command=command_line(),
    )
    tell_report(found, report, as_json)
    if keep and isinstance(loaded, SteeringVector):
        _keep(subject, loaded, found.summary())


def _keep(file: Path, measured: SteeringVector, summary: Mapping[str, Any]) -> None:
    """Write a summary into the file of what was measured, as long as the file still holds it."""
    from steerable_llm.vector.vector import SteeringVector

    now = SteeringVector.load(file)
    same = now.fingerprint_id == measured.fingerprint_id
    if not same or now.calibration != measured.calibration:
        raise InvalidInputError(
            f"{file} was {'calibrated' if same else 'built'} anew while it was measured, so "
            "--keep writes nothing into it: evaluate it again as it is now"
        )
    now.with_evaluation(summary).save(file)


def _on_set(
    test: Path, capability: Path | None, pairs: Path | None, under: Mapping[str, Any]
) -> Callable[..., Any]:
    """Read what `evaluate` asks; return what asks it."""
    from steerable_llm.evaluation.evaluate import evaluate as run
    from steerable_llm.evaluation.set import EvaluationSet
    from steerable_llm.pairs.pair import Pairs

    items = EvaluationSet.from_jsonl(test)
    built_from = Pairs.from_jsonl(pairs) if pairs else None
    kept = EvaluationSet.from_jsonl(capability) if capability else None
    return lambda llm, subjects, **how: run(
        llm, subjects[0], items, kept, pairs=built_from, **under, **how
    )


def _on_benchmark(name: str, options: Mapping[str, Any], seed: int) -> Callable[..., Any]:
    """Read the data of a benchmark; return what asks it. Options are those that were given."""
    from steerable_llm.evaluation.benchmarks.benchmark import find_benchmark
    from steerable_llm.evaluation.benchmarks.data import load_data
    from steerable_llm.evaluation.benchmarks.rating import judge_of
    from steerable_llm.evaluation.benchmarks.run import run_benchmark

    chosen = find_benchmark(name)
    asked: dict[str, Any] = {
        "limit": options.get("limit"),
        "groups": options.get("group"),
        "shots": chosen.shots_shown(options.get("shots")),
    }
    judge = judge_of(
        chosen, options.get("judge"), options.get("judge-model"), options.get("judge-template")
    )
    images = options.get("images")
    data = load_data(chosen, options.get("data"), seed=seed, images=images, **asked)
    asked |= {"strengths": options.get("strength"), "normalise": options.get("normalise")}
    asked |= {"judge": judge}
    return lambda llm, subjects, **how: run_benchmark(
        llm, chosen, subjects, data=data, **asked, **how
    )


def lm_eval(context: typer.Context) -> None:
    """Run the lm-evaluation-harness, with steered models.

    Everything after the verb goes to `lm_eval` as it is, which then knows one model more:
    `--model steerable`, steered by --model_args vector=FILE,strength=0.05 or policy=FILE,step=NAME.
    """
    with from_extra("benchmarks", "the harness is not installed"):
        from lm_eval.__main__ import cli_evaluate

        # Registers the model; the harness looks for no plugins by itself.
        import steerable_llm.adapters.lm_eval  # noqa: F401
    sys.argv = ["lm_eval", *context.args]
    try:
        cli_evaluate()
    except ValueError as error:  # so the harness says that it knows no such task
        raise InvalidInputError(f"lm_eval: {error}") from error


def compare(
    pairs: Annotated[Path, InFile],
    dev: Dev,
    test: Annotated[Path, typer.Option(exists=True, help="Held-out evaluation set.")],
    method: Annotated[
        list[str] | None,
        typer.Option(help="Method to compare, such as grains, caa or cad; repeatable. Else all."),
    ] = None,
    sample: Sample = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Folder for finished results; the same command goes on from there."),
    ] = None,
    capability: Capability = None,
    dev_capability: Annotated[
        Path | None, typer.Option(exists=True, help="The same for choosing on dev.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Category that is to be changed.")] = None,
    budget: Budget = 0.01,
    strength: Strengths = None,
    scope: Scopes = None,
    layers: LayerSets = None,
    kl: Kls = None,
    policy: StepPolicy = None,
    step: PolicyStep = None,
    report: Reports = None,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Of the choices and of the intervals.")
    ] = 0,
    model: Model = "demo",
    revision: Revision = None,
    template: TemplateArguments = None,
    image_host: ImageHosts = None,
    as_json: AsJson = False,
) -> None:
    """Compare methods on the same pairs and questions.

    PAIRS is a file of pairs. Each method is built from them, set up on the development set, and
    then answers the test set once; what makes most answers worse is listed first. The unsteered
    model and the strict instruction, which have to be beaten, always run. With --keep an
    interrupted comparison loses nothing that it has measured.
    """
    from steerable_llm.evaluation.compare import compare as run
    from steerable_llm.pairs.pair import Pairs

    tried = search(strength, scope, layers, kl)
    check_reports(report, "a comparison", inputs=[pairs, dev, test, capability, dev_capability])
    if keep is not None:
        check_folder(keep)
    given = Pairs.from_jsonl(pairs)
    dev_set, test_set = (read_set(path, sample, seed) for path in (dev, test))
    kept, dev_kept = (
        read_set(path, sample, seed) if path else None for path in (capability, dev_capability)
    )
    llm = load_model(model, revision, template=template, image_hosts=image_host)
    found = run(
        llm,
        given,
        dev_set,
        test_set,
        methods=method or None,
        search=tried,
        capability=kept,
        dev_capability=dev_kept,
        target=target,
        budget=budget,
        policy=policy,
        step=step,
        seed=seed,
        progress=not as_json,
        command=command_line(),
        keep=keep,
    )
    tell_report(found, report, as_json)
    if as_json:
        return
    for arm in found.arms:
        if arm.failed:
            say(f"{arm.name} did not take part: {arm.failed}")


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
    reason, writes nothing and ends with exit code 1. A note tells what nobody can know, such as the
    prompts that a vector of another tool was built from.
    """
    from steerable_llm.evaluation.promotion import promote as run
    from steerable_llm.evaluation.report import Report

    check_folder(to)
    proof = Report.load(report)
    found = run(vector, proof, to, policy=policy, step=step, replace=replace)
    if found.promoted or as_json:
        names = ("promoted", "vector", "refused", "unproven", "written")
        facts = {name: getattr(found, name) for name in names}
        done = [
            f"{found.vector}: {found.says}",
            *(f"note: {said}" for said in found.unproven),
            *(f"wrote {path}" for path in found.written),
        ]
        tell(as_json, facts, done)
    else:
        say(*(f"not promoted: {reason}" for reason in found.refused), error=True)
    if not found.promoted:
        raise typer.Exit(1)


def transfer(
    vectors: Annotated[list[Path], typer.Argument(callback=vectors_there)],
    test: Annotated[
        list[Path], typer.Option(exists=True, help="Evaluation set of one behaviour; repeatable.")
    ],
    sample: Sample = None,
    strength: Strength = None,
    scope: Scope = None,
    layers: Layers = None,
    report: Reports = None,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Of the sample and of the intervals.")
    ] = 0,
    model: Model = "demo",
    revision: Revision = None,
    template: TemplateArguments = None,
    image_host: ImageHosts = None,
    as_json: AsJson = False,
) -> None:
    """Measure what vectors do to other behaviours than their own.

    VECTORS are calibrated vector files, vectors on the Hub, or folders of LoRAs. Each is run on
    every evaluation set; the matrix tells the change of success against the unsteered model, with
    intervals.
    """
    from steerable_llm.evaluation.transfer import transfer as run

    check_reports(report, "a transfer matrix", inputs=[*test, *vectors])
    sets = [read_set(path, sample, seed) for path in test]
    llm = load_model(model, revision, template=template, image_hosts=image_host)
    loaded = use([load_vector(path, llm, False) for path in vectors], strength, scope, layers)
    found = run(llm, loaded, sets, seed=seed, progress=not as_json, command=command_line())
    tell_report(found, report, as_json)
