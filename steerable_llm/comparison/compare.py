"""Several ways to change a behaviour, each set up on the same dev prompts, on the same test."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from steerable_llm.comparison.comparison import Comparison
from steerable_llm.comparison.trial import Entry, Trial
from steerable_llm.comparison.ways import CAD_ALPHAS, LORA_RATES, WAYS, Setup
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.conditions import strict_instruction_for
from steerable_llm.evaluation.verdict import check_budget
from steerable_llm.evaluation_set import EvaluationSet
from steerable_llm.methods import METHODS
from steerable_llm.methods.lora import LoraSettings
from steerable_llm.model.hooked_model import SteerableHFLLM
from steerable_llm.pairs import Pairs


def compare(
    llm: SteerableHFLLM,
    pairs: Pairs,
    dev: EvaluationSet,
    test: EvaluationSet,
    capability: EvaluationSet | None = None,
    methods: Sequence[str] | None = None,
    *,
    dev_capability: EvaluationSet | None = None,
    target: str | None = None,
    strict_instruction: str | None = None,
    budget: float = 0.01,
    max_new_tokens: int = 24,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
    command: str = "",
    keep: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Build, set up and test several methods on the same data.

    Every method that makes a vector is built with each of its own candidate settings and
    calibrated on dev (strength, sign, scope, layers) within the budget; CAD chooses its alpha and
    LoRA its learning rate on dev in the same way. Then all read the test prompts once. A method
    that cannot be used on these pairs, or of which no setting helps, is listed with the reason.

    Args:
        llm: The model.
        pairs: What to learn from.
        dev: Prompts to choose on.
        test: Held-out prompts.
        capability: Held-out prompts that measure what must not be lost.
        methods: Names in `WAYS`; all of them when left out. The unsteered model always runs.
        dev_capability: Prompts for the budget on dev; without it the budget is not kept there.
        target: The variant that is to be changed; the first of `test` unless given.
        strict_instruction: The system message of `prompt`; by default the one for the target.
        budget: Largest share of a capability that may be lost.
        max_new_tokens: Where answers are cut.
        batch_size: Rows that run together.
        seed: Of the calibrations and of the intervals.
        progress: Show progress bars on the error stream.
        command: What to run to get the comparison again.
        keep: Folder in which the result of each method is kept as soon as it is there; a later
            call on the same data does not measure it again.

    Raises:
        InvalidInputError: An unknown method or target, or prompts that cannot be judged.
        PairError: No pairs.
    """
    chosen = list(dict.fromkeys(methods if methods is not None else WAYS))
    unknown = [name for name in chosen if name not in WAYS and name != "none"]
    if unknown:
        raise InvalidInputError(f"unknown method {unknown[0]!r}: choose from {', '.join(WAYS)}")
    check_budget(budget)
    aim = target or test.variants[0]
    instruction = strict_instruction or strict_instruction_for(aim)
    setup = Setup(
        llm, pairs, dev, dev_capability, budget, instruction, max_new_tokens, batch_size, seed,
        progress, aim if set(dev.variants) > {aim} else None,
    )  # fmt: skip
    trial = Trial(setup, test, capability, aim, Path(keep) if keep else None)
    trial.check()
    results = [trial.unsteered()]
    results += [
        trial.run(Entry(name, WAYS[name], _recipe(name))) for name in chosen if name != "none"
    ]
    return trial.comparison(results, command=command)


def _recipe(name: str) -> object:
    """What a way tries, as JSON values: another grid is another result."""
    grids: dict[str, object] = {"cad": CAD_ALPHAS, "lora": repr((LORA_RATES, LoraSettings()))}
    if name in METHODS:
        return repr((METHODS[name].config().model_dump(), METHODS[name].grid))
    return grids.get(name)
