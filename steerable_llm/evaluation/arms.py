"""What a vector is compared with: each name in `against` becomes one or more arms.

| name | what the model gets | what it tells |
|---|---|---|
| `steered` | the vector with its calibration | the effect that is claimed |
| `none` | nothing | where the model stands by itself |
| `prompt` | a strict system instruction, no vector | whether asking would have done it |
| `random` | random vectors of the same norms, same strength | whether any push does it |
| `sign_flipped` | the vector with the opposite strength | whether the direction matters |
| `shuffled` | vectors of the same pairs, half of them swapped | whether the labels matter |
| `cad`, `adacad` | no vector; scores set off against no context | whether decoding does it |
| a method, or `lora` | another vector or lora (`rivals`) | whether another way does it better |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steerable_llm.chat.phrases import STRICT_INSTRUCTIONS
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.set import EvaluationItem
from steerable_llm.methods import METHODS
from steerable_llm.runtime.contrast import Contrast
from steerable_llm.runtime.lora import Lora
from steerable_llm.vector.steering import Steering
from steerable_llm.vector.vector import SteeringVector


@dataclass(frozen=True)
class Arm:
    """One way of running the model on the held-out prompts.

    Attributes:
        name: What the report's row is called; arms of one name are averaged per prompt.
        steering: What the model is steered with.
        instruction: A system message that takes the place of the prompt's own, if any.
        contrast: Counts what the context adds more, while decoding and scoring.
        lora: LoRA weights that the model has meanwhile.
    """

    name: str
    steering: Steering
    instruction: str | None = None
    contrast: Contrast | None = None
    lora: Lora | None = None

    def messages(self, item: EvaluationItem) -> list[dict[str, Any]]:
        """The item's prompt as this arm sends it."""
        if self.instruction is None:
            return item.prompt
        rest = [message for message in item.prompt if message["role"] != "system"]
        return [{"role": "system", "content": self.instruction}, *rest]


@dataclass(frozen=True)
class Setting:
    """What a arm is made from.

    Attributes:
        vector: Calibrated; the control vectors keep its strength, layers and scope.
        strict_instruction: The system message of `prompt`.
        seed: Of the random vectors.
        random_vectors: How many random vectors are averaged.
        cad_alpha: How much more the context counts under `cad`.
        rivals: Calibrated vectors, or loras, by the names that `against` calls them.
        shuffled: Controls built from swapped pairs, calibrated as the vector is.
    """

    vector: SteeringVector
    strict_instruction: str
    seed: int = 0
    random_vectors: int = 3
    cad_alpha: float = 0.5
    rivals: Mapping[str, SteeringVector | Lora] = field(default_factory=dict)
    shuffled: tuple[SteeringVector, ...] = ()


def _steered(setting: Setting) -> list[Arm]:
    return [Arm("steered", setting.vector.steer())]


def _none(_: Setting) -> list[Arm]:
    return [Arm("none", Steering.none())]


def _prompt(setting: Setting) -> list[Arm]:
    return [Arm("prompt", Steering.none(), setting.strict_instruction)]


def _random(setting: Setting) -> list[Arm]:
    # One random direction may help or hurt by luck: several are run and averaged per prompt.
    seeds = range(setting.seed, setting.seed + setting.random_vectors)
    return [Arm("random", setting.vector.randomised(seed).steer()) for seed in seeds]


def _sign_flipped(setting: Setting) -> list[Arm]:
    return [Arm("sign_flipped", setting.vector.negated().steer())]


def _shuffled(setting: Setting) -> list[Arm]:
    if not setting.shuffled:
        raise InvalidInputError(
            "the control 'shuffled' is built from the vector's own pairs: give them (pairs=, or "
            "--pairs FILE)"
        )
    return [Arm("shuffled", vector.steer()) for vector in setting.shuffled]


def _cad(setting: Setting) -> list[Arm]:
    return [Arm("cad", Steering.none(), contrast=Contrast("cad", setting.cad_alpha))]


def _adacad(_: Setting) -> list[Arm]:
    return [Arm("adacad", Steering.none(), contrast=Contrast("adacad"))]


def _rival(name: str, rival: SteeringVector | Lora) -> Arm:
    if isinstance(rival, Lora):
        return Arm(name, Steering.none(), lora=rival)
    return Arm(name, rival.steer())


#: What a vector is compared with unless something else is asked for; `shuffled` comes on top where
#: the vector's pairs are given.
DEFAULT_AGAINST = ("none", "prompt", "random", "sign_flipped")

ARMS: Mapping[str, Callable[[Setting], list[Arm]]] = {
    "none": _none,
    "prompt": _prompt,
    "random": _random,
    "sign_flipped": _sign_flipped,
    "shuffled": _shuffled,
    "cad": _cad,
    "adacad": _adacad,
}


def arms(setting: Setting, against: Sequence[str]) -> list[Arm]:
    """The steered arm first, then the unsteered one, then those asked for in that order.

    The unsteered model is always run: every other number is read against it.

    Raises:
        InvalidInputError: A name in `against` is unknown; the message lists the known ones.
    """
    for name in against:
        if name in ARMS or name in setting.rivals:
            continue
        known = ", ".join([*ARMS, *setting.rivals])
        if name in METHODS or name == "lora":
            raise InvalidInputError(
                f"cannot compare against {name!r} without what it made: give rivals={{{name!r}: "
                f"...}}, calibrated, or let `compare` make it; else choose from {known}"
            )
        raise InvalidInputError(f"cannot compare against {name!r}; choose from {known}")
    if setting.random_vectors < 1:
        raise InvalidInputError("random_vectors must be at least 1")
    others = dict.fromkeys(["none", *against])
    found = _steered(setting)
    for name in others:
        if name in setting.rivals:
            found.append(_rival(name, setting.rivals[name]))
        else:
            found += ARMS[name](setting)
    return found


def strict_instruction_for(category: str) -> str:
    """The strict instruction that fits a category's behaviour."""
    return STRICT_INSTRUCTIONS.get(category, STRICT_INSTRUCTIONS["faithfulness"])
