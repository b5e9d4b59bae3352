"""The questions of TruthfulQA (Lin et al. 2022, arXiv:2109.07958), to learn from and to ask.

They are in the file TruthfulQA.csv of https://github.com/sylinrl/TruthfulQA, which is no part of
this project.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from steerable_llm.chat.message import Message, as_messages
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.set import EvaluationItem
from steerable_llm.pairs.pair import PreferencePair

COLUMNS = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
BUILD, DEV_SHARE = 50, 0.1


@dataclass(frozen=True)
class Question:
    """One question with its true and its false answers.

    Attributes:
        id: Its place in the data.
        text: The question.
        true: True answers, the best one first.
        false: False ones; the first is what the best one is compared with.
    """

    id: str
    text: str
    true: tuple[str, ...]
    false: tuple[str, ...]

    @property
    def messages(self) -> tuple[Message, ...]:
        """The question as a user asks it."""
        return as_messages(self.text)

    def pairs(self, most: int = 1) -> Iterator[PreferencePair]:
        """Pair true with false answers, the best with the first; the fewer ones come again."""
        number = min(most, max(len(self.true), len(self.false)))
        for i in range(number):
            good, bad = self.true[i % len(self.true)], self.false[i % len(self.false)]
            yield PreferencePair(
                self.messages, good=good, bad=bad, source="truthfulqa", id=f"{self.id}-{i}"
            )

    @property
    def item(self) -> EvaluationItem:
        """The binary choice, as an evaluation takes it."""
        return EvaluationItem(
            id=self.id,
            category="myth",
            messages=self.messages,
            good=self.true[0],
            bad=self.false[0],
        )


def read_questions(path: Path) -> list[Question]:
    """Read the data; answers are closed with a full stop, as the published code does.

    Raises:
        InvalidInputError: It is not that file.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(
            f"cannot read {path} ({error}): give the file TruthfulQA.csv of "
            "https://github.com/sylinrl/TruthfulQA"
        ) from None
    if not rows or any(column not in rows[0] for column in COLUMNS):
        raise InvalidInputError(
            f"{path} is not TruthfulQA.csv: it needs rows with the columns {', '.join(COLUMNS)}"
        )
    found = []
    for place, row in enumerate(rows):
        best, correct, false = (_answers(row[column]) for column in COLUMNS[1:])
        true = tuple(dict.fromkeys([*best[:1], *correct]))
        if not true or not false:
            raise InvalidInputError(f"{path}, row {place}: it needs a true and a false answer")
        found.append(Question(str(place), row["Question"].strip(), true, tuple(false)))
    return found


def _answers(cell: str | None) -> list[str]:
    parts = [part.strip() for part in (cell or "").split(";")]
    return list(dict.fromkeys(part if part[-1] == "." else f"{part}." for part in parts if part))


@dataclass(frozen=True)
class Splits:
    """Questions to learn from, to choose by, and to ask once."""

    build: tuple[Question, ...]
    dev: tuple[Question, ...]
    test: tuple[Question, ...]


def split(questions: Sequence[Question], seed: int = 0) -> Splits:
    """Draw fifty questions, and cut the others into a tenth and nine tenths.

    Raises:
        InvalidInputError: There are too few.
    """
    order = list(questions)
    Random(seed).shuffle(order)
    rest = order[BUILD:]
    cut = round(DEV_SHARE * len(rest))
    if not cut:
        raise InvalidInputError(f"{len(order)} questions are too few: give {BUILD + 10} at least")
    return Splits(tuple(order[:BUILD]), tuple(rest[:cut]), tuple(rest[cut:]))
