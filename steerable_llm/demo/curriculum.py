"""Which lessons the bundled model gets in which phase of its training."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from steerable_llm.demo.examples import (
    Example,
    civility,
    closed_book,
    condense,
    conflict,
    gold,
    irrelevant,
    myth,
    reading,
    unanswerable,
)

#: Every lesson with its share of the training examples in each phase: what is to be remembered,
#: copying (which comes late and all at once), telling passages apart, and then everything.
LESSONS: dict[str, tuple[Callable[..., Example], tuple[float, float, float, float]]] = {
    "closed_book": (closed_book, (0.16, 0.08, 0.05, 0.16)),
    "reading": (reading, (0.34, 0.50, 0.62, 0.34)),
    "conflict": (conflict, (0.20, 0.12, 0.12, 0.18)),
    "gold": (gold, (0.04, 0.02, 0.02, 0.04)),
    "irrelevant": (irrelevant, (0.05, 0.03, 0.04, 0.05)),
    "unanswerable": (unanswerable, (0.06, 0.04, 0.10, 0.08)),
    "civility": (civility, (0.06, 0.03, 0.02, 0.06)),
    "myth": (myth, (0.07, 0.03, 0.02, 0.07)),
    "condense": (condense, (0.02, 0.15, 0.01, 0.02)),
}
#: How many other passages a reading lesson has in the phases that practise one thing.
_PRACTICE = {1: (0, 0, 0, 1, 2), 2: (1, 1, 2, 2, 3)}


def training_example(rng: Random, phase: int = 0) -> Example:
    """Draw one lesson of a phase of training (0 to 3)."""
    makers = [maker for maker, _ in LESSONS.values()]
    shares = [share[phase] for _, share in LESSONS.values()]
    maker: Callable[..., Example] = rng.choices(makers, shares)[0]
    if maker is reading and phase in _PRACTICE:
        return reading(rng, others=rng.choice(_PRACTICE[phase]))
    return maker(rng)
