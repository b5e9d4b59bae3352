"""A hash of a network's weights."""

import hashlib

import torch
from torch import Tensor, nn

# Numbers read from each weight tensor. Enough to tell fine-tuned models apart, and few enough that
# a model of 70 B parameters is hashed in seconds.
SAMPLES = 256


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of 256 evenly spread numbers of every parameter, rounded to bfloat16.

    A bfloat16 checkpoint has the same hash whether it was loaded as it is or in float32.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(_sample(parameter))
    return digest.hexdigest()


def _sample(parameter: Tensor) -> bytes:
    flat = parameter.detach().reshape(-1)
    count = min(SAMPLES, flat.numel())
    # Whole-number steps: the places do not depend on rounding of large indices.
    places = torch.arange(count, device=flat.device) * max(1, flat.numel() // max(1, count))
    values = flat[places].to("cpu", torch.float32).bfloat16()
    return values.view(torch.int16).numpy().tobytes()
