"""all-MiniLM-L6-v2 for the demonstration's retrieval, from an installed package if there is one."""

from typing import TYPE_CHECKING

from steerable_llm.embedding import SentenceEmbedder
from steerable_llm.errors import MissingExtraError

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from llama_index.core.base.embeddings.base import BaseEmbedding


def embed(texts: list[str]) -> list[list[float]]:
    """Return a unit vector of 384 numbers for each text.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
    """
    if not texts:
        return []
    rows: list[list[float]] = SentenceEmbedder().embed(texts).tolist()
    return rows


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
