"""How a vector steers, on the command line: the same four options for every verb that uses one.

Verbs that choose (`calibrate`, `compare`) try what the options say, in place of the usual; they may
be repeated. Verbs that use a vector take them in place of what it was calibrated to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerable_llm.errors import InvalidInputError, unknown

if TYPE_CHECKING:
    from steerable_llm.vector.vector import SteeringVector

_SCOPES = "all, prompt, generated, decision or last_prompt"
_LAYERS = "such as 12, 8-15 or 0,4,8, or all"


def _given(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _strengths(value: Any) -> Any:
    for number in _given(value):
        if not math.isfinite(number):
            raise InvalidInputError(f"--strength must be a finite number, not {number}")
    return value


def _kls(value: Any) -> Any:
    for number in _given(value):
        if not 0 < number < math.inf:
            raise InvalidInputError(f"--kl must be a number above 0, not {number:g}")
    return value


def _scopes(value: Any) -> Any:
    for name in _given(value):
        from steerable_llm.vector.steering import SCOPES

        if name not in SCOPES:
            raise InvalidInputError(f"--scope: {unknown('scope', name, SCOPES)}")
    return value


def _layers(value: Any) -> Any:
    for text in _given(value):
        blocks(text)
    return value


def blocks(text: str) -> tuple[int, ...] | None:
    """Read numbers of blocks, such as "0,4,8-11"; None is "all".

    Raises:
        InvalidInputError: It is something else.
    """
    if text == "all":
        return None
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.isdecimal() and len(end) < 5 for end in ends) or int(ends[0]) > int(ends[1]):
            raise InvalidInputError(f"--layers {text!r}: give blocks {_LAYERS}")
        found.update(range(int(ends[0]), int(ends[1]) + 1))
    return tuple(sorted(found))


Strength = Annotated[
    float | None,
    typer.Option(
        callback=_strengths, help="In place of the calibrated strength; negative steers against."
    ),
]
Scope = Annotated[
    str | None,
    typer.Option(
        callback=_scopes, help=f"Positions to steer, in place of the calibrated: {_SCOPES}."
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(callback=_layers, help=f"Blocks to steer, in place of the calibrated: {_LAYERS}."),
]
BuiltLayers = Annotated[
    str | None,
    typer.Option("--layers", callback=_layers, help=f"Blocks to build for: {_LAYERS}."),
]
#: One for a test, several for a benchmark.
OneOrMore = Annotated[
    list[float] | None,
    typer.Option(
        "--strength",
        callback=_strengths,
        help="In place of the calibrated strength; repeatable for a benchmark.",
    ),
]
Strengths = Annotated[
    list[float] | None,
    typer.Option(
        "--strength",
        callback=_strengths,
        help="Strength to try, with both signs, not those found by --kl; repeatable.",
    ),
]
Scopes = Annotated[
    list[str] | None,
    typer.Option(
        "--scope", callback=_scopes, help=f"Positions to try to steer: {_SCOPES}; repeatable."
    ),
]
LayerSets = Annotated[
    list[str] | None,
    typer.Option(
        "--layers", callback=_layers, help=f"Blocks to try to steer, {_LAYERS}; repeatable."
    ),
]
Kls = Annotated[
    list[float] | None,
    typer.Option(
        "--kl",
        callback=_kls,
        help="Try strengths that move answers so far, in nats per token, not the usual ones; "
        "repeatable.",
    ),
]


def search(
    strengths: Sequence[float] | None,
    scopes: Sequence[str] | None,
    layers: Sequence[str] | None,
    kls: Sequence[float] | None,
) -> dict[str, Any]:
    """Return what `sweep` is to try; what is not given is left to the method.

    Raises:
        InvalidInputError: Strengths beside divergences.
    """
    if strengths and kls:
        raise InvalidInputError(
            "--strength says what is tried, and --kl looks for it: leave one of them out"
        )
    given = {
        "strengths": strengths,
        "scopes": scopes,
        "layers": [blocks(each) for each in layers or ()],
        "kl": kls,
    }
    return {name: value for name, value in given.items() if value}


def use(
    subjects: Sequence[Any], strength: float | None, scope: str | None, layers: str | None
) -> list[Any]:
    """Return vectors set to what the options say, and otherwise as they were calibrated.

    What is no vector stays as it is.

    Raises:
        InvalidInputError: Blocks that a vector does not have, or options where there is no vector.
    """
    given = {"--strength": strength, "--scope": scope, "--layers": layers}
    options = [name for name, value in given.items() if value is not None]
    if not options:
        return list(subjects)
    from steerable_llm.vector.vector import SteeringVector

    if not any(isinstance(each, SteeringVector) for each in subjects):
        raise InvalidInputError(f"{options[0]} is of vectors, and there is none here: leave it out")
    remark = f"{', '.join(options)} set on the command line"
    return [
        _set(each, strength, scope, layers, remark) if isinstance(each, SteeringVector) else each
        for each in subjects
    ]


def _set(
    vector: SteeringVector, strength: float | None, scope: Any, layers: str | None, remark: str
) -> SteeringVector:
    from steerable_llm.errors import InvalidInputError
    from steerable_llm.vector.calibration import Calibration

    if strength is None and vector.calibration is None:
        raise InvalidInputError(f"vector {vector.name!r} is not calibrated: give --strength, too")
    which = None if layers is None else blocks(layers) or vector.layers
    (term,) = vector.steer(strength, which, scope).terms
    made = vector.calibration or Calibration(term.strength)
    names = ("strength", "layers", "scope", "unit", "renormalise")
    how = {name: getattr(term, name) for name in names}
    return vector.with_calibration(replace(made, **how, remark=remark))
