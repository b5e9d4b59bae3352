"""States of prompts that were read, for later prompts that begin alike.

What is kept stands before a prompt's last token, so that only steerings of the scopes `all` and
`prompt` have touched it. It serves whoever has the same tokens *and* the same of these; steerings
of the other scopes share what is unsteered. Nothing is found by a hash alone: tokens and steerings
are compared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import nn

from steerable_llm.runtime.row_cache import States
from steerable_llm.vector.steering import Steering

BLOCK = 16
"""Tokens that are shared at a time."""
_OF_ADAPTERS = ("merged_adapters", "_disable_adapters", "_active_adapter", "scaling")
"""What layers of the package peft have of their own: a merge does not count as a change of the
weights, and an adapter that is switched is none."""


def touching(steering: Steering) -> Steering:
    """Return the terms of a steering that change states before a prompt's last token."""
    return Steering(tuple(t for t in steering.active_terms if t.scope in ("all", "prompt")))


@dataclass(frozen=True, eq=False)
class _Kept:
    tokens: tuple[int, ...]
    steering: Steering
    states: States

    @property
    def size(self) -> int:
        return sum(x.nbytes for both in self.states for x in both)


class PrefixCache:
    """What prompts have left behind; the oldest goes when there is too much of it."""

    def __init__(self, most: int) -> None:
        """Begin with nothing.

        Args:
            most: Bytes that are kept.
        """
        self.most = most
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._blocks: dict[int, _Kept] = {}
        self.size = 0
        self._weights: tuple[object, ...] = ()

    def serve(self, model: nn.Module) -> None:
        """Forget what was read by other weights: a model may be trained, moved, or given a LoRA."""
        weights: tuple[object, ...] = tuple(
            (id(p), p.dtype, p.device, p.requires_grad, 0 if p.is_inference() else p._version)
            for p in model.parameters()
        )
        weights += tuple(
            (id(module), *(repr(vars(module).get(name)) for name in _OF_ADAPTERS))
            for module in model.modules()
            if _OF_ADAPTERS[0] in vars(module)
        )
        if weights != self._weights:
            self._drop(0)
            self._weights = weights

    def keep_at_most(self, most: int) -> None:
        """Set how many bytes are kept, from now on."""
        self.most = most
        self._drop(most)

    def forget(self) -> None:
        """Let all of it go."""
        self._drop(0)

    def _drop(self, most: int) -> None:
        """Let the oldest go until so many bytes are left."""
        while self.size > most:
            _, oldest = self._kept.popitem(last=False)
            self.size -= oldest.size
            self._blocks = {key: each for key, each in self._blocks.items() if each is not oldest}

    @staticmethod
    def blocks(tokens: Sequence[int], steering: Steering) -> list[int]:
        """Return one hash per whole block before a prompt's last token, of all up to its end."""
        ends = range(BLOCK, len(tokens), BLOCK)
        parts = (tuple(tokens[end - BLOCK : end]) for end in ends)
        start = hash(_told(touching(steering)))
        return list(accumulate(parts, lambda so_far, part: hash((so_far, part)), initial=start))[1:]

    def find(
        self, tokens: Sequence[int], steering: Steering, blocks: Sequence[int]
    ) -> tuple[States, int]:
        """Return states of a prompt's first tokens, and of how many.

        Args:
            tokens: The prompt.
            steering: What it is steered with.
            blocks: Of these, by `blocks`.
        """
        for number in range(len(blocks), 0, -1):
            kept, length = self._blocks.get(blocks[number - 1]), number * BLOCK
            if (
                kept is not None
                and kept.tokens[:length] == tuple(tokens[:length])
                and _told(kept.steering) == _told(touching(steering))
            ):
                self._kept.move_to_end(id(kept))
                return [(k[:, :length], v[:, :length]) for k, v in kept.states], length
        return [], 0

    def keep(
        self, tokens: Sequence[int], steering: Steering, blocks: Sequence[int], states: States
    ) -> None:
        """Keep a copy of a prompt's states, unless they are there.

        Args:
            tokens: The prompt.
            steering: What it was steered with.
            blocks: Of these, by `blocks`.
            states: Of all its tokens, or more.
        """
        length = len(blocks) * BLOCK
        if not blocks or self.most <= 0 or blocks[-1] in self._blocks:
            return
        copied = [(k[:, :length].clone(), v[:, :length].clone()) for k, v in states]
        kept = _Kept(tuple(tokens[:length]), touching(steering), copied)
        if kept.size > self.most:
            return
        self._kept[id(kept)] = kept
        self._blocks |= dict.fromkeys(blocks, kept)
        self.size += kept.size
        self._drop(self.most)


def _told(steering: Steering) -> tuple[object, ...]:
    """Return what tells steerings apart while their vectors are kept, whatever their scope."""
    return tuple(
        (id(t.vector), t.strength, t.layers, t.unit, t.renormalise) for t in steering.terms
    )
