"""From pairs to a steering vector, with one call."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from steerable_llm.errors import AttributionError, InvalidInputError, PairError
from steerable_llm.evaluation.calibration import calibrate
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.methods import METHODS, Method
from steerable_llm.methods.agreement import agreement_of
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.file import library_version
from steerable_llm.vector.seen import hashes_of, kept
from steerable_llm.vector.vector import SteeringVector

Config = TypeVar("Config", bound=BaseModel)


def build_vector(
    llm: HookedModel,
    pairs: Pairs | Sequence[PreferencePair],
    method: str = "grains",
    name: str | None = None,
    preset: str | None = None,
    tune_on: EvaluationSet | Pairs | None = None,
    progress: bool = True,
    **config: Any,
) -> SteeringVector:
    """Build a steering vector from preference pairs.

    Args:
        llm: the model to build it for.
        pairs: what to learn from; 50 are enough for GrAInS.
        method: a name in `METHODS`.
        name: what policies will call it; the method's name when left out.
        preset: named settings of the method, such as "paper"; `config` goes on top.
        tune_on: dev data to choose strength and sign on; None leaves the vector uncalibrated.
            With pairs, an answer is right when it contains the preferred answer's words and not
            the other's; an evaluation set says better what is right.
        progress: show a progress bar on stderr.
        **config: settings of the method, see its config class.

    Returns:
        The vector, with what the method saw per pair in `.attributions`.

    Raises:
        InvalidInputError: an unknown method, preset or setting.
        PairError: no pairs, or one that the method cannot use.
        AttributionError: the method found no usable signal.
    """
    settings, chosen = _settings(method, preset, config)
    pairs = pairs if isinstance(pairs, Pairs) else Pairs(pairs)
    if not pairs:
        raise PairError("there are no pairs to build from: give at least two")
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pairs"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not progress,
    )
    with bar:
        task = bar.add_task(f"{method}: reading", total=len(pairs))
        found = chosen.extract(llm, pairs, settings, lambda done: bar.advance(task, done))
    if not any(bool(direction.any()) for direction in found.directions.values()):
        raise AttributionError(
            f"method {method!r} found no direction in {len(pairs)} pairs: all of it is zero; give "
            "pairs that differ from each other, or another aggregation"
        )
    layers = tuple(sorted(found.directions))
    vector = SteeringVector(
        name=name or method,
        directions=found.directions,
        scales=found.scales,
        fingerprint=llm.fingerprint,
        provenance=replace(
            found.provenance,
            method=method,
            preset=preset,
            config=settings.model_dump(mode="json"),
            pairs=len(pairs),
            proposed_pairs=sum(pair.proposed for pair in pairs),
            data_digest=pairs.digest,
            agreement=None
            if found.differences is None
            else agreement_of(found.differences, found.layers),
            library_version=library_version(),
            seen=kept(hashes_of(llm, pairs)),
        ),
        attributions=found.attributions,
        application=chosen.application,
        gates=found.gates,
        usual_layers=chosen.grid.usual_layers(layers, llm.fingerprint.num_layers),
    )
    if tune_on is None:
        return vector
    dev = tune_on if isinstance(tune_on, EvaluationSet) else _as_evaluation_set(tune_on)
    return calibrate(llm, vector, dev, progress=progress, **sweep_of(vector)).vector


def sweep_of(vector: SteeringVector) -> dict[str, Any]:
    """What `calibrate` should try for a vector, by the method that it was built with.

    Returns:
        Keyword arguments: strengths, scopes, layers and unit; none for a method that is not known.
    """
    method = METHODS.get(vector.provenance.method or "")
    if method is None:
        return {}
    grid = method.grid
    return {
        "strengths": grid.strengths,
        "scopes": grid.scopes,
        "layers": grid.layers(vector.layers),
        "unit": grid.unit,
    }


def _settings(method: str, preset: str | None, config: dict[str, Any]) -> tuple[BaseModel, Method]:
    if method == "lora":
        raise InvalidInputError(
            "LoRA trains an adapter and not a vector: use train_lora of "
            "steerable_llm.methods.lora, or `steerable build --method lora --out FOLDER`"
        )
    if method in ("prompt", "cad", "adacad"):
        raise InvalidInputError(
            f"method {method!r} learns nothing from pairs, so there is no vector to build: measure "
            f"it with `steerable compare --method {method}`, or evaluate(against=[{method!r}])"
        )
    if method not in METHODS:
        raise InvalidInputError(
            f"unknown method {method!r}: choose from {', '.join([*METHODS, 'lora'])}"
        )
    chosen = METHODS[method]
    if preset is not None and preset not in chosen.presets:
        raise InvalidInputError(
            f"method {method!r} has no preset {preset!r}: choose from "
            f"{', '.join(chosen.presets) or '(it has none)'}"
        )
    start = chosen.presets[preset].model_dump() if preset else {}
    return validated(method, chosen.config, {**start, **config}), chosen


def validated(method: str, config: type[Config], given: dict[str, Any]) -> Config:
    """Return a method's settings.

    Raises:
        InvalidInputError: a setting that it does not have, or a value that it does not take.
    """
    try:
        return config.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise InvalidInputError(
            f"setting {place!r} of method {method!r} is not valid: {problem['msg']}; it has "
            f"{', '.join(config.model_fields)}"
        ) from error


def _as_evaluation_set(pairs: Pairs) -> EvaluationSet:
    return EvaluationSet(
        "dev",
        [
            EvaluationItem(
                id=f"{number}-{pair.id}",
                category="dev",
                messages=pair.messages,
                good=pair.good,
                bad=pair.bad,
                accept=(_words(pair.good),),
                reject=(_words(pair.bad),) if pair.bad is not None else (),
                document_ids=pair.document_ids,
            )
            for number, pair in enumerate(pairs)
        ],
    )


def _words(answer: str) -> str:
    """An answer without the marks at its ends, which another answer may set differently."""
    return answer.strip(" .!?\n\"'") or answer
