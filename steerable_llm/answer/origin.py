"""Where a model was loaded from, so that another process can load it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

_OPEN: WeakValueDictionary[str, Any] = WeakValueDictionary()
_LOCK = Lock()


@dataclass(frozen=True)
class Origin:
    """How a model was loaded; what is pickled in place of its weights.

    Attributes:
        kind: The class of the model.
        loader: The class method that loaded it.
        arguments: What that was given, by name.
    """

    kind: type[Any]
    loader: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def keep(self, model: Any) -> None:
        """Tell a model where it came from; later ones from there share its weights."""
        model.origin = self
        with _LOCK:
            _OPEN[repr(self)] = model

    def open(self) -> Any:
        """Return the model of this process that came from there, loaded now if there is none.

        Raises:
            SteerableError: It cannot be loaded here.
        """
        with _LOCK:
            found = _OPEN.get(repr(self))
        return found or getattr(self.kind, self.loader)(**self.arguments)
