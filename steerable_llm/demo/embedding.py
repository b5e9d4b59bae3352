"""all-MiniLM-L6-v2 for the demonstration's retrieval, as both frameworks know embeddings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from steerable_llm.embedding import SentenceEmbedder
from steerable_llm.errors import from_extra

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


def langchain_embeddings() -> Embeddings:
    """Return MiniLM as LangChain's `Embeddings`.

    Raises:
        MissingExtraError: langchain-core is not installed.
    """
    with from_extra("langchain", "this needs langchain-core"):
        from langchain_core.embeddings import Embeddings

    class MiniLMEmbeddings(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return embed(texts)

        def embed_query(self, text: str) -> list[float]:
            return embed([text])[0]

    return MiniLMEmbeddings()


def llama_index_embedding() -> BaseEmbedding:
    """Return MiniLM as LlamaIndex's `BaseEmbedding`; its async methods leave the event loop free.

    Raises:
        MissingExtraError: llama-index-core is not installed.
    """
    with from_extra("llama-index", "this needs llama-index-core"):
        from llama_index.core.base.embeddings.base import BaseEmbedding

    class MiniLMEmbedding(BaseEmbedding):
        model_name: str = "all-MiniLM-L6-v2"
        embed_batch_size: int = 64

        def _get_query_embedding(self, query: str) -> list[float]:
            return embed([query])[0]

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return await asyncio.to_thread(self._get_query_embedding, query)

        def _get_text_embedding(self, text: str) -> list[float]:
            return embed([text])[0]

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return embed(texts)

        async def _aget_text_embedding(self, text: str) -> list[float]:
            return await asyncio.to_thread(self._get_text_embedding, text)

        async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return await asyncio.to_thread(self._get_text_embeddings, texts)

    return MiniLMEmbedding()
