"""Questions to SmolLM2 about handbooks: prices, hours, rules, people, of places that nobody knows.

``python -m experiments.handbooks`` writes the held-out sets into ``experiments/data``.
`experiments.questions` asks for facts of the world, one value each, which the model may know. Here
nothing can be known but what stands there, and questions are of other kinds. Some kinds of handbook
stand in dev or in test alone: what is learnt from a log (`experiments.passages` asks the build
prompts) is asked there of kinds that it has not seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

from experiments.facts import Split
from experiments.handbook_details import DETAILS, SUBJECTS, Detail, page
from experiments.questions import DATA, LAYOUTS, REFUSALS
from steerable_llm.chat.message import Message
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet

#: Kinds that test prompts ask for each detail of, and that tell just three.
FIRST = ("place", "game", "device")
_STATED = 3
#: Of the others, so many details of a subject are asked for (all, where the kind cannot be learnt),
#: and so many are told.
_ASKED: dict[Split, int] = {"dev": 2, "test": 3}
_TOLD = (3, 4, 5)


def prompts(split: Split) -> list[EvaluationItem]:
    """Ask the handbooks of a split for details: once where it tells one, once where not.

    Half of them have a second passage, about another subject of the kind, which tells it.
    """
    found = []
    for kind, details in DETAILS.items():
        asked = {n: d for n, d in details.items() if d.everywhere or split == "test"}
        for subject in SUBJECTS[split].get(kind, ()):
            chance = Random(f"{split} {subject}")
            every = kind in FIRST or kind not in SUBJECTS["build"]
            for name in asked if every else chance.sample(list(asked), _ASKED[split]):
                stated = _STATED if kind in FIRST else min(chance.choice(_TOLD), len(asked) - 1)
                for told in (True, False):
                    found.append(_item(split, kind, subject, name, asked, told, stated))
    return found


def _item(
    split: Split,
    kind: str,
    subject: str,
    name: str,
    details: dict[str, Detail],
    told: bool,
    number: int,
) -> EvaluationItem:
    chance = Random(f"{subject} {name} {told}")
    others = [other for other in details if other != name]
    chance.shuffle(others)
    stated = [name, *others[: number - 1]] if told else others[:number]
    chance.shuffle(stated)
    values = {other: chance.choice(details[other].values) for other in stated}
    passages = [page(subject, values, details)]
    if chance.random() < 0.5:
        neighbour = chance.choice([s for s in SUBJECTS[split][kind] if s != subject])
        beside = dict.fromkeys([name, *others[:1]])
        its = {
            n: chance.choice([v for v in details[n].values if v != values.get(n)]) for n in beside
        }
        passages.append(page(neighbour, its, details))
        chance.shuffle(passages)
    question = details[name].question.format(s=subject)
    layout = chance.choice(LAYOUTS)
    shown = layout.format(context_str="\n\n".join(passages), query_str=question)
    category = "gold" if told else "unanswerable"
    learnt = kind in SUBJECTS["build"]
    slug = subject.lower().replace(" ", "-")
    return EvaluationItem(
        id=f"{category}-handbook-{slug}-{name}",
        category=f"{category}, {'handbook' if learnt else 'new kind'}",
        messages=(Message(role="user", content=shown),),
        good=page(subject, {name: values[name]}, details) if told else None,
        accept=(values[name],) if told else REFUSALS,
        reject=REFUSALS if told else (),
    )


def main() -> None:
    """Write the held-out sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DATA)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for split in ("dev", "test"):
        EvaluationSet(f"handbooks.{split}", prompts(split)).to_jsonl(
            out / f"handbooks.{split}.jsonl"
        )


if __name__ == "__main__":
    main()
