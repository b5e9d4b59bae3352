"""Write the vision exhibit's log and evaluation sets: ``python -m exhibit.vision.generate``.

The model is asked, and its greedy, unsteered answers are written down. The reviewer is simulated:
verdicts follow from the values an answer states, and bad answers get a correction. Pictures stand
in the lines themselves, as data: URLs, in place of some thousand small files beside them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

from exhibit.base_rates import answers
from exhibit.vision.datasets import Split, build_evaluation_set, distinct, item
from exhibit.vision.examples import KINDS, Example
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.demo import vision
from steerable_llm.files import write_json_lines
from steerable_llm.logs.answers import LoggedAnswer, Reason

#: How many answers of each kind the log holds.
COUNTS = {
    "conflict": 150,
    "companion": 80,
    "reading": 20,
    "agreement": 10,
    "company": 10,
    "present": 10,
    "absent": 10,
    "caption": 20,
    "rule": 20,
}
_REASONS: dict[str, Reason] = {"conflict": "contradicts", "companion": "not in documents"}
SPLITS: tuple[Split, ...] = ("dev", "test")


def _questions() -> list[tuple[str, Example]]:
    rng = Random("vision log")
    found = []
    for kind, count in COUNTS.items():
        make = KINDS[kind][0]
        examples = distinct(rng, lambda rng, _, make=make: make(rng, "train"), count)  # type: ignore[misc]
        found += [(kind, example) for example in examples]
    rng.shuffle(found)
    return found


def build_answer_log(llm: SteerableHFLLM) -> list[LoggedAnswer]:
    """Ask the model and write down what it says, with verdicts and corrections."""
    questions = _questions()
    items = [item(example, kind, number) for number, (kind, example) in enumerate(questions, 1)]
    log = []
    for entry, (kind, example), answer in zip(items, questions, answers(llm, items), strict=True):
        good = entry.succeeds(answer)
        log.append(
            LoggedAnswer(
                id=entry.id,
                question=example.question,
                messages=entry.messages,
                answer=answer,
                verdict="good" if good else "bad",
                reason=None if good else _REASONS.get(kind, "missed the answer"),
                correction=None if good else example.good,
                step="look",
                model="steerable-llm/vision-demo",
            )
        )
    return log


def main() -> None:
    """Write every data file of the vision exhibit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a model folder; the bundled one without it")
    parser.add_argument("--out", type=Path, default=vision.folder())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("pictures", "capability"):
        for split in SPLITS:
            items = build_evaluation_set(name, split)
            path = options.out / f"{name}.{split}.jsonl"
            write_json_lines(path, (each.model_dump(mode="json") for each in items))
            print(f"{len(items):5d} questions in {path.name}")
    llm = (
        SteerableHFLLM.vision_demo()
        if options.model is None
        else SteerableHFLLM.from_pretrained(str(options.model), dtype="float32")
    )
    log = build_answer_log(llm)
    records = (each.model_dump(mode="json", exclude_defaults=True) for each in log)
    write_json_lines(options.out / "answers.jsonl", records)
    bad = sum(entry.verdict == "bad" for entry in log)
    print(f"{len(log):5d} answers in answers.jsonl, {bad} of them bad")


if __name__ == "__main__":
    main()
