"""The vectors that a vLLM serves: read once per process, and held against the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from steerable_llm.errors import (
    InvalidInputError,
    ModelMismatchError,
    UnknownVectorError,
    first_problem,
    unknown,
)
from steerable_llm.vector.steering import Steering, SteeringTerm
from steerable_llm.vector.vector import SteeringVector
from steerable_vllm.checkpoint import checkpoint_folder, stored_weights_hash
from steerable_vllm.terms import SentTerm, Term, acts_here, check_fits, digest_of

if TYPE_CHECKING:
    from vllm.config import VllmConfig

#: Where in vLLM's `--additional-config` the settings stand.
SECTION = "steering"

#: What a layer adds may have no larger number: the squares of states stay finite in float32.
_LARGEST = 1e14


class Settings(BaseModel):
    """What `--additional-config '{"steering": {...}}'` may hold.

    Attributes:
        vectors: Vector files, and folders of them.
        force: Take vectors of another model of the same shape.
    """

    model_config = ConfigDict(extra="forbid")

    vectors: str | list[str]
    force: bool = False


class Shelf:
    """Vectors by name.

    A vector is one direction per layer, or several that the state itself weighs (MAT-Steer): each
    direction is a column of the tables that the layers read.

    Attributes:
        vectors: In the order of their names, which is also that of their columns.
    """

    def __init__(self, vectors: Sequence[SteeringVector], largest: float = _LARGEST) -> None:
        """Put vectors on it.

        Args:
            vectors: Each with a name of its own.
            largest: The largest number that a layer may add: beyond it states become NaN, which
                vLLM's own code takes ill, and which blocks of its cache would keep for others.

        Raises:
            InvalidInputError: Two have one name.
        """
        self._largest = largest
        self.vectors: dict[str, SteeringVector] = {}
        for vector in sorted(vectors, key=lambda each: each.name):
            if vector.name in self.vectors:
                raise InvalidInputError(f"two vectors are named {vector.name!r}: leave one out")
            self.vectors[vector.name] = vector
        # As many as the layer that weighs most of them; the rest stay zero in other layers.
        self._columns: dict[str, slice] = {}
        self._count = 0
        for name, vector in self.vectors.items():
            many = max((len(one.biases) for one in vector.weighed.values()), default=1)
            self._columns[name] = slice(self._count, self._count + many)
            self._count += many

    def steering(self, sent: Sequence[SentTerm]) -> Steering:
        """Return what was sent as a steering, its blanks filled in.

        Raises:
            UnknownVectorError: No such vector.
            InvalidInputError: A value that cannot be used, or a vector that cannot act here.
            ModelMismatchError: The sender's vector is another one.
        """
        total = Steering.none()
        for each in sent:
            if each.vector not in self.vectors:
                raise UnknownVectorError(unknown("vector", each.vector, self.vectors))
            one = self.vectors[each.vector].steer(
                each.strength,
                None if each.layers is None else tuple(each.layers),
                each.scope,
                each.unit,
                each.renormalise,
            )
            for term in one.active_terms:
                check_fits(term)
                self._check_size(term)
                if each.digest not in (None, digest_of(term)):
                    raise ModelMismatchError(
                        f"vector {each.vector!r} is not the one that the request means: give "
                        "this server the same file"
                    )
            total += one
        return total

    def _check_size(self, term: SteeringTerm) -> None:
        vector = self.vectors[term.vector.name]
        for layer in term.steered_layers:
            weighed = vector.weighed.get(layer)
            added = vector.directions[layer] if weighed is None else weighed.vectors.abs().sum(0)
            if abs(term.factor(layer)) * float(added.abs().max()) > self._largest:
                raise InvalidInputError(
                    f"the strength of vector {vector.name!r} is {term.strength:g} ({term.unit}): "
                    f"in layer {layer} that is more than this vLLM's dtype can hold; give a "
                    "smaller one"
                )

    def directions(self, layers: int, width: int) -> Tensor:
        """Return the directions `[L, C, d]`; zero in layers that a vector has not."""
        table = torch.zeros(layers, self._count, width)
        for vector, first in self._acting():
            for layer, direction in vector.directions.items():
                weighed = vector.weighed.get(layer)
                own = direction[None] if weighed is None else weighed.vectors
                table[layer, first : first + len(own)] = own
        return table

    def shares(self, layers: int, width: int) -> tuple[Tensor, Tensor] | None:
        """Return weights `[L, C, d]` and biases `[L, C]` of the share that a state takes of each.

        It is `sigmoid(w x + b)`; of plain directions the whole. None where all of them are plain.
        """
        if not any(vector.weighed for vector, _ in self._acting()):
            return None
        weights = torch.zeros(layers, self._count, width)
        biases = torch.full((layers, self._count), torch.inf)
        for vector, first in self._acting():
            for layer, weighed in vector.weighed.items():
                own = slice(first, first + len(weighed.biases))
                weights[layer, own], biases[layer, own] = weighed.weights, weighed.biases
        return weights, biases

    def _acting(self) -> Iterator[tuple[SteeringVector, int]]:
        for name, vector in self.vectors.items():
            if acts_here(vector.application):
                yield vector, self._columns[name].start

    def factors(self, term: Term, layers: int) -> Tensor:
        """Return what the directions are multiplied with for a term, `[L, C]`."""
        found = torch.zeros(layers, self._count)
        whole = SteeringTerm(
            self.vectors[term.vector],
            term.strength,
            term.layers,
            unit=term.unit,
            renormalise=term.renormalise,
        )
        for layer in term.layers:
            found[layer, self._columns[term.vector]] = whole.factor(layer)
        return found


def settings_of(config: VllmConfig) -> Settings | None:
    """Return what a vLLM was told about steering; None where it was told nothing.

    Raises:
        InvalidInputError: It cannot be read.
    """
    held: Any = config.additional_config
    told = held.get(SECTION) if isinstance(held, Mapping) else None
    if told is None:
        return None
    try:
        return Settings.model_validate(told)
    except ValidationError as error:
        raise InvalidInputError(
            f"--additional-config {SECTION!r} cannot be read ({first_problem(error)}): write "
            f'\'{{"{SECTION}": {{"vectors": "folder"}}}}\''
        ) from error


def shelf_of(config: VllmConfig) -> Shelf | None:
    """Return the vectors of a vLLM, read and checked once per process; None where it has none.

    Raises:
        InvalidInputError: The settings cannot be used.
        ModelMismatchError: A vector was built for another model.
        VectorFileError: A file is not a vector, or was changed.
    """
    settings, model = settings_of(config), config.model_config
    if settings is None:
        return None
    paths = [settings.vectors] if isinstance(settings.vectors, str) else settings.vectors
    return _shelf(
        tuple(paths),
        settings.force,
        model.model,
        model.revision,
        tuple(model.hf_config.architectures or ()),
        model.hf_text_config.num_hidden_layers,
        model.get_hidden_size(),
        bool(getattr(model.hf_text_config, "tie_word_embeddings", False)),
        model.dtype,
    )


@lru_cache(maxsize=1)
def _shelf(
    paths: tuple[str, ...],
    force: bool,
    model: str,
    revision: str | None,
    architectures: tuple[str, ...],
    layers: int,
    width: int,
    tied: bool,
    dtype: torch.dtype,
) -> Shelf:
    vectors = [SteeringVector.load(file) for path in paths for file in _files(path)]
    if not vectors:
        raise InvalidInputError(f"{', '.join(paths)} holds no vector: name folders or files")
    facts: dict[str, Any] = {"num_layers": layers, "hidden_size": width}
    if not force:
        facts["architecture"] = architectures[0] if architectures else ""
        facts["weights_hash"] = stored_weights_hash(checkpoint_folder(model, revision), tied)
    for vector in vectors:
        made = vector.fingerprint
        wrong = [name for name, value in facts.items() if getattr(made, name) != value]
        if wrong:
            raise ModelMismatchError(
                f"vector {vector.name!r} was built for {made.short}, and {model} is another model "
                f"(different: {', '.join(wrong)}): serve that model, or leave the vector out"
            )
    # All layers add up.
    return Shelf(vectors, min(_LARGEST, torch.finfo(dtype).max / layers))


def _files(path: str) -> list[Path | str]:
    folder = Path(path)
    return sorted(folder.glob("*.safetensors")) if folder.is_dir() else [path]
