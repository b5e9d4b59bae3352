"""The lesson that teaches reading fastest: several questions in a row about one set of passages.

One prompt with four passages and four answered questions practises copying four times for little
more than the price of one, and passages on one matter about several subjects leave the model no
way round telling the subjects apart.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from exhibit.examples import (
    DOCUMENT_OPENINGS,
    Example,
    civility,
    closed_book,
    condense,
    conflict,
    gold,
    irrelevant,
    myth,
    reading,
    unanswerable,
    wordings,
)
from exhibit.facts import RELATIONS, Relation
from exhibit.passages import draw_system
from exhibit.prompts import chat, document_prompt, voice
from steerable_llm.chat.phrases import occurs


def dictation(rng: Random, *, held_out: bool = False, reworded: bool = False) -> Example:
    """A few unheard-of names and values in a row, to be said back word for word."""
    items: list[str] = []
    for relation in rng.choices(RELATIONS, k=rng.randint(2, 6)):
        draw = relation.entity if rng.random() < 0.5 else relation.value
        items.append(draw(rng, held_out=held_out))
    text = ", ".join(items)
    request = _REQUESTS[-1] if reworded else rng.choice(_REQUESTS[:-1])
    user = request.format(text=text)
    return Example(
        "dictation", chat(user), ((text, 1.0),), text, None, (text,), (), f"dictation-{text}"
    )


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
    """Draw relation, entity and value of each passage; half of the time all of one relation.

    No value is another's, and none is a part of a subject: each stands in one passage only.
    """
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
        subjects = {entity, *(name for _, name in found)}
        read_once = not any(occurs(v, name) for v in {value, *values} for name in subjects)
        if (relation.name, entity) not in found and value not in values and read_once:
            found[relation.name, entity] = (relation, entity, value)
            values.add(value)
    return list(found.values())


# Which lessons the bundled model gets in which phase of its training.

#: Every lesson with its share of the training examples in each phase: first mostly reading, which
#: comes late and all at once, and then everything.
LESSONS: dict[str, tuple[Callable[..., Example], tuple[float, float]]] = {
    "dictation": (dictation, (0.12, 0.02)),
    "dialogue": (dialogue, (0.40, 0.23)),
    "reading": (reading, (0.10, 0.15)),
    "closed_book": (closed_book, (0.08, 0.10)),
    "conflict": (conflict, (0.10, 0.17)),
    "gold": (gold, (0.03, 0.04)),
    "irrelevant": (irrelevant, (0.04, 0.06)),
    "unanswerable": (unanswerable, (0.04, 0.08)),
    "civility": (civility, (0.03, 0.06)),
    "myth": (myth, (0.03, 0.07)),
    "condense": (condense, (0.03, 0.02)),
}


#: How many passages a dialogue has in each phase.
_PASSAGES = ((1, 2, 2, 3), (2, 2, 3, 4))


def training_example(rng: Random, phase: int = 0) -> Example:
    """Draw one lesson of a phase of training (0 or 1)."""
    makers = [maker for maker, _ in LESSONS.values()]
    shares = [share[phase] for _, share in LESSONS.values()]
    maker = rng.choices(makers, shares)[0]
    if maker is dialogue:
        return dialogue(rng, passages=rng.choice(_PASSAGES[phase]))
    return maker(rng)


# The lesson before reading: names and values said back in the order in which they came.

# The last is held out of training.
_REQUESTS = (
    "Say this back: {text}",
    "Read this back to me: {text}",
    "{text}\nRepeat the text.",
    "Repeat after me: {text}",
)
