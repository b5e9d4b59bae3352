"""Near duplicates: texts that say the same in about the same words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from steerable_llm.curation.lexical import fixed_terms
from steerable_llm.embedding import Embedder
from steerable_llm.phrases import normalise

#: Rows compared at once, so that the matrix of similarities stays small.
_ROWS = 256


def originals(texts: Sequence[str], embedder: Embedder | None, at: float) -> list[int]:
    """Return for each text the place of the first one that it repeats: its own for an original.

    Texts repeat each other when they are the same but for case and spacing. With an embedder also
    when their cosine is `at` or more and both have the same numbers and names: embeddings hardly
    tell "opens at nine" from "opens at ten". A text is compared with originals only, so that a
    chain of small changes is not followed to its end.

    Args:
        texts: What is compared.
        embedder: Makes unit vectors `[n, d]`; None compares exactly.
        at: Cosine from which texts are near duplicates.
    """
    first: dict[str, int] = {}
    found = [first.setdefault(normalise(text), place) for place, text in enumerate(texts)]
    left = [place for place, original in enumerate(found) if place == original]
    if embedder is None or len(left) < 2:
        return found
    rows = embedder.embed([texts[place] for place in left])
    fixed = [fixed_terms(texts[place]) for place in left]
    is_original = np.zeros(len(left), dtype=bool)
    for start in range(0, len(left), _ROWS):
        block = rows[start : start + _ROWS]
        # Only what stands before a text can be its original.
        near = block @ rows[: start + len(block)].T >= at
        for row in range(len(block)):
            place = start + row
            before = np.flatnonzero(near[row, :place] & is_original[:place])
            match = next((other for other in before if fixed[other] == fixed[place]), None)
            is_original[place] = match is None
            if match is not None:
                found[left[place]] = left[int(match)]
    # A repetition of what turned out to be a near duplicate follows it to the original.
    return [found[original] for original in found]
