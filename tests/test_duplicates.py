"""Duplicates by words and by meaning; numbers and names keep texts apart."""

from __future__ import annotations

import numpy as np
from failures import WordEmbedder
from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.chat.phrases import normalise
from steerable_llm.pairs.filters import originals
from steerable_llm.pairs.judge import fixed_terms

LONG = "when does the large shop near the old station open again in the morning"


def test_without_an_embedder_case_and_spacing_do_not_count() -> None:
    assert originals(["At ten.", "at  TEN.", "At nine."], None, 0.95) == [0, 0, 2]


def test_near_texts_are_one_unless_a_number_or_name_differs() -> None:
    texts = [LONG, f"{LONG} please", f"{LONG} ten", f"{LONG} Oslo", "something else"]
    assert originals(texts, WordEmbedder(), 0.9) == [0, 0, 2, 3, 4]


def test_a_repetition_of_a_near_duplicate_leads_to_the_original() -> None:
    texts = [LONG, f"{LONG} please", f"{LONG}  PLEASE"]
    assert originals(texts, WordEmbedder(), 0.9) == [0, 0, 0]


words = st.sampled_from(["shop", "opens", "ten", "nine", "late", "Oslo"])


@given(st.lists(st.lists(words, min_size=1, max_size=4).map(" ".join), max_size=12))
def test_the_blocks_find_what_a_plain_loop_finds(texts: list[str]) -> None:
    rows, expected = WordEmbedder().embed(texts), list(range(len(texts)))
    kept: list[int] = []
    for i, text in enumerate(texts):
        same = [j for j in range(i) if normalise(texts[j]) == normalise(text)]
        near = [
            j
            for j in kept
            if float(np.dot(rows[i], rows[j])) >= 0.8 and fixed_terms(texts[j]) == fixed_terms(text)
        ]
        expected[i] = expected[same[0]] if same else near[0] if near else i
        if expected[i] == i:
            kept.append(i)
    assert originals(texts, WordEmbedder(), 0.8) == expected
