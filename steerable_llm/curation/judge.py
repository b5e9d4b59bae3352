"""Judges: is an answer grounded in the passages that it was given?"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from steerable_llm.curation.entailment import EntailmentJudge
from steerable_llm.curation.lexical import support
from steerable_llm.errors import InvalidInputError, SteerableError


@dataclass(frozen=True)
class Claim:
    """What a judge is asked about.

    Attributes:
        question: What the user asked.
        passages: The texts that the answer has to rest on.
        answer: The answer to judge.
    """

    question: str
    passages: tuple[str, ...]
    answer: str


class Judge(Protocol):
    """Whatever says how far answers are grounded: a function over many of them at once."""

    def __call__(self, claims: Sequence[Claim], /) -> Sequence[float | None]:
        """Return for each claim a number from 0 (made up) to 1 (all of it is in the passages).

        None says that it cannot be told, as for an answer that claims nothing.
        """
        ...


#: A judge of one answer: question, passages and answer to a number from 0 to 1, or None.
SingleJudge = Callable[[str, Sequence[str], str], float | None]


def one_by_one(function: SingleJudge) -> Judge:
    """Make a judge from a function that judges one answer.

    Args:
        function: Called with the question, the passages and the answer.
    """

    def judge(claims: Sequence[Claim]) -> list[float | None]:
        return [function(claim.question, claim.passages, claim.answer) for claim in claims]

    return judge


def _lexical(model: str | None) -> Judge:
    if model is not None:
        raise InvalidInputError("the judge 'lexical' takes no model: leave it out, or choose 'nli'")
    return one_by_one(support)


def _nli(model: str | None) -> Judge:
    entails = EntailmentJudge() if model is None else EntailmentJudge(model)

    def judge(claims: Sequence[Claim]) -> list[float | None]:
        return entails.scores([(claim.question, claim.passages, claim.answer) for claim in claims])

    return judge


#: Name to a function from the name of a model (None for the judge's own) to the judge.
JUDGES: Mapping[str, Callable[[str | None], Judge]] = {"lexical": _lexical, "nli": _nli}


def judge_named(name: str, model: str | None = None) -> Judge:
    """Return a judge by name.

    Args:
        name: A key of `JUDGES`, or ``package.module:function``, a function of question, passages
            and answer (see `one_by_one`).
        model: Hub id or folder, for the judges that need one.

    Raises:
        InvalidInputError: There is no such judge, or it takes no model.
    """
    if name in JUDGES:
        return JUDGES[name](model)
    if ":" not in name:
        raise InvalidInputError(
            f"{name!r} is no judge: one of {', '.join(JUDGES)}, or package.module:function"
        )
    try:
        function = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInputError(
            f"the judge {name!r} cannot be imported ({error}): name it as package.module:function"
        ) from error
    if not callable(function):
        raise InvalidInputError(f"the judge {name!r} is no function of question, passages, answer")
    return one_by_one(function)


def judged(judge: Judge, claims: Sequence[Claim]) -> list[float | None]:
    """Return a judge's scores, checked.

    Raises:
        InvalidInputError: The judge failed, or gave something else than a score for each claim.
    """
    if not claims:
        return []
    try:
        scores = list(judge(claims))
    except SteerableError:
        raise
    except Exception as error:
        # Anything may go wrong in a function of the user's own.
        raise InvalidInputError(
            f"the judge failed with {type(error).__name__}: {error}; it is called with question, "
            "passages and answer"
        ) from error
    if len(scores) != len(claims):
        raise InvalidInputError(
            f"the judge gave {len(scores)} scores for {len(claims)} answers: it must give one each"
        )
    for score in scores:
        # Written so that NaN, which is in no order, is refused as well.
        if score is not None and not (isinstance(score, float | int) and 0 <= score <= 1):
            raise InvalidInputError(
                f"the judge gave {score!r}: a score is a number from 0 to 1, or None"
            )
    return scores
