"""What identifies the model that a vector was made for."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Self

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from steerable_llm.errors import VectorFileError, first_problem

# Numbers read from each weight tensor. Enough to tell fine-tuned models apart, and few enough that
# a model of 70 B parameters is hashed in seconds.
SAMPLES = 256


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of 256 evenly spread numbers of every parameter, rounded to bfloat16.

    A bfloat16 checkpoint has the same hash whether it was loaded as it is or in float32.
    """
    return parameters_hash(model.named_parameters())


def parameters_hash(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """Return the same of parameters with their names, wherever they come from.

    They are looked at one by one, so that an iterator may read a checkpoint of any size.
    """
    parts = [
        (name, f"{name}{tuple(parameter.shape)}".encode() + _sample(parameter))
        for name, parameter in parameters
    ]
    return hashlib.sha256(b"".join(part for _, part in sorted(parts))).hexdigest()


def _sample(parameter: Tensor) -> bytes:
    flat = parameter.detach().reshape(-1)
    count = min(SAMPLES, flat.numel())
    # Whole-number steps: the places do not depend on rounding of large indices.
    places = torch.arange(count, device=flat.device) * max(1, flat.numel() // max(1, count))
    values = flat[places].to("cpu", torch.float32).bfloat16()
    return values.view(torch.int16).numpy().tobytes()


class ModelFingerprint(BaseModel, frozen=True, extra="forbid", protected_namespaces=()):
    """Facts and hashes of one model; a vector only fits the model it was made from.

    Attributes:
        model_id: Hub id or path it was loaded from; for people, not compared.
        revision: The commit or tag asked for; for people, not compared.
        architecture: The model class, for example "LlamaForCausalLM".
        hidden_size: Width d of the residual stream.
        num_layers: Number L of decoder blocks.
        config_hash: Hash of the configuration's numbers.
        weights_hash: Hash of (a sample of) the weights.
        tokenizer_hash: Hash of the vocabulary and special tokens.
        template_hash: Hash of the chat template.
    """

    model_id: str
    revision: str | None = None
    architecture: str
    hidden_size: int
    num_layers: int
    config_hash: str
    weights_hash: str
    tokenizer_hash: str
    template_hash: str

    def differences(self, other: "ModelFingerprint") -> tuple[str, ...]:
        """Return the compared fields that differ (the id and revision are not compared)."""
        compared = (
            "architecture", "hidden_size", "num_layers", "config_hash",
            "weights_hash", "tokenizer_hash", "template_hash",
        )  # fmt: skip
        return tuple(name for name in compared if getattr(self, name) != getattr(other, name))

    @property
    def short(self) -> str:
        """The model's id with eight hexadecimal digits of everything compared."""
        facts = self.model_dump(exclude={"model_id", "revision"})
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return f"{self.model_id}@{digest[:8]}"

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Read a fingerprint from a vector file's metadata.

        Raises:
            VectorFileError: A field is missing or has the wrong type.
        """
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            raise VectorFileError(
                f"the vector file's model fingerprint is not valid ({first_problem(error)}): "
                "save the vector again"
            ) from error
