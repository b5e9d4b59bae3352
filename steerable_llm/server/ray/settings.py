"""What a deployment on Ray is told: the arguments of `serve run` and of a config's `args`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from steerable_llm.answer.llm import BUNDLED, SteerableHFLLM
from steerable_llm.policy.policy import Policy
from steerable_llm.server.keys import ADMIN_KEYS, API_KEYS, read_keys
from steerable_llm.server.settings import ServerSettings

GATEWAY, REPLICA = "gateway", "engine"
"""What the deployments are called, in configs and by Ray's own commands."""
MB = 2**20
_BUSY = 0.75
"""Share of a replica's rows that are taken before Ray starts another, unless it is told."""


class RaySettings(BaseModel):
    """How a model is served on Ray; the names are those of `steerable serve`.

    Attributes:
        model: A bundled model's name, an id on the Hub, a folder or a GGUF file; the last two must
            be there on each machine that has a replica.
        revision: Of a model on the Hub.
        options: More arguments of `SteerableHFLLM.from_pretrained`, such as `dtype` and
            `device_map`.
        policy: Policy file, read where the gateway runs; replicas are sent it with its vectors.
        name: What clients call the model.
        api_keys: File with keys that let clients in; or the environment variable
            `STEERABLE_API_KEYS`, of the gateway.
        admin_keys: The same for policies; or `STEERABLE_ADMIN_KEYS`.
        log: Address of the answer log, such as `postgresql://...`.
        max_running: Answers that a replica works on together.
        max_waiting: Answers that wait at a gateway beside those that the replicas have room for;
            more are refused with 429.
        max_cached_tokens: Tokens that a replica's answers under way hold in memory.
        prefix_cache_mb: Memory of a replica for what prompts begin with, kept for later ones.
        max_choices: Answers that one request may ask for.
        max_tokens: Most tokens that a request may ask for.
        max_body_mb: Largest body of a request.
        request_timeout: Seconds after which an answer is given up.
        drain_timeout: Seconds that answers get when a replica or a gateway is to end.
        autoscaling: Ray Serve's `autoscaling_config` of the replicas; one replica unless given.
        replica_resources: What Ray reserves for a replica, such as `{"num_gpus": 1}`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "smollm2"
    revision: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    policy: Path | None = None
    name: str | None = Field(default=None, min_length=1)
    api_keys: Path | None = None
    admin_keys: Path | None = None
    log: str | None = None
    max_running: int = Field(default=64, ge=1)
    max_waiting: int = Field(default=128, ge=0)
    max_cached_tokens: int = Field(default=65536, ge=1)
    prefix_cache_mb: int = Field(default=256, ge=0)
    max_choices: int = Field(default=8, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_body_mb: int = Field(default=16, ge=1)
    request_timeout: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    drain_timeout: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    autoscaling: dict[str, Any] = Field(default_factory=dict)
    replica_resources: dict[str, Any] = Field(default_factory=lambda: {"num_cpus": 1})

    @model_validator(mode="after")
    def _of_the_hub(self) -> Self:
        if self.revision is not None and self.model in BUNDLED:
            raise ValueError(
                f"revision is of a model on the Hub, and {self.model!r} comes in a Python package: "
                "leave it out"
            )
        return self

    @property
    def scaling(self) -> dict[str, Any]:
        """How many replicas there are, as Ray Serve takes it."""
        target = max(1, int(_BUSY * self.max_running))
        given = {"min_replicas": 1, "target_ongoing_requests": target, **self.autoscaling}
        given.setdefault("max_replicas", given["min_replicas"] or 1)
        return given

    def check(self) -> None:
        """Refuse what would fail later, on another machine, where it is harder to see.

        Raises:
            SteerableError: The policy or a file of keys cannot be used.
        """
        if self.policy is not None:
            Policy.load(self.policy)
        self.server()

    def load(self) -> SteerableHFLLM:
        """Return the model, without a policy: that comes with each request."""
        given = dict(self.options)
        if self.revision is not None:
            given["revision"] = self.revision
        return SteerableHFLLM.named(self.model, **given)

    def server(self) -> ServerSettings:
        """Return what the gateway's application is told.

        Raises:
            InvalidInputError: A file of keys cannot be used.
        """
        log = self.log
        return ServerSettings(
            name=self.name,
            api_keys=read_keys(self.api_keys, API_KEYS),
            admin_keys=read_keys(self.admin_keys, ADMIN_KEYS),
            policy_folder=self.policy.parent if self.policy else Path(),
            log=None if log is None else log if "://" in log else f"sqlite:///{os.fspath(log)}",
            most_running=self.max_running,  # of one replica; the gateway counts them
            most_waiting=self.max_waiting,
            most_cached=self.max_cached_tokens,
            most_choices=self.max_choices,
            most_tokens=self.max_tokens,
            most_bytes=self.max_body_mb * MB,
            request_timeout=self.request_timeout,
            drain_timeout=self.drain_timeout,
        )
