"""Finding out how a model class behaves, by using it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

#: Seconds after which a stream that must fail, and did not, is said to wait.
PATIENCE = 3.0


@dataclass(frozen=True)
class Finding:
    """What was found out about both."""

    name: str
    theirs: str
    ours: str


class Watched:
    """A model whose forward passes are looked at, and can be made to fail."""

    def __init__(self, model: Any) -> None:
        self._inputs: list[Any] = []
        self._broken = False
        model.get_input_embeddings().register_forward_pre_hook(self._look)

    def _look(self, _: Any, given: Sequence[Any]) -> None:
        if self._broken:
            raise RuntimeError("the accelerator is gone")
        self._inputs.append(given[0])

    def seen(self, call: Callable[[], object]) -> list[Any]:
        """The token ids, rows by positions, of each pass during a call."""
        self._inputs.clear()
        call()
        return list(self._inputs)

    @contextlib.contextmanager
    def broken(self) -> Iterator[None]:
        """Let every pass in this block fail."""
        self._broken = True
        try:
            yield
        finally:
            self._broken = False


def attempt(probe: Callable[[Any], str], model: Any) -> str:
    """What a probe finds; an exception is an answer too."""
    try:
        return probe(model)
    except Exception as error:
        return f"`{type(error).__name__}`"


def how_it_fails(watched: Watched, stream: Callable[[], Iterator[Any]]) -> str:
    """Read a stream during which the model fails; say what the reader gets to know."""
    ended: list[str] = []

    def read() -> None:
        try:
            ended.append(f"ends after {len(list(stream()))} pieces")
        except Exception as error:
            ended.append(f"`{type(error).__name__}` reaches the reader")

    with watched.broken():
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(PATIENCE)
    return ended[0] if ended else f"no error; still waiting after {PATIENCE:.0f} s"


def loop_during(work: Callable[[], Any]) -> str:
    """Whether an event loop turns while something awaited is at work."""

    async def count() -> int:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0)

        heart = asyncio.create_task(beat())
        await work()
        heart.cancel()
        return beats

    # A loop that stands still gives a handful of beats, one for each await on the way.
    return "the event loop turns" if asyncio.run(count()) > 100 else "the event loop stands still"


def yes_or_no(condition: bool) -> str:
    """Words for a table."""
    return "yes" if condition else "no"


def honoured(changed: str, unchanged: str) -> str:
    """Whether an argument made a difference."""
    return "ignored" if changed == unchanged else "honoured"
