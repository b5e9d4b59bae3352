"""Plug-ins: what other installed packages add under an entry point of this package's groups."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar

T = TypeVar("T")
_logger = logging.getLogger(__name__)
_told: set[str] = set()


def load_plugins(group: str, kind: type[T]) -> dict[str, T]:
    """Return what installed packages register in a group, by name.

    A plug-in that cannot be loaded is left out, and told in one warning line.

    Args:
        group: Such as "steerable_llm.importers".
        kind: What each has to be an instance of.
    """
    found: dict[str, T] = {}
    for entry in entry_points(group=group):
        try:
            loaded = entry.load()
            if not isinstance(loaded, kind):
                raise TypeError(f"it is of type {type(loaded).__name__}, not {kind.__name__}")
        except Exception as error:  # anything may go wrong in the code of others
            place = f"{group}: {entry.name} = {entry.value}"
            if place not in _told:
                _told.add(place)
                said = " ".join(f"{type(error).__name__}: {error}".split())
                _logger.warning(
                    "the plug-in %s cannot be loaded (%s): mend or uninstall it", place, said
                )
            continue
        found[entry.name] = loaded
    return found


class Plugged(Mapping[str, T], Generic[T]):
    """What this package has of a kind, and then what other packages add to it.

    Plug-ins are loaded when a name is asked for that this package does not have, or all names are.
    """

    def __init__(self, group: str, kind: type[T], own: Mapping[str, T]) -> None:
        """Remember what there is.

        Args:
            group: Of the entry points, such as "steerable_llm.methods".
            kind: What each has to be an instance of.
            own: What this package has; no plug-in takes the place of any.
        """
        self._group, self._kind, self._own = group, kind, dict(own)
        # By search path: packages may come to it while a program runs.
        self._loaded: dict[tuple[str, ...], dict[str, T]] = {}

    def __getitem__(self, name: str) -> T:
        """Return one by its name.

        Raises:
            KeyError: Nobody has it.
        """
        return self._own[name] if name in self._own else self._added()[name]

    def __iter__(self) -> Iterator[str]:
        """Go through the names, this package's first."""
        yield from self._own
        yield from (name for name in self._added() if name not in self._own)

    def __len__(self) -> int:
        """Count them all."""
        return sum(1 for _ in self)

    def _added(self) -> Mapping[str, T]:
        path = tuple(sys.path)
        if path not in self._loaded:
            self._loaded[path] = load_plugins(self._group, self._kind)
        return self._loaded[path]
