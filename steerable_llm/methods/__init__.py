"""The methods that turn pairs into directions, by name, each with how it is applied."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from steerable_llm.methods.caa import CaaConfig, extract_caa
from steerable_llm.methods.contextfocus import ContextFocusConfig, extract_contextfocus
from steerable_llm.methods.extraction import Extraction, Grid
from steerable_llm.methods.grains.grains import GRAINS_PRESETS, GrainsConfig, extract_grains
from steerable_llm.methods.icv import IcvConfig, extract_icv
from steerable_llm.methods.iti import ItiConfig, extract_iti
from steerable_llm.methods.mat_steer import MatSteerConfig, extract_mat_steer
from steerable_llm.methods.nl_iti import NlItiConfig, extract_nl_iti
from steerable_llm.methods.repe import RepeConfig, extract_repe
from steerable_llm.vector.steering import PLAIN, Application


@dataclass(frozen=True)
class Method:
    """One way to build a vector.

    Attributes:
        config: its settings, a frozen pydantic model.
        extract: (llm, pairs, config, progress) -> Extraction.
        presets: named settings.
        application: what its vectors steer, and how.
        grid: what is tried for it on dev data.
    """

    config: type[BaseModel]
    extract: Callable[..., Extraction]
    presets: Mapping[str, BaseModel] = field(default_factory=dict)
    application: Application = PLAIN
    grid: Grid = Grid()  # noqa: RUF009 - frozen


_HEADS = Application(site="heads", unit="absolute", renormalise=False)
_ADDED = Application(renormalise=False)
# The sources read the answers' last token. Answers that say where they come from part at their
# first words, so that is tried as well: every method gets the place where it does best.
_PLACES: tuple[Mapping[str, Any], ...] = ({}, {"answer_tokens": 2})
# The papers' 5 to 30 are for a few of a thousand heads; where most are steered, less has to do.
_ALPHAS = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0)
# One layer has to do what all layers do together, so the shares are larger.
_ONE_LAYER = Grid(
    strengths=(0.1, 0.2, 0.4, 0.8), scopes=("generated",), one_layer=True, configs=_PLACES
)

METHODS: dict[str, Method] = {
    # Zero is the paper's baseline, and the end of the text a token that models have seen often.
    "grains": Method(
        GrainsConfig, extract_grains, GRAINS_PRESETS, grid=Grid(configs=({}, {"baseline": "eos"}))
    ),
    "caa": Method(CaaConfig, extract_caa, application=_ADDED, grid=_ONE_LAYER),
    "contextfocus": Method(
        ContextFocusConfig,
        extract_contextfocus,
        application=Application(unit="absolute", renormalise=False),
        grid=Grid((0.5, 1.0, 2.0, 4.0), "absolute", ("generated",), one_layer=True),
    ),
    "icv": Method(
        IcvConfig,
        extract_icv,
        application=Application(site="mlp", rule="icv", scope="all"),
        grid=Grid((0.02, 0.05, 0.1, 0.2, 0.4), scopes=("all", "generated"), configs=_PLACES),
    ),
    "iti": Method(
        ItiConfig,
        extract_iti,
        application=_HEADS,
        grid=Grid(
            _ALPHAS,
            "absolute",
            ("generated",),
            configs=tuple({**place, "heads": heads} for place in _PLACES for heads in (8, 48)),
        ),
    ),
    "nl_iti": Method(
        NlItiConfig,
        extract_nl_iti,
        application=_HEADS,
        grid=Grid(
            _ALPHAS,
            "absolute",
            ("generated",),
            configs=tuple({"heads": heads} for heads in (8, 16, 32, 64, 96)),
        ),
    ),
    "mat_steer": Method(
        MatSteerConfig,
        extract_mat_steer,
        application=Application(rule="gate", unit="absolute"),
        grid=Grid((0.5, 1.0, 2.0, 4.0), "absolute", one_layer=True, configs=_PLACES),
    ),
    "repe": Method(RepeConfig, extract_repe, application=_ADDED, grid=Grid(configs=_PLACES)),
}
