"""MiniLM as LangChain knows embeddings."""

from langchain_core.embeddings import Embeddings

from steerable_llm.demo.embedding import embed


class MiniLMEmbeddings(Embeddings):
    """all-MiniLM-L6-v2; the async methods run these in a thread."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a unit vector for each text."""
        return embed(texts)

    def embed_query(self, text: str) -> list[float]:
        """Return a unit vector for a question."""
        return embed([text])[0]
