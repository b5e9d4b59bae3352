"""Several ways to change a behaviour, each set up on the same dev prompts, on the same test."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from steerable_llm.adapter import Adapter
from steerable_llm.build import build_vector, sweep_of
from steerable_llm.calibration import calibrate
from steerable_llm.comparison import Comparison, Contender
from steerable_llm.conditions import Condition, strict_instruction_for
from steerable_llm.contrast import Contrast
from steerable_llm.errors import InvalidInputError, PairError, SteerableError
from steerable_llm.evaluate import check_uniform, rows_of
from steerable_llm.evaluation_set import EvaluationItem, EvaluationSet
from steerable_llm.methods import METHODS
from steerable_llm.methods.lora import LoraSettings, train_lora
from steerable_llm.model import SteerableHFLLM
from steerable_llm.outcomes import Job, Outcome, answers, measure
from steerable_llm.pairs import Pairs
from steerable_llm.progress import progress_bar
from steerable_llm.steering import Steering
from steerable_llm.vector import SteeringVector
from steerable_llm.verdict import Row, judge

CAD_ALPHAS = (0.25, 0.5, 1.0, 2.0)
LORA_RATES = (5e-6, 1e-4, 1e-3)


@dataclass(frozen=True)
class _Setup:
    """What every way is set up with."""

    llm: SteerableHFLLM
    pairs: Pairs
    dev: EvaluationSet
    capability: EvaluationSet | None
    budget: float
    instruction: str
    max_new_tokens: int
    batch_size: int
    seed: int
    progress: bool


@dataclass(frozen=True)
class _Ready:
    """A way that can be tested: its condition, and what was chosen."""

    condition: Condition
    setting: str
    dev: float | None = None


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

    Raises:
        InvalidInputError: An unknown method or target, or prompts that cannot be judged.
        PairError: No pairs.
    """
    chosen = list(dict.fromkeys(methods if methods is not None else WAYS))
    unknown = [name for name in chosen if name not in WAYS and name != "none"]
    if unknown:
        raise InvalidInputError(f"unknown method {unknown[0]!r}: choose from {', '.join(WAYS)}")
    if not pairs:
        raise PairError("there are no pairs to build from: give at least two")
    aim = target or test.variants[0]
    test.variant(aim)  # raises, listing the variants
    for items in (test, capability):
        if items is not None:
            check_uniform(items)
    _check_held_out(dev, test)
    instruction = strict_instruction or strict_instruction_for(aim)
    setup = _Setup(
        llm, pairs, dev, dev_capability, budget, instruction, max_new_tokens, batch_size, seed,
        progress,
    )  # fmt: skip
    contenders = [Contender(name="none", setting="the model as it is")]
    runs = [Condition("none", Steering.none())]
    for name in chosen:
        if name == "none":
            continue
        start = time.perf_counter()
        try:
            ready = WAYS[name](setup, name)
        except SteerableError as error:
            seconds = time.perf_counter() - start
            contenders.append(Contender(name=name, failed=str(error), seconds=seconds))
            continue
        runs.append(ready.condition)
        contenders.append(
            Contender(
                name=name,
                setting=ready.setting,
                dev=ready.dev,
                seconds=time.perf_counter() - start,
            )
        )
    rows = _test(setup, runs, test, capability)
    return Comparison(
        model=llm.fingerprint.short,
        pairs=len(pairs),
        data_digest=pairs.digest,
        test_name=test.name,
        test_digest=test.digest,
        target=aim,
        budget=budget,
        contenders=tuple(_judged(contender, rows, aim, budget) for contender in contenders),
        rows=tuple(rows),
        command=command,
    )


def _check_held_out(dev: EvaluationSet, test: EvaluationSet) -> None:
    """What was chosen on a prompt proves nothing on the same prompt."""
    seen = {item.messages for item in dev}
    both = [item.id for item in test if item.messages in seen]
    if both:
        raise InvalidInputError(
            f"{len(both)} prompts of test {test.name!r} are in dev {dev.name!r} as well, such as "
            f"{both[0]!r}: keep them apart, else the comparison is no held-out result"
        )


def _vector(setup: _Setup, name: str) -> _Ready:
    candidates: dict[str, SteeringVector] = {}
    for config in METHODS[name].grid.configs:
        label = ", ".join([name, *(f"{key} {value}" for key, value in config.items())])
        with warnings.catch_warnings():
            # The completeness of the attribution is in the vector's record; here it is one of many.
            warnings.filterwarnings("ignore", "the token scores miss", UserWarning)
            made = build_vector(
                setup.llm, setup.pairs, method=name, name=name, progress=setup.progress, **config
            )
        # Settings may come to the same, such as more heads than the model has.
        if made.fingerprint_id not in {vector.fingerprint_id for vector in candidates.values()}:
            candidates[label] = made
    first = next(iter(candidates.values()))
    found = calibrate(
        setup.llm,
        candidates,
        setup.dev,
        capability=setup.capability,
        budget=setup.budget,
        max_new_tokens=setup.max_new_tokens,
        batch_size=setup.batch_size,
        seed=setup.seed,
        controls=False,
        progress=setup.progress,
        **sweep_of(first),
    )
    return _Ready(
        Condition(name, found.vector.steer()),
        f"{found.best.label}, strength {found.best.strength:+g}",
        found.best.success,
    )


def _prompt(setup: _Setup, name: str) -> _Ready:
    return _Ready(
        Condition(name, Steering.none(), setup.instruction), f'system: "{setup.instruction}"'
    )


def _cad(setup: _Setup, name: str) -> _Ready:
    candidates = {
        f"alpha {alpha:g}": Condition(name, Steering.none(), contrast=Contrast("cad", alpha))
        for alpha in CAD_ALPHAS
    }
    return _best(setup, candidates)


def _adacad(_: _Setup, name: str) -> _Ready:
    condition = Condition(name, Steering.none(), contrast=Contrast("adacad"))
    return _Ready(condition, "alpha for every token, from the divergence")


def _lora(setup: _Setup, name: str) -> _Ready:
    adapters: dict[str, Adapter] = {}
    for rate in LORA_RATES:
        config = LoraSettings(learning_rate=rate, seed=setup.seed)
        title = f"{name}: learning rate {rate:g}"
        with progress_bar(title, len(setup.pairs), setup.progress) as advance:
            adapters[f"learning rate {rate:g}"] = train_lora(
                setup.llm, setup.pairs, config, name, advance
            )
    return _best(
        setup,
        {
            label: Condition(name, Steering.none(), adapter=adapter)
            for label, adapter in adapters.items()
        },
    )


def _best(setup: _Setup, candidates: dict[str, Condition]) -> _Ready:
    """The candidate with most success on dev among those within the budget.

    Raises:
        InvalidInputError: None of them is within the budget.
    """
    plain = Condition("none", Steering.none())
    lost, success = {}, {}
    before = _accuracies(setup, plain, setup.capability)
    for label, condition in candidates.items():
        after = _accuracies(setup, condition, setup.capability)
        lost[label] = max((before[v] - after[v] for v in before), default=0.0)
        kept = _accuracies(setup, condition, setup.dev)
        sizes = {v: len(setup.dev.variant(v)) for v in kept}
        success[label] = sum(kept[v] * sizes[v] for v in kept) / len(setup.dev)
    fit = [label for label in candidates if lost[label] <= setup.budget + 1e-9]
    if not fit:
        least = min(lost, key=lambda label: lost[label])
        raise InvalidInputError(
            f"no setting keeps within a capability budget of {100 * setup.budget:g} points on "
            f"dev: {least} loses least, {100 * lost[least]:.1f} points"
        )
    best = max(fit, key=lambda label: success[label])
    return _Ready(candidates[best], best, success[best])


def _accuracies(
    setup: _Setup, condition: Condition, items: EvaluationSet | None
) -> dict[str, float]:
    """Share of right answers per variant."""
    if items is None:
        return {}
    jobs = [Job(condition, item) for item in items]
    with progress_bar(f"{condition.name} on {items.name}", len(jobs), setup.progress) as advance:
        texts = answers(setup.llm, jobs, setup.max_new_tokens, setup.batch_size, advance)
    right = [float(item.succeeds(text)) for item, text in zip(items, texts, strict=True)]
    found: dict[str, list[float]] = {}
    for item, value in zip(items, right, strict=True):
        found.setdefault(item.variant, []).append(value)
    return {variant: sum(values) / len(values) for variant, values in found.items()}


def _test(
    setup: _Setup,
    runs: Sequence[Condition],
    test: EvaluationSet,
    capability: EvaluationSet | None,
) -> list[Row]:
    items: list[EvaluationItem] = [*test, *(capability or ())]
    with progress_bar("testing", len(items) * len(runs), setup.progress) as advance:
        found = measure(setup.llm, runs, items, setup.max_new_tokens, setup.batch_size, advance)
    outcomes: dict[str, list[list[Outcome]]] = {
        run.name: [results] for run, results in zip(runs, found, strict=True)
    }
    return rows_of(outcomes, items, set(capability.variants if capability else ()), setup.seed)


def _judged(contender: Contender, rows: Sequence[Row], target: str, budget: float) -> Contender:
    """The contender with its verdict, by the same rules as a vector's card."""
    if contender.name in ("none", "prompt") or contender.failed:
        return contender
    others = [row for row in rows if row.condition in ("none", "prompt")]
    mine = [
        row.model_copy(update={"condition": "steered"})
        for row in rows
        if row.condition == contender.name
    ]
    return contender.model_copy(update={"verdict": judge([*mine, *others], target, budget)})


#: Every way that can be compared, by name.
WAYS: dict[str, Callable[[_Setup, str], _Ready]] = {
    "prompt": _prompt,
    "cad": _cad,
    "adacad": _adacad,
    **dict.fromkeys(METHODS, _vector),
    "lora": _lora,
}
