"""Proving a vector on held-out prompts, beside controls and beside simply asking."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import (
    DEFAULT_AGAINST,
    Setting,
    arms,
    strict_instruction_for,
)
from steerable_llm.evaluation.measure import Outcome, measure
from steerable_llm.evaluation.report import Change, Report
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.evaluation.shuffled import shuffled_vectors
from steerable_llm.evaluation.verdict import Row, Verdict, check_budget, judge
from steerable_llm.metrics import Estimate, difference, estimate, fixed, regressed
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import progress_bar
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.lora import Lora
from steerable_llm.vector.vector import SteeringVector

_EXAMPLES = 6


def evaluate(
    llm: HookedModel,
    vector: SteeringVector,
    test: EvaluationSet | Pairs,
    against: Sequence[str] | None = None,
    capability: EvaluationSet | None = None,
    seed: int = 0,
    progress: bool = True,
    *,
    pairs: Pairs | None = None,
    target: str | None = None,
    strict_instruction: str | None = None,
    budget: float = 0.01,
    max_new_tokens: int = 32,
    batch_size: int = 64,
    random_vectors: int = 3,
    cad_alpha: float = 0.5,
    rivals: Mapping[str, SteeringVector | Lora] | None = None,
    force: bool = False,
    command: str | None = None,
) -> Report:
    """Runs a calibrated vector on held-out prompts and says whether it is fit for use.

    Every arm answers every prompt greedily; answers are judged by value. The items' good
    and bad answers are scored for the preference accuracy, and the unsteered answers for the
    divergence. All intervals are bootstraps over prompts. `random` is the average of
    `random_vectors` random vectors per prompt, pooled into one row that also lists each of them.

    Args:
        llm: The model the vector was built for.
        vector: Calibrated: its own strength, layers and scope are used.
        test: Held-out prompts that neither the build nor the calibration has seen. Pairs are
            judged by preference alone.
        against: Arms to compare with, see `arms.ARMS`; by default the strict
            instruction and the controls, `shuffled` among them where `pairs` are given. The
            unsteered model is always run.
        capability: Prompts that measure what must not be lost, such as closed-book questions.
        seed: Of the bootstrap and of the random vectors.
        progress: Show a progress bar on the error stream.
        pairs: What the vector was built from, for the control `shuffled`.
        target: The category the vector is meant to change, which the verdict is about; the first
            category of `test` unless given.
        strict_instruction: The system message of `prompt`; by default the one for the target.
        budget: Largest share of a capability that may be lost.
        max_new_tokens: Where answers are cut.
        batch_size: Rows that run together.
        random_vectors: How many random vectors, and vectors of shuffled pairs, are averaged.
        cad_alpha: How much more the context counts under `cad`; choose it on dev.
        rivals: What other methods made of the same pairs, by the names in `against`: calibrated
            vectors of this model, or loras.
        force: Accept a vector of another model of the same shape.
        command: What to run to get the report again, for the card.

    Returns:
        The report, its verdict included.

    Raises:
        InvalidInputError: An unknown arm or target, a vector without calibration, or sets
            that cannot be told apart.
        ModelMismatchError: The vector belongs to another model.
        PromptTooLongError: A prompt does not fit the model.
    """
    if isinstance(test, Pairs):
        test = EvaluationSet.from_pairs("pairs", test)
    aim = target or test.categories[0]
    test.category(aim)  # raises, listing the categories
    check_apart(test, capability)
    check_uniform(test)
    if capability is not None:
        check_uniform(capability)
    check_budget(budget)
    vector.check(llm.fingerprint, force=force)
    instruction = strict_instruction or strict_instruction_for(aim)
    if against is None:
        against = (*DEFAULT_AGAINST, *(["shuffled"] if pairs is not None else []))
    shuffled: tuple[SteeringVector, ...] = ()
    if "shuffled" in against and pairs is not None:
        seeds = range(seed, seed + random_vectors)
        shuffled = shuffled_vectors(llm, vector, pairs, seeds)
    others = dict(rivals or {})
    for rival in others.values():
        rival.check(llm)
    runs = arms(
        Setting(vector, instruction, seed, random_vectors, cad_alpha, others, shuffled), against
    )
    items: list[EvaluationItem] = [*test, *(capability or ())]
    with progress_bar("evaluating", len(items) * len(runs), progress) as advance:
        found = measure(llm, runs, items, max_new_tokens, batch_size, advance)
    by_arm: dict[str, list[list[Outcome]]] = {}
    for arm, outcomes in zip(runs, found, strict=True):
        by_arm.setdefault(arm.name, []).append(outcomes)
    rows = rows_of(by_arm, items, set(capability.categories if capability else ()), seed)
    changes = _changes(by_arm["none"][0], by_arm["steered"][0])
    regressions = [change for change in changes if change.kind == "regression"]
    return Report(
        vector=vector.name,
        vector_fingerprint=vector.fingerprint_id,
        model=llm.fingerprint.short,
        library_version=_version(),
        provenance=vector.provenance,
        calibration=vector.calibration,
        test_name=test.name,
        test_digest=test.digest,
        capability_name=capability.name if capability else None,
        capability_digest=capability.digest if capability else None,
        target=aim,
        budget=budget,
        strict_instruction=instruction,
        seed=seed,
        max_new_tokens=max_new_tokens,
        rows=tuple(rows),
        verdict=_with_leak(judge(rows, aim, budget), vector, test),
        regressions=tuple(regressions),
        examples=tuple(_examples(changes, aim)),
        command=command or _python(vector, test, capability, against, seed),
    )


def check_apart(questions: EvaluationSet, capability: EvaluationSet | None) -> None:
    """Make sure that no category is in both sets: its prompts would be counted as one.

    Raises:
        InvalidInputError: One is.
    """
    shared = set(questions.categories) & set(capability.categories if capability else ())
    if shared:
        raise InvalidInputError(
            f"category {sorted(shared)[0]!r} is in both {questions.name!r} and the capability set; "
            "keep each category in one of them"
        )


def check_uniform(items: EvaluationSet) -> None:
    """A share over a category means nothing when only some of its items can be judged."""
    for category in items.categories:
        kinds = {(item.has_verdict, item.has_preference) for item in items.category(category)}
        if len({verdict for verdict, _ in kinds}) > 1:
            raise InvalidInputError(
                f"category {category!r} of {items.name!r} mixes items with and without accept or "
                "reject phrases; give them all some, or put them into two categories"
            )


def rows_of(
    found: dict[str, list[list[Outcome]]],
    items: Sequence[EvaluationItem],
    capability: set[str],
    seed: int,
) -> list[Row]:
    """One row per arm and category.

    Args:
        found: Per arm its runs, each with an outcome per item.
        items: What was asked.
        capability: The categories that measure what must not be lost.
        seed: Of the intervals.
    """
    rows = []
    for arm, runs in found.items():
        for category in dict.fromkeys(item.category for item in items):
            places = [place for place, item in enumerate(items) if item.category == category]
            mine = [[run[place] for place in places] for run in runs]
            unsteered = [found["none"][0][place] for place in places]
            rows.append(_row(arm, category, category in capability, mine, unsteered, seed))
    return rows


def _row(
    arm: str,
    category: str,
    capability: bool,
    runs: Sequence[Sequence[Outcome]],
    unsteered: Sequence[Outcome],
    seed: int,
) -> Row:
    has_verdict = all(outcome.item.has_verdict for outcome in unsteered)
    main = _means([[outcome.main for outcome in run] for run in runs])
    before = [outcome.main for outcome in unsteered]
    preferring = [i for i, outcome in enumerate(unsteered) if outcome.margin is not None]
    accepting = [i for i, outcome in enumerate(unsteered) if outcome.item.accept]

    def share(places: Sequence[int], values: Sequence[Sequence[float]]) -> Estimate | None:
        return estimate([_means(values)[place] for place in places], seed) if places else None

    everywhere = range(len(unsteered))
    divergences = _means([[outcome.kl_per_token for outcome in run] for run in runs])
    return Row(
        arm=arm,
        category=category,
        capability=capability,
        n=len(unsteered),
        success=estimate(main, seed) if has_verdict else None,
        change=None if arm == "none" else difference(main, before, seed),
        exact=share(accepting, [[float(o.item.matches(o.text)) for o in run] for run in runs]),
        containment=share(
            accepting, [[float(o.item.contains_good(o.text)) for o in run] for run in runs]
        ),
        preference=share(preferring, [[float((o.margin or 0.0) > 0) for o in run] for run in runs]),
        abstention=share(
            everywhere, [[float(o.item.abstains(o.text)) for o in run] for run in runs]
        ),
        kl_per_token=estimate(divergences, seed, within=None),
        regressed=None if arm == "none" else regressed(main, before),
        fixed=None if arm == "none" else fixed(main, before),
        runs=tuple(
            sum(outcome.main for outcome in run) / len(run) for run in runs if len(runs) > 1
        ),
    )


def _means(runs: Sequence[Sequence[float]]) -> list[float]:
    """Per prompt, the mean over the runs of a arm."""
    return [sum(values) / len(values) for values in zip(*runs, strict=True)]


def _changes(before: Sequence[Outcome], after: Sequence[Outcome]) -> list[Change]:
    kinds = {(1.0, 0.0): "regression", (0.0, 1.0): "fixed"}
    return [
        Change(
            id=old.item.id,
            category=old.item.category,
            question=old.item.question,
            before=old.text,
            after=new.text,
            kind=kinds.get((old.main, new.main), "unchanged"),
        )
        for old, new in zip(before, after, strict=True)
    ]


def _examples(changes: Sequence[Change], target: str) -> list[Change]:
    """A few fixed and unchanged prompts of the target, in the order of the set: not picked."""
    mine = [change for change in changes if change.category == target]
    half = _EXAMPLES // 2
    fixed_ones = [change for change in mine if change.kind == "fixed"][:half]
    unchanged = [change for change in mine if change.kind == "unchanged"][:half]
    return fixed_ones + unchanged


def _with_leak(verdict: Verdict, vector: SteeringVector, test: EvaluationSet) -> Verdict:
    """Says so when the vector's own record shows that the test prompts are not held out."""
    choice = vector.calibration.choice if vector.calibration else None
    if choice is None or not choice.looked_at(test.digest):
        return verdict
    leak = f"the strength was chosen on {test.name!r} itself, so this is no held-out result"
    return verdict.model_copy(update={"promote": False, "reasons": (leak, *verdict.reasons)})


def _python(
    vector: SteeringVector,
    test: EvaluationSet,
    capability: EvaluationSet | None,
    against: Sequence[str],
    seed: int,
) -> str:
    built_from = ', pairs=Pairs.from_jsonl("pairs.jsonl")' if "shuffled" in against else ""
    sets = f'EvaluationSet.from_jsonl("{test.name}.jsonl")'
    kept = f', capability=EvaluationSet.from_jsonl("{capability.name}.jsonl")' if capability else ""
    return (
        f'vector = SteeringVector.load("{vector.name}.safetensors", llm)\n'
        f"evaluate(llm, vector, {sets}{kept}{built_from}, against={list(against)}, "
        f"seed={seed})"
    )


def _version() -> str:
    try:
        return importlib.metadata.version("steerable-llm")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
