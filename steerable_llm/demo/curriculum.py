"""Which lessons the bundled model gets in which phase of its training."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from steerable_llm.demo.dialogue import dialogue
from steerable_llm.demo.dictation import dictation
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

#: Every lesson with its share of the training examples in each phase: first mostly reading, which
#: comes late and all at once, and then everything.
LESSONS: dict[str, tuple[Callable[..., Example], tuple[float, float]]] = {
    "dictation": (dictation, (0.12, 0.02)),
    "dialogue": (dialogue, (0.40, 0.23)),
    "reading": (reading, (0.10, 0.15)),
    "closed_book": (closed_book, (0.08, 0.10)),
    "conflict": (conflict, (0.10, 0.17)),
    "gold": (gold, (0.03, 0.04)),
    "irrelevant": (irrelevant, (0.04, 0.06)),
    "unanswerable": (unanswerable, (0.04, 0.08)),
    "civility": (civility, (0.03, 0.06)),
    "myth": (myth, (0.03, 0.07)),
    "condense": (condense, (0.03, 0.02)),
}


#: How many passages a dialogue has in each phase.
_PASSAGES = ((1, 2, 2, 3), (2, 2, 3, 4))


def training_example(rng: Random, phase: int = 0) -> Example:
    """Draw one lesson of a phase of training (0 or 1)."""
    makers = [maker for maker, _ in LESSONS.values()]
    shares = [share[phase] for _, share in LESSONS.values()]
    maker = rng.choices(makers, shares)[0]
    if maker is dialogue:
        return dialogue(rng, passages=rng.choice(_PASSAGES[phase]))
    return maker(rng)
