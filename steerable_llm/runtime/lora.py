"""LoRA: small weights beside the model's own (Hu et al. 2022, arXiv:2106.09685).

`W x` becomes `W x + (alpha / r) B A x` in every adapted layer. The baseline that steering is
compared with: unlike a vector, a LoRA is trained, and while it is on it changes the model for
everybody who uses it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from steerable_llm.errors import ModelMismatchError, NotAVectorError
from steerable_llm.files import write_whole
from steerable_llm.json_records import plainly_parsed
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.merged_lora import quiet_peft, require_peft
from steerable_llm.vector.file import content_hash
from steerable_llm.vector.fingerprint import ModelFingerprint
from steerable_llm.vector.provenance import Provenance

# The first two are peft's own names, so that peft loads the folder as well.
_WEIGHTS, _CONFIG, _OURS = "adapter_model.safetensors", "adapter_config.json", "steerable.json"


@dataclass(frozen=True, eq=False)
class Lora:
    """A trained LoRA, bound to the model it was trained on.

    Attributes:
        name: What reports call it.
        config: The configuration of peft as plain values.
        weights: From peft's names to tensors.
        fingerprint: The model it was trained on.
        provenance: How it was trained, and on which pairs.
    """

    name: str
    config: Mapping[str, Any] = field(repr=False)
    weights: Mapping[str, Tensor] = field(repr=False)
    fingerprint: ModelFingerprint = field(repr=False)
    provenance: Provenance = field(default=Provenance(), repr=False)

    @property
    def fingerprint_id(self) -> str:
        """Sixteen hexadecimal digits over the name and the weights: what answered."""
        return content_hash(self.name, self.weights)[:16]

    def check(self, llm: HookedModel) -> None:
        """Make sure that it belongs to a model.

        Raises:
            ModelMismatchError: Another model; the message names both.
        """
        differences = self.fingerprint.differences(llm.fingerprint)
        if differences:
            raise ModelMismatchError(
                f"LoRA {self.name!r} was trained on {self.fingerprint.short}, but the model is "
                f"{llm.fingerprint.short} (different: {', '.join(differences)}): train it again"
            )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write a folder that peft reads too, and return its path."""
        target = Path(folder)
        ours = {
            "name": self.name,
            "fingerprint": self.fingerprint.model_dump(),
            "provenance": self.provenance.record(),
        }
        weights = {name: tensor.contiguous() for name, tensor in self.weights.items()}
        write_whole(target / _WEIGHTS, to_safetensors(weights, {"format": "pt"}))
        write_whole(target / _OURS, json.dumps(ours, indent=2, sort_keys=True))
        # Last, so that a folder that has it is whole.
        write_whole(target / _CONFIG, json.dumps(dict(self.config), indent=2, sort_keys=True))
        return target

    @classmethod
    def load(cls, folder: str | os.PathLike[str], llm: HookedModel | None = None) -> Lora:
        """Read what `save` wrote.

        Args:
            folder: The folder.
            llm: When given, the LoRA must belong to it.

        Raises:
            NotAVectorError: The folder is no such LoRA, or a file of it is damaged.
            ModelMismatchError: It belongs to another model.
        """
        source = Path(folder)
        try:
            config = plainly_parsed((source / _CONFIG).read_bytes())
            ours = plainly_parsed((source / _OURS).read_bytes())
            lora = cls(
                name=ours["name"],
                config=config,
                weights=load_file(source / _WEIGHTS),
                fingerprint=ModelFingerprint.from_record(ours["fingerprint"]),
                provenance=Provenance.from_record(ours["provenance"]),
            )
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            SafetensorError,
        ) as error:
            raise NotAVectorError(
                f"{source} is not a whole LoRA folder ({error}): use one that "
                "`steerable build --method lora` wrote"
            ) from error
        if llm is not None:
            lora.check(llm)
        return lora


@contextmanager
def adapted(llm: HookedModel, lora: Lora) -> Iterator[None]:
    """Put a LoRA on the model for the length of a with block.

    The model is changed for all its users meanwhile; afterwards its modules, weights and flags are
    what they were.

    Raises:
        ModelMismatchError: The LoRA belongs to another model.
        MissingExtraError: The package peft is not installed.
    """
    lora.check(llm)
    peft = require_peft()
    config = peft.LoraConfig(**lora.config)
    with lora_layers(llm, config) as wrapped:
        result = peft.set_peft_model_state_dict(wrapped, dict(lora.weights))
        if result.unexpected_keys:
            raise ModelMismatchError(
                f"LoRA {lora.name!r} has weights for {result.unexpected_keys[0]!r}, which "
                "the model does not have: train it again"
            )
        yield


@contextmanager
def lora_layers(llm: HookedModel, config: Any) -> Iterator[Any]:
    """Put fresh LoRA layers into the model, and take them out again without a trace.

    Yields:
        The model as peft wraps it.
    """
    peft = require_peft()
    model = llm.model
    names = set(vars(model))
    gradients = {name: p.requires_grad for name, p in model.named_parameters()}
    training = {name: module.training for name, module in model.named_modules()}
    try:
        with quiet_peft():
            wrapped = peft.get_peft_model(model, config)
        wrapped.eval()
        yield wrapped
    finally:
        _unload(model)
        for name in set(vars(model)) - names:
            delattr(model, name)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(gradients[name])
        for name, module in model.named_modules():
            module.training = training[name]


def _unload(model: nn.Module) -> None:
    """Put every adapted layer's own layer back, also after a LoRA that failed half way."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted_layers = {
        name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)
    }
    for name, module in adapted_layers.items():
        model.set_submodule(name, module.get_base_layer())
