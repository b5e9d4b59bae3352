"""Steer a local language model per step of a RAG chain, with vectors learnt from logged answers.

Names are loaded on first use, so ``import steerable_llm`` costs nothing and needs no optional
dependency.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from steerable_llm.version import __version__

if TYPE_CHECKING:
    from steerable_llm.answer.constraint import Constraint
    from steerable_llm.answer.llm import SteerableHFLLM
    from steerable_llm.evaluation.calibration import calibrate
    from steerable_llm.evaluation.evaluate import evaluate
    from steerable_llm.evaluation.report import Report
    from steerable_llm.evaluation.set import EvaluationSet
    from steerable_llm.logs.answer_log import AnswerLog
    from steerable_llm.methods.build import build_vector
    from steerable_llm.pairs.pair import Pairs, PreferencePair
    from steerable_llm.policy.policy import Policy
    from steerable_llm.vector.steering import Steering
    from steerable_llm.vector.vector import SteeringVector

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
    "AnswerLog": "logs.answer_log",
    "Constraint": "answer.constraint",
    "EvaluationSet": "evaluation.set",
    "Pairs": "pairs.pair",
    "Policy": "policy.policy",
    "PreferencePair": "pairs.pair",
    "Report": "evaluation.report",
    "SteerableHFLLM": "answer.llm",
    "Steering": "vector.steering",
    "SteeringVector": "vector.vector",
    "build_vector": "methods.build",
    "calibrate": "evaluation.calibration",
    "evaluate": "evaluation.evaluate",
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
