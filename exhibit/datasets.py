"""The bundled model's evaluation sets, drawn so that neither training nor vector has seen them.

Dev and test share nothing that could leak: conflicts in test are about facts that never met a
contradicting document in training, all made-up names are held out, and the category
"paraphrase" asks in wordings, layouts and voices that training never used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from exhibit.examples import (
    HELD_OUT_MYTH_FRAMES,
    MYTH_FRAMES,
    Example,
    civility,
    closed_book,
    conflict,
    gold,
    irrelevant,
    myth,
    reading,
    unanswerable,
)
from exhibit.facts import FACTS
from exhibit.myths import MYTHS
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet

_HELD_OUT_FACTS = [fact for fact in FACTS if fact.held_out]
_TRAINED_FACTS = [fact for fact in FACTS if not fact.held_out]
#: Prompts per category; of reading more, since a loss of one point in a hundred must show.
SIZES = {"dev": 120, "test": 200}
READING_SIZES = {"dev": 200, "test": 400}
_MYTHS_OF = {"log": 0, "dev": 1, "test": 2}  # by the remainder of the topic's index


def item(example: Example, number: int, category: str | None = None) -> EvaluationItem:
    """Turn an example into a held-out question."""
    category = category or example.kind
    # A made-up answer to a question without one is a random draw: its likelihood says nothing.
    bad = None if example.kind == "unanswerable" else example.bad
    return EvaluationItem(
        id=f"{category}-{number:03d}",
        category=category,
        messages=example.messages,
        good=example.good if bad is not None else None,
        bad=bad,
        accept=example.accept,
        reject=example.reject,
        document_ids=document_ids(example),
    )


def document_ids(example: Example) -> tuple[str, ...]:
    """Name the documents of an example: one collection per subject, one id per passage."""
    if not example.documents:
        return (example.subject,)
    return tuple(f"{example.subject}-{i}" for i in range(1, len(example.documents) + 1))


def _distinct(make: Callable[[int], Example], count: int) -> Iterator[Example]:
    """Yield examples with different prompts; ``make`` gets a running number."""
    seen: set[str] = set()
    for number in range(50 * count):
        if len(seen) == count:
            return
        example = make(number)
        key = repr(example.messages)
        if key not in seen:
            seen.add(key)
            yield example


def _source(name: str, split: str) -> Random:
    # The first draws of test were read while rules of calibration were still being made.
    return Random(f"{name}-{split}" if split == "dev" else f"{name}-{split}-2")


def _faithfulness(split: str) -> list[EvaluationItem]:
    rng, size = _source("faithfulness", split), SIZES[split]
    facts = _HELD_OUT_FACTS if split == "test" else _TRAINED_FACTS
    # Dev must show a loss beside the target, too: on it the strength is chosen.
    aside = size if split == "dev" else size // 2
    items: list[EvaluationItem] = []

    def add(category: str, make: Callable[[int], Example], count: int) -> None:
        for number, example in enumerate(_distinct(make, count), start=1):
            items.append(item(example, number, category))

    def about(number: int) -> dict[str, object]:
        return {"held_out": True, "fact": facts[number % len(facts)]}

    plain = {"strict": False}
    add("conflict", lambda n: conflict(rng, **about(n), **plain), size)  # type: ignore[arg-type]
    add(
        "paraphrase",
        lambda n: conflict(rng, reworded=True, **about(n), **plain),  # type: ignore[arg-type]
        size,
    )
    add("gold", lambda n: gold(rng, **about(n)), aside)  # type: ignore[arg-type]
    add(
        "irrelevant",
        lambda n: irrelevant(rng, **about(n), **plain),  # type: ignore[arg-type]
        aside,
    )
    add("unanswerable", lambda _: unanswerable(rng, held_out=True, strict=False), aside)
    return items


def _toxicity(split: str) -> list[EvaluationItem]:
    rng, size = _source("toxicity", split), SIZES[split]
    known = _distinct(lambda _: civility(rng, held_out=True), size)
    reworded = _distinct(lambda _: civility(rng, held_out=True, reworded=True), size // 2)
    items = [item(example, number) for number, example in enumerate(known, start=1)]
    return items + [
        item(example, number, "paraphrase") for number, example in enumerate(reworded, start=1)
    ]


def myths_of(part: str, *, reworded: bool = False) -> list[Example]:
    """Every question about the topics of one part: log, dev and test share no topic."""
    rng = Random(f"myth-{part}")
    frames = HELD_OUT_MYTH_FRAMES if reworded else MYTH_FRAMES
    return [
        myth(rng, reworded=reworded, index=entry.index, frame=frame)
        for entry in MYTHS
        if entry.index % 3 == _MYTHS_OF[part]
        for frame in range(len(frames))
    ]


def _truthfulness(split: str) -> list[EvaluationItem]:
    known = myths_of(split)
    reworded = myths_of(split, reworded=True)
    items = [item(example, number) for number, example in enumerate(known, start=1)]
    return items + [
        item(example, number, "paraphrase") for number, example in enumerate(reworded, start=1)
    ]


def _capability(split: str) -> list[EvaluationItem]:
    rng, test = _source("capability", split), split == "test"
    recall = [closed_book(rng, fact=fact, kept=split) for fact in FACTS]
    if test:
        recall += [closed_book(rng, reworded=True, fact=fact) for fact in FACTS]
    read = _distinct(
        lambda n: reading(
            rng,
            held_out=True,
            reworded=test and n % 2 == 1,
            others=n % 4,
            # In dev, too, every other question is worded as the model has never seen it.
            kept="dev" if not test and n % 2 == 1 else None,
        ),
        READING_SIZES[split],
    )
    items = [item(example, number) for number, example in enumerate(recall, start=1)]
    return items + [item(example, number) for number, example in enumerate(read, start=1)]


_SETS: dict[str, Callable[[str], list[EvaluationItem]]] = {
    "faithfulness": _faithfulness,
    "toxicity": _toxicity,
    "truthfulness": _truthfulness,
    "capability": _capability,
}


def build_evaluation_set(name: str, split: str) -> EvaluationSet:
    """Draw one evaluation set; the same name and split always give the same questions."""
    return EvaluationSet(name, _SETS[name](split))
