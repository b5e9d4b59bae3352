"""Which prompts with images one model reads in one pass.

Families lay out the pixels of several images each in their own way, and some do not read padded
prompts with images as they read them alone. There is no table of models: the first two prompts of
a kind are run together and apart, and prompts of that kind are run together where both say the
same.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steerable_llm.chat.vision import ReadPrompt, Side, in_one_batch, on_device
from steerable_llm.runtime.forward import TOKENS_PER_PASS, Stream, frozen, logits_at, padded
from steerable_llm.runtime.packed import agree
from steerable_llm.runtime.plan import SteeringPlan

if TYPE_CHECKING:
    from steerable_llm.runtime.hooked_model import HookedModel


class ImageBatches:
    """Batches of prompts for one model; what it allows is found out once."""

    def __init__(self, llm: HookedModel) -> None:
        """Remember the model; nothing is run before there are two prompts with images."""
        self._llm = llm
        self._learnt: dict[Hashable, bool] = {}

    def split(
        self,
        reads: Sequence[ReadPrompt],
        order: Sequence[int],
        size: int,
        keys: Sequence[Hashable] | None = None,
        side: Side = "left",
    ) -> list[list[int]]:
        """Return which prompts run together: first those of text, then those with images.

        Args:
            reads: The prompts.
            order: Their places, in the order in which they are taken.
            size: At most so many together; with images also no more than fit one pass.
            keys: Of each prompt what those have alike that run together, None for one that runs by
                itself; counts for those with images.
            side: On which side shorter ones are padded.
        """
        texts = [place for place in order if not reads[place].vision]
        found = [texts[start : start + size] for start in range(0, len(texts), size)]
        groups: dict[Hashable, list[int]] = {}
        for place in order:
            if reads[place].vision:
                key = () if keys is None else keys[place]
                groups.setdefault((place,) if key is None else (key,), []).append(place)
        for group in groups.values():
            some: list[int] = []
            longest = 0
            for place in group:
                longest = max(longest, len(reads[place].tokens))
                room = min(size, TOKENS_PER_PASS // longest)
                if some and (
                    len(some) >= room or not self._together(reads[some[0]], reads[place], side)
                ):
                    found.append(some)
                    some, longest = [], len(reads[place].tokens)
                some.append(place)
            found.append(some)
        return found

    def _together(self, one: ReadPrompt, other: ReadPrompt, side: Side) -> bool:
        """Tell whether two prompts are read together as they are read apart."""
        kind = [
            (name, value.dim(), value.shape[1:] == other.vision[name].shape[1:])
            for name, value in sorted(one.vision.items())
            if name in other.vision
        ]
        same_length = len(one.tokens) == len(other.tokens)
        names = one.vision.keys() == other.vision.keys()
        key = side, names, same_length, tuple(kind)
        if key not in self._learnt:
            self._learnt[key] = names and self._try([one, _inverted(other)], side)
        return self._learnt[key]

    @torch.no_grad()
    def _try(self, reads: Sequence[ReadPrompt], side: Side) -> bool:
        read = self._ends if side == "right" else self._next
        with self._llm.turns, frozen(self._llm.model):
            apart = torch.cat([read([one]) for one in reads])
            try:
                return agree(read(reads), apart)
            except torch.OutOfMemoryError:
                raise
            except Exception:  # models refuse in many ways; then they run apart
                return False

    def _ends(self, reads: Sequence[ReadPrompt]) -> Tensor:
        """Logits at the ends of whole texts, `[B, V]`."""
        ids, mask = padded([read.tokens for read in reads])
        inputs = {"input_ids": ids, "attention_mask": mask, **in_one_batch(reads, "right")}
        at = torch.tensor([len(read.tokens) - 1 for read in reads])
        rows = torch.arange(len(reads))
        device = self._llm.device
        there = on_device(inputs, self._llm.model, device)
        return logits_at(self._llm.model, there, rows.to(device), at.to(device))

    def _next(self, reads: Sequence[ReadPrompt]) -> Tensor:
        """Logits behind prompts, and behind one token more, `[B, 2 V]`."""
        ids, mask = padded([read.tokens for read in reads], "left")
        plan = SteeringPlan([], mask[:0], last_prompt=-1)
        stream = Stream(self._llm, ids, mask, plan, in_one_batch(reads, "left"))
        more = stream.feed(stream.first.argmax(-1)[:, None])[:, -1]
        return torch.cat([stream.first, more], dim=-1)


def _inverted(read: ReadPrompt) -> ReadPrompt:
    """A prompt with its pictures inverted: two of the same one would not tell whose is whose."""
    seen = {k: -v if v.is_floating_point() else v for k, v in read.vision.items()}
    return replace(read, vision=seen)
