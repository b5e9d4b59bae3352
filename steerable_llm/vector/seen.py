"""Hashes of the prompts that a build or a calibration saw, to tell that others are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

from steerable_llm.chat.message import MessagesLike


class HasRender(Protocol):
    """Anything that renders messages as its model sees them, such as `HookedModel`."""

    def render(self, messages: MessagesLike) -> str:
        """Return the prompt as text."""
        ...


class HasMessages(Protocol):
    """Anything with a prompt, such as a pair or an item of an evaluation set."""

    @property
    def messages(self) -> MessagesLike:
        """The chat up to the answer."""
        ...


def prompt_hash(rendered: str, images: Iterable[str] = ()) -> str:
    """Return sixteen hexadecimal digits over a prompt, whatever its white space.

    All of it is left out: folded to a blank it would still tell a text that ends in a line break
    from one that does not.

    Args:
        rendered: The prompt as the model's chat template renders it.
        images: What names its images, in their order: of a text with another image it is another
            prompt.
    """
    folded = "\0".join(["".join(rendered.split()), *images])
    return hashlib.sha256(folded.encode()).hexdigest()[:16]


def hashes_of(llm: HasRender, prompts: Iterable[HasMessages]) -> tuple[str, ...]:
    """Return the hash of every prompt, in their order, repeated ones repeated.

    Args:
        llm: The model; its chat template renders the prompts.
        prompts: Pairs or evaluation items.

    Raises:
        InvalidInputError: A prompt that the model's template refuses.
    """
    return tuple(
        prompt_hash(llm.render(one.messages), getattr(one, "images", ())) for one in prompts
    )


def kept(hashes: Iterable[str]) -> tuple[str, ...]:
    """Return hashes as records keep them: each once, sorted."""
    return tuple(sorted(set(hashes)))
