"""Processes that are forked from one that has imported everything, so that each starts at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["forked", "server_process", "server_models", "steerable_llm.server.process"]
)


def interrupted(words: Sequence[str], seen: bytes, patience: float) -> tuple[int, str]:
    """Run the command in a terminal of its own, and press Ctrl-C once a text is seen there.

    Returns:
        Its exit code, and all that it said in the terminal; its output is thrown away.
    """
    ours, theirs = os.openpty()
    process = CONTEXT.Process(target=_command, args=(list(words), Path.cwd(), os.ttyname(theirs)))
    process.start()
    said, pressed = b"", False
    try:
        while ready := wait([ours, process.sentinel], patience):
            if ours not in ready:
                break
            said += os.read(ours, 4096)
            if not pressed and seen in said:
                assert process.pid is not None
                os.kill(process.pid, signal.SIGINT)
                pressed = True
        process.join(patience)
        assert process.exitcode is not None, said
        return process.exitcode, said.decode(errors="replace")
    finally:
        process.kill()
        process.join()
        os.close(theirs)
        os.close(ours)


def _command(words: list[str], folder: Path, terminal: str) -> None:
    from steerable_llm.cli.command import main

    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(terminal, os.O_RDWR | os.O_NOCTTY), 2)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["steerable", *words]
    main()
