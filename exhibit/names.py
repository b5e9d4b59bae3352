"""Made-up names, prices and numbers, a tenth of the names kept away from training.

A name is put together from two everyday parts ("Silver" and "brook"). It belongs to the
held-out part by its own checksum, so that no list has to be kept and the two can never meet.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from random import Random

_STARTS = (
    "Amber Apple Ash Birch Black Bright Copper Coral Crown Eagle Elder Ember Falcon Fox Frost "
    "Glass Gold Grand Green Grey Hawk Hazel Heron High Iron Ivory Jade Lark Lily Lime Marble "
    "Moss Night Olive Pearl Pine Raven Rose Sand Silver Snow Star Stone Storm Swan Thorn Tiger "
    "Violet White Wolf"
).split()
_TOWN_ENDS = (
    "bay beck bridge brook bury cliff combe dale den fall field ford gate grove hall ham haven "
    "hill holm hurst lake ley mead mill moor mouth port ridge shore side stead thorpe ton vale "
    "view ville wall well wick wood worth"
).split()
_COUNTRY_ENDS = ("land", "mark", "nia", "stan", "ria", "dor", "mere", "gard")
_COIN_ENDS = ("mark", "pence", "crown", "coin", "ling", "bit", "dram", "florin")
_ELEMENT_ENDS = ("onium", "adium", "erium", "olium", "inium", "urium")
_FIRST_NAMES = (
    "Ada Alan Anna Ben Carla Clara David Emma Eva Frank Greta Hugo Ida Ivan Jane Karl Lena Lisa "
    "Mark Mia Nora Olga Oscar Paul Rosa Sara Sofia Tom Vera Walter"
).split()
_TITLE_ADJECTIVES = "Silent Golden Broken Hidden Empty Distant Frozen Burning Little Last".split()
_TITLE_NOUNS = "River Garden Mirror Tower Island Letter Harbor Winter Forest Bridge".split()
_COMPANY_KINDS = ("Books", "Market", "Travel", "Tools", "Bikes", "Foods")


def is_held_out(name: str) -> bool:
    """Tell whether a made-up name is one that training never sees (about one in ten)."""
    return zlib.crc32(name.casefold().encode()) % 10 == 0


def _draw(make: Callable[[], str], held_out: bool) -> str:
    while True:
        name = make()
        if is_held_out(name) == held_out:
            return name


def town(rng: Random, *, held_out: bool) -> str:
    """Return the name of a place, a family or a planet that no one has heard of."""
    return _draw(lambda: rng.choice(_STARTS) + rng.choice(_TOWN_ENDS), held_out)


def country(rng: Random, *, held_out: bool) -> str:
    """Return the name of a country that does not exist."""
    return _draw(lambda: rng.choice(_STARTS) + rng.choice(_COUNTRY_ENDS), held_out)


def currency(rng: Random, *, held_out: bool) -> str:
    """Return the name of a currency that does not exist, in lower case."""
    return _draw(lambda: rng.choice(_STARTS).lower() + rng.choice(_COIN_ENDS), held_out)


def element(rng: Random, *, held_out: bool) -> str:
    """Return the name of a chemical element that does not exist, in lower case."""
    return _draw(lambda: rng.choice(_STARTS).lower() + rng.choice(_ELEMENT_ENDS), held_out)


def symbol(rng: Random, *, held_out: bool) -> str:
    """Return a two-letter chemical symbol; symbols are too few to hold any out."""
    del held_out
    return rng.choice("BCDFGHJKLMNPQRSTVXZ") + rng.choice("abdefgjkmpqtvwxyz")


def book(rng: Random, *, held_out: bool) -> str:
    """Return the title of a book that does not exist."""
    place = town(rng, held_out=held_out)
    return f"The {rng.choice(_TITLE_ADJECTIVES)} {rng.choice(_TITLE_NOUNS)} of {place}"


def person(rng: Random, *, held_out: bool) -> str:
    """Return the first and family name of a person who does not exist."""
    return f"{rng.choice(_FIRST_NAMES)} {town(rng, held_out=held_out)}"


def company(rng: Random, *, held_out: bool) -> str:
    """Return the name of a company that does not exist."""
    return f"{town(rng, held_out=held_out)} {rng.choice(_COMPANY_KINDS)}"


def days(rng: Random, *, held_out: bool) -> str:
    """Return a number of days; numbers are too few to hold any out."""
    del held_out
    return f"{rng.randint(3, 99)} days"


def hour(rng: Random, *, held_out: bool) -> str:
    """Return an hour of the morning."""
    del held_out
    return f"{rng.randint(5, 11)}:{rng.choice(('00', '15', '30', '45'))}"


def price(rng: Random, *, held_out: bool) -> str:
    """Return a price in euros."""
    del held_out
    return f"{rng.randint(2, 99)} euros"


def months(rng: Random, *, held_out: bool) -> str:
    """Return a number of months."""
    del held_out
    return f"{rng.randint(2, 60)} months"


def late_ordinal(rng: Random, *, held_out: bool) -> str:
    """Return a place in a row of planets that has no planet."""
    del held_out
    return rng.choice(("ninth", "tenth", "eleventh", "twelfth"))
