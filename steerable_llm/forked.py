"""What begins anew in a process that was forked from one at work, whose threads it lacks."""

import os
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """Something that threads work on, or hold."""

    def renew(self) -> None:
        """Forget the threads, and what they were at."""


_KNOWN: WeakSet[Renewable] = WeakSet()


def renew_in_forks(thing: Renewable) -> None:
    """Let a forked process begin something anew, for as long as it lives."""
    _KNOWN.add(thing)


def _renew() -> None:
    for thing in list(_KNOWN):
        thing.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
