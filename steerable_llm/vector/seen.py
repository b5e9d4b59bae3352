"""Hashes of the prompts that a build or a calibration saw, to tell that others are held out."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Protocol

from steerable_llm.chat.images import ImagePart
from steerable_llm.chat.message import Message, MessagesLike, as_messages
from steerable_llm.chat.template import ChatFormat
from steerable_llm.chat.vision import read_image
from steerable_llm.errors import InvalidInputError


class HasChatFormat(Protocol):
    """Anything that renders messages as a model sees them, such as `HookedModel`."""

    chat_format: ChatFormat


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
        images: What tells its images apart, in their order.
    """
    folded = "\0".join([_folded(rendered), *images])
    return hashlib.sha256(folded.encode()).hexdigest()[:16]


def _folded(text: str) -> str:
    """A text without white space, nor what is as little seen (zero-width blanks, byte order marks).

    Characters that are written in two ways count as one.
    """
    if not text.isascii():
        normal = unicodedata.normalize("NFKC", text)
        text = "".join(c for c in normal if unicodedata.category(c) != "Cf")
    return "".join(text.split())


def hashes_of(llm: HasChatFormat, prompts: Iterable[HasMessages]) -> tuple[str, ...]:
    """Return the hash of every prompt, in their order, repeated ones repeated.

    Args:
        llm: The model; its chat template renders the prompts, on no particular day.
        prompts: Pairs or evaluation items.

    Raises:
        InvalidInputError: A prompt that the model's template refuses.
    """
    found = []
    for one in prompts:
        messages = as_messages(one.messages)
        images = (_content(image) for message in messages for image in message.images)
        found.append(prompt_hash(_rendered(llm.chat_format, messages), images))
    return tuple(found)


def _rendered(chat_format: ChatFormat, messages: Sequence[Message]) -> str:
    """A prompt as text, without messages that say nothing: they make no other prompt of it."""
    said = [message for message in messages if not _says_nothing(message)]
    if len(said) < len(messages):
        try:
            return chat_format.undated(said)
        except InvalidInputError:  # nothing is left, or turns that the template does not take
            pass
    return chat_format.undated(messages)


def _says_nothing(message: Message) -> bool:
    beside = message.images or message.tool_calls or message.role == "tool"
    return not beside and not _folded(message.content)


def _content(image: ImagePart) -> str:
    """A hash of an image's pixels, which files of several kinds may hold; the address of the web's.

    Pixels are what the model sees of it.
    """
    if image.data is None and image.is_public:
        return image.name
    try:
        picture = read_image(image.where)
    except InvalidInputError:  # said when the model is to read it
        return image.name
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()


def kept(hashes: Iterable[str]) -> tuple[str, ...]:
    """Return hashes as records keep them: each once, sorted."""
    return tuple(sorted(set(hashes)))
