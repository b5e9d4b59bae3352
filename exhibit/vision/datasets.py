"""The vision exhibit's held-out questions, drawn so that neither training nor vector saw them.

Dev and test share no wording and no colour of a thing with training or with each other, and each
has things of its own that training never shows in a conflict.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from io import BytesIO
from random import Random
from typing import Any, Literal

from PIL.Image import Image

from exhibit.vision.examples import KINDS, Example
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet

Split = Literal["dev", "test"]

#: The kinds of each category, with how many questions dev and test have of it.
_FAULTS: dict[str, tuple[tuple[str, ...], int, int]] = {
    "conflict": (("conflict",), 120, 200),
    "companion": (("companion",), 80, 200),
    "agreement": (("agreement",), 40, 100),
}
_CAPABILITY: dict[str, tuple[tuple[str, ...], int, int]] = {
    "reading": (("reading",), 100, 200),
    "presence": (("company", "present", "absent"), 100, 200),
    "caption": (("caption",), 100, 200),
    "rule": (("rule",), 120, 200),
}
_SETS = {"pictures": _FAULTS, "capability": _CAPABILITY}


def url(picture: Image) -> str:
    """Return a picture as a data: URL, so that a line of a file has all there is to it."""
    file = BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def messages(example: Example) -> list[dict[str, Any]]:
    """Return the question as a chat."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": example.question}]
    if (scene := example.scene) is not None:
        asked = [
            box
            for thing, box in zip(scene.things, scene.boxes, strict=True)
            if thing.name == example.subject
        ]
        parts.insert(0, {"type": "image", "image": url(scene.picture), "boxes": asked})
    return [{"role": "user", "content": parts}]


def item(example: Example, category: str, number: int) -> EvaluationItem:
    """Turn an example into a held-out question."""
    contrasted = bool(example.reject) and example.believed is not None
    return EvaluationItem(
        id=f"{category}-{number:03d}",
        category=category,
        messages=messages(example),
        good=example.good if contrasted else None,
        bad=example.believed if contrasted else None,
        accept=example.accept,
        reject=example.reject,
    )


def distinct(rng: Random, make: Callable[[Random, int], Example], count: int) -> list[Example]:
    """Draw examples of which no two ask the same of the same picture; `make` gets the number."""
    found: dict[str, Example] = {}
    for number in range(50 * count):
        if len(found) == count:
            break
        example = make(rng, number)
        found.setdefault(repr(messages(example)), example)
    return [*found.values()]


def build_evaluation_set(name: str, split: Split) -> EvaluationSet:
    """Draw one evaluation set; the same name and split always give the same questions."""
    items = []
    for category, (kinds, dev, test) in _SETS[name].items():
        rng = Random(f"vision {name} {category} {split}")
        makers = [KINDS[kind][0] for kind in kinds]
        examples = distinct(
            rng,
            lambda rng, number, makers=makers: makers[number % len(makers)](rng, split),  # type: ignore[misc]
            dev if split == "dev" else test,
        )
        items += [item(each, category, number) for number, each in enumerate(examples, start=1)]
    return EvaluationSet(f"{name}.{split}", items)
