"""A real vLLM server with SmolLM2, once per run; it takes a minute or more to start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from steerable_llm import SteerableHFLLM, SteeringVector
from tests.serving import VECTORS, Server, serving


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """Return the Python that has vLLM; `make test` names it."""
    return _named("VLLM_PYTHON")


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """Return the folder of SmolLM2 in safetensors; `make test` makes it."""
    return Path(_named("SMOLLM2_FOLDER"))


def _named(variable: str) -> str:
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set: run make test")
    return os.environ[variable]


@pytest.fixture(scope="session")
def local(checkpoint: Path) -> SteerableHFLLM:
    """Return the hooked model."""
    torch.set_num_threads(1)
    return SteerableHFLLM.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def vectors() -> dict[str, SteeringVector]:
    """Return the vectors that come with SmolLM2, by name."""
    found = [SteeringVector.load(file) for file in VECTORS.glob("smollm2-*.safetensors")]
    return {vector.name.removeprefix("smollm2-"): vector for vector in found}


@pytest.fixture(scope="session")
def server(vllm_python: str, checkpoint: Path, tmp_path_factory) -> Iterator[Server]:
    """Start vLLM, or take the one that listens at VLLM_URL and serves the same."""
    if "VLLM_URL" in os.environ:
        yield Server(os.environ["VLLM_URL"])
        return
    with serving(vllm_python, checkpoint, tmp_path_factory.mktemp("vllm")) as started:
        yield started
