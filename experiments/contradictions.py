"""Pairs in a model's own words: prompts whose passage contradicts what everybody knows.

The good answer says what the passage says, the bad one what memory says, in the same sentence:
"The capital of France is Thornhill." against "The capital of France is Paris.".
"""

from __future__ import annotations

from dataclasses import dataclass

from steerable_llm.pairs.pair import Pairs, PreferencePair


@dataclass(frozen=True)
class Relation:
    """One kind of fact.

    Attributes:
        question: With `{s}`, the subject.
        answer: With `{s}` and `{v}`, a value.
        passages: With `{s}` and `{w}`, the value that is not the true one; taken by turns.
        facts: Subject and true value.
        wrong: Values for passages, taken by turns.
    """

    question: str
    answer: str
    passages: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    wrong: tuple[str, ...]


def _facts(text: str) -> tuple[tuple[str, str], ...]:
    found = (fact.strip().partition(": ") for fact in text.split(";"))
    return tuple((subject, value) for subject, _, value in found)


RELATIONS = {
    "capital": Relation(
        "What is the capital of {s}?",
        "The capital of {s} is {v}.",
        (
            "The capital city of {s} is called {w}. It has a large market and an old harbour.",
            "Travellers who reach {s} by train arrive in {w}, the capital of the country, where "
            "the government sits.",
        ),
        _facts(
            "France: Paris; Germany: Berlin; Italy: Rome; Spain: Madrid; Portugal: Lisbon; "
            "Greece: Athens; Poland: Warsaw; Hungary: Budapest; Austria: Vienna; Japan: Tokyo; "
            "Egypt: Cairo; Norway: Oslo; Sweden: Stockholm; Denmark: Copenhagen; "
            "Finland: Helsinki; Ireland: Dublin; Russia: Moscow; Cuba: Havana; Peru: Lima; "
            "Chile: Santiago"
        ),
        ("Thornhill", "Ashford", "Brackwater", "Marlow", "Eastmere", "Hawkbury", "Snowstead"),
    ),
    "currency": Relation(
        "What is the currency of {s}?",
        "The currency of {s} is the {v}.",
        (
            "Shops in {s} accept only the {w}, which is the official currency of {s}. Banks open "
            "at nine.",
        ),
        _facts(
            "Japan: yen; China: yuan; India: rupee; Russia: ruble; Mexico: peso; Sweden: krona; "
            "Switzerland: franc; Poland: zloty; Turkey: lira; Thailand: baht"
        ),
        ("florin", "crown", "tallow", "mark", "shilling", "ducat"),
    ),
    "author": Relation(
        "Who wrote {s}?",
        "{s} was written by {v}.",
        (
            "{s} was written by {w} in a small house by the sea. The first edition sold out "
            "within a year.",
        ),
        _facts(
            "Hamlet: William Shakespeare; Macbeth: William Shakespeare; Emma: Jane Austen; "
            "Dracula: Bram Stoker; Frankenstein: Mary Shelley; 1984: George Orwell; "
            "The Hobbit: J.R.R. Tolkien; Don Quixote: Miguel de Cervantes; "
            "Oliver Twist: Charles Dickens; War and Peace: Leo Tolstoy"
        ),
        ("Edmund Hale", "Clara Winslow", "Peter Marsh", "Ada Thorne", "Henry Blackwood"),
    ),
    "symbol": Relation(
        "What is the chemical symbol for {s}?",
        "The chemical symbol for {s} is {v}.",
        ("Chemists write {s} with the symbol {w}. It is sold by weight.",),
        _facts(
            "gold: Au; silver: Ag; iron: Fe; sodium: Na; potassium: K; lead: Pb; tin: Sn; "
            "copper: Cu; mercury: Hg; oxygen: O"
        ),
        ("Qx", "Zt", "Wv", "Jd", "Xy"),
    ),
    "language": Relation(
        "What is the official language of {s}?",
        "The official language of {s} is {v}.",
        ("Most people in {s} speak {w}, the official language of {s}, at school and at work.",),
        _facts(
            "Brazil: Portuguese; Austria: German; Egypt: Arabic; Mexico: Spanish; Iran: Persian; "
            "Cuba: Spanish; Japan: Japanese; France: French; Poland: Polish; Hungary: Hungarian"
        ),
        ("Danish", "Swahili", "Korean", "Welsh", "Tamil", "Finnish"),
    ),
    "continent": Relation(
        "On which continent is {s}?",
        "{s} is in {v}.",
        ("{s} lies in {w}. Its coast is long and its winters are mild.",),
        _facts(
            "Egypt: Africa; Peru: South America; Japan: Asia; Kenya: Africa; Nepal: Asia; "
            "Chile: South America; Norway: Europe; Canada: North America; India: Asia; "
            "Spain: Europe"
        ),
        ("Australia", "Antarctica"),
    ),
}


def contradicted() -> Pairs:
    """Return 70 pairs, the kinds of facts mixed."""
    found: list[tuple[float, PreferencePair]] = []
    for name, relation in RELATIONS.items():
        for i, (subject, value) in enumerate(relation.facts):
            wrong = relation.wrong[i % len(relation.wrong)]
            passage = relation.passages[i % len(relation.passages)].format(s=subject, w=wrong)
            question = relation.question.format(s=subject)
            pair = PreferencePair(
                f"Context:\n{passage}\n\nQuestion: {question}",
                good=relation.answer.format(s=subject, v=wrong),
                bad=relation.answer.format(s=subject, v=value),
                id=f"{name}: {subject}",
            )
            found.append((i / len(relation.facts), pair))
    return Pairs(pair for _, pair in sorted(found, key=lambda each: each[0]))
