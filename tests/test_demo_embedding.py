"""The demonstration's embedder works without a network and in both frameworks."""

import math
import sys
from typing import Any

import pytest

from steerable_llm.demo.embedding import langchain_embeddings, llama_index_embedding
from steerable_llm.errors import MissingExtraError

SHOP = "The shop opens at nine in the morning."
PLANET = "Mercury is the planet nearest to the sun."
QUESTION = "What are the opening hours?"


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


async def test_both_frameworks_embed_alike_and_by_meaning() -> None:
    langchain, llama_index = langchain_embeddings(), llama_index_embedding()
    documents = langchain.embed_documents([SHOP, PLANET])
    question = langchain.embed_query(QUESTION)
    assert len(question) == 384
    assert cosine(question, documents[0]) > cosine(question, documents[1]) + 0.2
    # Batches are padded, so equal means equal up to float32 rounding.
    close = pytest.approx(documents[0], abs=1e-5)
    assert llama_index.get_text_embedding_batch([SHOP, PLANET])[0] == close
    assert llama_index.get_text_embedding(SHOP) == close
    assert await llama_index.aget_text_embedding(SHOP) == close
    assert (await llama_index.aget_text_embedding_batch([SHOP]))[0] == close
    assert (await langchain.aembed_documents([SHOP]))[0] == close
    assert await llama_index.aget_query_embedding(QUESTION) == pytest.approx(question, abs=1e-5)
    assert langchain.embed_documents([]) == []


@pytest.mark.parametrize(
    ("make", "module"),
    [
        (langchain_embeddings, "langchain_core.embeddings"),
        (llama_index_embedding, "llama_index.core.base.embeddings.base"),
    ],
)
def test_a_missing_framework_is_named_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch, make: Any, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'steerable-llm\["):
        make()
