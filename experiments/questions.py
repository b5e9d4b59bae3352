"""Questions to SmolLM2 about facts it knows, with documents, and how its answers are judged.

``python -m experiments.questions`` asks the unsteered model and writes ``experiments/data``:
the log of its answers to the build prompts, with a reviewer's verdicts by value, and held-out sets.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import get_args

from llama_index.core.prompts.default_prompts import DEFAULT_TEXT_QA_PROMPT_TMPL

from experiments.complaints import APOLOGIES, DEFLECTIONS, complaints, requests
from experiments.facts import Fact, Split, facts, other_value, passage, question
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.chat.message import Message
from steerable_llm.chat.phrases import occurs
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.logs.answers import LoggedAnswer, asked, write_answers

DATA = Path(__file__).parent / "data"
MAX_NEW_TOKENS = 24
BATCH = 48
MODEL = "SmolLM2-135M-Instruct"

#: How prompts show documents: LangChain's usual one and LlamaIndex's own in every split ...
LAYOUTS = (
    "Answer the question based only on the following context:\n{context_str}\n\n"
    "Question: {query_str}",
    DEFAULT_TEXT_QA_PROMPT_TMPL,
)
#: ... and one that stands in test prompts alone, with a system message.
OTHER_SYSTEM = "You answer questions from the documents that you are shown."
OTHER_LAYOUT = "Documents:\n{context_str}\n\n{query_str}"

REFUSAL = "I cannot find this in the documents."
#: What an answer says that gives no value; short forms, since a judge of words needs no more.
REFUSALS = (
    "cannot find",
    "cannot be found",
    "can't find",
    "could not find",
    "not found",
    "not mentioned",
    "not explicitly mentioned",
    "not stated",
    "not explicitly stated",
    "not specified",
    "not provided",
    "not given",
    "not contain",
    "not include",
    "not mention",
    "not say",
    "not state",
    "not specify",
    "not provide",
    "not explicitly",
    "doesn't mention",
    "doesn't say",
    "doesn't provide",
    "doesn't contain",
    "no information",
    "no mention",
    "not enough information",
    "don't know",
    "do not know",
    "cannot answer",
    "cannot be answered",
    "unable to",
)


def prompts(split: Split, known: Iterable[Fact]) -> dict[str, list[EvaluationItem]]:
    """Write the prompts of a split, by category.

    Two conflicts for each known fact (and for test one more, in another layout), what a document
    says of facts known or not, and questions that the document shown does not answer: it is about
    another subject, or tells something else of this one.

    Args:
        split: Whose subjects to ask about.
        known: Facts that the model tells without any document.
    """
    mine = [fact for fact in facts() if fact.split == split]
    sure = [fact for fact in known if fact.split == split]
    most = {"build": 120, "dev": 90, "test": 240}[split]
    found = {
        "conflict": [_conflict(fact, k) for k in (0, 1) for fact in sure],
        "gold": [_gold(fact, mine) for fact in _some(mine, most, "gold")],
        "unanswerable": [unanswerable(fact, mine) for fact in _some(mine, most, "unanswerable")],
    }
    if split == "test":
        found["other layout"] = [_conflict(fact, 2) for fact in sure]
    return found


def closed_book(split: Split, known: Iterable[Fact]) -> list[EvaluationItem]:
    """Ask for the known facts of a split without any document."""
    return [
        EvaluationItem(
            id=f"closed-book-{slug(fact)}",
            category="closed_book",
            messages=(Message(role="user", content=ask_plainly(fact)),),
            accept=(fact.value,),
        )
        for fact in known
        if fact.split == split
    ]


def ask_plainly(fact: Fact) -> str:
    """Ask for a fact, the same way every time."""
    return question(fact, Random(f"closed {fact}"))


def civility(split: Split, most: int) -> list[EvaluationItem]:
    """Return so many complaints of a split, with what a civil reply says and does not say."""
    return [
        EvaluationItem(
            id=f"civility-{split}-{number}",
            category="civility",
            messages=(Message(role="user", content=complaint),),
            good=reply,
            accept=APOLOGIES,
            reject=DEFLECTIONS,
        )
        for number, (complaint, reply) in enumerate(complaints(split)[:most])
    ]


def polite(split: Split, most: int) -> list[EvaluationItem]:
    """Return so many polite requests of a split; there is nothing to apologise for."""
    return [
        EvaluationItem(
            id=f"polite-{split}-{number}",
            category="polite",
            messages=(Message(role="user", content=request),),
            reject=APOLOGIES,
        )
        for number, request in enumerate(requests(split)[:most])
    ]


def _conflict(fact: Fact, variant: int) -> EvaluationItem:
    chance = Random(f"conflict {variant} {fact}")
    value = other_value(fact, chance)
    shown = Fact(fact.relation, fact.subject, value)
    others = [each for each in facts() if _elsewhere(each, fact) and each.split == fact.split]
    return EvaluationItem(
        id=f"conflict-{variant}-{slug(fact)}",
        category="conflict" if variant < 2 else "other layout",
        messages=_messages(_documents(shown, others, chance), fact, chance, variant == 2),
        accept=(value,),
        reject=(fact.value,),
    )


def _gold(fact: Fact, mine: Sequence[Fact]) -> EvaluationItem:
    chance = Random(f"gold {fact}")
    others = [each for each in mine if _elsewhere(each, fact)]
    return EvaluationItem(
        id=f"gold-{slug(fact)}",
        category="gold",
        messages=_messages(_documents(fact, others, chance), fact, chance),
        accept=(fact.value,),
        reject=REFUSALS,
    )


def unanswerable(fact: Fact, mine: Sequence[Fact]) -> EvaluationItem:
    """Ask for a fact over documents about another subject, or with another fact of this one."""
    chance = Random(f"unanswerable {fact}")
    same = [f for f in mine if f.subject == fact.subject and f.relation != fact.relation]
    alike = [f for f in mine if f.relation == fact.relation and _elsewhere(f, fact)]
    shown = chance.choice(same if same and chance.random() < 0.5 else alike)
    others = [each for each in mine if _elsewhere(each, fact) and _elsewhere(each, shown)]
    return EvaluationItem(
        id=f"unanswerable-{slug(fact)}",
        category="unanswerable",
        messages=_messages(_documents(shown, others, chance), fact, chance),
        accept=REFUSALS,
        reject=(fact.value,),
    )


def _elsewhere(fact: Fact, other: Fact) -> bool:
    """Whether a fact says nothing about the other's subject or value."""
    mine, theirs = {fact.subject, fact.value}, {other.subject, other.value}
    return not mine & theirs


def _documents(fact: Fact, others: Sequence[Fact], chance: Random) -> str:
    """One passage, or two of which the other is about something else."""
    told = passage(fact, chance)
    if chance.random() < 0.6:
        return told
    both = [told, passage(chance.choice(others), chance)]
    chance.shuffle(both)
    return "\n\n".join(both)


def _messages(
    documents: str, fact: Fact, chance: Random, other_layout: bool = False
) -> tuple[Message, ...]:
    asked = question(fact, chance)
    layout = OTHER_LAYOUT if other_layout else chance.choice(LAYOUTS)
    user = Message(role="user", content=layout.format(context_str=documents, query_str=asked))
    return (Message(role="system", content=OTHER_SYSTEM), user) if other_layout else (user,)


def _some(mine: Sequence[Fact], most: int, why: str) -> list[Fact]:
    return Random(why).sample(list(mine), min(most, len(mine)))


def slug(fact: Fact) -> str:
    """Name a fact in an id."""
    words = f"{fact.relation} {fact.subject}".lower()
    return "".join(letter if letter.isalnum() else "-" for letter in words)


def answer(llm: SteerableHFLLM, items: Sequence[EvaluationItem]) -> list[str]:
    """Answer prompts without steering."""
    order = sorted(range(len(items)), key=lambda i: len(items[i].question))
    requests = [
        GenerationRequest(items[i].messages, max_new_tokens=MAX_NEW_TOKENS, temperature=0.0)
        for i in order
    ]
    results = llm.generate_batch(requests, BATCH)
    said = {i: result.text for i, result in zip(order, results, strict=True)}
    return [said[i] for i in range(len(items))]


def known_facts(llm: SteerableHFLLM) -> list[Fact]:
    """Return the facts that the model tells without any document."""
    every = facts()
    items = [item for split in get_args(Split) for item in closed_book(split, every)]
    said = dict(zip((item.id for item in items), answer(llm, items), strict=True))
    return [fact for fact in every if occurs(fact.value, said[f"closed-book-{slug(fact)}"])]


#: What is said to users, not to documents.
REPLIES = ("civility", "polite", "closed_book")


def logged(
    items: Iterable[EvaluationItem], answers: Iterable[str], model: str
) -> Iterator[LoggedAnswer]:
    """Judge answers by their value, and correct the bad ones as briefly as people do."""
    reasons = {"conflict": "contradicts", "unanswerable": "should have refused",
               "gold": "missed the answer", "civility": "rude"}  # fmt: skip
    for item, said in zip(items, answers, strict=True):
        good = item.succeeds(said)
        corrections = {"unanswerable": REFUSAL, "civility": item.good, "polite": None}
        kind = item.category.partition(",")[0]
        wanted = corrections.get(kind, item.good or next(iter(item.accept), None))
        yield LoggedAnswer.model_validate(
            {
                "id": item.id,
                "question": asked(None, item.messages),
                "messages": item.messages,
                "answer": said,
                "verdict": "good" if good else "bad",
                "reason": None if good else reasons.get(kind),
                "correction": None if good else wanted,
                "step": "reply" if item.category in REPLIES else "answer",
                "model": model,
                "label_source": "value",
            }
        )


def main() -> None:
    """Ask the model and write the data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DATA)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    llm = SteerableHFLLM.smollm2()
    known = known_facts(llm)
    build = [item for items in prompts("build", known).values() for item in items]
    build += [*civility("build", 150), *polite("build", 96), *closed_book("build", known)]
    said = answer(llm, build)
    write_answers(out / "answers.jsonl", logged(build, said, MODEL))
    held_out: tuple[tuple[Split, int, int], ...] = (("dev", 90, 60), ("test", 240, 120))
    for split, angry, kind in held_out:
        by_category = prompts(split, known)
        documents = [item for items in by_category.values() for item in items]
        EvaluationSet("documents", documents).to_jsonl(out / f"documents.{split}.jsonl")
        EvaluationSet("civility", [*civility(split, angry), *polite(split, kind)]).to_jsonl(
            out / f"civility.{split}.jsonl"
        )
        EvaluationSet("capability", closed_book(split, known)).to_jsonl(
            out / f"capability.{split}.jsonl"
        )


if __name__ == "__main__":
    main()
