"""The verbs that learn: from pairs to a vector, its strength and its evidence."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerable_llm.cli.options import (
    AsJson,
    Budget,
    Capability,
    Dev,
    Force,
    ImageHosts,
    InFile,
    Model,
    PolicyStep,
    Revision,
    StepPolicy,
    TemplateArguments,
    VectorIn,
    Workers,
    check_folder,
    check_outputs,
    load_model,
    say,
    settings_of,
    summary,
    tell,
    workers_of,
)
from steerable_llm.cli.steering import (
    BuiltLayers,
    Kls,
    LayerSets,
    Scopes,
    Strengths,
    blocks,
    search,
)
from steerable_llm.errors import InvalidInputError

if TYPE_CHECKING:
    from steerable_llm.answer.llm import SteerableHFLLM
    from steerable_llm.pairs.pair import Pairs


def build(
    pairs: Annotated[list[Path], InFile],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Vector file to write; for lora, a folder.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the vector; else the file's.")] = None,
    model: Model = "demo",
    revision: Revision = None,
    template: TemplateArguments = None,
    image_host: ImageHosts = None,
    method: Annotated[str, typer.Option(help="How to build it; see docs/methods.md.")] = "grains",
    preset: Annotated[
        str | None, typer.Option(help="'paper' or, with images, 'paper-vlm': the paper's settings.")
    ] = None,
    layers: BuiltLayers = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the method, such as k=5; repeatable."),
    ] = None,
    heatmap: Annotated[
        Path | None, typer.Option(help="HTML page of the token attributions to write.")
    ] = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(help="HTML page to write: each picture, with what speaks for each answer."),
    ] = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Build a vector from pairs of answers.

    PAIRS are files of JSON lines with messages, good and bad.
    """
    from steerable_llm.methods.build import build as build_with_attributions
    from steerable_llm.pairs.pair import Pairs

    pages = {"--heatmap": heatmap, "--contact-sheet": contact_sheet}
    for option, page in pages.items():
        if page and method != "grains":
            raise InvalidInputError(
                f"{option} shows token attributions, which method {method!r} has none of: "
                "leave it out, or build with grains"
            )
    if method == "lora":
        if workers is not None:
            raise InvalidInputError("LoRA is trained in one process: leave --workers out")
        _check_lora(out)
    else:
        check_outputs(
            {
                "--out": (out, "a safetensors file"),
                **{option: (page, "a report") for option, page in pages.items()},
            },
            pairs,
        )
    settings = settings_of(setting or [])
    if layers is not None:
        if "layers" in settings:
            raise InvalidInputError("--layers and --set layers= are the same: leave one out")
        settings["layers"] = blocks(layers)
    given = Pairs(pair for file in pairs for pair in Pairs.from_jsonl(file))
    if contact_sheet and not any(pair.images for pair in given):
        raise InvalidInputError(
            f"--contact-sheet shows pictures, and no pair of {' and '.join(map(str, pairs))} has "
            "one: leave it out, or give --heatmap"
        )
    llm = load_model(model, revision, template=template, image_hosts=image_host)
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
            workers=workers_of(workers),
            **settings,
        )
    say(*(f"steerable: note: {warning.message}" for warning in caught), error=True)
    vector = built.vector
    vector.save(out)
    if heatmap:
        from steerable_llm.files import write_whole
        from steerable_llm.methods.grains.attribution import attribution_page

        write_whole(heatmap, attribution_page(built.attributions).to_html())
    if contact_sheet:
        from steerable_llm.files import write_whole
        from steerable_llm.methods.grains.sheet import contact_sheet_page

        write_whole(contact_sheet, contact_sheet_page(llm, given, built).to_html())
    from steerable_llm.reports.numbers import percent, ranges

    usual = vector.usual_layers
    meanwhile = f": until it is, it steers layer {ranges(usual)}" if usual else ""
    layers, agreement = ranges(vector.layers), vector.provenance.agreement
    lines = [f"{out}: {len(given)} pairs, layers {layers}, not calibrated yet{meanwhile}"]
    lines += [agreement.line] if agreement else []
    if isinstance(share := vector.provenance.facts.get("image_share"), float):
        lines.append(f"{percent(share, 0)} of the selected positions are pieces of images")
    tell(as_json, {**summary(vector), "file": out}, lines)


def _check_lora(out: Path) -> None:
    """Refuse to write a LoRA among files of another kind."""
    check_folder(out)
    if out.is_dir() and any(out.iterdir()) and not (out / "adapter_config.json").is_file():
        raise InvalidInputError(f"{out} holds something else than a LoRA: name a new folder")


def _build_lora(
    llm: SteerableHFLLM, pairs: Pairs, out: Path, name: str, settings: dict[str, Any], as_json: bool
) -> None:
    """Train a LoRA and write its folder."""
    from steerable_llm.methods.build import validated
    from steerable_llm.methods.lora import LoraSettings, train_lora
    from steerable_llm.progress import progress_bar

    chosen = validated("lora", LoraSettings, settings)
    with progress_bar("lora: training", len(pairs), not as_json) as advance:
        lora = train_lora(llm, pairs, chosen, name, advance)
    lora.save(out)
    first, last = (lora.provenance.facts[name] for name in ("first_loss", "last_loss"))
    facts = {"name": name, "provenance": lora.provenance.shown(), "file": out}
    tell(as_json, facts, [f"{out}: {len(pairs)} pairs, loss {first:.3f} to {last:.3f}"])


def calibrate(
    vector: Annotated[Path, VectorIn],
    dev: Dev,
    capability: Capability = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Category to change; dev's others must then not be lost. Else all count."
        ),
    ] = None,
    budget: Budget = 0.01,
    strength: Strengths = None,
    scope: Scopes = None,
    layers: LayerSets = None,
    kl: Kls = None,
    policy: StepPolicy = None,
    step: PolicyStep = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; else the vector's own.")
    ] = None,
    model: Model = "demo",
    revision: Revision = None,
    template: TemplateArguments = None,
    image_host: ImageHosts = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Choose how strongly to steer with a vector.

    Strength, sign, scope and layers are chosen on the development set, and kept in the file. What
    --strength, --scope, --layers and --kl name is tried in place of what the method would try.
    """
    from steerable_llm.evaluation.calibration import calibrate as choose
    from steerable_llm.evaluation.set import EvaluationSet
    from steerable_llm.vector.vector import SteeringVector

    written = out or vector
    tried = search(strength, scope, layers, kl)
    check_outputs({"--out": (written, "a safetensors file")}, [dev, capability, policy])
    dev_set = EvaluationSet.from_jsonl(dev)
    kept = EvaluationSet.from_jsonl(capability) if capability else None
    llm = load_model(model, revision, template=template, image_hosts=image_host)
    found = choose(
        llm,
        SteeringVector.load(vector, model=llm, force=force),
        dev_set,
        kept,
        **tried,
        budget=budget,
        policy=policy,
        step=step,
        target=target,
        force=force,
        progress=not as_json,
    )
    found.save(written)
    chosen = found.calibration
    assert chosen is not None, "a calibrated vector has a calibration"
    line = f"{written}: strength {chosen.strength:+g}, scope {chosen.scope}. {chosen.note}"
    tell(as_json, {**summary(found), "file": written}, [line])
