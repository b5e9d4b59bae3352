"""The models that the servers of the tests serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adapter_models import random_vector
from scripted import Control, calling, scripted_llm

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError

POLICY = """
default_step = "plain"
[steps.plain]
[steps.answer]
vectors = [{ name = "a", strength = 0.8 }]
steer_structured = true
[steps.reply]
vectors = [{ name = "b", strength = -0.8, layers = [1] }]
"""
STORY = "Once upon a time there was a shop in Lyon that opened at nine. " * 6
SHOP = {"street": "Rue Neuve", "opens": 9}
SAID = {
    "weather": calling("weather", {"city": "Lyon"}),
    "story": STORY,
    "shop": json.dumps(SHOP),
    "Grüße": "Grüße aus Köln 👋, 你好\u2028Ende",
    "sunny": "It is sunny.",
    "When": "At nine, as the documents say.",
}


SECRET = "a secret of the inside"


class Death(BaseException):
    """What no engine survives."""


class Failing(Control):
    """A control whose passes may be told to fail."""

    def __init__(self, gate: Any) -> None:
        super().__init__()
        self.gate = gate
        self.fails = False
        self.dies = False

    def enter(self, rows: int) -> None:
        super().enter(rows)
        if self.dies:
            raise Death
        if self.fails:
            raise RuntimeError(SECRET)


def broken(folder: Path, gate: Any) -> SteerableHFLLM:
    """A model that cannot be loaded."""
    del folder, gate
    raise InvalidInputError("there is no such model: name another one")


def scripted(folder: Path, gate: Any) -> SteerableHFLLM:
    """A model that follows a script, under a policy file."""
    plain = scripted_llm(SAID)
    for seed, name in enumerate("ab"):
        random_vector(plain, name, seed).save(folder / f"{name}.safetensors")
    policy = folder / "policy.toml"
    policy.write_text(POLICY)
    llm = scripted_llm(SAID, policy=policy)
    llm.model.control = Failing(gate)
    return llm


def demo(folder: Path, gate: Any) -> SteerableHFLLM:
    """The bundled model, with a policy for documents."""
    del folder, gate
    policies = Path(__file__).resolve().parent.parent / "vectors" / "policies"
    return SteerableHFLLM.demo(policy=policies / "document-qa.toml")


def vision(folder: Path, gate: Any) -> SteerableHFLLM:
    """A model that reads images."""
    from vision_models import vision_llm

    del folder, gate
    return vision_llm("llava")


MODELS = {
    "scripted": scripted,
    "waiting": scripted,
    "demo": demo,
    "broken": broken,
    "vision": vision,
}
