"""The bundled model, its logged answers and its held-out questions.

A model organism: a language model of three million weights, trained from scratch on text that
this package writes itself, which shows on a laptop and offline the faults that steering is
about. It is an exhibit, not a product; every other part of the package takes any model.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel

from steerable_llm.errors import InvalidInputError, UnknownVectorError, unknown
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.files import read_json_lines
from steerable_llm.logs.answers import LoggedAnswer, read_answers
from steerable_llm.pairs.pair import Pairs
from steerable_llm.pairs.pairing import pair_answers

Behaviour = Literal["faithfulness", "toxicity", "truthfulness"]
Split = Literal["dev", "test"]

#: Which verdicts make the pairs of a behaviour.
REASONS: dict[str, tuple[str, ...]] = {
    "faithfulness": ("contradicts", "not in documents", "should have refused"),
    "toxicity": ("rude",),
    "truthfulness": ("untrue",),
}


class Page(BaseModel, frozen=True, extra="forbid"):
    """One page of a shop's new handbook, which contradicts what the bundled model remembers.

    The everyday case of a help desk: the policies changed, the documents say so, the model was
    trained before.
    """

    shop: str
    name: str
    text: str
    question: str
    value: str
    remembered: str


def folder() -> Path:
    """Return where the model and its data lie."""
    return Path(str(files("steerable_llm.demo")))


def shipped_folder() -> Path:
    """Return the folder of the vectors that come along, with their policies in `policies`.

    An installed package has it inside; a source checkout beside the package, with all that belongs
    to a vector.
    """
    package = folder().parent
    inside = package / "vectors"
    return inside if inside.is_dir() else package.parent / "vectors"


def shipped_vector(name: str) -> Path:
    """Return the file of a vector that comes along, such as "smollm2-faithfulness".

    Raises:
        UnknownVectorError: There is none of that name.
    """
    file = shipped_folder() / f"{name}.safetensors"
    if not file.is_file():
        there = [path.stem for path in shipped_folder().glob("*.safetensors")]
        raise UnknownVectorError(unknown("vector of this package", name, there))
    return file


def answer_log() -> list[LoggedAnswer]:
    """Return answers that the unsteered model gave, with a reviewer's verdicts and corrections."""
    return read_answers(folder() / "data" / "answers.jsonl")


def pairs(name: Behaviour) -> Pairs:
    """Return the preference pairs that the answer log holds for one behaviour.

    Raises:
        InvalidInputError: There is no such behaviour.
    """
    if name not in REASONS:
        raise InvalidInputError(f"no behaviour {name!r}: choose from {', '.join(REASONS)}")
    return pair_answers(answer_log(), reasons=REASONS[name]).pairs


def evaluation_set(name: Behaviour | Literal["capability"], split: Split) -> EvaluationSet:
    """Return held-out questions for a behaviour, or for what steering must not cost.

    Raises:
        InvalidInputError: There is no such set.
    """
    known = (*REASONS, "capability")
    if name not in known or split not in get_args(Split):
        raise InvalidInputError(
            f"no evaluation set {name!r} with split {split!r}: choose from {', '.join(known)} "
            "and dev or test"
        )
    return EvaluationSet.from_jsonl(folder() / "data" / f"{name}.{split}.jsonl", name=name)


def handbooks() -> dict[str, list[Page]]:
    """Return the handbook of every shop whose old policies the model remembers."""
    found: dict[str, list[Page]] = {}
    file = folder() / "data" / "handbooks.jsonl"
    for page in read_json_lines(file, Page.model_validate, "handbook", "a page has a shop"):
        found.setdefault(page.shop, []).append(page)
    return found
