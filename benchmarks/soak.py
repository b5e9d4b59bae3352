"""Whether a server grows: memory, threads and handles of `steerable serve` under a long mixed load.

    python benchmarks/soak.py --seconds 300

One server per value of `--prefix-cache-mb`, all at the same time and with the same load, so that
what the cache takes is told from what is lost. `--clients` threads ask each in turn: whole answers,
streams, streams that are dropped after three pieces, requests that are 400, all with and without
steering. Six times on the way, and at the end when nothing is under way, each server's memory,
threads and open files are read. Whatever else than 200 or an asked-for 400 comes back is counted
as wrong, and the run then ends with status 1.
"""

import argparse
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
STARTS_WITHIN, READINGS = 300, 6
QUESTIONS = ("Who wrote Hamlet?", "What is the capital of France?", "When does the shop open?")
POLICY = """vectors_dir = "{folder}"

[steps.answer]
vectors = [{{ name = "{name}" }}]
"""


class Server:
    """A server of its own, and what was read of it.

    Attributes:
        cache: Megabytes that its prefix cache may take.
        url: Where it listens.
        seen: Seconds since the beginning, megabytes of memory, threads and open files.
    """

    def __init__(self, model: str, policy: Path, cache: int) -> None:
        """Start it, without waiting for it."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.cache, self.url = cache, f"http://127.0.0.1:{port}"
        self.seen: list[tuple[int, float, int, int]] = []
        command = [sys.executable, "-m", "steerable_llm", "serve", "--model", model]
        options = ["--name", "soak", "--policy", policy, "--port", port, "--prefix-cache-mb", cache]
        self.process = subprocess.Popen(
            [*command, *map(str, options)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def wait(self) -> None:
        """Wait until its model is loaded."""
        end = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/ready").status_code == 200:
                    return
            time.sleep(0.2)
        sys.exit(f"the server at {self.url} did not get ready")

    def read(self, seconds: float) -> None:
        """Note what it takes by now."""
        process = psutil.Process(self.process.pid)
        memory = process.memory_info().rss / 2**20
        self.seen.append((round(seconds), memory, process.num_threads(), process.num_fds()))


def ask(client: httpx.Client, server: Server, source: random.Random) -> str:
    """Send one request of any kind; return what came of it."""
    kind = source.choice(("whole", "stream", "dropped", "bad"))
    body = {
        "model": source.choice(("soak", "soak:answer")),
        "messages": [
            {"role": "system", "content": "You help." if source.random() < 0.5 else "Be brief."},
            {"role": "user", "content": f"{source.choice(QUESTIONS)} ({source.randrange(10**6)})"},
        ],
        "max_tokens": -1 if kind == "bad" else source.randint(1, 24),
        "temperature": source.choice((0, 1)),
        "stream": kind in ("stream", "dropped"),
    }
    with client.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response:
        for number, _ in enumerate(response.iter_lines()):
            if kind == "dropped" and number == 3:
                break
    right = response.status_code == (400 if kind == "bad" else 200)
    return kind if right else f"{kind}: {response.status_code}"


def load(servers: Sequence[Server], seed: int, end: float, told: Counter[str]) -> None:
    """Ask the servers in turn until the end."""
    source = random.Random(seed)
    with httpx.Client(timeout=STARTS_WITHIN) as client:
        while time.monotonic() < end:
            for server in servers:
                told[ask(client, server, source)] += 1


def table(server: Server) -> Table:
    """Show what was read of one."""
    shown = Table(title=f"--prefix-cache-mb {server.cache}")
    for name in ("seconds", "memory, MB", "threads", "open files"):
        shown.add_column(name, justify="right")
    for seconds, memory, threads, files in server.seen:
        shown.add_row(str(seconds), f"{memory:.0f}", str(threads), str(files))
    return shown


def main() -> None:
    """Run the servers and the load, and print what was read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["demo", "smollm2"], default="demo")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--prefix-cache-mb", type=int, nargs="+", default=[256, 0])
    given = parser.parse_args()
    name = "demo-faithfulness" if given.model == "demo" else "smollm2-documents"
    with TemporaryDirectory() as folder:
        policy = Path(folder) / "policy.toml"
        policy.write_text(POLICY.format(folder=(ROOT / "vectors").as_posix(), name=name))
        servers = [Server(given.model, policy, cache) for cache in given.prefix_cache_mb]
        try:
            for server in servers:
                server.wait()
            told: Counter[str] = Counter()
            begun = time.monotonic()
            threads = [
                threading.Thread(target=load, args=(servers, n, begun + given.seconds, told))
                for n in range(given.clients)
            ]
            for thread in threads:
                thread.start()
            for reading in range(1, READINGS + 1):
                time.sleep(max(0, begun + reading * given.seconds / READINGS - time.monotonic()))
                for server in servers:
                    server.read(time.monotonic() - begun)
            for thread in threads:
                thread.join()
            time.sleep(2)  # until dropped streams are noticed
            for server in servers:
                server.read(time.monotonic() - begun)
        finally:
            for server in servers:
                server.process.terminate()
            for server in servers:
                server.process.wait()
    console = Console()
    for server in servers:
        console.print(table(server))
    console.print(f"{given.clients} clients: " + ", ".join(f"{n} {k}" for k, n in told.items()))
    if any(":" in kind for kind in told):
        sys.exit("not every answer was what it should have been")


if __name__ == "__main__":
    main()
