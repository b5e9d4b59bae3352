"""One question of a benchmark, in the form in which every benchmark is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerable_llm.evaluation_set import EvaluationItem
from steerable_llm.pairs import Message


@dataclass(frozen=True)
class Question:
    """A prompt, the answers that are given with it, and which of them are right.

    Attributes:
        item: The prompt; its variant is the question's group, such as a subject.
        choices: The answers to choose from, or to hold a written answer against.
        right: Per choice, whether it is right.
    """

    item: EvaluationItem
    choices: tuple[str, ...] = ()
    right: tuple[bool, ...] = ()

    @classmethod
    def of(
        cls,
        number: int,
        group: str,
        prompt: str,
        choices: Sequence[str] = (),
        right: Sequence[bool] = (),
        accept: Sequence[str] = (),
    ) -> Question:
        """A question asked as one user message.

        Args:
            number: Its place in the data, from 0; names it in reports.
            group: What it belongs to.
            prompt: The text.
            choices: See the class.
            right: See the class.
            accept: Phrases of a right answer; the right choices unless given.
        """
        good = [choice for choice, is_right in zip(choices, right, strict=True) if is_right]
        item = EvaluationItem(
            id=str(number),
            variant=group,
            messages=(Message(role="user", content=prompt),),
            accept=tuple(accept or good),
        )
        return cls(item, tuple(choices), tuple(bool(x) for x in right))

    @property
    def expected(self) -> str:
        """What a right answer is, for a report."""
        right = [c for c, is_right in zip(self.choices, self.right, strict=True) if is_right]
        return " | ".join(right or self.item.accept)
