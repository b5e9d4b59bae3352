"""BLEU of one answer against one reference, by sacrebleu."""

from __future__ import annotations

from functools import cache
from typing import Any

from steerable_llm.errors import MissingExtraError


def bleu(answer: str, reference: str) -> float:
    """BLEU-4 in [0, 100], exponentially smoothed, international tokenisation, case counts.

    These are the settings of the harnesses that report BLEU accuracy on TruthfulQA.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    return float(_metric().corpus_score([answer], [[reference]]).score)


@cache
def _metric() -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingExtraError(
            "BLEU accuracy needs sacrebleu: pip install 'steerable-llm[benchmarks]'"
        ) from error
    return BLEU(smooth_method="exp", tokenize="intl", lowercase=False, effective_order=False)
