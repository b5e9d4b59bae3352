"""Where a model was loaded from, so that another process can load it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import RLock
from typing import Any
from weakref import WeakValueDictionary

from steerable_llm.errors import InvalidInputError

_OPEN: WeakValueDictionary[str, Any] = WeakValueDictionary()
_LOCK = RLock()  # held while a model is loaded, which then notes itself


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
            _OPEN[self.key] = model

    @property
    def key(self) -> str:
        """What two models share that came from the same place; policies by what they decide."""
        told = {name: getattr(value, "digest", value) for name, value in self.arguments.items()}
        return repr((self.kind, self.loader, told))

    def open(self) -> Any:
        """Return the model of this process that came from there, loaded now if there is none.

        Raises:
            SteerableError: It cannot be loaded here.
        """
        with _LOCK:
            found = _OPEN.get(self.key)
            return found or getattr(self.kind, self.loader)(**self.arguments)


def origin_of(origin: Origin | None) -> Origin:
    """Return where a pickled model is to be loaded from.

    Raises:
        InvalidInputError: Nobody knows.
    """
    if origin is None:
        raise InvalidInputError(
            "this model was pickled, and its weights do not travel to another process; "
            "only a model that was loaded by from_pretrained, demo or smollm2 is loaded "
            "again: load it so, or make the model there"
        )
    return origin
