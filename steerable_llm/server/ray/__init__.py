"""The server on many machines: Ray Serve, with a gateway in front of replicas of the model.

`app` is what `serve run steerable_llm.server.ray:app model=... policy=...` and the `import_path` of
a config for `serve deploy` name.
"""

from steerable_llm.server.ray.deployments import app

__all__ = ["app"]
