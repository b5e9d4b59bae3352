"""Where a training run stands, in one safetensors file: weights, optimiser state and settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from steerable_llm.errors import InvalidInputError
from steerable_llm.files import write_whole


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a number of steps.

    Attributes:
        recipe: The settings of the run.
        step: Steps done.
        seconds: Seconds spent.
        weights: The model's tensors by name.
        moments: The optimiser's tensors, by index of the weight and name.
    """

    recipe: dict[str, Any]
    step: int
    seconds: float
    weights: dict[str, Tensor]
    moments: dict[int, dict[str, Tensor]]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        optimiser: Optimizer,
        recipe: dict[str, Any],
        step: int,
        seconds: float,
    ) -> Checkpoint:
        """Take the state of a running training."""
        # Parameters, not the state dict: tied weights are one tensor and are kept once.
        weights = {name: value.detach() for name, value in model.named_parameters()}
        return cls(recipe, step, seconds, weights, optimiser.state_dict()["state"])

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        tensors = {f"weight.{name}": value for name, value in self.weights.items()}
        for index, moments in self.moments.items():
            tensors |= {f"moment.{index}.{name}": value for name, value in moments.items()}
        told = {"recipe": self.recipe, "step": self.step, "seconds": self.seconds}
        metadata = {key: json.dumps(value) for key, value in told.items()}
        write_whole(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: Path, device: str) -> Checkpoint:
        """Read a file that ``save`` wrote.

        Raises:
            InvalidInputError: It is not such a file.
        """
        weights: dict[str, Tensor] = {}
        moments: dict[int, dict[str, Tensor]] = {}
        try:
            with safe_open(path, "pt", device) as file:
                told = {key: json.loads(value) for key, value in file.metadata().items()}
                for key in file.keys():
                    kind, _, name = key.partition(".")
                    if kind == "weight":
                        weights[name] = file.get_tensor(key)
                    else:
                        index, _, moment = name.partition(".")
                        moments.setdefault(int(index), {})[moment] = file.get_tensor(key)
            return cls(told["recipe"], told["step"], told["seconds"], weights, moments)
        except (SafetensorError, AttributeError, KeyError, ValueError) as error:
            raise InvalidInputError(
                f"{path} is not a checkpoint of this training ({error}): remove it to begin "
                "again, or give another folder with --out"
            ) from error

    def restore(self, model: nn.Module, optimiser: Optimizer) -> None:
        """Bring model and optimiser to this state."""
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(self.weights[name])
        optimiser.load_state_dict({**optimiser.state_dict(), "state": self.moments})
