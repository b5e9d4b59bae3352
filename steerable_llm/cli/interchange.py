"""The verbs that hand vectors to other tools and to the Hub, and take them from other tools."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from steerable_llm.cli.options import (
    AsJson,
    Force,
    InFile,
    Model,
    Revision,
    VectorIn,
    check_outputs,
    load_model,
    summary,
    tell,
)
from steerable_llm.cli.steering import Layers, Scope, Strength, use
from steerable_llm.errors import InvalidInputError

_FORMATS = "repeng, llama.cpp, easysteer, lm-eval or svec"


def export(
    vector: Annotated[Path, VectorIn],
    format: Annotated[str, typer.Option(help=f"{_FORMATS}.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    strength: Strength = None,
    scope: Scope = None,
    layers: Layers = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse if the file would steer otherwise than the vector."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a vector as a file of another tool.

    What the format cannot express is said, one line each.
    """
    from steerable_llm.runtime.interchange import export_vector
    from steerable_llm.vector.vector import SteeringVector

    kinds = {"lm-eval": "an archive (.pt or .zip)", "svec": "a .svec file"}
    check_outputs({"--out": (out, kinds.get(format, "a GGUF file"))}, [vector])
    (loaded,) = use([SteeringVector.load(vector)], strength, scope, layers)
    done = export_vector(loaded, out, format, strict=strict)
    facts = asdict(done)
    lines = [f"{done.path}: {loaded.name} for {done.format}, blocks {list(done.blocks)}"]
    lines += [f"changed: {line}" for line in done.changes]
    lines += [f"note: {line}" for line in done.notes]
    tell(as_json, {"file": facts.pop("path"), **facts}, lines)


def import_(
    file: Annotated[Path, InFile],
    format: Annotated[
        str | None, typer.Option(help=f"{_FORMATS}; else told from the file.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Vector file to write; else FILE's name, here."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call the vector.")] = None,
    model: Model = "demo",
    revision: Revision = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Read a file of another tool as a vector for a model.

    No format says which weights a file was made for: the model is taken at your word. What else is
    unknown is said, one line each, and kept in the vector.
    """
    from steerable_llm.runtime.interchange import import_vector

    target = out or Path(f"{file.stem}.safetensors")
    if out is None and target.exists():
        raise InvalidInputError(
            f"{target} is there already: name the file to write with --out (it may be the same)"
        )
    check_outputs({"--out": (target, "a safetensors file")}, [file])
    llm = load_model(model, revision)
    vector = import_vector(file, llm, format, name=name, force=force)
    vector.save(target)
    imported = vector.provenance.imported
    assert imported is not None, "an import says where it comes from"
    lines = [f"{target}: {vector.name}, blocks {list(vector.layers)}, from {imported.format}"]
    lines += [f"left out: {line}" for line in imported.left_out]
    lines += [f"unknown: {line}" for line in imported.unknown]
    tell(as_json, {**summary(vector), "file": target}, lines)


def push(
    vector: Annotated[Path, VectorIn],
    repo: Annotated[str, typer.Argument(help="Repository, organisation/name.")],
    card: Annotated[
        Path | None,
        typer.Option(help="Report (.md) that becomes the README; else the one beside the vector."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody see it; else it is private.")
    ] = False,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a vector to the Hugging Face Hub.

    The vector, its card as README, and the card's pictures go up in one commit. The token is the
    one of `hf auth login` or of HF_TOKEN.
    """
    from steerable_llm.vector.hub import push_to_hub
    from steerable_llm.vector.vector import SteeringVector

    beside = vector.with_suffix(".md")
    if card is None and beside.is_file():
        card = beside
    pushed = push_to_hub(
        SteeringVector.load(vector), repo, card=card, private=not public, message=message
    )
    missing = "note: no card came with it; `steerable evaluate --report` writes one"
    tell(as_json, {"vector": pushed, "card": card}, [pushed] if card else [pushed, missing])
