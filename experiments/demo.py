"""The small part of the experiments' data that the tour of SmolLM2 works with.

``python -m experiments.demo`` takes it out of ``experiments/data`` and writes it into the package.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

from steerable_llm.demo import smollm2
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.logs.answers import LoggedAnswer, read_answers, write_answers
from steerable_llm.pairs.pairing import pair_answers

DATA = Path(__file__).parent / "data"
#: Logged answers by reason; the good ones have none.
LOGGED = {"contradicts": 40, "should have refused": 10, None: 20}
#: Held-out prompts by file and category.
HELD_OUT = {
    "documents.dev": {"conflict": 20, "gold": 14},
    "documents.test": {"conflict": 32, "gold": 20},
    "capability.test": {"closed_book": 16},
}


def main() -> None:
    """Choose by lot and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    data: Path = parser.parse_args().data
    write_answers(smollm2.folder() / "answers.jsonl", logged(read_answers(data / "answers.jsonl")))
    for name, sizes in HELD_OUT.items():
        every = EvaluationSet.from_jsonl(data / f"{name}.jsonl")
        chosen = [
            item
            for category, size in sizes.items()
            for item in every.category(category).sample(size, seed=0)
        ]
        EvaluationSet(name, chosen).to_jsonl(smollm2.folder() / f"{name}.jsonl")


def logged(answers: list[LoggedAnswer]) -> list[LoggedAnswer]:
    """Choose answers about documents; of those that contradict, such as an edit can mend.

    What no edit mends is shown to a person in the review, which the tour leaves out.
    """
    about = [answer for answer in answers if answer.step == "answer"]
    mended = {pair.id for pair in pair_answers(about, reasons=["contradicts"]).pairs if pair.edit}
    chosen: set[str] = set()
    for reason, size in LOGGED.items():
        ids = [
            answer.id
            for answer in about
            if answer.reason == reason and (reason != "contradicts" or answer.id in mended)
        ]
        chosen.update(Random(0).sample(ids, size))
    return [answer for answer in about if answer.id in chosen]


if __name__ == "__main__":
    main()
