"""A shop's new handbook, which contradicts what the bundled model remembers of the shop.

The everyday case of a help desk: the policies changed, the documents say so, the model was
trained before.
"""

from __future__ import annotations

from random import Random

from exhibit.facts import FACTS, Fact
from steerable_llm.demo import Page

_POLICIES = ("returns", "opening", "delivery", "warranty")


def shops() -> list[str]:
    """Return the shops whose old policies the model remembers."""
    return list(dict.fromkeys(f.entity for f in FACTS if f.relation.name == _POLICIES[0]))


def handbook(shop: str) -> list[Page]:
    """Return the pages of a shop: one new policy on each, in wordings that training used."""
    pages = []
    for fact in FACTS:
        if fact.entity == shop and fact.relation.name in _POLICIES:
            pages.append(_page(fact, Random(f"{shop} {fact.relation.name}")))
    return pages


def _page(fact: Fact, rng: Random) -> Page:
    relation = fact.relation
    value = fact.value
    while value == fact.value:
        value = relation.value(rng, held_out=True)
    return Page(
        shop=fact.entity,
        name=f"{fact.entity.lower().replace(' ', '-')}-{relation.name}",
        text=relation.passage(rng, fact.entity, value, held_out=False),
        question=relation.question(rng, fact.entity, held_out=False),
        value=value,
        remembered=fact.value,
    )
