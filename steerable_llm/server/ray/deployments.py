"""The two deployments as one application of Ray Serve."""

from typing import Any

from steerable_llm.errors import from_extra
from steerable_llm.server.ray.settings import GATEWAY, REPLICA, RaySettings

_MANY = 10_000
"""Requests that a gateway holds: it only waits, and refuses by itself what is too much."""


def app(settings: RaySettings) -> Any:
    """Return the application of Ray Serve that serves a model.

    Options of a deployment that a config for `serve deploy` names take the place of those here.

    Raises:
        MissingExtraError: Ray Serve is not installed.
        SteerableError: The policy or a file of keys cannot be used.
    """
    with from_extra("ray", "Ray Serve needs a package that is not installed"):
        from ray import serve

        from steerable_llm.server.ray.gateway import Gateway
        from steerable_llm.server.ray.replica import Replica
    settings.check()
    replicas = serve.deployment(
        name=REPLICA,
        max_ongoing_requests=settings.max_running,
        autoscaling_config=settings.scaling,
        ray_actor_options=settings.replica_resources,
        graceful_shutdown_timeout_s=settings.drain_timeout,
        health_check_period_s=2.0,
    )(Replica).bind(settings)
    return serve.deployment(
        name=GATEWAY,
        max_ongoing_requests=_MANY,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=settings.drain_timeout,
    )(serve.ingress()(Gateway)).bind(settings, replicas)
