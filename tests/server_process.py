"""Servers as processes of their own, for the tests: a scripted model, or the bundled one.

They are forked from one process that has imported everything, so that each starts in a moment.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from forked import CONTEXT

ROOT = Path(__file__).resolve().parent.parent
KEY, ADMIN = "key-of-a-client", "key-of-an-admin"
PATIENCE = 60.0
"""Seconds until a process that says nothing counts as broken."""


@dataclass
class ServerProcess:
    """A server that runs.

    Attributes:
        url: Where it listens.
        process: The process.
        told: What it says, and where commands go.
        output: The file of its error stream, the access log among it.
        folder: Of its policy and its logs.
        gate: Every pass of a model that is held back takes one of its permits.
    """

    url: str
    process: Any
    told: Any
    output: Path
    folder: Path
    gate: Any

    @property
    def base(self) -> str:
        """What OpenAI's clients are given."""
        return f"{self.url}/v1"

    def hear(self) -> str:
        """Return the next thing that it says."""
        assert self.told.poll(PATIENCE), self.output.read_text()
        return str(self.told.recv())

    def says(self, text: str) -> str:
        """Wait for a text on its error stream, and return all of that: a line may come after the
        response that it is about.
        """
        end = time.monotonic() + PATIENCE
        while text not in (output := self.output.read_text()):
            assert time.monotonic() < end, output
            time.sleep(0.01)
        return output

    def do(self, command: str) -> None:
        """Let it do something to its model, and wait until that is done."""
        self.told.send(command)
        while self.hear() != f"done: {command}":
            pass

    def http(self, **options: Any) -> httpx.Client:
        """Return a plain client."""
        headers = {"Authorization": f"Bearer {KEY}", **options.pop("headers", {})}
        return httpx.Client(base_url=self.url, timeout=PATIENCE, headers=headers, **options)

    def chat(self, content: str = "When?", **fields: Any) -> httpx.Response:
        """Ask one question."""
        messages = [{"role": "user", "content": content}]
        with self.http() as client:
            body = {"model": "tiny", "messages": messages, **fields}
            return client.post("/v1/chat/completions", json=body)

    def counted(self, name: str, **labels: str) -> float:
        """Return a metric, summed over its labels but for those named."""
        with self.http() as client:
            lines = client.get("/metrics").text.splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith(f"steerable:{name}{{")
            and all(f'{key}="{value}"' in line for key, value in labels.items())
        )

    def end(self, sig: int = signal.SIGTERM) -> None:
        """Send it a signal."""
        os.kill(self.process.pid, sig)


@contextmanager
def running(
    folder: Path, kind: str = "scripted", *, wait: bool = True, held: bool = False, **settings: Any
) -> Iterator[ServerProcess]:
    """Run a server until the block ends.

    Args:
        folder: For what it keeps.
        kind: Of model, by its name in `server_models.MODELS`.
        wait: Until the model is there.
        held: Whether each pass of the model waits for a permit.
        **settings: Of the server.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ours, theirs = CONTEXT.Pipe()
    gate = CONTEXT.Semaphore(0) if held else None
    output = folder / "stderr.txt"
    environment = {k: v for k, v in os.environ.items() if k.startswith("OTEL_")}
    process = CONTEXT.Process(
        target=_serve, args=(kind, folder, settings, gate, theirs, output, environment)
    )
    process.start()
    server = ServerProcess("", process, ours, output, folder, gate)
    try:
        server.url = server.hear().split()[2].rstrip(",")
        if wait:
            assert server.hear().startswith("ready"), output.read_text()
        yield server
    finally:
        process.kill()
        process.join()
        ours.close()


def _serve(
    kind: str,
    folder: Path,
    settings: dict[str, Any],
    gate: Any,
    told: Any,
    output: Path,
    environment: dict[str, str],
) -> None:
    import logging

    from server_models import MODELS

    from steerable_llm.server.process import serve
    from steerable_llm.server.settings import ServerSettings

    os.environ.update(environment)
    os.dup2(os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND), sys.stderr.fileno())
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("steerable_llm.server").setLevel(logging.INFO)
    may_load = threading.Event()
    made: list[Any] = []

    def load() -> Any:
        if kind == "waiting":
            may_load.wait()
        made.append(MODELS[kind](folder, gate))
        return made[0]

    def obey() -> None:
        while True:
            try:
                command = told.recv()
            except (EOFError, OSError):
                return
            if command == "load":
                may_load.set()
            elif command == "die":
                made[0].model.control.dies = True
            elif command in ("fail", "heal"):
                made[0].model.control.fails = command == "fail"
            told.send(f"done: {command}")

    threading.Thread(target=obey, daemon=True).start()
    keys: dict[str, Any] = {
        "api_keys": (KEY,),
        "admin_keys": (ADMIN,),
        "log": f"sqlite:///{folder}/answers.db",
    }
    keys["policy_folder"] = folder
    serve(load, ServerSettings(**{"name": "tiny", **keys, **settings}), port=0, say=told.send)
