"""A small cluster of Ray on this machine, and replicas of the bundled model that can be held."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.server.ray.settings import RaySettings

TESTS = Path(__file__).resolve().parent
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_worker_niceness": "0",  # on a busy machine they would hardly get on
    "OMP_NUM_THREADS": "1",
}


class HeldSettings(RaySettings):
    """Settings of replicas that tell what they do, and stop and go as a folder says.

    Attributes:
        folder: Each replica writes the rows of its passes into `PID.rows` there. While there is a
            file `hold`, no pass goes on; while there is `slow`, each takes its time.
    """

    folder: Path

    def load(self) -> SteerableHFLLM:
        llm = super().load()
        folder, rows = self.folder, self.folder / f"{os.getpid()}.rows"
        rows.touch()

        def enter(_: Any, args: Any, kwargs: Any) -> None:
            tokens = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            with rows.open("a") as file:
                file.write(f"{len(tokens)}\n")
            if (folder / "slow").exists():
                time.sleep(0.05)
            while (folder / "hold").exists():
                time.sleep(0.01)

        llm.model.register_forward_pre_hook(enter, with_kwargs=True)
        return llm


@contextmanager
def cluster(nodes: int, cpus: int, resources: dict[str, float]) -> Iterator[None]:
    """Run a cluster, and be a driver of it, until the block ends."""
    before, on_sigterm = dict(os.environ), signal.getsignal(signal.SIGTERM)
    # What a node is started with its workers have, too.
    os.environ.update(_QUIET)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": cpus, "object_store_memory": 80 * 2**20, "resources": resources}
    made = Cluster()
    try:
        persistently(lambda: made.add_node(**node, include_dashboard=False))
        for _ in range(nodes - 1):
            persistently(lambda: made.add_node(**node))
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield
    finally:
        ray.shutdown()
        made.shutdown()
        os.environ.clear()
        os.environ.update(before)
        signal.signal(signal.SIGTERM, on_sigterm)


def persistently(start: Callable[[], object], times: int = 5) -> None:
    """Start something again if it takes longer than Ray would wait: a busy machine is no fault."""
    for left in reversed(range(times)):
        try:
            start()
            return
        except Exception:
            if not left:
                raise


@contextmanager
def quiet_data() -> Iterator[None]:
    """Let Ray Data show no progress bars."""
    import ray.data

    context = ray.data.DataContext.get_current()
    before, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        yield
    finally:
        context.enable_progress_bars = before


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
