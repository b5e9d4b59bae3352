"""What the tests of policies share: a made-up model's fingerprint, vectors, gates and embedders."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from steerable_llm.policy.gate import Gate
from steerable_llm.policy.policy import Policy
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.fingerprint import ModelFingerprint
from steerable_llm.vector.vector import SteeringVector

WIDTH = 4
MODEL = ModelFingerprint(
    model_id="tiny",
    architecture="LlamaForCausalLM",
    hidden_size=WIDTH,
    num_layers=3,
    config_hash="c",
    weights_hash="w",
    tokenizer_hash="t",
    template_hash="p",
)


def vector(name: str, *direction: float, strength: float | None = 0.5) -> SteeringVector:
    """A vector with the same direction in all three blocks."""
    along = torch.tensor(direction or (1.0, 2.0, 3.0, float(len(name))))
    return SteeringVector(
        name=name,
        directions={layer: along.clone() for layer in range(3)},
        scales=dict.fromkeys(range(3), 2.0),
        fingerprint=MODEL,
        calibration=None if strength is None else Calibration(strength=strength),
    )


@dataclass
class WordEmbedder:
    """Embeds a text by whether it holds certain words; its fingerprint is its word list."""

    words: tuple[str, ...] = ("rude", "kind")
    calls: list[list[str]] = field(default_factory=list)
    name: str = "words"

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(" ".join(self.words).encode()).hexdigest()[:16]

    def embed(self, texts: Sequence[str]) -> Any:
        self.calls.append(list(texts))
        return np.array([[float(word in text) for word in self.words] for text in texts])


def word_gate(name: str = "rudeness", threshold: float = 0.5, **changes: Any) -> Gate:
    """A gate that opens for "rude" and closes for "kind"; in between it says one half."""
    embedder = WordEmbedder()
    settings: dict[str, Any] = {
        "weights": np.array([2.0, -2.0]),
        "bias": 0.0,
        "embedder": embedder.name,
        "embedder_fingerprint": embedder.fingerprint,
        **changes,
    }
    return Gate(name=name, threshold=threshold, **settings)


VECTORS = {name: vector(name) for name in ("faithful", "polite", "true")}


def policy_of(steps: dict[str, Any], **top: Any) -> Policy:
    """A policy over `VECTORS` and the word gate."""
    embedder = top.pop("embedder", None) or WordEmbedder()
    gates = top.pop("gates", None) or {"rudeness": word_gate()}
    return Policy.from_dict({"steps": steps, **top}, VECTORS, gates=gates, embedder=embedder)
