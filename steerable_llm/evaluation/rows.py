"""From what arms did on single prompts to shares with intervals, one row per arm and category."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from steerable_llm.chat.phrases import abstains
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.measure import Outcome, measure
from steerable_llm.evaluation.set import EvaluationItem
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.metrics import Estimate, difference, estimate, fixed, regressed
from steerable_llm.progress import progress_bar
from steerable_llm.runtime.hooked_model import HookedModel


class Row(BaseModel, frozen=True, extra="forbid"):
    """How one arm did on one category.

    Attributes:
        arm: "steered", "none", "prompt", "random", "sign_flipped" or "shuffled".
        category: The kind of prompt.
        capability: Whether the category measures what must not be lost.
        n: Prompts.
        success: Share of prompts answered with a right value and no wrong one; None when the
            items say nothing about values.
        change: Success minus that of the unsteered model, paired by prompt.
        exact: Share of answers equal to an accepted one, but for case and punctuation.
        containment: Share of answers that contain an accepted phrase, even beside a rejected one.
        preference: Share of prompts with f > 0, the good answer likelier than the bad one.
        abstention: Share of answers that decline.
        kl_per_token: Mean divergence from the unsteered model along its own answers, in nats.
        regressed: Share of prompts that succeeded unsteered and fail here.
        fixed: Share of prompts that failed unsteered and succeed here.
        runs: Success of each run where an arm was run several times (random vectors).
    """

    arm: str
    category: str
    capability: bool = False
    n: int
    success: Estimate | None = None
    change: Estimate | None = None
    exact: Estimate | None = None
    containment: Estimate | None = None
    preference: Estimate | None = None
    abstention: Estimate | None = None
    kl_per_token: Estimate | None = None
    regressed: float | None = None
    fixed: float | None = None
    runs: tuple[float, ...] = ()

    @property
    def main(self) -> Estimate:
        """What the verdict reads: success, or preference where there is no success."""
        chosen = self.success if self.success is not None else self.preference
        if chosen is None:
            raise ValueError(f"row {self.arm}/{self.category} has no success and no preference")
        return chosen


def categories_of(rows: Sequence[Row], target: str) -> tuple[str, ...]:
    """Return the categories of some rows, the target first, capability last."""
    ordered = sorted(rows, key=lambda row: (row.capability, row.category != target))
    return tuple(dict.fromkeys(row.category for row in ordered))


def run_arms(
    llm: HookedModel,
    arms: Sequence[Arm],
    items: Sequence[EvaluationItem],
    settings: EvaluationSettings,
    title: str,
) -> dict[str, list[list[Outcome]]]:
    """Run arms, one of them called "none", on prompts, with a progress bar of this title.

    Returns:
        Per name of an arm its runs, each with an outcome per prompt, in order.

    Raises:
        PromptTooLongError: A prompt with an answer does not fit the context window.
    """
    with progress_bar(title, len(items) * len(arms), settings.progress) as advance:
        found = measure(
            llm,
            arms,
            items,
            settings.max_new_tokens,
            settings.batch_size,
            advance,
            workers=settings.workers,
        )
    by_name: dict[str, list[list[Outcome]]] = {}
    for arm, outcomes in zip(arms, found, strict=True):
        by_name.setdefault(arm.name, []).append(outcomes)
    return by_name


def rows_of(
    found: dict[str, list[list[Outcome]]],
    items: Sequence[EvaluationItem],
    capability: set[str],
    seed: int,
) -> list[Row]:
    """Return one row per arm and category of what `run_arms` found; `seed` is of the intervals."""
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
        abstention=share(everywhere, [[float(abstains(o.text)) for o in run] for run in runs]),
        kl_per_token=estimate(divergences, seed, within=None),
        regressed=None if arm == "none" else regressed(main, before),
        fixed=None if arm == "none" else fixed(main, before),
        runs=tuple(
            sum(outcome.main for outcome in run) / len(run) for run in runs if len(runs) > 1
        ),
    )


def _means(runs: Sequence[Sequence[float]]) -> list[float]:
    """Per prompt, the mean over the runs of an arm."""
    return [sum(values) / len(values) for values in zip(*runs, strict=True)]
