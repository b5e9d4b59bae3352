"""Steer a local language model per step of a RAG chain, with vectors learnt from logged answers.

Names are loaded on first use, so ``import steerable_llm`` costs nothing and needs no optional
dependency.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steerable_llm.build import build_vector
    from steerable_llm.calibration import calibrate
    from steerable_llm.evaluate import evaluate
    from steerable_llm.evaluation_set import EvaluationSet
    from steerable_llm.logs.answer_log import AnswerLog
    from steerable_llm.model.hooked_model import SteerableHFLLM
    from steerable_llm.pairs import Pairs, PreferencePair
    from steerable_llm.policy.policy import Policy
    from steerable_llm.report import Report
    from steerable_llm.steering import Steering
    from steerable_llm.structured.constraint import Constraint
    from steerable_llm.vector import SteeringVector

__version__ = "0.1.0"

__all__ = [
    "AnswerLog",
    "Constraint",
    "EvaluationSet",
    "Pairs",
    "Policy",
    "PreferencePair",
    "Report",
    "SteerableHFLLM",
    "Steering",
    "SteeringVector",
    "__version__",
    "build_vector",
    "calibrate",
    "evaluate",
]

# Public name -> the submodule that defines it.
_HOMES = {
    "Constraint": "structured.constraint",
    "AnswerLog": "logs.answer_log",
    "EvaluationSet": "evaluation_set",
    "Pairs": "pairs",
    "Policy": "policy.policy",
    "PreferencePair": "pairs",
    "Report": "report",
    "SteerableHFLLM": "model.hooked_model",
    "Steering": "steering",
    "SteeringVector": "vector",
    "build_vector": "build",
    "calibrate": "calibration",
    "evaluate": "evaluate",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)


class _Package(ModuleType):
    """The package itself, on which a function keeps its name beside a submodule called the same.

    Importing ``steerable_llm.evaluate`` makes Python set the attribute ``evaluate`` of the package
    to that module, which would hide the function from whoever imports it afterwards.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and _HOMES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
