"""Plug-ins: what other installed packages add under an entry point of this package's groups."""

from __future__ import annotations

import logging
from importlib.metadata import entry_points
from typing import TypeVar

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
