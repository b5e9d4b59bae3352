"""Logged failures for the tests of curation, and an embedder that knows only words."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from steerable_llm.logs.answers import LoggedAnswer, Passage
from steerable_llm.pairs.pairing import Draft

HOURS = "The shop in Lyon opens at ten."


def failure(name: str = "a1", bad: str = "It opens at nine.", **fields: object) -> LoggedAnswer:
    given: dict[str, object] = {
        "id": name,
        "question": "When does the shop open?",
        "passages": [Passage(id="hours", text=HOURS)],
        "messages": [{"role": "user", "content": f"Text:\n{HOURS}\n\nQuestion: When?"}],
        "answer": bad,
        "verdict": "bad",
        "reason": "contradicts",
    }
    return LoggedAnswer.model_validate({**given, **fields})


def draft(
    good: str | None = "It opens at ten.",
    bad: str = "It opens at nine.",
    name: str = "a1",
    source: str = "correction",
    **fields: object,
) -> Draft:
    return Draft(failure(name, bad, **fields), good, source)


class WordEmbedder:
    """Texts are as near as they have words in common."""

    name = "words"
    fingerprint = "words"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.casefold().split():
                row[zlib.crc32(word.encode()) % 64] += 1
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.maximum(lengths, 1e-9)
