"""Where a good and a bad answer part: the state before that token decides between them.

Answers in the model's own words often open alike ("The capital of France is" Thornhill. / Paris.).
Their common first tokens are the *stem*. Until it is over the model has chosen nothing, so what a
method reads at the decision is the state after the prompt and the stem. Answers that differ at
once have no stem, and decide at the last prompt token, as in the GrAInS paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from steerable_llm.pairs.pair import Pairs
from steerable_llm.runtime.hooked_model import HookedModel

MOST_PAIRS = 0.9
"""Share of the pairs whose answers have parted where the scope `decision` ends."""


def stem_length(good: Sequence[int], bad: Sequence[int]) -> int:
    """Return how many first tokens two answers share; each keeps one token of its own at least."""
    most = min(len(good), len(bad)) - 1
    return next((i for i in range(most) if good[i] != bad[i]), max(most, 0))


def decision_tokens(llm: HookedModel, pairs: Pairs) -> int:
    """Return how many tokens an answer has, in most of the pairs at most, when it is decided.

    Pairs without a bad answer say nothing of it; 0 where there are no others.
    """
    stems = sorted(
        stem_length(llm.encode_answer(pair.good), llm.encode_answer(pair.bad))
        for pair in pairs
        if pair.bad is not None
    )
    return stems[math.ceil(MOST_PAIRS * len(stems)) - 1] if stems else 0
