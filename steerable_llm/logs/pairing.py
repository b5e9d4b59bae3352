"""From logged answers to preference pairs, and an account of what was left out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steerable_llm.errors import EmptyLogError, PairError
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.pairs import Pairs, PreferencePair


@dataclass(frozen=True)
class PairingReport:
    """What pairing found.

    Attributes:
        pairs: The pairs, in the order of the log.
        by_source: How many pairs came from where.
        left_out: How many bad answers gave no pair, by reason.
    """

    pairs: Pairs
    by_source: dict[str, int]
    left_out: dict[str, int]


def pair_answers(
    answers: Sequence[LoggedAnswer], *, reasons: Iterable[str] | None = None
) -> PairingReport:
    """Pair every bad answer with a good one to the same prompt, and never invent one.

    A correction by a person comes first; else another answer to the same question over the
    same passages that was judged good. Answers that failed because retrieval did ("wrong
    retrieval") are left out: no steering mends them.

    Args:
        answers: The log.
        reasons: Only bad answers with one of these reasons; None takes every reason.

    Returns:
        The pairs with counts of sources and of what was left out.

    Raises:
        EmptyLogError: The log is empty.
        PairError: No bad answer can be paired.
    """
    if not answers:
        raise EmptyLogError("the answer log is empty: log some answers first")
    wanted = None if reasons is None else set(reasons)
    praised: dict[object, list[LoggedAnswer]] = defaultdict(list)
    for entry in answers:
        if entry.verdict == "good":
            praised[(entry.messages, entry.passages)].append(entry)
    pairs: list[PreferencePair] = []
    sources: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for entry in answers:
        if entry.verdict != "bad" or (wanted is not None and entry.reason not in wanted):
            continue
        if entry.reason == "wrong retrieval":
            left_out["wrong retrieval: steering cannot mend it"] += 1
            continue
        good, source = _good_answer(entry, praised[(entry.messages, entry.passages)])
        if good is None:
            left_out["no correction and no good answer to the same prompt"] += 1
            continue
        if good.strip() == entry.answer.strip():
            left_out["the correction repeats the bad answer"] += 1
            continue
        sources[source] += 1
        pairs.append(
            PreferencePair(
                messages=entry.messages,
                good=good,
                bad=entry.answer,
                source=f"log/{entry.reason or 'unspecified'}/{source}",
                document_ids=[passage.id for passage in entry.passages],
                id=entry.id,
            )
        )
    if not pairs:
        bad = sum(entry.verdict == "bad" for entry in answers)
        raise PairError(
            f"none of the {bad} bad answers among {len(answers)} can be paired"
            + (f" for the reasons {sorted(wanted)}" if wanted else "")
            + ": add corrections, or good answers to the same prompts"
        )
    return PairingReport(Pairs(pairs), dict(sources), dict(left_out))


def _good_answer(entry: LoggedAnswer, praised: list[LoggedAnswer]) -> tuple[str | None, str]:
    if entry.correction is not None:
        return entry.correction, "correction"
    if praised:
        return praised[0].answer, "good answer"
    return None, ""
