"""What a gateway and a replica tell each other about one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from steerable_llm.answer.request import GenerationChunk, GenerationRequest, GenerationSettings
from steerable_llm.policy.decision import SteeringDecision
from steerable_llm.vector.fingerprint import ModelFingerprint


@dataclass(frozen=True)
class ModelFacts:
    """What a gateway needs to know of the model, which it does not have.

    Attributes:
        model_id: What it was loaded from.
        fingerprint: Of its weights.
        context_window: Tokens that prompt and answer may have together.
        generation_defaults: What holds where a request says nothing.
    """

    model_id: str
    fingerprint: ModelFingerprint
    context_window: int
    generation_defaults: GenerationSettings


@dataclass(frozen=True)
class SentPolicy:
    """Which policy a request is answered under.

    Attributes:
        digest: What the policy itself says it is; the replica makes sure that its own says so, too.
        packed: A reference to the policy with its vectors, which a replica fetches once. In a
            tuple, since Ray would fetch one that stands alone for every request.
        off: Whether the gateway's policy is switched off.
    """

    digest: str
    packed: tuple[Any, ...]
    off: bool


@dataclass(frozen=True)
class Question:
    """One request on its way to a replica.

    Attributes:
        request: What is asked; its policy travels apart.
        policy: The policy; None steers nothing but what the request brings itself.
        written: Whether the prompt is taken without the chat template.
        timeout: Seconds after which nobody waits any more.
    """

    request: GenerationRequest
    policy: SentPolicy | None
    written: bool
    timeout: float | None


@dataclass(frozen=True)
class Begun:
    """A replica has taken a request on.

    Attributes:
        decision: What it steers with and why, without the vectors themselves.
        prompt_tokens: How long the prompt is.
        fingerprint: Of the replica's model.
    """

    decision: SteeringDecision
    prompt_tokens: int
    fingerprint: ModelFingerprint


@dataclass(frozen=True)
class Failed:
    """A request has failed.

    Attributes:
        error: Why: an error of ours, which the client may be told.
    """

    error: Exception


Told: TypeAlias = Sequence[Begun | Failed | GenerationChunk]
"""What comes together: more than one where the gateway was slower than the replica."""
