"""What a server asks of the model that it serves; in this process, or behind other machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

from steerable_llm.answer.engine import Load
from steerable_llm.answer.pending import Pending
from steerable_llm.answer.request import GenerationRequest, GenerationSettings
from steerable_llm.policy.policy import Policy
from steerable_llm.vector.fingerprint import ModelFingerprint


class ServedModel(Protocol):
    """What endpoints need of a model; `SteerableHFLLM` has all of it.

    Attributes:
        generation_defaults: What holds where a request says nothing.
    """

    generation_defaults: GenerationSettings

    @property
    def engine(self) -> Load:
        """What makes the answers."""
        ...

    @property
    def model_id(self) -> str:
        """What it was loaded from."""
        ...

    @property
    def context_window(self) -> int:
        """Tokens that prompt and answer may have together."""
        ...

    @property
    def fingerprint(self) -> ModelFingerprint:
        """Of its weights."""
        ...

    @property
    def policy(self) -> Policy | None:
        """What steers requests."""
        ...

    def reload_policy(self) -> Policy:
        """Read the policy's file and its vectors again."""
        ...

    def as_written(self) -> Self:
        """Return the same model without its chat template."""
        ...

    async def submit_all(
        self, requests: Sequence[GenerationRequest], timeout: float | None = None
    ) -> list[Pending]:
        """Begin to answer requests: all of them, or none."""
        ...
