"""Arms: everything that can be compared, run and judged by one rule.

| name | what the model gets | what it tells |
|---|---|---|
| `steered` | the vector with its calibration | the effect that is claimed |
| `none` | nothing | where the model stands by itself |
| `prompt` | a strict system instruction, no vector | whether asking would have done it |
| `random` | random vectors of the same norms, same strength | whether any push does it |
| `sign_flipped` | the vector with the opposite strength | whether the direction matters |
| `shuffled` | vectors of the same pairs with shuffled labels | whether the labels matter |
| `cad`, `adacad` | no vector; scores set off against no context | whether decoding does it |
| a name of its own | another vector, or a LoRA | whether another method does it better |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from steerable_llm.chat.message import Message, instructed
from steerable_llm.chat.phrases import STRICT_INSTRUCTIONS
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.set import EvaluationItem
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.methods import METHODS
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.lora import Lora
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.steering import Steering
from steerable_llm.vector.vector import SteeringVector

#: How much more the context counts under `cad` unless a number is given (`cad=1.5`).
CAD_ALPHA = 0.5


@dataclass(frozen=True)
class Arm:
    """One thing that is compared: how the model is run on the prompts.

    Attributes:
        name: What the report's row is called; arms of one name are averaged per prompt.
        steering: What the model is steered with.
        instruction: A system message that takes the place of the prompt's own, if any.
        contrast: Counts what the context adds more, while decoding and scoring.
        lora: LoRA weights that the model has meanwhile.
    """

    name: str
    steering: Steering = Steering()  # noqa: RUF009 - frozen
    instruction: str | None = None
    contrast: Contrast | None = None
    lora: Lora | None = None

    def at(self, share: float) -> Arm:
        """Return the arm with a share of its steering's strength, 0 to 1; all else stays."""
        if share == 1.0:
            return self
        terms = [replace(term, strength=share * term.strength) for term in self.steering.terms]
        return replace(self, steering=Steering(tuple(terms) if share else ()))

    def messages(self, item: EvaluationItem) -> tuple[Message, ...]:
        """Return the item's prompt as this arm sends it."""
        if self.instruction is None:
            return item.messages
        return instructed(item.messages, self.instruction)


UNSTEERED = Arm("none")

#: What can be run: an arm, what makes one, or its name.
Subject: TypeAlias = SteeringVector | Lora | Contrast | Arm | str

#: What each arm is called on a page.
TITLES = {
    "steered": "steered",
    "none": "unsteered",
    "prompt": "strict instruction",
    "random": "random vectors (control)",
    "sign_flipped": "sign-flipped (control)",
    "shuffled": "shuffled labels (control)",
    "cad": "context-aware decoding",
    "adacad": "adaptive context-aware decoding",
}

#: Controls, by what they make of a vector under given settings. `shuffled` is built from pairs.
_CONTROLS: Mapping[str, Callable[[SteeringVector, EvaluationSettings], list[SteeringVector]]] = {
    # One random direction may help or hurt by luck: several are run and averaged per prompt.
    "random": lambda vector, how: [
        vector.randomised(seed) for seed in range(how.seed, how.seed + how.random_vectors)
    ],
    "sign_flipped": lambda vector, _: [vector.negated()],
}

#: Arms that are made from a vector to show that it is this vector that does it.
CONTROLS = (*_CONTROLS, "shuffled")

#: The controls that need nothing but the vector.
OWN_CONTROLS = tuple(_CONTROLS)

#: What a vector is compared with unless something else is asked for; `shuffled` comes on top where
#: the vector's pairs are given.
DEFAULT_AGAINST = ("none", "prompt", "random", "sign_flipped")

#: Every name that needs nothing but the model, the settings and the vector at hand.
ARMS = ("none", "prompt", *CONTROLS, "cad", "adacad")


def arm_of(subject: Subject, settings: EvaluationSettings, name: str | None = None) -> Arm:
    """Return the arm that a subject is run as, under this name or its own.

    A name is of an arm that needs no vector, such as "prompt", which `settings` know, or "cad=0.5".

    Raises:
        InvalidInputError: A vector without a calibration, or a name that needs a vector or that
            nothing has.
    """
    if isinstance(subject, Arm):
        return subject
    if isinstance(subject, SteeringVector):
        return Arm(name or subject.name, subject.steer())
    if isinstance(subject, Lora):
        return Arm(name or subject.name, lora=subject)
    if isinstance(subject, Contrast):
        return Arm(name or subject.kind, contrast=subject)
    kind, equals, value = subject.partition("=")
    if kind == "cad":
        alpha = _number(subject, value) if equals else CAD_ALPHA
        return Arm(name or subject, contrast=Contrast("cad", alpha))
    if kind == "adacad" and not equals:
        return Arm(name or subject, contrast=Contrast("adacad"))
    if kind == "prompt" and not equals:
        target = settings.target or ""
        instruction = settings.strict_instruction or strict_instruction_for(target)
        return Arm(name or subject, instruction=instruction)
    if subject == "none":
        return UNSTEERED
    known = ", ".join(ARMS)
    if subject in METHODS or subject == "lora":
        raise InvalidInputError(
            f"cannot compare against {subject!r} without what it made: give the vector or the LoRA "
            f"itself, or let `compare` make it; else choose from {known}"
        )
    raise InvalidInputError(f"cannot compare against {subject!r}; choose from {known}")


def arms_of(
    subject: Subject, settings: EvaluationSettings, shuffled: Sequence[SteeringVector] = ()
) -> list[Arm]:
    """Return the subject's arm, then the unsteered one, then those of `settings.against`.

    The unsteered model is always run: every other number is read against it. A vector's arm is
    called "steered"; `shuffled` is the control of that name, built from the vector's pairs.

    Raises:
        InvalidInputError: An unknown name, a control of something that is no vector, or two arms
            of one name.
    """
    mine = arm_of(subject, settings, "steered" if isinstance(subject, SteeringVector) else None)
    if mine.name == "none":
        raise InvalidInputError(
            "'none' is the unsteered model, which is always run: give something to compare with it"
        )
    found = [mine, UNSTEERED]
    against = settings.against
    if against is None:
        against = DEFAULT_AGAINST if isinstance(subject, SteeringVector) else ("prompt",)
        against = (*against, *(("shuffled",) if shuffled else ()))
    for other in dict.fromkeys(against):
        made = _control(other, subject, settings, shuffled)
        if made is None:
            made = [arm_of(other, settings)]
        if made == [UNSTEERED] or (isinstance(other, str) and other == mine.name):
            continue  # it is among them already
        double = {arm.name for arm in found} & {arm.name for arm in made}
        if double:
            raise InvalidInputError(f"two arms are called {double.pop()!r}: rename one")
        found += made
    return found


def _control(
    name: Subject,
    subject: Subject,
    settings: EvaluationSettings,
    shuffled: Sequence[SteeringVector],
) -> list[Arm] | None:
    """The arms of a control; None for what is none."""
    if not isinstance(name, str) or name not in CONTROLS:
        return None
    if not isinstance(subject, SteeringVector):
        raise InvalidInputError(
            f"the control {name!r} is made from a vector, and there is none here: leave it out"
        )
    if name == "shuffled" and not shuffled:
        raise InvalidInputError(
            "the control 'shuffled' is built from the vector's own pairs: give them (pairs=, or "
            "--pairs FILE)"
        )
    made = shuffled if name == "shuffled" else _CONTROLS[name](subject, settings)
    return [Arm(name, vector.steer()) for vector in made]


def controls_of(arm: Arm, settings: EvaluationSettings) -> list[Arm]:
    """Return the controls of `settings.against` for an arm that steers, at its own strength.

    Controls that need more than its vectors are left out.
    """
    terms = arm.steering.terms
    vectors = [term.vector for term in terms if isinstance(term.vector, SteeringVector)]
    if len(vectors) < len(terms):
        return []
    found = []
    for name in (name for name in OWN_CONTROLS if name in (settings.against or ())):
        made = [_CONTROLS[name](vector, settings) for vector in vectors]
        for run in zip(*made, strict=True):
            pairs = zip(terms, run, strict=True)
            changed = tuple(replace(term, vector=vector) for term, vector in pairs)
            found.append(Arm(name, Steering(changed)))
    return found


def check_fits(subject: Subject, llm: HookedModel, force: bool = False) -> None:
    """Make sure that a subject belongs to the model.

    Raises:
        ModelMismatchError: It was built for another one.
    """
    if isinstance(subject, SteeringVector):
        subject.check(llm.fingerprint, force=force)
    elif isinstance(subject, Lora):
        subject.check(llm)
    elif isinstance(subject, Arm):
        made = [term.vector for term in subject.steering.terms]
        for each in (*made, *([] if subject.lora is None else [subject.lora])):
            if isinstance(each, SteeringVector | Lora):
                check_fits(each, llm, force)


def strict_instruction_for(category: str, pictured: bool = False) -> str:
    """Return the strict instruction that fits a category's behaviour; some ask about images."""
    others = STRICT_INSTRUCTIONS["picture" if pictured else "faithfulness"]
    return STRICT_INSTRUCTIONS.get(category, others)


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidInputError(f"{text!r} has no number after '=': write it as in cad=0.5")
    return number
