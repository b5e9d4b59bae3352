"""Drawn pictures: one or two things on a grey ground, each in a colour, clear or faint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 48
"""Pixels of a picture's side."""
_GRID = 24  # the drawings' own units
_FINE = 4  # drawn so much larger, then made smaller, so that edges are smooth
_SLOTS = ((0, 0), (24, 0), (0, 24), (24, 24))
_SIZES = (20, 22, 24)
_FADED = 0.66  # what the faintest thing has lost of its colour
_BLOCK = 6  # the ground's texture is flat in squares, so that files stay small

COLOURS = {
    "red": (208, 38, 42),
    "green": (44, 158, 66),
    "blue": (40, 84, 214),
    "yellow": (240, 216, 44),
    "orange": (242, 136, 26),
    "purple": (136, 56, 172),
    "brown": (122, 78, 44),
    "white": (250, 250, 250),
    "black": (22, 22, 24),
    "pink": (246, 148, 192),
}

# e ellipse, r rectangle, p polygon, l line, t thin line; a capital letter cuts out.
_DRAWINGS = {
    "banana": "e 0 2 24 23, E 0 -6 24 14, r 1 6 4 10",
    "tomato": "e 2 6 22 23, l 12 7 12 1, l 7 4 17 4",
    "carrot": "p 6 7 18 7 12 24, l 12 7 12 0, l 11 7 6 1, l 13 7 18 1",
    "snowman": "e 4 10 20 24, e 7 2 17 12, r 8 0 16 3, E 10 5 12 7, E 13 5 15 7",
    "frog": "e 2 10 22 22, e 4 3 11 12, e 13 3 20 12, E 6 5 9 8, E 15 5 18 8, T 6 17 18 17",
    "raven": "e 4 8 20 18, e 2 3 11 12, p 0 7 4 6 4 9, p 18 11 24 9 24 17, "
    "t 10 18 10 24, t 14 18 14 24",
    "pig": "e 3 6 22 19, r 6 17 9 24, r 16 17 19 24, e 0 8 7 16, p 5 8 5 3 10 7, t 21 10 24 7",
    "sun": "e 6 6 18 18, l 12 0 12 24, l 0 12 24 12, l 3 3 21 21, l 3 21 21 3",
    "cherry": "e 0 13 10 23, e 14 13 24 23, t 5 14 14 1, t 19 14 14 1, p 14 1 22 1 20 6",
    "pumpkin": "e 0 6 11 23, e 6 6 18 23, e 13 6 24 23, r 11 1 14 7, T 9 9 9 20, T 15 9 15 20",
    "cactus": "r 9 1 15 24, r 2 5 6 15, r 2 12 10 15, r 18 8 22 18, r 14 15 22 18",
    "plum": "e 3 4 21 24, T 12 5 10 20, t 12 5 16 0",
    "whale": "e 0 8 19 22, p 16 15 24 8 24 20, t 8 8 8 3, t 8 4 4 1, t 8 4 12 1, E 4 12 6 14",
    "log": "r 3 7 21 18, e 0 7 7 18, e 17 7 24 18, E 19 9 23 16, T 7 12 15 12",
    "lemon": "e 3 5 21 20, p 0 12 6 8 6 17, p 24 12 18 8 18 17",
    "swan": "e 4 12 24 22, r 4 3 8 16, e 3 1 10 7, p 0 5 4 3 4 7",
    "cup": "r 3 5 16 21, e 12 7 23 18, E 15 10 20 15",
    "spoon": "e 7 0 17 12, r 11 11 13 24",
    "chair": "r 4 0 7 24, r 4 12 20 15, r 17 12 20 24",
    "table": "r 0 7 24 11, r 3 10 6 23, r 18 10 21 23",
    "lock": "r 3 10 21 23, e 5 0 19 20, E 8 3 16 16, r 3 11 21 23, E 10 14 14 18",
    "key": "e 0 6 11 17, E 3 9 8 14, r 10 10 24 13, r 17 12 19 17, r 22 12 24 17",
    "bucket": "p 2 8 22 8 18 24 6 24, l 3 8 7 1, l 21 8 17 1, l 7 1 17 1",
    "spade": "p 6 13 18 13 18 19 12 24 6 19, r 11 3 13 14, r 7 0 17 3",
    "nail": "r 4 1 20 5, p 9 5 15 5 12 24",
    "hammer": "r 2 1 22 9, r 10 8 14 24",
    "lamp": "p 7 0 17 0 23 13 1 13, r 11 13 13 21, r 5 20 19 24",
    "book": "p 0 4 11 7 11 23 0 20, p 24 4 13 7 13 23 24 20",
}
THINGS = tuple(_DRAWINGS)


@dataclass(frozen=True)
class Thing:
    """One thing in a picture.

    Attributes:
        name: What it is, a name in `THINGS`.
        colour: A name in `COLOURS`.
        faint: From 0, clear, to 1, hardly seen.
    """

    name: str
    colour: str
    faint: float


Box = tuple[int, int, int, int]
"""Left, top, right and bottom of a thing, in pixels."""


@cache
def _drawing(name: str, size: int) -> NDArray[np.float64]:
    """How much of every pixel the thing covers, `[size, size, 1]` from 0 to 1."""
    image = Image.new("L", (_GRID * _FINE, _GRID * _FINE), 0)
    draw = ImageDraw.Draw(image)
    for shape in _DRAWINGS[name].split(", "):
        kind, *numbers = shape.split()
        at = [float(number) * _FINE for number in numbers]
        fill = 255 if kind.islower() else 0
        match kind.lower():
            case "e":
                draw.ellipse(at, fill=fill)
            case "r":
                draw.rectangle(at, fill=fill)
            case "p":
                draw.polygon(at, fill=fill)
            case "l":
                draw.line(at, fill=fill, width=2 * _FINE)
            case _:
                draw.line(at, fill=fill, width=_FINE)
    small = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(small, np.float64)[..., None] / 255


def draw(things: Sequence[Thing], rng: Random) -> tuple[Image.Image, list[Box]]:
    """Draw things at random places, and say where each is."""
    noise = np.random.default_rng(rng.getrandbits(64))
    blocks = SIZE // _BLOCK
    ground = (
        noise.integers(105, 165) + noise.normal(0, 6, 3) + noise.normal(0, 7, (blocks, blocks, 1))
    )
    pixels = ground.repeat(_BLOCK, 0).repeat(_BLOCK, 1)
    boxes: list[Box] = []
    for thing, (left, top) in zip(things, rng.sample(_SLOTS, len(things)), strict=True):
        size = rng.choice(_SIZES)
        x, y = left + rng.randint(0, 24 - size), top + rng.randint(0, 24 - size)
        share = _drawing(thing.name, size) * (1 - _FADED * thing.faint)
        colour = np.array(COLOURS[thing.colour]) + noise.normal(0, 7, 3)
        part = pixels[y : y + size, x : x + size]
        pixels[y : y + size, x : x + size] = part * (1 - share) + colour * share
        boxes.append((x, y, x + size, y + size))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), boxes
