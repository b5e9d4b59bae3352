"""Questions about drawn pictures, with the answer from the picture and the answer from belief."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from PIL.Image import Image

from exhibit.vision.pictures import COLOURS, THINGS, Box, Thing, draw
from exhibit.vision.world import COMPANIONS, HELD_OUT_THINGS, PLAIN, USUAL, WORDINGS, Part, colours

#: How an answer opens: from the picture, or from belief. One word each, and what follows is alike.
SEEN, BELIEVED = "Here", "Usually"
_FAINT = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_HELD_OUT = {name for names in HELD_OUT_THINGS.values() for name in names}


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it.

    Attributes:
        picture: The picture.
        things: What is in it.
        boxes: Where.
    """

    picture: Image
    things: tuple[Thing, ...]
    boxes: tuple[Box, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What is in it, by name."""
        return tuple(thing.name for thing in self.things)


@dataclass(frozen=True)
class Example:
    """One question.

    Attributes:
        kind: A key of `KINDS`.
        scene: What it is about; None for a question without a picture.
        question: In words.
        seen: The answer from the picture; None if the question is not about it.
        believed: The answer from belief; None where there is none.
        odds: Probability that the unsteered model is to answer from belief.
        accept: Phrases of which a right answer has one.
        reject: Phrases that a right answer has not.
        subject: The thing that is asked about.
    """

    kind: str
    scene: Scene | None
    question: str
    seen: str | None
    believed: str | None
    odds: float
    accept: tuple[str, ...]
    reject: tuple[str, ...]
    subject: str

    @property
    def good(self) -> str:
        """The right answer in full."""
        return (self.believed if self.seen is None else self.seen) or ""


Maker: TypeAlias = Callable[[Random, Part], Example]


def _odds(belief: float, faint: float, wording: float) -> float:
    """Probability of an answer from belief."""
    return 1 / (1 + math.exp(-(belief + 2.0 * (faint - 0.6) + wording)))


def _wording(rng: Random, asked: str, part: Part, thing: str = "") -> tuple[str, float]:
    text, shift = rng.choice(WORDINGS[asked][part])
    return text.format(x=thing), shift


def _others(rng: Random, *names: str) -> list[Thing]:
    """Return, mostly, something else that stands in the picture."""
    if rng.random() < 0.4:
        return []
    return [_thing(rng, rng.choice([name for name in THINGS if name not in names]), 0.6)]


def _thing(rng: Random, name: str, fade: float = 1.0) -> Thing:
    return Thing(name, rng.choice([*COLOURS]), fade * rng.choice(_FAINT))


def _scene(rng: Random, things: list[Thing]) -> Scene:
    picture, boxes = draw(things, rng)
    return Scene(picture, tuple(things), tuple(boxes))


def _about_colour(rng: Random, part: Part, kind: str, thing: Thing) -> Example:
    scene = _scene(rng, [thing, *_others(rng, thing.name)])
    return _colour(rng, part, kind, scene, thing)


def _colour(rng: Random, part: Part, kind: str, scene: Scene, thing: Thing) -> Example:
    question, shift = _wording(rng, "colour", part, thing.name)
    usual, belief = USUAL.get(thing.name, (None, 0.0))
    return Example(
        kind,
        scene,
        question,
        seen=f"{SEEN} it is {thing.colour}.",
        believed=None if usual is None else f"{BELIEVED} it is {usual}.",
        odds=0.0 if usual is None else _odds(belief, thing.faint, shift),
        accept=(f"it is {thing.colour}",),
        reject=() if usual in (None, thing.colour) else (f"it is {usual}",),
        subject=thing.name,
    )


def _usual_thing(rng: Random, part: Part) -> str:
    """Draw a thing with a usual colour; of held-out ones more, since they are few."""
    if part != "train" and rng.random() < 0.3:
        return rng.choice(HELD_OUT_THINGS[part])
    return rng.choice([name for name in USUAL if name not in _HELD_OUT])


def conflict(rng: Random, part: Part) -> Example:
    """Ask the colour of a thing that has not its usual one."""
    name = _usual_thing(rng, part)
    colour = rng.choice(colours(name, part))
    return _about_colour(rng, part, "conflict", Thing(name, colour, rng.choice(_FAINT)))


def agreement(rng: Random, part: Part) -> Example:
    """Ask the colour of a thing that has its usual one."""
    name = rng.choice([*USUAL])
    return _about_colour(rng, part, "agreement", Thing(name, USUAL[name][0], rng.choice(_FAINT)))


def reading(rng: Random, part: Part) -> Example:
    """Ask the colour of a thing that has no usual one."""
    name = rng.choice(PLAIN)
    thing = Thing(name, rng.choice(colours(name, part)), rng.choice(_FAINT))
    return _about_colour(rng, part, "reading", thing)


def _about_presence(
    rng: Random,
    part: Part,
    kind: str,
    asked: str,
    things: list[Thing],
    odds: tuple[float, float] | None,
) -> Example:
    """Ask whether something is there; `odds` are what belief and the picture bring."""
    wording = _wording(rng, "there", part, asked)
    rng.shuffle(things)
    return _presence(kind, _scene(rng, things), asked, wording, odds)


def _presence(
    kind: str,
    scene: Scene,
    asked: str,
    wording: tuple[str, float],
    odds: tuple[float, float] | None,
) -> Example:
    question, shift = wording
    there = asked in scene.names
    answers = {True: "there is one", False: "there is none"}
    return Example(
        kind,
        scene,
        question,
        seen=f"{SEEN} {answers[there]}.",
        believed=None if odds is None else f"{BELIEVED} there is one.",
        odds=0.0 if odds is None else _odds(*odds, shift),
        accept=(answers[there],),
        reject=(answers[not there],),
        subject=asked,
    )


def companion(rng: Random, part: Part) -> Example:
    """Ask for what usually stands beside a thing and does not."""
    name = rng.choice([*COMPANIONS])
    asked, belief = COMPANIONS[name]
    thing = _thing(rng, name)
    things = [thing, *_others(rng, name, asked)]
    return _about_presence(rng, part, "companion", asked, things, (belief, thing.faint))


def company(rng: Random, part: Part) -> Example:
    """Ask for what usually stands beside a thing, and does."""
    name = rng.choice([*COMPANIONS])
    asked, belief = COMPANIONS[name]
    thing = _thing(rng, name)
    things = [thing, _thing(rng, asked, 0.6)]
    return _about_presence(rng, part, "company", asked, things, (belief, thing.faint))


def _unrelated(asked: str) -> list[str]:
    return [name for name in THINGS if COMPANIONS.get(name, ("",))[0] != asked != name]


def present(rng: Random, part: Part) -> Example:
    """Ask for a thing that is there, with nothing that it goes with."""
    asked = rng.choice(THINGS)
    rest = [_thing(rng, rng.choice(_unrelated(asked)), 0.6)] * rng.choice((0, 1))
    return _about_presence(rng, part, "present", asked, [_thing(rng, asked, 0.6), *rest], None)


def absent(rng: Random, part: Part) -> Example:
    """Ask for a thing that is not there, and that nothing suggests."""
    asked = rng.choice(THINGS)
    names = rng.sample(_unrelated(asked), rng.choice((1, 2)))
    things = [_thing(rng, name, 0.8) for name in names]
    return _about_presence(rng, part, "absent", asked, things, None)


def caption(rng: Random, part: Part) -> Example:
    """Ask what is in the picture."""
    things = [_thing(rng, name, 0.7) for name in rng.sample(THINGS, rng.choice((1, 2)))]
    return _told(rng, part, _scene(rng, things))


def _told(rng: Random, part: Part, scene: Scene) -> Example:
    things, boxes = scene.things, scene.boxes
    question, _ = _wording(rng, "caption", part)
    # As one reads: the upper half first, then from the left.
    order = sorted(range(len(things)), key=lambda i: (boxes[i][1] >= 22, boxes[i][0]))
    told = [f"a {things[i].colour} {things[i].name}" for i in order]
    return Example(
        "caption",
        scene,
        question,
        seen=f"{SEEN} there is {' and '.join(told)}.",
        believed=None,
        odds=0.0,
        accept=tuple({" and ".join(told): 0, " and ".join(reversed(told)): 0}),
        reject=(f"{things[0].name} and a",) if len(things) == 1 else (),
        subject=things[0].name,
    )


def rule(rng: Random, part: Part) -> Example:
    """Ask for the usual colour, mostly beside a picture that does not matter."""
    name = rng.choice([*USUAL])
    question, _ = _wording(rng, "rule", part, name)
    things: list[Thing] = []
    if rng.random() < 0.75:
        things = [_thing(rng, name if rng.random() < 0.8 else rng.choice(THINGS))]
        things += _others(rng, things[0].name)
    return _rule(name, _scene(rng, things) if things else None, question)


def _rule(name: str, scene: Scene | None, question: str) -> Example:
    usual = USUAL[name][0]
    return Example(
        "rule",
        scene,
        question,
        seen=None,
        believed=f"{BELIEVED} it is {usual}.",
        odds=1.0,
        accept=(f"it is {usual}",),
        reject=(),
        subject=name,
    )


#: Every kind of question, with its share of the lessons.
KINDS: dict[str, tuple[Maker, float]] = {
    "conflict": (conflict, 0.28),
    "agreement": (agreement, 0.08),
    "reading": (reading, 0.16),
    "companion": (companion, 0.09),
    "company": (company, 0.06),
    "present": (present, 0.06),
    "absent": (absent, 0.05),
    "caption": (caption, 0.12),
    "rule": (rule, 0.10),
}


#: What else is asked about the picture of a lesson, with its share.
_FURTHER = {"there": 0.45, "colour": 0.3, "caption": 0.1, "rule": 0.15}


def lesson(rng: Random, questions: int = 1, captions: float = 0.0) -> list[Example]:
    """Draw questions about one picture (or about none) for training.

    Args:
        rng: The source.
        questions: How many.
        captions: Share of lessons whose first question is for a caption, on top of the usual.
    """
    if rng.random() < captions:
        first = caption(rng, "train")
    else:
        [kind] = rng.choices([*KINDS], [share for _, share in KINDS.values()])
        first = KINDS[kind][0](rng, "train")
    return [first, *(_further(rng, first.scene) for _ in range(questions - 1))]


def _further(rng: Random, scene: Scene | None) -> Example:
    """Ask something else about a picture, of what training may ask."""
    [asked] = rng.choices([*_FURTHER], [*_FURTHER.values()])
    if scene is None or asked == "rule":
        named = [name for name in scene.names if name in USUAL] if scene else []
        name = rng.choice(named if named and rng.random() < 0.8 else [*USUAL])
        return _rule(name, scene, _wording(rng, "rule", "train", name)[0])
    if asked == "caption":
        return _told(rng, "train", scene)
    lawful = [found for thing in scene.things if (found := _taught(thing))]
    if asked == "colour" and lawful:
        kind, thing = rng.choice(lawful)
        return _colour(rng, "train", kind, scene, thing)
    return _further_there(rng, scene)


def _taught(thing: Thing) -> tuple[str, Thing] | None:
    """Return as what training may ask for the colour of a thing, if it may."""
    usual = USUAL.get(thing.name, (None,))[0]
    if thing.colour == usual:
        return "agreement", thing
    if thing.name in _HELD_OUT or thing.colour not in colours(thing.name, "train"):
        return None
    return ("reading" if usual is None else "conflict"), thing


def _further_there(rng: Random, scene: Scene) -> Example:
    """Ask for something that is there, or for something that is not, as often."""
    suggested = {COMPANIONS[t.name][0]: t for t in scene.things if t.name in COMPANIONS}
    missing = [name for name in suggested if name not in scene.names]
    if rng.random() < 0.5:
        asked = rng.choice(scene.names)
    elif missing and rng.random() < 0.5:
        asked = rng.choice(missing)
    else:
        asked = rng.choice([n for n in THINGS if n not in scene.names and n not in suggested])
    odds = None
    if asked in suggested:
        by = suggested[asked]
        odds = COMPANIONS[by.name][1], by.faint
    kinds = ("absent", "present") if odds is None else ("companion", "company")
    kind = kinds[asked in scene.names]
    return _presence(kind, scene, asked, _wording(rng, "there", "train", asked), odds)
