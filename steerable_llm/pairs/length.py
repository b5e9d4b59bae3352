"""How much of a pair's preference is a matter of length.

f = log P(good) - log P(bad) sums over the tokens of each answer (GrAInS, section 3.1, eq. 1), and
each token costs something, so that f prefers a short answer to a long one whatever they say. With G
and B tokens of g and b nats each on average, f splits without a remainder into

    f = G g - B b = (g - b) (G + B) / 2  +  (G - B) (g + b) / 2

what the words make, as if both answers had the mean length, and what the lengths make, as if every
token had the mean score (the symmetric decomposition of Kitagawa 1955). Tokens before the answers
part are the same in both, cancel in f, and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from steerable_llm.errors import InvalidInputError
from steerable_llm.pairs.pairing import Draft

#: So many nats of length or less are not worth a word: edits of SmolLM2's answers had up to 9.4.
FLOOR = 10.0


@dataclass(frozen=True)
class Preference:
    """A pair's preference and its parts, in nats.

    Attributes:
        words: What the words make.
        length: What the numbers of tokens make.
        good: Tokens of the good answer after the answers part, with its end of turn.
        bad: The same of the bad answer.
    """

    words: float
    length: float
    good: int
    bad: int

    @property
    def total(self) -> float:
        """The preference f."""
        return self.words + self.length

    @property
    def length_share(self) -> float:
        """How much of both parts, whatever their signs, is length; 0 to 1."""
        both = abs(self.words) + abs(self.length)
        return abs(self.length) / both if both else 0.0

    def too_long(self, share: float) -> str | None:
        """Return in one line that length makes this share or more, or None."""
        if abs(self.length) <= FLOOR or self.length_share < share:
            return None
        return (
            f"its preference of {self.total:+.1f} nats is mostly length: {self.good} against "
            f"{self.bad} tokens make {self.length:+.1f}, the words {self.words:+.1f}"
        )


#: Measures pairs on a model; None for one whose prompt does not fit its context window.
Measure = Callable[[Sequence[Draft]], Sequence[Preference | None]]


def preference_of(good: Sequence[float], bad: Sequence[float]) -> Preference:
    """Split the preference between two answers.

    Args:
        good: Log-probability of each token of the good answer after the answers part, in nats.
        bad: The same of the bad answer.

    Raises:
        InvalidInputError: An answer has no token of its own.
    """
    if not good or not bad:
        raise InvalidInputError("an answer has no token of its own: give its end of turn as well")
    of_good, of_bad = sum(good) / len(good), sum(bad) / len(bad)
    return Preference(
        words=(of_good - of_bad) * (len(good) + len(bad)) / 2,
        length=(len(good) - len(bad)) * (of_good + of_bad) / 2,
        good=len(good),
        bad=len(bad),
    )
