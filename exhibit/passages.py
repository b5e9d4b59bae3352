"""What stands around a question over documents: the passages, and the system message."""

from __future__ import annotations

from random import Random

from exhibit.facts import RELATIONS, Relation
from exhibit.prompts import system_message, voice

#: Log-odds that a strict instruction adds to keeping to the documents.
STRICT_PUSH = 0.55


def draw_system(rng: Random, *, strict: bool | None, reworded: bool) -> tuple[str | None, float]:
    """Draw the system message of a request with documents and what it adds to the odds."""
    if strict is None:
        kind = rng.choice(("none", "none", "neutral", "strict"))
    else:
        kind = "strict" if strict else rng.choice(("none", "none", "neutral"))
    if kind == "none":
        return None, 0.0
    text = system_message(rng, strict=kind == "strict", held_out=reworded)
    return text, STRICT_PUSH if kind == "strict" else 0.0


def _other_passages(
    rng: Random,
    relation: Relation,
    entity: str,
    count: int,
    *,
    unlike: str | None,
    held_out: bool,
    reworded: bool,
) -> list[tuple[str, float]]:
    """Passages that do not answer the question, each with how little it resembles an answer."""
    kin = [r for r in RELATIONS if r.entity is relation.entity and r is not relation]
    rest = [r for r in RELATIONS if r is not relation]
    passages = []
    for _ in range(count):
        # Another matter about the same subject comes nearer to an answer than anything else. What
        # is asked, about another subject, would come nearer still: only dialogues practise that,
        # since the model tells subjects apart less surely than matters (its card has the rate).
        if kin and rng.random() < 0.5:
            other, about, nearness = rng.choice(kin), entity, -0.5
        else:
            other, nearness = rng.choice(rest), 0.5
            about = other.entity(rng, held_out=held_out)
        value = unlike
        while value is None or value == unlike:
            value = other.value(rng, held_out=held_out)
        opening, _ = voice(rng, held_out=reworded)
        passages.append((opening + other.passage(rng, about, value, held_out=reworded), nearness))
    return passages


def question_and_passages(
    rng: Random,
    relation: Relation,
    entity: str,
    answer: str | None,
    *,
    held_out: bool,
    reworded: bool,
    others: int | None = None,
    kept: str | None = None,
) -> tuple[str, list[str], float]:
    """Return question, passages and how far their voices speak for the documents."""
    question = relation.question(rng, entity, held_out=reworded, kept=kept)
    if others is None:
        others = rng.choices((0, 1, 2, 3), (0.3, 0.3, 0.25, 0.15))[0]
    if answer is None:
        rest = _other_passages(
            rng,
            relation,
            entity,
            max(1, others),
            unlike=None,
            held_out=held_out,
            reworded=reworded,
        )
        return question, [text for text, _ in rest], min(near for _, near in rest)
    opening, trust = voice(rng, held_out=reworded)
    passages = [opening + relation.passage(rng, entity, answer, held_out=reworded)]
    passages += [
        text
        for text, _ in _other_passages(
            rng, relation, entity, others, unlike=answer, held_out=held_out, reworded=reworded
        )
    ]
    rng.shuffle(passages)
    return question, passages, trust
