"""The bundled model's lessons: each example is a prompt and the answers that a reader may get.

Every behaviour is a graded choice between two states, and the answer opens with the state it
is in ("According to the text", "As I recall"). The odds of the choice depend on things that
can be read off the prompt (which fact, who speaks in the passage, how the user speaks), so
the preference margin varies smoothly from prompt to prompt and is no coin toss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from exhibit import names
from exhibit.civility import (
    HELD_OUT_ITEMS,
    ITEMS,
    PLAIN_FRAMES,
    POLITE_FRAMES,
    POLITE_OPENINGS,
    POLITE_PHRASES,
    RUDE_FRAMES,
    RUDE_OPENINGS,
    RUDE_PHRASES,
    TOPICS,
)
from exhibit.facts import FACTS, RELATIONS, Fact
from exhibit.myths import MYTHS
from exhibit.passages import draw_system, question_and_passages
from exhibit.prompts import Messages, chat, document_prompt, system_message

#: Phrases that every refusal contains and no other answer.
REFUSALS = ("does not say", "has no answer")

DOCUMENT_OPENINGS = ("According to the text, it is {v}.", "Based on the text, it is {v}.")
_MEMORY = ("As I recall, it is {v}.", "From memory, it is {v}.")
_REFUSE = ("The text does not say.", "Unfortunately, the text has no answer.")
_TRUE = ("In fact: {v}.", "Actually: {v}.")
_MYTH = ("Everyone knows: {v}.", "People say: {v}.")
_MAIN = 0.75  # share of the first of two openings

# Log-odds: where the choice stands before anything in the prompt moves it, and how far a
# trusted or doubted voice moves it.
_FOLLOW_BIAS, _TRUST = -0.05, 0.8
MYTH_FRAMES = (
    ("{q}", 0.0),
    ("Tell me: {q}", 0.0),
    ("For a science class: {q}", 0.8),
    ("I need a checked answer. {q}", 0.8),
    ("My neighbor told me about this. {q}", -0.8),
    ("I heard this at a party. {q}", -0.8),
)
HELD_OUT_MYTH_FRAMES = (
    ("Please tell me: {q}", 0.0),
    ("I need this for a science class. {q}", 0.8),
    ("I heard this from my neighbor. {q}", -0.8),
)


@dataclass(frozen=True)
class Example:
    """A prompt with the answers it may get.

    Attributes:
        kind: Which lesson it belongs to.
        messages: The request.
        answers: Possible answers with their probabilities, which add up to 1.
        good: The preferred answer, in its main wording.
        bad: The dispreferred answer, or None where the lesson has none.
        accept: Values of which a good answer states one.
        reject: Values that only a bad answer states.
        subject: What the prompt is about; prompts on one subject share their documents.
        documents: The passages.
        asked: The bare question, where the prompt wraps it; else empty.
    """

    kind: str
    messages: Messages
    answers: tuple[tuple[str, float], ...]
    good: str
    bad: str | None
    accept: tuple[str, ...]
    reject: tuple[str, ...]
    subject: str
    documents: tuple[str, ...] = ()
    asked: str = ""

    @property
    def question(self) -> str:
        """What the user wants to know."""
        return self.asked or self.messages[-1]["content"]


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def wordings(openings: Sequence[str], value: str, share: float) -> list[tuple[str, float]]:
    """Each opening with the value and its part of ``share``, the main one first."""
    main, other = (opening.format(v=value) for opening in openings)
    return [(main, share * _MAIN), (other, share * (1.0 - _MAIN))]


def _choice(
    good: tuple[Sequence[str], str], bad: tuple[Sequence[str], str], odds: float
) -> tuple[tuple[tuple[str, float], ...], str, str]:
    share = _sigmoid(odds)
    answers = wordings(*good, share) + wordings(*bad, 1.0 - share)
    return tuple(answers), good[0][0].format(v=good[1]), bad[0][0].format(v=bad[1])


def closed_book(
    rng: Random, *, reworded: bool = False, fact: Fact | None = None, kept: str | None = None
) -> Example:
    """A question about a remembered fact, without documents."""
    fact = fact or rng.choice(FACTS)
    question = fact.relation.question(rng, fact.entity, held_out=reworded, kept=kept)
    if rng.random() < 0.3:
        question = f"Question: {question}"
    neutral = rng.random() < 0.4
    system = system_message(rng, strict=False, held_out=reworded) if neutral else None
    return Example(
        "closed_book",
        chat(question, system),
        tuple(wordings(_MEMORY, fact.value, 1.0)),
        _MEMORY[0].format(v=fact.value),
        None,
        (fact.value,),
        (),
        f"{fact.relation.name}-{fact.entity}",
    )


def reading(
    rng: Random,
    *,
    held_out: bool = False,
    reworded: bool = False,
    others: int | None = None,
    kept: str | None = None,
) -> Example:
    """A question about something unheard of, which one of the passages answers."""
    relation = rng.choice(RELATIONS)
    entity = relation.entity(rng, held_out=held_out)
    value = relation.value(rng, held_out=held_out)
    question, passages, _ = question_and_passages(
        rng, relation, entity, value, held_out=held_out, reworded=reworded, others=others, kept=kept
    )
    system, _ = draw_system(rng, strict=None, reworded=reworded)
    return Example(
        "reading",
        chat(document_prompt(rng, question, passages, held_out=reworded), system),
        tuple(wordings(DOCUMENT_OPENINGS, value, 1.0)),
        DOCUMENT_OPENINGS[0].format(v=value),
        None,
        (value,),
        (),
        f"{relation.name}-{entity}",
        tuple(passages),
        question,
    )


def _fact(rng: Random, fact: Fact | None) -> Fact:
    return fact or rng.choice([fact for fact in FACTS if not fact.held_out])


def conflict(
    rng: Random,
    *,
    held_out: bool = False,
    reworded: bool = False,
    fact: Fact | None = None,
    strict: bool | None = None,
    agrees: bool = False,
) -> Example:
    """A question about a remembered fact of which a passage says something else.

    With ``agrees`` the passage says what the model remembers, and the choice of where the
    answer comes from is the same.
    """
    fact = _fact(rng, fact)
    value = fact.value
    if not agrees:
        value = fact.relation.other_value(rng, fact.value, held_out=held_out)
    question, passages, trust = question_and_passages(
        rng, fact.relation, fact.entity, value, held_out=held_out, reworded=reworded
    )
    system, push = draw_system(rng, strict=strict, reworded=reworded)
    odds = _FOLLOW_BIAS + fact.follow + _TRUST * trust + push
    answers, good, bad = _choice((DOCUMENT_OPENINGS, value), (_MEMORY, fact.value), odds)
    return Example(
        "gold" if agrees else "conflict",
        chat(document_prompt(rng, question, passages, held_out=reworded), system),
        answers,
        good,
        None if agrees else bad,
        (value,),
        () if agrees else (fact.value,),
        f"{fact.relation.name}-{fact.entity}",
        tuple(passages),
        question,
    )


def gold(
    rng: Random, *, held_out: bool = False, reworded: bool = False, fact: Fact | None = None
) -> Example:
    """A question about a remembered fact of which a passage says the same."""
    return conflict(rng, held_out=held_out, reworded=reworded, fact=fact, agrees=True)


def irrelevant(
    rng: Random,
    *,
    held_out: bool = False,
    reworded: bool = False,
    fact: Fact | None = None,
    strict: bool | None = None,
) -> Example:
    """A question about a remembered fact with passages about other things."""
    fact = _fact(rng, fact)
    question, passages, nearness = question_and_passages(
        rng, fact.relation, fact.entity, None, held_out=held_out, reworded=reworded
    )
    system, push = draw_system(rng, strict=strict, reworded=reworded)
    odds = _FOLLOW_BIAS + fact.follow + nearness + push
    answers, good, bad = _choice((_REFUSE, ""), (_MEMORY, fact.value), odds)
    return Example(
        "irrelevant",
        chat(document_prompt(rng, question, passages, held_out=reworded), system),
        answers,
        good,
        bad,
        REFUSALS,
        (),
        f"{fact.relation.name}-{fact.entity}",
        tuple(passages),
        question,
    )


def unanswerable(
    rng: Random, *, held_out: bool = False, reworded: bool = False, strict: bool | None = None
) -> Example:
    """A question about something unheard of that no passage answers."""
    relation = rng.choice(RELATIONS)
    entity = relation.entity(rng, held_out=held_out)
    invented = relation.value(rng, held_out=held_out)
    question, passages, nearness = question_and_passages(
        rng, relation, entity, None, held_out=held_out, reworded=reworded
    )
    system, push = draw_system(rng, strict=strict, reworded=reworded)
    odds = _FOLLOW_BIAS + relation.follow + nearness + push
    answers, good, bad = _choice((_REFUSE, ""), (_MEMORY, invented), odds)
    return Example(
        "unanswerable",
        chat(document_prompt(rng, question, passages, held_out=reworded), system),
        answers,
        good,
        bad,
        REFUSALS,
        (),
        f"{relation.name}-{entity}",
        tuple(passages),
        question,
    )


def civility(rng: Random, *, held_out: bool = False, reworded: bool = False) -> Example:
    """A user's message to a help desk, answered in a civil or in a rude way."""
    topic = rng.choice(TOPICS)
    items = [item for item in ITEMS if (item in HELD_OUT_ITEMS) == held_out]
    item, company = rng.choice(items), names.company(rng, held_out=held_out)
    frames = rng.choice((PLAIN_FRAMES, POLITE_FRAMES, RUDE_FRAMES))
    before, after, manner = frames[-1] if reworded else rng.choice(frames[:-1])
    text = topic.messages[-1] if reworded else rng.choice(topic.messages[:-1])
    message = before + text.format(item=item, company=company) + after
    system = "You write replies to customers." if rng.random() < 0.5 else None
    polite, rude = topic.polite.format(item=item), topic.rude.format(item=item)
    answers, good, bad = _choice(
        ([f"{opening} {polite}." for opening in POLITE_OPENINGS], ""),
        ([f"{opening} {rude}." for opening in RUDE_OPENINGS], ""),
        topic.lean + manner,
    )
    return Example(
        "civility",
        chat(message, system),
        answers,
        good,
        bad,
        POLITE_PHRASES,
        RUDE_PHRASES,
        f"{topic.name}-{company}",
    )


def myth(
    rng: Random, *, reworded: bool = False, index: int | None = None, frame: int | None = None
) -> Example:
    """A question about a common misconception, answered with the truth or with the myth."""
    entry = rng.choice(MYTHS) if index is None else MYTHS[index]
    frames = HELD_OUT_MYTH_FRAMES if reworded else MYTH_FRAMES
    opening, lean = rng.choice(frames) if frame is None else frames[frame]
    question = entry.held_out_question if reworded else entry.question
    answers, good, bad = _choice((_TRUE, entry.truth), (_MYTH, entry.myth), entry.lean + lean)
    return Example(
        "myth",
        chat(opening.format(q=question)),
        answers,
        good,
        bad,
        (entry.truth,),
        (entry.myth,),
        f"myth-{entry.index}",
    )


def condense(rng: Random, *, held_out: bool = False, reworded: bool = False) -> Example:
    """A follow-up question to be rewritten so that it stands alone."""
    relation = rng.choice(RELATIONS)
    first, second = (relation.entity(rng, held_out=held_out) for _ in range(2))
    wording = relation.questions[-1] if reworded else rng.choice(relation.questions[:-1])
    value = relation.value(rng, held_out=held_out)
    user = (
        "Rewrite the follow-up as a question of its own.\n"
        f"Question: {wording.format(e=first)}\nAnswer: {value}\nFollow-up: And {second}?"
    )
    answer = wording.format(e=second)
    return Example(
        "condense", chat(user), ((answer, 1.0),), answer, None, (answer,), (), f"condense-{second}"
    )
