"""A gate: how probable it is, from the user's question alone, that an answer goes wrong.

A logistic regression over the question's sentence embedding. Here it is only applied, which takes
two lines of arithmetic; `gate_training` makes one from an answer log.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as to_safetensors
from torch import Tensor

from steerable_llm.embedding import Embedder
from steerable_llm.errors import GateFileError, InvalidInputError, ModelMismatchError
from steerable_llm.files import write_whole
from steerable_llm.json_records import plainly_parsed
from steerable_llm.vector.file import content_hash, is_count, plain_json, read_tensors

FORMAT_VERSION = 1
_KIND = "steerable-llm gate"


@dataclass(frozen=True, eq=False)
class Gate:
    """A trained gate, bound to the embedding model it was trained with.

    Attributes:
        name: What policies call it.
        weights: `[d]`, one number per dimension of the embedding, float64.
        bias: The constant term.
        threshold: The probability that was chosen in training to tell the two classes apart.
        embedder: Name of the embedding model.
        embedder_fingerprint: Hash of that model's weights.
        training: What it was trained on and how well it does, plain JSON values.
    """

    name: str
    weights: NDArray[np.float64] = field(repr=False)
    bias: float
    threshold: float
    embedder: str
    embedder_fingerprint: str = field(repr=False)
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InvalidInputError: Weights of the wrong shape, or numbers that are not finite.
        """
        weights = np.asarray(self.weights, dtype=np.float64)
        finite = np.isfinite(weights).all() and np.isfinite(self.bias)
        if weights.ndim != 1 or not weights.size or not finite or not 0 <= self.threshold <= 1:
            raise InvalidInputError(
                f"gate {self.name!r} needs a row of finite weights, a finite bias and a threshold "
                "between 0 and 1: train it again"
            )
        object.__setattr__(self, "weights", weights)

    @property
    def fingerprint_id(self) -> str:
        """Sixteen hexadecimal digits over all that decides its probabilities."""
        return content_hash(self._content(), self._tensors())[:16]

    def check(self, embedder: Embedder) -> None:
        """Make sure that an embedding model is the one the gate was trained with.

        Raises:
            ModelMismatchError: It is another one.
        """
        if embedder.fingerprint != self.embedder_fingerprint:
            raise ModelMismatchError(
                f"gate {self.name!r} was trained with the embedding model {self.embedder} "
                f"({self.embedder_fingerprint}), but the one at hand is {embedder.name} "
                f"({embedder.fingerprint}): use that model, or train the gate again"
            )

    def probabilities(self, texts: Sequence[str], embedder: Embedder) -> list[float]:
        """Return, for each text, the probability that an answer to it goes wrong.

        Raises:
            ModelMismatchError: The embedding model is not the gate's.
        """
        self.check(embedder)
        if not texts:
            return []
        return [float(p) for p in self.of_embeddings(embedder.embed(texts))]

    def of_embeddings(self, embeddings: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probability for each row of `[n, d]` embeddings.

        Raises:
            InvalidInputError: The embeddings have another width than the gate.
        """
        rows = np.asarray(embeddings, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.weights.size:
            raise InvalidInputError(
                f"gate {self.name!r} takes embeddings of {self.weights.size} numbers, "
                f"not an array of shape {rows.shape}"
            )
        # tanh, unlike exp, has no range in which it overflows.
        scores: NDArray[np.float64] = 0.5 + 0.5 * np.tanh((rows @ self.weights + self.bias) / 2)
        return scores

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write two tensors and JSON metadata as one safetensors file and return its path."""
        content = {**self._content(), "training": dict(self.training)}
        metadata = {
            "kind": _KIND,
            "format_version": str(FORMAT_VERSION),
            "content": plain_json(content),
            "content_hash": content_hash(content, self._tensors()),
        }
        return write_whole(path, to_safetensors(self._tensors(), metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Gate":
        """Read a gate file.

        Raises:
            GateFileError: Missing, cut short, changed, of another kind, or of a newer version.
        """
        source = Path(path)
        again = "copy it again, or train the gate again"
        metadata, tensors = read_tensors(source, "gate", again, GateFileError)
        version = metadata.get("format_version", "")
        if metadata.get("kind") != _KIND or not is_count(version):
            raise GateFileError(
                f"{source} is a safetensors file but not a gate: "
                "use a file that `steerable policy train-gate` wrote"
            )
        if int(version) > FORMAT_VERSION:
            raise GateFileError(
                f"{source} has format version {version} and this version of steerable-llm reads "
                f"up to {FORMAT_VERSION}: update steerable-llm"
            )
        try:
            content: dict[str, Any] = plainly_parsed(metadata["content"])
            if metadata.get("content_hash") != content_hash(content, tensors):
                raise GateFileError(
                    f"{source} was changed after it was saved (its content hash does not fit): "
                    "get the original file or train the gate again"
                )
            return cls(
                name=content["name"],
                weights=tensors["weights"].numpy(),
                bias=float(tensors["bias"]),
                threshold=content["threshold"],
                embedder=content["embedder"],
                embedder_fingerprint=content["embedder_fingerprint"],
                training=content["training"],
            )
        except (KeyError, TypeError, ValueError, InvalidInputError) as error:
            raise GateFileError(
                f"{source} holds values that this version cannot read ({error}): "
                "train the gate again"
            ) from error

    def _content(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "threshold": self.threshold,
            "embedder": self.embedder,
            "embedder_fingerprint": self.embedder_fingerprint,
        }

    def _tensors(self) -> dict[str, Tensor]:
        bias = torch.tensor(self.bias, dtype=torch.float64)
        return {"weights": torch.from_numpy(self.weights.copy()), "bias": bias}
