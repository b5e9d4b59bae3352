"""Questions to SmolLM2 about handbooks: prices, hours, rules, people, of places that nobody knows.

``python -m experiments.handbooks`` asks the unsteered model and writes ``experiments/data``: the
log of its answers to the build prompts, and held-out sets. `experiments.questions` asks for facts
of the world, one value each, which the model may know. Here nothing can be known but what stands
there, and a question is of another kind: a test of what refusals learnt there are worth elsewhere.

``--prove VECTOR.safetensors`` asks the test prompts under a vector and its controls, as the step
`answer` of the policy steers. ``--learn FOLDER`` makes a vector in the way of `smollm2-documents`
from both logs, chooses its strength on prompts of both kinds, and asks both tests under it and
under the shipped one.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from rich.console import Console

from experiments import vectors
from experiments.facts import Split
from experiments.questions import DATA, LAYOUTS, MODEL, REFUSALS, answer, logged
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.chat.message import Message
from steerable_llm.evaluation.calibration import sweep
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.evaluation.report import Report
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.logs.answers import read_answers, write_answers
from steerable_llm.methods.build import build_vector
from steerable_llm.vector.vector import SteeringVector

SHIPPED = Path(__file__).resolve().parent.parent / "vectors"
LOG = "handbooks.answers.jsonl"
#: What is tried of the trained strength, on so many prompts of each kind of `experiments.questions`
#: beside all of dev here; and on how many of theirs it is tested.
_STRENGTHS, _DEV, _TEST = (0.6, 0.85, 1.0), 30, 100


@dataclass(frozen=True)
class Detail:
    """What a handbook may tell of its subject; `{s}` is the subject and `{v}` the value.

    Attributes:
        question: Asks for it.
        statement: States it.
        values: What it may be.
        everywhere: Whether it is asked in every split, or in test prompts alone.
    """

    question: str
    statement: str
    values: tuple[str, ...]
    everywhere: bool = True


_PEOPLE = ("Anna Keller", "Tom Brandt", "Lucy Moreau", "Peter Novak", "Sara Lindqvist")
_PRICES = ("4 euros", "7 euros", "12 euros", "15 euros", "28 euros")

#: Per kind of handbook, what it may tell.
DETAILS: dict[str, dict[str, Detail]] = {
    "place": {
        "opening": Detail(
            "When does {s} open on Saturdays?",
            "On Saturdays {s} opens at {v}.",
            ("seven o'clock", "nine o'clock", "ten o'clock", "noon"),
        ),
        "ticket": Detail(
            "How much does a ticket for {s} cost?", "A ticket for {s} costs {v}.", _PRICES
        ),
        "year": Detail(
            "In which year was {s} opened?",
            "{s} was opened in {v}.",
            ("1921", "1958", "1974", "1986", "2003"),
        ),
        "head": Detail("Who runs {s}?", "{s} is run by {v}.", _PEOPLE),
        "parking": Detail(
            "Where can visitors of {s} park?",
            "Visitors of {s} can park {v}.",
            ("behind the church", "next to the station", "in Oak Street", "at the town hall"),
        ),
        "phone": Detail(
            "What is the phone number of {s}?",
            "The phone number of {s} is {v}.",
            ("555 0142", "555 0178", "555 0163", "555 0119"),
            everywhere=False,
        ),
        "bus": Detail(
            "Which bus stops at {s}?",
            "{v} stops at {s}.",
            ("Bus 14", "Bus 27", "Bus 31", "Bus 8"),
            everywhere=False,
        ),
    },
    "game": {
        "players": Detail(
            "How many people can play {s}?",
            "Up to {v} people can play {s}.",
            ("four", "five", "six", "eight"),
        ),
        "length": Detail(
            "How long does a game of {s} take?",
            "A game of {s} takes about {v}.",
            ("20 minutes", "40 minutes", "90 minutes", "two hours"),
        ),
        "inventor": Detail("Who invented {s}?", "{s} was invented by {v}.", _PEOPLE),
        "price": Detail("How much does {s} cost?", "In shops {s} costs {v}.", _PRICES),
        "cards": Detail(
            "How many cards does each player of {s} start with?",
            "Each player of {s} starts with {v} cards.",
            ("three", "five", "seven", "nine"),
            everywhere=False,
        ),
        "age": Detail(
            "From what age can children play {s}?",
            "Children can play {s} from the age of {v}.",
            ("6", "8", "10", "12"),
            everywhere=False,
        ),
    },
    "device": {
        "warranty": Detail(
            "How long is the warranty of {s}?",
            "The warranty of {s} lasts {v}.",
            ("one year", "two years", "three years", "five years"),
        ),
        "weight": Detail(
            "How heavy is {s}?", "{s} weighs {v}.", ("2 kilograms", "3 kilograms", "9 kilograms")
        ),
        "colour": Detail(
            "Which colour is {s} sold in?", "{s} is sold in {v}.", ("green", "white", "dark blue")
        ),
        "battery": Detail(
            "How long does the battery of {s} last?",
            "The battery of {s} lasts {v}.",
            ("6 hours", "11 hours", "30 hours"),
        ),
        "repair": Detail("Who repairs {s}?", "{s} is repaired by {v}.", _PEOPLE, everywhere=False),
        "temperature": Detail(
            "How hot does {s} get?",
            "{s} gets as hot as {v}.",
            ("60 degrees", "85 degrees", "120 degrees"),
            everywhere=False,
        ),
    },
}

#: Made up, so that all that can be known of them stands in the handbook.
SUBJECTS: dict[Split, dict[str, tuple[str, ...]]] = {
    "build": {
        "place": ("the Alder Street library", "Northgate Pool", "the Mill Lane museum",
                  "Fernhill Campsite"),
        "game": ("Copper Valley", "Seven Lanterns", "Night Ferry", "Owl and Anchor"),
        "device": ("the Brevo kettle", "the Tallin lamp", "the Quill printer", "the Osk heater"),
    },
    "dev": {
        "place": ("the Quay Street gallery", "Brook Farm Zoo", "the Elm Road gym"),
        "game": ("Salt Road", "Paper Kingdoms", "Fox Harvest"),
        "device": ("the Merlo toaster", "the Finch radio", "the Dunn mower"),
    },
    "test": {
        "place": ("the Castle Hill theatre", "Lakeside Sauna", "the Old Mint archive",
                  "Birch Park Rink", "the Weaver Lane market", "Southbank Observatory"),
        "game": ("Iron Meadow", "Three Tides", "Glass Harbour", "The Ninth Courier",
                 "Amber Roads", "Stone Orchard"),
        "device": ("the Kestrel drill", "the Nova blender", "the Harrow iron", "the Pike camera",
                   "the Solen oven", "the Wren vacuum cleaner"),
    },
}  # fmt: skip
_STATED = 3  # details that a handbook tells of its subject


def prompts(split: Split) -> list[EvaluationItem]:
    """Ask every handbook of a split for each detail: once where it tells it, once where not.

    Half of those that do not tell it have a second passage, about another subject of the kind,
    which does.
    """
    found = []
    for kind, details in DETAILS.items():
        asked = {n: d for n, d in details.items() if d.everywhere or split == "test"}
        for subject in SUBJECTS[split][kind]:
            for name in asked:
                for told in (True, False):
                    found.append(_item(split, kind, subject, name, asked, told))
    return found


def _item(
    split: Split, kind: str, subject: str, name: str, details: dict[str, Detail], told: bool
) -> EvaluationItem:
    chance = Random(f"{subject} {name} {told}")
    others = [other for other in details if other != name]
    chance.shuffle(others)
    stated = [name, *others[: _STATED - 1]] if told else others[:_STATED]
    chance.shuffle(stated)
    values = {other: chance.choice(details[other].values) for other in stated}
    passages = [_passage(subject, values, details)]
    if chance.random() < 0.5:
        neighbour = chance.choice([s for s in SUBJECTS[split][kind] if s != subject])
        beside = dict.fromkeys([name, *others[:1]])
        its = {
            n: chance.choice([v for v in details[n].values if v != values.get(n)]) for n in beside
        }
        passages.append(_passage(neighbour, its, details))
        chance.shuffle(passages)
    question = details[name].question.format(s=subject)
    layout = chance.choice(LAYOUTS)
    shown = layout.format(context_str="\n\n".join(passages), query_str=question)
    category = "gold" if told else "unanswerable"
    slug = subject.lower().replace(" ", "-")
    return EvaluationItem(
        id=f"{category}-handbook-{slug}-{name}",
        category=category,
        messages=(Message(role="user", content=shown),),
        accept=(values[name],) if told else REFUSALS,
        reject=REFUSALS if told else (),
    )


def _passage(subject: str, values: dict[str, str], details: dict[str, Detail]) -> str:
    said = [details[name].statement.format(s=subject, v=value) for name, value in values.items()]
    return " ".join(text[0].upper() + text[1:] for text in said)


def prove(llm: SteerableHFLLM, vector: SteeringVector) -> Report:
    """Ask the test prompts, with a vector and its controls."""
    test = EvaluationSet("handbooks.test", prompts("test"))
    return evaluate(llm, vector, test, settings=replace(_settings(), against=vectors.ALWAYS))


def learn(llm: SteerableHFLLM, folder: Path) -> list[Report]:
    """Make a vector from both logs, and ask both tests under it and under the shipped one."""
    documents, settings = vectors.BEHAVIOURS["documents"], _settings()
    log = [*read_answers(DATA / "answers.jsonl"), *read_answers(DATA / LOG)]
    ground = vectors.ground_of(llm, "faithfulness", folder / "ground", progress=True)
    config = {**documents.config, "onto": (ground.as_posix(),)}
    vector = build_vector(llm, documents.pairs(log), "bipo", "documents-and-handbooks", **config)
    facts = vectors.held_out(documents, "dev").sample(_DEV)
    dev = EvaluationSet("documents and handbooks, dev", [*facts, *prompts("dev")])
    found = sweep(
        llm,
        vector,
        dev,
        vectors.capability("dev"),
        strengths=_STRENGTHS,
        controls=False,
        settings=settings,
    )
    found.vector.save(folder / "documents-and-handbooks.safetensors")
    shipped = SteeringVector.load(SHIPPED / "smollm2-documents.safetensors", llm)
    against = replace(settings, against=("none", shipped))
    tests = (
        EvaluationSet("handbooks.test", prompts("test")),
        vectors.held_out(documents, "test").sample(_TEST),
    )
    reports = [evaluate(llm, found.vector, test, settings=against) for test in tests]
    for report, test in zip(reports, tests, strict=True):
        report.save(folder / f"{test.name}.json")
    return reports


def _settings() -> EvaluationSettings:
    policy = vectors.policy_of("answer", SHIPPED)
    return EvaluationSettings(target="unanswerable", policy=policy, step="answer", random_vectors=1)


def main() -> None:
    """Ask the model and write the data, or see what vectors are worth on them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the data")
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--prove", type=Path, metavar="VECTOR", help="ask the test prompts under it")
    task.add_argument("--learn", type=Path, metavar="FOLDER", help="learn from both logs")
    given = parser.parse_args()
    llm, console = SteerableHFLLM.smollm2(), Console()
    if given.prove is not None:
        console.print(prove(llm, SteeringVector.load(given.prove, llm)).page())
        return
    if given.learn is not None:
        given.learn.mkdir(parents=True, exist_ok=True)
        for report in learn(llm, given.learn):
            console.print(report.page())
        return
    given.out.mkdir(parents=True, exist_ok=True)
    for split in ("dev", "test"):
        held_out = EvaluationSet(f"handbooks.{split}", prompts(split))
        held_out.to_jsonl(given.out / f"handbooks.{split}.jsonl")
    build = prompts("build")
    write_answers(given.out / LOG, logged(build, answer(llm, build), MODEL))


if __name__ == "__main__":
    main()
