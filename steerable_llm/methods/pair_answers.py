"""The answers of pairs, scored again and again while something is trained on them.

Where nothing before the last prompt token changes, prompts are run once and kept as long as they
fit into memory; only the answers' tokens are run anew, with gradients. Else it is all of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from steerable_llm.chat.vision import ReadPrompt
from steerable_llm.methods.states import read_prompt
from steerable_llm.pairs.pair import Pairs
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.memory import memory_of
from steerable_llm.runtime.scores import Prefilled, Scored, answer_logits
from steerable_llm.vector.steering import Scope, Steering

MEMORY_SHARE = 0.25
"""Share of the memory that kept prompts may fill."""
_TOKENS = 1024
"""Answer tokens in one pass with gradients: their states and scores are held until it is over."""


@dataclass(frozen=True)
class AnsweredPair:
    """A pair in tokens.

    Attributes:
        prompt: Chat template applied.
        good: The preferred answer.
        bad: The other one; empty where there is none.
        vision: What the model takes beside the tokens of the prompt.
    """

    prompt: tuple[int, ...]
    good: tuple[int, ...]
    bad: tuple[int, ...] = ()
    vision: Mapping[str, Tensor] = field(default_factory=dict, compare=False)

    @property
    def read(self) -> ReadPrompt:
        """The prompt as the model takes it."""
        return ReadPrompt(list(self.prompt), self.vision)


def answered(llm: HookedModel, pairs: Pairs, whole: bool = True) -> list[AnsweredPair]:
    """Return pairs in tokens.

    Args:
        llm: The model.
        pairs: Some may lack a bad answer.
        whole: Keep what good and bad answers both end with, which tells nothing of either; each
            keeps one token at least.

    Raises:
        PairError: A pair whose images the model does not read.
        PromptTooLongError: Prompt and answer do not fit the context window.
    """
    found = []
    for pair in pairs:
        prompt = read_prompt(llm, pair.messages, pair.id)
        good = tuple(llm.encode_answer(pair.good))
        bad = tuple(llm.encode_answer(pair.bad)) if pair.bad is not None else ()
        llm.check_fit(len(prompt.tokens), max(len(good), len(bad)), f"pair {pair.id}")
        if not whole and bad:
            shared = shared_end(good, bad)
            good, bad = good[: len(good) - shared], bad[: len(bad) - shared]
        found.append(AnsweredPair(tuple(prompt.tokens), good, bad, prompt.vision))
    return found


def shared_end(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many last tokens two answers share; each keeps one token of its own at least."""
    most = min(len(one), len(other)) - 1
    return next((i for i in range(most) if one[-1 - i] != other[-1 - i]), max(most, 0))


class PairAnswers:
    """Fixed batches of pairs, whose prompts are kept where they can be."""

    def __init__(
        self,
        llm: HookedModel,
        pairs: Sequence[AnsweredPair],
        batches: Sequence[Sequence[int]],
        scope: Scope,
        memory_budget: int | None = None,
    ) -> None:
        """Cut the batches into passes.

        Args:
            llm: The model.
            pairs: In tokens.
            batches: Places of the pairs that are run together.
            scope: Of what will steer.
            memory_budget: Bytes of kept prompts; None chooses by the machine.
        """
        self.pairs = pairs
        self._llm = llm
        self._passes = [list(_passes(pairs, batch)) for batch in batches]
        serves = not any(pair.vision for pair in pairs) and Prefilled.serves(
            llm, [pair.prompt for pair in pairs], scope
        )
        self._kept: dict[tuple[int, ...], Prefilled] | None = {} if serves else None
        self._room = memory_budget or int(memory_of(llm.device) * MEMORY_SHARE)

    def parts(self, batch: int) -> list[list[int]]:
        """Return the passes of a batch, by its number: the places of the pairs of each."""
        return self._passes[batch]

    def run(
        self, part: Sequence[int], steering: Steering, bad: bool = True
    ) -> list[tuple[int, Tensor, Tensor | None]]:
        """Run one pass of a batch.

        Args:
            part: Places of its pairs.
            steering: What all answers are steered with; gradients reach it where they are on.
            bad: Run the bad answers as well.

        Returns:
            Per pair its place, and what the tokens of its good and of its bad answer are predicted
            from, float32 `[A, V]`; None without a bad one.
        """
        rows = [
            (row, answer) for row, place in enumerate(part) for answer in self._answers(place, bad)
        ]
        found = iter(self._run(tuple(part), rows, steering))
        return [
            (place, next(found), next(found) if len(self._answers(place, bad)) > 1 else None)
            for place in part
        ]

    def _answers(self, place: int, bad: bool) -> list[tuple[int, ...]]:
        pair = self.pairs[place]
        return [pair.good, pair.bad] if bad and pair.bad else [pair.good]

    def _run(
        self,
        places: tuple[int, ...],
        rows: Sequence[tuple[int, tuple[int, ...]]],
        steering: Steering,
    ) -> list[Tensor]:
        if self._kept is not None:
            return self._prefilled(places).answer_logits(rows, steering)
        pairs = [self.pairs[place] for place in places]
        items = [
            Scored(list(pairs[row].prompt), list(answer), steering, pairs[row].vision)
            for row, answer in rows
        ]
        with self._llm.turns:
            found = dict(answer_logits(self._llm, items))
        return [found[index] for index in range(len(items))]

    def _prefilled(self, places: tuple[int, ...]) -> Prefilled:
        assert self._kept is not None
        if places in self._kept:
            return self._kept[places]
        made = Prefilled(self._llm, [self.pairs[place].prompt for place in places])
        if made.size <= self._room:
            self._room -= made.size
            self._kept[places] = made
        return made


def _passes(pairs: Sequence[AnsweredPair], batch: Sequence[int]) -> Iterator[list[int]]:
    """Cut a batch so that the padded answers of a pass stay within its tokens."""
    some: list[int] = []
    longest = 0
    for place in batch:
        pair = pairs[place]
        longest = max(longest, len(pair.good), len(pair.bad))
        if some and 2 * longest * (len(some) + 1) > _TOKENS:
            yield some
            some, longest = [], max(len(pair.good), len(pair.bad))
        some.append(place)
    yield some
