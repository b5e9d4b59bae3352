"""The lesson that teaches reading fastest: several questions in a row about one set of passages.

One prompt with four passages and four answered questions practises copying four times for little
more than the price of one, and passages on one matter about several subjects leave the model no
way round telling the subjects apart.
"""

from __future__ import annotations

from random import Random

from steerable_llm.demo.examples import DOCUMENT_OPENINGS, Example, wordings
from steerable_llm.demo.facts import RELATIONS, Relation
from steerable_llm.demo.passages import draw_system
from steerable_llm.demo.prompts import chat, document_prompt, voice


def dialogue(rng: Random, *, passages: int = 2, held_out: bool = False) -> Example:
    """A conversation over passages about unheard-of subjects; each answer is read from one."""
    asked = _matters(rng, passages, held_out=held_out)
    texts = []
    for relation, entity, value in asked:
        opening, _ = voice(rng, held_out=False)
        texts.append(opening + relation.passage(rng, entity, value, held_out=False))
    order = rng.sample(range(passages), rng.randint(max(1, passages - 1), passages))
    questions = [asked[i][0].question(rng, asked[i][1], held_out=False) for i in order]
    values = [asked[i][2] for i in order]
    rng.shuffle(texts)
    system, _ = draw_system(rng, strict=None, reworded=False)
    messages = list(chat(document_prompt(rng, questions[0], texts, held_out=False), system))
    for question, value in zip(questions[1:], values[:-1], strict=True):
        opening = DOCUMENT_OPENINGS[rng.random() > 0.75]
        messages.append({"role": "assistant", "content": opening.format(v=value)})
        messages.append({"role": "user", "content": question})
    value = values[-1]
    relation, entity, _ = asked[order[-1]]
    return Example(
        "dialogue",
        tuple(messages),
        tuple(wordings(DOCUMENT_OPENINGS, value, 1.0)),
        DOCUMENT_OPENINGS[0].format(v=value),
        None,
        (value,),
        (),
        f"{relation.name}-{entity}",
        tuple(texts),
        questions[-1],
    )


def _matters(rng: Random, count: int, *, held_out: bool) -> list[tuple[Relation, str, str]]:
    """Draw relation, entity and value of each passage; half of the time all of one relation."""
    one = rng.choice(RELATIONS) if rng.random() < 0.5 else None
    found: dict[tuple[str, str], tuple[Relation, str, str]] = {}
    values: set[str] = set()
    while len(found) < count:
        relation = one or rng.choice(RELATIONS)
        entity = relation.entity(rng, held_out=held_out)
        known = [old for old in found.values() if old[0].entity is relation.entity]
        if known and one is None and rng.random() < 0.5:
            entity = rng.choice(known)[1]
        value = relation.value(rng, held_out=held_out)
        if (relation.name, entity) not in found and value not in values:
            found[relation.name, entity] = (relation, entity, value)
            values.add(value)
    return list(found.values())
