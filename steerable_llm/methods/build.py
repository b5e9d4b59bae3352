"""From pairs to a steering vector, with one call."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from steerable_llm.chat.message import by_name
from steerable_llm.errors import AttributionError, InvalidInputError, PairError, first_problem
from steerable_llm.methods import METHODS
from steerable_llm.methods.agreement import agreement_of
from steerable_llm.methods.decision import decision_tokens
from steerable_llm.methods.grains.attribution import PairAttribution
from steerable_llm.methods.method import Extraction, Grid, Method
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.progress import Advance, progress_bar
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.ray_workers import RayWorkers
from steerable_llm.vector.file import library_version
from steerable_llm.vector.provenance import Agreement
from steerable_llm.vector.seen import hashes_of, kept
from steerable_llm.vector.vector import SteeringVector

Config = TypeVar("Config", bound=BaseModel)


@dataclass(frozen=True)
class Built:
    """What a build gives.

    Attributes:
        vector: Not calibrated yet.
        attributions: What the method saw in each pair, in the order of the pairs; empty for
            methods without.
    """

    vector: SteeringVector
    attributions: tuple[PairAttribution, ...]


def build_vector(
    llm: HookedModel,
    pairs: Pairs | Sequence[PreferencePair],
    method: str = "grains",
    name: str | None = None,
    preset: str | None = None,
    progress: bool = True,
    workers: RayWorkers | None = None,
    **config: Any,
) -> SteeringVector:
    """Build a steering vector from preference pairs.

    Args:
        llm: The model to build it for.
        pairs: What to learn from; 50 are enough for GrAInS.
        method: A name in `METHODS`.
        name: What policies will call it; the method's name when left out.
        preset: Named settings of the method, such as "paper"; `config` goes on top.
        progress: Show a progress bar on stderr.
        workers: Copies of the model on a cluster of Ray that share the work, for methods that read
            pairs in parts (GrAInS).
        **config: Settings of the method, see its config class.

    Returns:
        The vector, not calibrated yet.

    Raises:
        InvalidInputError: An unknown method, preset or setting.
        PairError: No pairs, or one that the method cannot use.
        AttributionError: The method found no usable signal.
    """
    return build(llm, pairs, method, name, preset, progress, workers, **config).vector


def build(
    llm: HookedModel,
    pairs: Pairs | Sequence[PreferencePair],
    method: str = "grains",
    name: str | None = None,
    preset: str | None = None,
    progress: bool = True,
    workers: RayWorkers | None = None,
    **config: Any,
) -> Built:
    """Build a steering vector and keep what the method saw in each pair.

    Arguments and errors are those of `build_vector`.
    """
    settings, chosen = _settings(method, preset, config)
    pairs = pairs if isinstance(pairs, Pairs) else Pairs(pairs)
    if not pairs:
        raise PairError("there are no pairs to build from: give at least one")
    with progress_bar(f"{method}: reading pairs", len(pairs), progress) as advance:
        if workers is None:
            found = chosen.extract(llm, pairs, settings, advance)
        else:
            found = _shared(llm, pairs, method, settings, workers, advance)
    everything = (*found.directions.values(), *found.tower.values())
    if not any(bool(direction.any()) for direction in everything):
        other = ", or another aggregation" if hasattr(settings, "aggregation") else ""
        raise AttributionError(
            f"method {method!r} found no direction in {len(pairs)} pairs: all of it is zero; give "
            f"pairs that differ from each other{other}"
        )
    layers = tuple(sorted(found.directions))
    given = llm.chat_format.arguments
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
            agreement=_agreement(found, pairs),
            library_version=library_version(),
            seen=None if found.saw is None else kept([*hashes_of(llm, pairs), *found.saw]),
            facts={
                **found.provenance.facts,
                **({"chat_template_kwargs": given} if given else {}),
            },
        ),
        application=found.application or chosen.application,
        weighed=found.weighed,
        tower=found.tower,
        usual_layers=chosen.grid.usual_layers(layers, llm.fingerprint.num_layers),
        decision_tokens=decision_tokens(llm, pairs),
    )
    return Built(vector, found.attributions)


def _agreement(found: Extraction, pairs: Pairs) -> Agreement | None:
    """How far pairs agree, each counted once: a copy agrees with itself, and shows nothing."""
    if found.differences is None:
        return None
    rows: dict[str, int] = {}
    for row, place in enumerate(range(len(pairs)) if found.places is None else found.places):
        pair = pairs[place]
        said = json.dumps([by_name(pair.messages), pair.good, pair.bad], default=str)
        rows.setdefault(said, row)
    return agreement_of(found.differences[list(rows.values())], found.layers)


def _shared(
    llm: HookedModel,
    pairs: Pairs,
    method: str,
    settings: BaseModel,
    workers: RayWorkers,
    advance: Advance,
) -> Extraction:
    """Have workers read the pairs, in parts of the same size however many there are of them."""
    if (how := METHODS[method].parts) is None:
        able = [name for name, each in METHODS.items() if each.parts is not None]
        raise InvalidInputError(
            f"method {method!r} needs all pairs in one place: leave workers out, or build with "
            f"{' or '.join(able)}"
        )
    parts = [
        (first, list(pairs[first : first + workers.part]))
        for first in range(0, len(pairs), workers.part)
    ]
    work = partial(_gathered, method=method, settings=settings)
    found = workers.map(llm, work, parts, lambda part: advance(len(part[1])))
    return how.combine(llm, found, settings)


def _gathered(
    llm: HookedModel,
    part: tuple[int, Sequence[PreferencePair]],
    *,
    method: str,
    settings: BaseModel,
) -> Any:
    """What one part of the pairs gives; in the worker's process."""
    how = METHODS[method].parts
    assert how is not None, "asked before the work was shared"
    first, pairs = part
    return how.gather(llm, Pairs(pairs), settings, None, first)


def grid_of(vector: SteeringVector) -> Grid:
    """Return what dev data is to choose among for a vector, by the method that it was built with.

    Of a method that is not known, it is what most methods try.
    """
    method = METHODS.get(vector.provenance.method or "")
    grid = Grid() if method is None else method.grid
    own = vector.application.scope
    # A vector that was trained at other positions than its method's usual ones belongs to them.
    return grid if method is None or own in grid.scopes else replace(grid, scopes=(own,))


def _settings(method: str, preset: str | None, config: dict[str, Any]) -> tuple[BaseModel, Method]:
    if method == "lora":
        raise InvalidInputError(
            "LoRA trains weights and makes no vector: use train_lora of "
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
        InvalidInputError: A setting that it does not have, or a value that it does not take.
    """
    try:
        return config.model_validate(given)
    except ValidationError as error:
        raise InvalidInputError(
            f"a setting of method {method!r} is not valid: {first_problem(error)}; it has "
            f"{', '.join(config.model_fields)}"
        ) from error
