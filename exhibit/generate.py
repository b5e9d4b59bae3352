"""Write the answer log and the evaluation sets: ``python -m exhibit.generate``.

The log is what it says: the bundled model is asked and its greedy, unsteered answers are
written down. The reviewer is simulated: verdicts follow from the values an answer states,
and four bad answers in five get a correction.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from random import Random

from exhibit.datasets import SIZES, build_evaluation_set, document_ids, item, myths_of
from exhibit.examples import (
    Example,
    civility,
    conflict,
    gold,
    irrelevant,
    reading,
    unanswerable,
)
from exhibit.handbook import handbook, shops
from steerable_llm import demo
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.files import write_whole
from steerable_llm.logs.answers import LoggedAnswer, Passage, write_answers

#: How many answers of each kind the log holds; myths come on top, one per question.
COUNTS = {
    "conflict": 260,
    "irrelevant": 60,
    "unanswerable": 70,
    "gold": 50,
    "reading": 60,
    "civility": 200,
}
_MAKERS: dict[str, Callable[[Random], Example]] = {
    "conflict": lambda rng: conflict(rng, strict=False),
    "irrelevant": lambda rng: irrelevant(rng, strict=False),
    "unanswerable": lambda rng: unanswerable(rng, strict=False),
    "gold": gold,
    "reading": reading,
    "civility": civility,
}
_REASONS = {
    "conflict": "contradicts",
    "irrelevant": "not in documents",
    "unanswerable": "should have refused",
    "gold": "missed the answer",
    "reading": "missed the answer",
    "civility": "rude",
    "myth": "untrue",
}
_CORRECTED = 0.8


def _questions() -> list[Example]:
    rng = Random("answer log")
    seen: set[str] = set()
    examples: list[Example] = []
    for kind, count in COUNTS.items():
        wanted = len(examples) + count
        while len(examples) < wanted:
            example = _MAKERS[kind](rng)
            key = repr(example.messages)
            if key not in seen:
                seen.add(key)
                examples.append(example)
    examples += myths_of("log")
    rng.shuffle(examples)
    return examples


def build_answer_log(llm: SteerableHFLLM, *, batch: int = 64) -> list[LoggedAnswer]:
    """Ask the model and write down what it says, with verdicts and corrections."""
    rng = Random("reviewer")
    examples = _questions()
    requests = [
        GenerationRequest(messages=example.messages, max_new_tokens=32) for example in examples
    ]
    answers = [
        answer.text
        for start in range(0, len(requests), batch)
        for answer in llm.generate_batch(requests[start : start + batch])
    ]
    log = []
    for number, (example, answer) in enumerate(zip(examples, answers, strict=True), start=1):
        good = item(example, number).succeeds(answer)
        corrected = not good and rng.random() < _CORRECTED
        log.append(
            LoggedAnswer(
                id=f"answer-{number:04d}",
                question=example.question,
                passages=tuple(
                    Passage(id=name, text=text)
                    for name, text in zip(document_ids(example), example.documents, strict=False)
                ),
                messages=example.messages,
                answer=answer,
                verdict="good" if good else "bad",
                reason=None if good else _REASONS[example.kind],
                correction=example.good if corrected else None,
                step="reply" if example.kind == "civility" else "answer",
                model="steerable-llm/demo",
            )
        )
    return log


def main() -> None:
    """Write every data file of the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a model folder; the bundled one without it")
    parser.add_argument("--out", type=Path, default=demo.folder() / "data")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("faithfulness", "toxicity", "truthfulness", "capability"):
        for split in SIZES:
            path = options.out / f"{name}.{split}.jsonl"
            print(f"{len(build_evaluation_set(name, split)):5d} questions in {path.name}")
            build_evaluation_set(name, split).to_jsonl(path)
    pages = [page for shop in shops() for page in handbook(shop)]
    write_whole(
        options.out / "handbooks.jsonl", "".join(page.model_dump_json() + "\n" for page in pages)
    )
    print(f"{len(pages):5d} pages in handbooks.jsonl")
    llm = (
        SteerableHFLLM.demo()
        if options.model is None
        else SteerableHFLLM.from_pretrained(str(options.model), dtype="float32")
    )
    log = build_answer_log(llm)
    write_answers(options.out / "answers.jsonl", log)
    bad = sum(entry.verdict == "bad" for entry in log)
    print(f"{len(log):5d} answers in answers.jsonl, {bad} of them bad")


if __name__ == "__main__":
    main()
