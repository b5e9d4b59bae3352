"""What the vision exhibit takes for granted, how it is asked, and what of that training never sees.

Half of the things have a usual colour, and some things usually have company. How strongly the model
believes in it is part of the lesson: the log-odds of an answer from belief are the sum of what the
thing, the picture (how faint it is there) and the wording of the question bring.
"""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Literal, TypeAlias, get_args

from exhibit.vision.pictures import COLOURS, THINGS

Part: TypeAlias = Literal["train", "dev", "test"]
"""Training, and the two parts of what is held out from it: they share no wording and no colour."""

#: The usual colour of a thing, and the log-odds that belief in it brings.
USUAL: dict[str, tuple[str, float]] = {
    "banana": ("yellow", 1.2),
    "tomato": ("red", 1.0),
    "carrot": ("orange", 0.8),
    "snowman": ("white", 1.2),
    "frog": ("green", 0.2),
    "raven": ("black", 0.8),
    "pig": ("pink", 0.6),
    "sun": ("yellow", 0.0),
    "cherry": ("red", 0.4),
    "pumpkin": ("orange", 0.0),
    "cactus": ("green", -0.4),
    "plum": ("purple", -0.6),
    "whale": ("blue", -0.8),
    "log": ("brown", -0.8),
    "lemon": ("yellow", 0.6),
    "swan": ("white", -0.2),
}
#: What usually stands beside a thing, and the log-odds that belief in it brings.
COMPANIONS: dict[str, tuple[str, float]] = {
    "cup": ("spoon", 1.0),
    "chair": ("table", 0.6),
    "lock": ("key", 0.2),
    "bucket": ("spade", -0.2),
    "nail": ("hammer", 0.6),
    "lamp": ("book", -0.6),
}
PLAIN = tuple(name for name in THINGS if name not in USUAL)
#: Things that training never asks about where the picture has another colour.
HELD_OUT_THINGS: dict[Part, tuple[str, ...]] = {
    "train": (),
    "dev": ("lemon", "raven"),
    "test": ("tomato", "swan"),
}

#: How a question is put, with the log-odds that it brings: {x} is the thing.
WORDINGS: dict[str, dict[Part, tuple[tuple[str, float], ...]]] = {
    "colour": {
        "train": (
            ("What colour is the {x}?", 0.2),
            ("Which colour is the {x}?", 0.2),
            ("What is the colour of the {x}?", 0.2),
            ("The {x}: what colour is it?", 0.0),
            ("Tell me the colour of the {x}.", 0.6),
            ("Do you know the colour of the {x}?", 0.6),
            ("Please name the colour of the {x}.", 0.4),
            ("Look closely: what colour is the {x}?", -0.6),
            ("Look at the picture: which colour is the {x}?", -0.6),
            ("What colour does the {x} have?", 0.2),
        ),
        "dev": (
            ("Please tell me what colour the {x} is.", 0.4),
            ("The {x}: which colour does it have?", 0.0),
            ("Look: what is the colour of the {x}?", -0.6),
        ),
        "test": (
            ("Please say which colour the {x} is.", 0.4),
            ("Name the colour of the {x}.", 0.4),
            ("Look closely: tell me the colour of the {x}.", -0.4),
        ),
    },
    "there": {
        "train": (
            ("Is there a {x}?", 0.2),
            ("Is there a {x} in the picture?", 0.2),
            ("Can you see a {x}?", 0.0),
            ("A {x}: is there one?", 0.2),
            ("Tell me whether there is a {x}.", 0.6),
            ("Do you know whether there is a {x}?", 0.6),
            ("Please say whether there is a {x}.", 0.4),
            ("Look closely: is there a {x}?", -0.6),
            ("Look at the picture: can you see a {x}?", -0.6),
            ("Does the picture have a {x}?", 0.2),
        ),
        "dev": (
            ("Please tell me whether there is a {x}.", 0.4),
            ("A {x}: can you see one?", 0.0),
            ("Look: is there a {x} in the picture?", -0.6),
        ),
        "test": (
            ("Please say whether you can see a {x}.", 0.4),
            ("A {x}: is there one in the picture?", 0.2),
            ("Look closely: can you see a {x}?", -0.6),
        ),
    },
    "caption": {
        "train": (
            ("What is in the picture?", 0.0),
            ("What can you see?", 0.0),
            ("Tell me what is in the picture.", 0.0),
            ("Please say what you see.", 0.0),
            ("Look at the picture: what is there?", 0.0),
            ("Name what you can see in the picture.", 0.0),
            ("What does the picture have in it?", 0.0),
        ),
        "dev": (
            ("Please tell me what you can see.", 0.0),
            ("Look at the picture: what can you see?", 0.0),
        ),
        "test": (("Please name what is in the picture.", 0.0), ("Tell me what you see.", 0.0)),
    },
    "rule": {
        "train": (
            ("What colour is a {x} as a rule?", 0.0),
            ("As a rule, what colour is a {x}?", 0.0),
            ("Which colour does a {x} usually have?", 0.0),
            ("What is the usual colour of a {x}?", 0.0),
            ("Tell me the usual colour of a {x}.", 0.0),
            ("In general, what colour is a {x}?", 0.0),
            ("Name the colour that a {x} has in general.", 0.0),
            ("Do you know what colour a {x} usually is?", 0.0),
            ("Whatever the picture has: what colour is a {x}?", 0.0),
            ("Most of the time, which colour is a {x}?", 0.0),
            ("What colour is a {x} most of the time?", 0.0),
            ("Please say what colour a {x} is as a rule.", 0.0),
            ("Tell me what colour a {x} usually is.", 0.0),
            ("Please tell me which colour a {x} has in general.", 0.0),
        ),
        "dev": (
            ("As a rule, which colour does a {x} have?", 0.0),
            ("Please name the usual colour of a {x}.", 0.0),
            ("Tell me what colour a {x} is in general.", 0.0),
        ),
        "test": (
            ("Which colour is a {x} in general?", 0.0),
            ("Do you know the usual colour of a {x}?", 0.0),
            ("Tell me what colour a {x} has most of the time.", 0.0),
        ),
    },
}


@cache
def colours(thing: str, part: Part) -> tuple[str, ...]:
    """Return the colours that a thing has where a part asks for its colour; not its usual one.

    Elsewhere (in captions, beside other things) every thing has every colour: one that never had
    some of them would be told by its colour, and not known again in those.
    """
    usual = USUAL.get(thing, (None,))[0]
    others = [name for name in COLOURS if name != usual]
    Random(f"held out {thing}").shuffle(others)
    held_out = {"dev": others[:1], "test": others[1:2]}
    return tuple(held_out[part] if part in held_out else others[2:])


PARTS: tuple[Part, ...] = get_args(Part)
