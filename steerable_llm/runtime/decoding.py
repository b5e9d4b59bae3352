"""From prompts to answers, token by token: the one decoding loop, and answers that are given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from threading import Event
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from steerable_llm.errors import InvalidInputError
from steerable_llm.runtime.forward import padded


class Rows(Protocol):
    """Prompts that were run: a `Stream`, or two of them that are contrasted."""

    first: Tensor

    @property
    def rows(self) -> int:
        """How many prompts there are."""
        ...

    def fork(self) -> Self:
        """Return the same, to go on by itself."""
        ...

    def feed(self, ids: Tensor) -> Tensor:
        """Feed tokens `[B, A]` and return float32 logits `[B, A, V]`."""
        ...

    def finish(self, row: int) -> None:
        """Learn that the answer of one row is complete."""
        ...

    def keep(self, rows: Sequence[int]) -> bool:
        """Go on with these rows alone, if the model's caches allow it; returns whether they do."""
        ...

    def steered(self) -> AbstractContextManager[Any]:
        """Keep the hooks in place over many tokens."""
        ...


# Rows leave when so many are left: dropping them copies the caches of the others.
_LEFT = 3 / 4


def decode(
    stream: Rows,
    take: Callable[[int, int], bool],
    cancelled: Event | None = None,
) -> None:
    """Choose the likeliest token of each row, hand it over, feed it; until all rows are done.

    Rows that are done leave the batch, and are forgotten by the stream's plan.

    Args:
        stream: The prompts; it is used up.
        take: Called with an unfinished row and its token; returns whether its answer is whole.
        cancelled: Once set, the work stops after the token at hand.
    """
    logits = stream.first.clone()
    unfinished = set(range(stream.rows))
    here = list(unfinished)  # the rows that the stream still has, by the numbers they began with
    with stream.steered():
        while True:
            chosen = logits.argmax(-1)
            for place, (row, token) in enumerate(zip(here, chosen.tolist(), strict=True)):
                if cancelled is not None and cancelled.is_set():
                    return
                if row in unfinished and take(row, token):
                    unfinished.discard(row)
                    stream.finish(place)
            if not unfinished:
                return
            if len(unfinished) <= _LEFT * len(here):
                kept = [place for place, row in enumerate(here) if row in unfinished]
                if stream.keep(kept):
                    chosen, here = chosen[kept], [here[place] for place in kept]
            logits = stream.feed(chosen[:, None])[:, -1]


def greedy_tokens(
    stream: Rows,
    end_ids: Collection[int],
    max_new_tokens: int | Sequence[int],
    cancelled: Event | None = None,
) -> list[list[int]]:
    """Return each row's likeliest answer, the token that ended it included.

    Args:
        stream: The prompts; left as they are.
        end_ids: Tokens that end an answer.
        max_new_tokens: Where answers are cut; one number for all rows, or one per row.
        cancelled: Once set, the answers are left as they are.
    """
    most = [max_new_tokens] * stream.rows if isinstance(max_new_tokens, int) else max_new_tokens
    answers: list[list[int]] = [[] for _ in range(stream.rows)]

    def take(row: int, token: int) -> bool:
        answers[row].append(token)
        return token in end_ids or len(answers[row]) >= most[row]

    decode(stream.fork(), take, cancelled)
    return answers


def forced_logits(stream: Rows, answers: Sequence[Sequence[int]]) -> list[Tensor | None]:
    """Return the next-token logits along one given answer per row.

    Args:
        stream: The prompts; left as they are.
        answers: Token ids, one answer per row; empty for a row that has none.

    Returns:
        Per row float32 logits `[n, V]`, entry i being the distribution that chooses token i of
        the answer, or None for an empty answer.

    Raises:
        InvalidInputError: Not as many answers as rows, or all are empty.
    """
    if len(answers) != stream.rows or not any(map(len, answers)):
        raise InvalidInputError(
            f"{len(answers)} answers for {stream.rows} rows, or all without tokens: "
            "give one per row, at least one of them with a token"
        )
    # The last token of an answer chooses nothing, so it is never fed. Padding after an answer is
    # seen by nothing before it.
    fed = [answer[:-1] for answer in answers]
    logits = stream.first[:, None]
    if any(map(len, fed)):
        logits = torch.cat([logits, stream.fork().feed(padded(fed)[0])], dim=1)
    return [logits[row, : len(a)] if len(a) else None for row, a in enumerate(answers)]


def log_probs(logits: Tensor, answer: Sequence[int]) -> Tensor:
    """Return the log-probability of every token `[A]` of an answer, from its logits `[A, V]`."""
    chosen = torch.tensor(list(answer), device=logits.device)[:, None]
    return logits.log_softmax(-1).gather(-1, chosen)[:, 0]
