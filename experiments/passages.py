"""Questions to SmolLM2 over one to six passages: what a search brings, the answer among it or not.

``python -m experiments.passages`` asks the unsteered model and writes ``experiments/data``: the
log of its answers to the build prompts, and held-out sets. `experiments.questions` and
`experiments.handbooks` show one passage or two, and what is learnt from those alone takes many
passages for a reason to refuse. Here the number is the same whether the answer is told or not, and
so is what stands beside it: the same relation of another subject, another detail of this one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import cycle, zip_longest
from pathlib import Path
from random import Random

from experiments.facts import Fact, Split, facts, other_value, passage, question
from experiments.handbook_details import DETAILS, SUBJECTS, page
from experiments.questions import DATA, LAYOUTS, MODEL, REFUSALS, answer, logged, slug
from experiments.vectors import PASSAGES_LOG
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.chat.message import Message
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.logs.answers import write_answers
from steerable_llm.pairs.wording import sentence_at

#: How many passages the prompts of a split have, in turn; six stand in test alone.
COUNTS: dict[Split, tuple[int, ...]] = {
    "build": (1, 2, 3, 4, 5),
    "dev": (3, 4, 5),
    "test": (3, 4, 6),
}
#: So many facts are told and not told, and so many details of handbooks.
_FACTS: dict[Split, tuple[int, int]] = {"build": (200, 150), "dev": (48, 48), "test": (84, 84)}
_DETAILS: dict[Split, int] = {"build": 150, "dev": 48, "test": 84}
#: Of the prompts, how many show the same relation, or detail, of another subject beside; and how
#: many something else of this one.
_ALIKE, _SAME = 0.6, 0.5


def prompts(split: Split) -> list[EvaluationItem]:
    """Ask for facts and for details of handbooks of a split, told and not told."""
    mine = [fact for fact in facts() if fact.split == split]
    told, not_told = _FACTS[split]
    chosen = Random(f"passages {split}")
    counts = cycle(COUNTS[split])
    found = [
        _about_fact(fact, mine, True, next(counts), changed=bool(number % 2))
        for number, fact in enumerate(chosen.sample(mine, told))
    ]
    found += [_about_fact(f, mine, False, next(counts)) for f in chosen.sample(mine, not_told)]
    # Every detail comes once before one comes twice.
    rows = [
        [(kind, subject, name) for subject in chosen.sample(subjects, len(subjects))]
        for kind, subjects in SUBJECTS[split].items()
        for name, detail in DETAILS[kind].items()
        if detail.everywhere
    ]
    chosen.shuffle(rows)
    every = [each for row in zip_longest(*rows) for each in row if each is not None]
    for kind, subject, name in every[: _DETAILS[split]]:
        count = next(counts)
        found += [
            _about_handbook(split, kind, subject, name, told, count) for told in (True, False)
        ]
    return found


def _about_fact(
    fact: Fact, mine: Sequence[Fact], told: bool, count: int, changed: bool = False
) -> EvaluationItem:
    chance = Random(f"passages {fact} {told}")
    shown = Fact(fact.relation, fact.subject, other_value(fact, chance)) if changed else fact
    known = {fact.subject, fact.value, shown.value}
    others = [each for each in mine if not known & {each.subject, each.value}]
    alike = [each for each in others if each.relation == fact.relation]
    same = [
        each
        for each in mine
        if each.subject == fact.subject
        and each.relation != fact.relation
        and each.value not in known
    ]
    beside: list[Fact] = []
    if same and chance.random() < _SAME:
        beside.append(chance.choice(same))
    if alike and chance.random() < _ALIKE:
        beside.append(chance.choice(alike))
    rest = [each for each in others if each not in beside and each.relation != fact.relation]
    beside += chance.sample(rest, count)
    stated = [passage(each, chance) for each in beside]
    if told:
        stated.insert(0, passage(shown, chance))
    sentence = _sentence(stated[0], shown.value) if told else None
    where, asked = f"fact-{slug(fact)}", question(fact, chance)
    return _item(where, "", stated[:count], asked, sentence, shown.value, chance)


def _sentence(text: str, value: str) -> str:
    start, end = sentence_at(text, text.index(value))
    return text[start:end].strip()


def _about_handbook(
    split: Split, kind: str, subject: str, name: str, told: bool, count: int
) -> EvaluationItem:
    chance = Random(f"passages {subject} {name} {told}")
    details = {n: detail for n, detail in DETAILS[kind].items() if detail.everywhere}
    values = {n: chance.choice(detail.values) for n, detail in details.items()}
    stated = [n for n in details if n != name]
    chance.shuffle(stated)
    # One page tells it all, or some tell a part each, as a search in one handbook finds them.
    pages = min(count, 3, len(stated)) if chance.random() < _SAME else 1
    stated = stated[: chance.choice((2, 3)) if pages == 1 else len(stated)]
    if told:
        stated.insert(0, name)
    passages = [
        page(subject, {n: values[n] for n in _shuffled(stated[start::pages], chance)}, details)
        for start in range(pages)
    ]
    neighbours = [other for other in SUBJECTS[split][kind] if other != subject]
    if chance.random() < _ALIKE:
        beside = dict.fromkeys([name, stated[-1]])
        its = {n: chance.choice([v for v in details[n].values if v != values[n]]) for n in beside}
        passages.append(page(chance.choice(neighbours), its, details))
    others = [(k, s) for k, subjects in SUBJECTS[split].items() for s in subjects if k != kind]
    for other, stranger in chance.sample(others, count):
        tells = {n: detail for n, detail in DETAILS[other].items() if detail.everywhere}
        its = {n: chance.choice(tells[n].values) for n in chance.sample(list(tells), 3)}
        passages.append(page(stranger, its, tells))
    sentence = page(subject, {name: values[name]}, details) if told else None
    asked = details[name].question.format(s=subject)
    where = f"handbook-{subject.lower().replace(' ', '-')}-{name}"
    return _item(where, " of handbooks", passages[:count], asked, sentence, values[name], chance)


def _shuffled(names: Sequence[str], chance: Random) -> list[str]:
    return chance.sample(list(names), len(names))


def _item(
    where: str,
    whose: str,
    passages: list[str],
    asked: str,
    sentence: str | None,
    value: str,
    chance: Random,
) -> EvaluationItem:
    """Show passages in any order, the first of which tells the value where a sentence does."""
    chance.shuffle(passages)
    shown = chance.choice(LAYOUTS).format(context_str="\n\n".join(passages), query_str=asked)
    category = "unanswerable" if sentence is None else "gold"
    return EvaluationItem(
        id=f"{category}-passages-{where}",
        category=f"{category}, several passages{whose}",
        messages=(Message(role="user", content=shown),),
        good=sentence,
        accept=REFUSALS if sentence is None else (value,),
        reject=() if sentence is None else REFUSALS,
    )


def main() -> None:
    """Ask the model and write the data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DATA)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for split in ("dev", "test"):
        held_out = EvaluationSet(f"passages.{split}", prompts(split))
        held_out.to_jsonl(out / f"passages.{split}.jsonl")
    build = prompts("build")
    said = answer(SteerableHFLLM.smollm2(), build)
    write_answers(out / PASSAGES_LOG, logged(build, said, MODEL))


if __name__ == "__main__":
    main()
