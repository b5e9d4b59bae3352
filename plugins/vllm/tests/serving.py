"""A vLLM server with SmolLM2 and its vectors, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

VECTORS = Path(__file__).parents[3] / "vectors"


@dataclass
class Server:
    """Where it listens, and as which process."""

    url: str
    pid: int | None = None


@contextmanager
def serving(python: str, checkpoint: Path, folder: Path) -> Iterator[Server]:
    """Start vLLM with chunks of 64 tokens and the prefix cache.

    Args:
        python: The one that has vLLM.
        checkpoint: Of SmolLM2.
        folder: For its log.
    """
    (folder / "vectors").mkdir()
    for file in VECTORS.glob("smollm2-*.safetensors"):
        (folder / "vectors" / file.name).symlink_to(file)
    log, port = folder / "log", _free_port()
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint),
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32",
        "--max-model-len", "2048", "--max-num-batched-tokens", "64", "--max-num-seqs", "16",
        "--additional-config", f'{{"steering": {{"vectors": "{folder / "vectors"}"}}}}',
        "--structured-outputs-config", '{"backend": "guidance"}',
        # Compiling takes minutes; VLLM_ARGUMENTS= does it.
        *os.environ.get("VLLM_ARGUMENTS", "--enforce-eager").split(),
    ]  # fmt: skip
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=folder, env=plain_environment()
        )
    try:
        _wait(f"http://127.0.0.1:{port}", process, log)
        yield Server(f"http://127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        process.wait(60)


def plain_environment() -> dict[str, str]:
    """Return this process's variables for vLLM's Python, which has packages of its own."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**own, "VLLM_PLUGINS": "steerable"}


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(900):
        if process.poll() is not None:
            raise RuntimeError(f"vLLM ended: {log.read_text()[-3000:]}")
        try:
            if httpx.get(f"{url}/health", trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(1)
    raise RuntimeError(f"vLLM did not start: {log.read_text()[-3000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
