"""Images in messages: where each stands in the text, and in what forms messages bring it.

A message's content with images becomes a text with one place for each image, and the list of the
images beside it, so that whoever looks for words in a prompt finds a text in every case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

ImageSource: TypeAlias = Any
"""A PIL image, the bytes of a file, a path, or the text of a path, a data: URL or a http(s) URL."""

PLACE = "\ufffc"
"""Stands in a text for an image: Unicode's object replacement character."""

_FORMS = '{"type": "text", "text": ...}, {"type": "image", "image": ...} or {"type": "image_url"}'


def text_and_images(content: Sequence[Any]) -> tuple[str, list[ImageSource]]:
    """Take the parts of a message's content apart.

    Args:
        content: Parts in the form of transformers' chat templates or of OpenAI.

    Returns:
        The text, with `PLACE` where an image stands, and the images in that order.

    Raises:
        ValueError: A part is neither text nor image; the message says what it should be.
    """
    text, images = "", []
    for part in content:
        if isinstance(part, str):
            text += part.replace(PLACE, "")
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            text += part["text"].replace(PLACE, "")
        else:
            images.append(_image(part))
            text += PLACE
    return text, images


def parts(text: str) -> list[dict[str, str]]:
    """Return a text with places as the parts that a chat template reads."""
    made: list[dict[str, str]] = []
    for number, piece in enumerate(text.split(PLACE)):
        if number:
            made.append({"type": "image"})
        if piece:
            made.append({"type": "text", "text": piece})
    return made


def keep_places(text: str, images: int) -> str:
    """Return a text with a place for each image, in front where some were cut away with words."""
    if text.count(PLACE) == images:
        return text
    return PLACE * images + text.replace(PLACE, "")


def _image(part: Any) -> ImageSource:
    if isinstance(part, Mapping) and part.get("type") in ("image", "image_url"):
        url = part.get("image_url")
        found = [url.get("url") if isinstance(url, Mapping) else url]
        found += [part.get(key) for key in ("image", "url", "path")]
        if isinstance(part.get("base64"), str):
            found.append(f"data:{part.get('mime_type') or 'image/png'};base64,{part['base64']}")
        for source in found:
            if source is not None and not (isinstance(source, str) and not source):
                return source
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise ValueError(f"it holds a part of type {kind!r} that cannot be read: give {_FORMS}")
