"""The verbs that learn: from pairs to a vector, its strength and its evidence."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerable_llm.cli.options import (
    AsJson,
    Force,
    InFile,
    Model,
    Revision,
    SubjectIn,
    VectorIn,
    load_against,
    load_model,
    load_subject,
    print_json,
    print_page,
    settings_of,
    summary,
    vectors_there,
)
from steerable_llm.errors import InvalidInputError

if TYPE_CHECKING:
    from steerable_llm.answer.llm import SteerableHFLLM
    from steerable_llm.pairs.pair import Pairs


def build(
    pairs: Annotated[Path, InFile],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Vector file to write; for lora, a folder.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the vector; else the file's.")] = None,
    model: Model = "demo",
    revision: Revision = None,
    method: Annotated[str, typer.Option(help="How to build it; see docs/methods.md.")] = "grains",
    preset: Annotated[str | None, typer.Option(help="'paper' for the paper's settings.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the method, such as k=5; repeatable."),
    ] = None,
    heatmap: Annotated[
        Path | None, typer.Option(help="HTML page of the token attributions to write.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build a vector from pairs of answers.

    PAIRS is a file of JSON lines with messages, good and bad.
    """
    from steerable_llm.methods.build import build as build_with_attributions
    from steerable_llm.pairs.pair import Pairs

    if heatmap and method != "grains":
        raise InvalidInputError(
            f"--heatmap shows token attributions, which method {method!r} has none of: "
            "leave it out, or build with grains"
        )
    if method != "lora" and out.is_dir():
        raise InvalidInputError(f"{out} is a folder: give the file to write to")
    given = Pairs.from_jsonl(pairs)
    settings = settings_of(setting or [])
    llm = load_model(model, revision)
    if method == "lora":
        _build_lora(llm, given, out, name or out.name, settings, as_json)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        built = build_with_attributions(
            llm,
            given,
            method=method,
            name=name or out.stem,
            preset=preset,
            progress=not as_json,
            **settings,
        )
    for warning in caught:
        print(f"steerable: note: {warning.message}", file=sys.stderr)
    vector = built.vector
    vector.save(out)
    if heatmap:
        from steerable_llm.files import write_whole
        from steerable_llm.methods.grains.attribution import attribution_page

        write_whole(heatmap, attribution_page(built.attributions).to_html())
    if as_json:
        print_json({**summary(vector), "file": str(out)})
    else:
        from steerable_llm.reports.numbers import ranges

        usual = vector.usual_layers
        meanwhile = f": until it is, it steers layer {ranges(usual)}" if usual else ""
        print(
            f"{out}: {len(given)} pairs, layers {ranges(vector.layers)}, not calibrated yet"
            + meanwhile
        )
        if vector.provenance.agreement:
            print(vector.provenance.agreement.line)


def _build_lora(
    llm: SteerableHFLLM,
    pairs: Pairs,
    out: Path,
    name: str,
    settings: dict[str, Any],
    as_json: bool,
) -> None:
    """Train a LoRA and write its folder."""
    from steerable_llm.methods.build import validated
    from steerable_llm.methods.lora import LoraSettings, train_lora
    from steerable_llm.progress import progress_bar

    chosen = validated("lora", LoraSettings, settings)
    with progress_bar("lora: training", len(pairs), not as_json) as advance:
        lora = train_lora(llm, pairs, chosen, name, advance)
    lora.save(out)
    if as_json:
        print_json({"name": name, "provenance": lora.provenance.shown(), "file": str(out)})
    else:
        losses = [lora.provenance.facts[name] for name in ("first_loss", "last_loss")]
        print(f"{out}: {len(pairs)} pairs, loss {losses[0]:.3f} to {losses[1]:.3f}")


def calibrate(
    vector: Annotated[Path, VectorIn],
    dev: Annotated[Path, typer.Option(exists=True, help="Evaluation set to choose on.")],
    capability: Annotated[
        Path | None, typer.Option(exists=True, help="Evaluation set of what must not be lost.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Category to change; dev's others must then not be lost. Else all count."
        ),
    ] = None,
    budget: Annotated[float, typer.Option(help="Largest share of capability to lose.")] = 0.01,
    kl: Annotated[
        list[float] | None,
        typer.Option(help="Try the strengths with this divergence, in nats per token; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; else the vector's own.")
    ] = None,
    model: Model = "demo",
    revision: Revision = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Choose how strongly to steer with a vector.

    Strength, sign and scope are chosen on the development set, and kept in the file.
    """
    from steerable_llm.evaluation.calibration import calibrate as choose
    from steerable_llm.evaluation.set import EvaluationSet
    from steerable_llm.vector.hub import refuse_to_write
    from steerable_llm.vector.vector import SteeringVector

    written = out or vector
    refuse_to_write(written)
    dev_set = EvaluationSet.from_jsonl(dev)
    kept = EvaluationSet.from_jsonl(capability) if capability else None
    llm = load_model(model, revision)
    found = choose(
        llm,
        SteeringVector.load(vector, model=llm, force=force),
        dev_set,
        kept,
        kl=kl,
        budget=budget,
        target=target,
        force=force,
        progress=not as_json,
    )
    found.save(written)
    if as_json:
        print_json({**summary(found), "file": str(written)})
    else:
        chosen = found.calibration
        assert chosen is not None, "a calibrated vector has a calibration"
        print(f"{written}: strength {chosen.strength:+g}, scope {chosen.scope}. {chosen.note}")


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
    capability: Annotated[
        Path | None, typer.Option(exists=True, help="Evaluation set of what must not be lost.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            exists=True, help="Pairs the vector was built from, for the shuffled control."
        ),
    ] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option(help="Card to write (.md, .html or .json); repeatable."),
    ] = None,
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
    also: Annotated[
        list[Path] | None,
        typer.Option(callback=vectors_there, help="Another vector for it; repeatable."),
    ] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="In place of the calibrated strength, for it; repeatable."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep a summary in the vector file itself.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the random controls and the intervals.")] = 0,
    model: Model = "demo",
    revision: Revision = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Measure a vector, or another arm, on held-out questions or on a published benchmark.

    TEST is an evaluation set (JSON lines) that neither the build nor the calibration has seen. A
    vector is steered as calibrated, and compared with the unsteered model, a strict instruction,
    and random and sign-flipped vectors; with --pairs, also with vectors of pairs whose labels were
    shuffled. A LoRA or a decoding method is compared with the first two. The options from
    --benchmark to --strength are for a benchmark in its place.
    """
    given = {
        "data": data, "limit": limit, "shots": shots, "group": group, "normalise": normalise,
        "also": also, "strength": strength,
    }  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None and value != []}
    if (test is None) == (benchmark is None):
        raise InvalidInputError("give either TEST, an evaluation set, or --benchmark NAME")
    if benchmark is not None:
        from steerable_llm.cli.benchmark import evaluate_benchmark

        if keep or capability or pairs:
            raise InvalidInputError(
                "--keep, --capability and --pairs go with TEST, not with --benchmark"
            )
        evaluate_benchmark(
            subject, benchmark, options, against, report or [], seed,
            model, revision, force, as_json,
        )  # fmt: skip
        return
    if options:
        raise InvalidInputError(f"--{next(iter(options))} goes with --benchmark, not with TEST")
    assert test is not None  # one of the two was given
    from steerable_llm.evaluation.evaluate import evaluate as measure
    from steerable_llm.evaluation.report import check_suffix
    from steerable_llm.evaluation.set import EvaluationSet
    from steerable_llm.files import check_writable
    from steerable_llm.pairs.pair import Pairs
    from steerable_llm.vector.hub import refuse_to_write
    from steerable_llm.vector.vector import SteeringVector

    if keep:
        refuse_to_write(subject)
    for path in report or []:
        check_suffix(path)
        check_writable(path)
    test_set = EvaluationSet.from_jsonl(test)
    built_from = Pairs.from_jsonl(pairs) if pairs else None
    kept = EvaluationSet.from_jsonl(capability) if capability else None
    llm = load_model(model, revision)
    loaded = load_subject(subject, llm, force)
    if keep and not isinstance(loaded, SteeringVector):
        raise InvalidInputError(f"--keep writes into a vector file, and {subject} is none")
    found = measure(
        llm,
        loaded,
        test_set,
        kept,
        against=load_against(against, llm, force),
        pairs=built_from,
        seed=seed,
        progress=not as_json,
        force=force,
        command=f"steerable {shlex.join(sys.argv[1:])}",
    )
    for path in report or []:
        found.save(path)
    if keep and isinstance(loaded, SteeringVector):
        loaded.with_evaluation(found.summary()).save(subject)
    if as_json:
        print(found.to_json())
    else:
        print_page(found.table())
