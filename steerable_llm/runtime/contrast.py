"""Context-aware decoding: two streams, whose scores are contrasted (see `vector.contrast`).

They run side by side, the prompt with and without its context, each with its own cache. The
stream without the context stands for what the model knows by itself and is never steered. A prompt
that has no context beside its question has nothing to contrast and is decoded plainly. Images stay
on both sides: what is contrasted are words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from steerable_llm.chat.context import Context, question_alone
from steerable_llm.chat.message import MessagesLike
from steerable_llm.chat.template import ChatFormat
from steerable_llm.chat.vision import ReadPrompt
from steerable_llm.runtime.forward import Stream, run_prompts
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.steering import Steering

if TYPE_CHECKING:
    from steerable_llm.runtime.hooked_model import HookedModel


def bare_prompt(
    chat: ChatFormat, messages: MessagesLike, context: Context = None
) -> ReadPrompt | None:
    """Return a prompt without its context; None when it has none beside its question."""
    question = question_alone(messages, context)
    return None if question is None else chat.read(question)


class Contrasted:
    """Two streams side by side, of which the scores of some rows are contrasted.

    Attributes:
        first: Contrasted scores, float32 `[B, V]`, that choose each row's first answer token.
        full: The prompts with their context.
    """

    def __init__(self, full: Stream, bare: Stream, contrasts: Mapping[int, Contrast]) -> None:
        """Put two streams together.

        Args:
            full: All prompts, with their context.
            bare: Without it the prompts of the rows that are contrasted, in their order.
            contrasts: From such a row to its contrast.
        """
        self.full, self._bare, self._contrasts = full, bare, contrasts
        self._rows = sorted(contrasts)
        self.first = self._combine(full.first, bare.first)

    @property
    def rows(self) -> int:
        """How many prompts there are."""
        return self.full.rows

    def fork(self) -> Self:
        """Return a pair of streams that goes on from here by itself."""
        twin = copy(self)
        twin.full, twin._bare = self.full.fork(), self._bare.fork()
        return twin

    def feed(self, ids: Tensor) -> Tensor:
        """Feed tokens `[B, A]` to both and return contrasted float32 logits `[B, A, V]`."""
        return self._combine(self.full.feed(ids), self._bare.feed(ids[self._rows]))

    def finish(self, row: int) -> None:
        """Stop steering and counting one row: its answer is complete."""
        self.full.finish(row)

    def keep(self, rows: Sequence[int]) -> bool:
        """Go on with these rows alone, if the model's caches allow it; returns whether they do."""
        contrasted = [place for place, row in enumerate(self._rows) if row in set(rows)]
        # One model runs both streams: what one of them can, the other can.
        if not contrasted or not self.full.keep(rows):
            return False
        self._bare.keep(contrasted)
        self._contrasts = {
            place: self._contrasts[row] for place, row in enumerate(rows) if row in self._contrasts
        }
        self._rows = sorted(self._contrasts)
        return True

    def steered(self) -> AbstractContextManager[Any]:
        """Keep the hooks in place over many tokens; the second stream has none."""
        return self.full.steered()

    def _combine(self, full: Tensor, bare: Tensor) -> Tensor:
        """Contrast logits `[B, ..., V]` with those `[b, ..., V]` of the rows without context."""
        combined = full.clone()
        for row, without in zip(self._rows, bare, strict=True):
            combined[row] = self._contrasts[row].combine(full[row], without.to(full.device))
        return combined


def contrasted(
    llm: HookedModel,
    full: Stream,
    bare: Sequence[ReadPrompt | None],
    contrasts: Sequence[Contrast | None],
) -> Stream | Contrasted:
    """Run the second stream beside a batch of prompts, where there is anything to contrast.

    Args:
        llm: The model.
        full: The prompts, which were run.
        bare: Per row the prompt without its context; None where there is none. One with images is
            the only row.
        contrasts: Per row; None for a row that is decoded plainly.
    """
    found = {
        row: (prompt, contrast)
        for row, (prompt, contrast) in enumerate(zip(bare, contrasts, strict=True))
        if prompt is not None and contrast is not None
    }
    if not found:
        return full
    prompts = [prompt for prompt, _ in found.values()]
    without = run_prompts(
        llm,
        [prompt.tokens for prompt in prompts],
        [Steering.none()] * len(prompts),
        prompts[0].vision,
    )
    return Contrasted(full, without, {row: contrast for row, (_, contrast) in found.items()})
