"""The methods that turn pairs into directions, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from steerable_llm.methods.extraction import Extraction
from steerable_llm.methods.grains import GRAINS_PRESETS, GrainsConfig, extract_grains


@dataclass(frozen=True)
class Method:
    """One way to build a vector.

    Attributes:
        config: its settings, a frozen pydantic model.
        extract: (llm, pairs, config, progress) -> Extraction.
        presets: named settings.
    """

    config: type[BaseModel]
    extract: Callable[..., Extraction]
    presets: Mapping[str, BaseModel] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "grains": Method(GrainsConfig, extract_grains, GRAINS_PRESETS),
}
