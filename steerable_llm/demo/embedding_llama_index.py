"""MiniLM as LlamaIndex knows embeddings."""

import asyncio

from llama_index.core.base.embeddings.base import BaseEmbedding

from steerable_llm.demo.embedding import embed


class MiniLMEmbedding(BaseEmbedding):
    """all-MiniLM-L6-v2; the async methods leave the event loop free."""

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
