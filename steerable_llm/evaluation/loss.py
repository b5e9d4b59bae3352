"""How much of a capability may be gone: the rule of the budget, and how many prompts it needs.

Answers flip by chance in both directions, so what is counted on n prompts is not what is lost. The
rule has two ends, both of the score interval of the paired difference (`metrics.loss_interval`):

1. **The budget may be kept.** The loss is not above the budget by more than chance: an arm that
   costs exactly the budget would be refused once in five times (`CHANCE`).
2. **Harm is ruled out.** The 95 % interval reaches no further than the budget and four points more
   (`limit`). A small set rules out nothing, whatever was counted on it: it cannot pass.

With ever more prompts the first end alone decides, and comes to lie on the budget itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import count

from steerable_llm.evaluation.rows import Row
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.metrics import CONFIDENCE, loss_interval, loss_score
from steerable_llm.reports.numbers import percent, points

#: Standard errors that a loss may lie above the budget: one normal draw in five lies further out.
CHANCE = 0.8416
_MANY = 100_000  # prompts; more than anybody asks


def limit(budget: float) -> float:
    """Return from where on a loss is harm, which must be ruled out: a share, as the budget is."""
    return budget + max(0.04, budget)


def within(lost: float, gained: float, n: int, budget: float) -> bool:
    """Whether counts of prompts that became wrong, and right, keep the rule of this module."""
    _, high = loss_interval(lost, gained, n)
    return loss_score(lost, gained, n, budget) <= CHANCE and high <= limit(budget) + 1e-9


def rule_of(row: Row, unsteered: Row, budget: float) -> tuple[bool, str]:
    """Return whether the row of a capability keeps the rule, and how that came out in numbers."""
    before, after, n = unsteered.main.value, row.main.value, row.n
    said = f"{row.category}: {percent(before)} unsteered, {percent(after)} {row.arm}"
    untouched = row.kl_per_token is not None and row.kl_per_token.high == 0
    if untouched and before == after and not row.regressed:
        return True, f"{said}: left as it is, so nothing is lost"
    net = (before - after) * n
    lost = max(net, (row.regressed or 0.0) * n, 0.0)
    gained = lost - net
    high, allowed = loss_interval(lost, gained, n)[1], f"the budget of {points(budget)}"
    if within(lost, gained, n, budget):
        return True, f"{said}, within {allowed} (95 % interval: at most {points(high)} lost)"
    if loss_score(lost, gained, n, budget) > CHANCE:
        return False, f"{said}, beyond {allowed}"
    more = fewest(budget, min(lost, gained) / n, min(max(net / n, 0.0), budget))
    return False, (
        f"{said}: on {n} prompts a loss of up to {points(high)} cannot be excluded, and under "
        f"{allowed} one of {points(limit(budget), None)} must be: give "
        f"{max(n + 1, more)} prompts or more"
    )


def fewest(budget: float, flipping: float = 0.0, net: float = 0.0) -> int:
    """Return how many prompts of a capability can show that the budget is kept.

    Args:
        budget: Share that may be lost.
        flipping: Share of prompts that become wrong, and as many right.
        net: Share of prompts that become wrong beyond these; at most the budget.
    """
    lost = flipping + net
    return next(n for n in count(1) if n > _MANY or within(lost * n, flipping * n, n, budget))


def most_lost(n: int, budget: float) -> int | None:
    """Return how many of n prompts may become wrong, none right; None where n show too little."""
    if not within(0, 0, n, budget):
        return None
    return next(lost for lost in count() if lost == n or not within(lost + 1, 0, n, budget))


def fewest_to_beat(share: float) -> int:
    """Return how many prompts can show an arm above one that is right on such a share of them.

    That is, of an arm that is right on all of them: intervals must not overlap. `_MANY` where it
    takes more than anybody asks.
    """
    tail = (1 - CONFIDENCE) / 2
    for n in count(2):
        spread = 1.96 * (share * (1 - share) / n) ** 0.5
        sure = tail ** (1 / n)  # the lower end for n of n, and mirrored the upper one for none
        if n >= _MANY or sure > max(share + spread, 1 - sure):
            return n
    raise AssertionError("a count has no end")


def what_a_proof_needs(
    test: EvaluationSet,
    capability: EvaluationSet | None,
    settings: EvaluationSettings,
    unsteered: float | None = None,
    alone: Collection[str] = (),
) -> Iterator[str]:
    """Tell, before the work, what the prompts of a test can show.

    Args:
        test: The prompts.
        capability: Those of what must not be lost.
        settings: Target and budget.
        unsteered: Share of the target that the unsteered model gets right, where that is known.
        alone: Categories that steering leaves alone, by the conditions of a step.
    """
    target, budget = settings.target or test.categories[0], settings.budget
    asked = len(test.category(target))
    if unsteered is not None and asked < (needed := fewest_to_beat(unsteered)):
        yield (
            f"{target}: the unsteered model was right on {percent(unsteered)} of dev, so {asked} "
            f"prompts cannot show that anything is better: give {needed} or more"
        )
    if capability is None:
        yield (
            "no prompts of what must not be lost, so the verdict will be REFUSE: give some "
            f"(--capability), {fewest(budget)} or more of each category"
        )
        return
    for category in (each for each in capability.categories if each not in alone):
        n = len(capability.category(category))
        allowed = most_lost(n, budget)
        if allowed is None:
            yield (
                f"{category}: {n} prompts cannot show that the budget of {points(budget)} is "
                f"kept: give {fewest(budget)} or more"
            )
        else:
            yield (
                f"{category}: of {n} prompts {allowed or 'none'} may be lost under the budget of "
                f"{points(budget)}"
            )
