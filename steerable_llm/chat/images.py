"""Images in messages: the forms in which they come, and how files keep them.

In memory an image is what the caller gave: a PIL image, bytes, a path or an address. A file of
JSON lines keeps paths and addresses as they are, and bytes as `images/SHA256.png` beside itself.
Where no folder belongs to the JSON (a database, a line in a journal), bytes become a data: URL.
Nothing here reads pixels; `vision` does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import mimetypes
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

from steerable_llm.files import is_file, write_whole

ImageSource: TypeAlias = Any
"""A PIL image, the bytes of a file, a path, or the text of a path, a data: URL or a http(s) URL."""

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom of what is seen in an image, in pixels."""

PLACE = "\ufffc"
"""Stands in a text for an image: Unicode's object replacement character."""

FOLDER = "images"
"""The folder beside a file of JSON lines that holds the bytes of its images."""

_FORMS = '{"type": "text", "text": ...}, {"type": "image", "image": ...} or {"type": "image_url"}'
_WEB = ("http://", "https://")
_DIGEST = re.compile(rf"{FOLDER}/[0-9a-f]{{64}}\.[a-z]+")
# How the files of each kind begin.
_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp"}


@dataclass(frozen=True, eq=False)
class ImagePart:
    """An image as part of a message; two are equal when files would name them alike.

    Attributes:
        source: Where it is, or what it is.
        folder: Where a relative path starts: the folder of the file that the message was read
            from. A file that is not there is looked for from the working directory.
        boxes: Where in it is what is asked for, for methods that learn from that; no model sees
            them, and they do not tell images apart.

    Raises:
        ValueError: A box is none.
    """

    source: ImageSource
    folder: Path | None = None
    boxes: tuple[Box, ...] = ()

    def __post_init__(self) -> None:
        """Bring boxes, as JSON has them, to numbers."""
        try:
            made = [(float(a), float(b), float(c), float(d)) for a, b, c, d in self.boxes]
        except (TypeError, ValueError):
            made = [(0.0, 0.0, 0.0, 0.0)]
        if not all(left < right and top < bottom for left, top, right, bottom in made):
            raise ValueError(
                f"the boxes of an image are {self.boxes!r}: give [[left, top, right, bottom], ...] "
                "in pixels"
            )
        object.__setattr__(self, "boxes", tuple(made))

    def __eq__(self, other: object) -> bool:
        """Compare addresses, and of bytes their digests."""
        return self.name == other.name if isinstance(other, ImagePart) else NotImplemented

    def __hash__(self) -> int:
        """Hash as equality has it."""
        return hash(self.name)

    @cached_property
    def data(self) -> bytes | None:
        """The bytes of its file, where the message has them; None for a path or an address."""
        if isinstance(self.source, str | os.PathLike):
            return None
        if isinstance(self.source, bytes | bytearray):
            return bytes(self.source)
        return _png(self.source)

    @cached_property
    def name(self) -> str:
        """What a file of JSON lines calls it: its path or address, or the place of its bytes."""
        if self.data is None:
            return os.fspath(self.source)
        return f"{FOLDER}/{hashlib.sha256(self.data).hexdigest()}{_suffix(self.data)}"

    @property
    def in_words(self) -> str:
        """What stands for it in texts that people read."""
        return f"[image {self.name}]"

    @property
    def is_public(self) -> bool:
        """Whether reading it reads no file of this machine."""
        return self.data is not None or self.name.startswith(_WEB)

    @property
    def where(self) -> ImageSource:
        """What reads it: the source, a path of another file's folder made whole."""
        if self.folder is None or self.is_public:
            return self.source
        beside = self.folder / self.name
        return beside if is_file(beside) else self.source

    @property
    def url(self) -> str:
        """An address that stands for the image wherever the JSON around it goes."""
        data, where = self.data, self.where
        if data is None and isinstance(where, Path) and _DIGEST.fullmatch(self.name):
            data = where.read_bytes()
        if data is None:
            return os.fspath(where)
        kind = mimetypes.guess_type(f"x{_suffix(data)}")[0] or "application/octet-stream"
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"

    def kept_in(self, folder: Path) -> str:
        """Return its name for a file in a folder, after putting its bytes there.

        Args:
            folder: Of the file of JSON lines. An image that lies beside another file is copied
                when its name is its digest, and named by its whole path otherwise.
        """
        data = self.data
        if data is None and isinstance(self.where, Path) and self.folder != folder:
            if not _DIGEST.fullmatch(self.name):
                return str(self.where.resolve())
            data = self.where.read_bytes()
        if data is not None and not (file := folder / self.name).is_file():
            write_whole(file, data, private=True)
        return self.name


Part: TypeAlias = str | ImagePart
"""What the content of a message is made of."""


def parts_of(content: Sequence[Any]) -> tuple[Part, ...]:
    """Return the parts of a message's content, texts that follow each other joined.

    Args:
        content: Parts in the form of transformers' chat templates or of OpenAI.

    Raises:
        ValueError: A part is neither text nor image; the message says what it should be.
    """
    made: list[Part] = []
    for part in content:
        if isinstance(part, ImagePart):
            made.append(part)
        elif isinstance(part, str):
            made.append(part)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            made.append(part["text"])
        else:
            made.append(_image(part))
    return joined(made)


def joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return parts with no empty text, and no two texts one after the other."""
    made: list[Part] = []
    for part in parts:
        if isinstance(part, str) and made and isinstance(made[-1], str):
            made[-1] += part
        elif part != "":
            made.append(part)
    return tuple(made)


def image_of(source: ImageSource) -> ImagePart:
    """Return an image as a part; a data: URL becomes its bytes."""
    if isinstance(source, ImagePart):
        return source
    if isinstance(source, str) and source.startswith("data:"):
        head, _, body = source.partition(",")
        if head.endswith(";base64"):
            try:
                return ImagePart(base64.b64decode(body, validate=True))
            except binascii.Error:
                pass  # said when it is read
    return ImagePart(source)


def image_in(text: str) -> ImagePart | None:
    """Return the image that a text is, as a data: URL or in bare base64; None for other texts."""
    if text.startswith("data:image/"):
        return image_of(text.strip())
    starts = (base64.b64encode(start[:3]).decode() for start in _SUFFIXES)
    if text.startswith(tuple(starts)) and (made := image_of(f"data:image/x;base64,{text.strip()}")):
        return made if made.data is not None and _suffix(made.data) != ".bin" else None
    return None


def _image(part: Any) -> ImagePart:
    if isinstance(part, Mapping) and part.get("type") in ("image", "image_url"):
        url = part.get("image_url")
        found = [url.get("url") if isinstance(url, Mapping) else url]
        found += [part.get(key) for key in ("image", "url", "path")]
        if isinstance(part.get("base64"), str):
            found.append(f"data:{part.get('mime_type') or 'image/png'};base64,{part['base64']}")
        for source in found:
            if source is not None and not (isinstance(source, str) and not source):
                made = image_of(source)
                return replace(made, boxes=part["boxes"]) if part.get("boxes") else made
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise ValueError(f"it holds a part of type {kind!r} that cannot be read: give {_FORMS}")


def _suffix(data: bytes) -> str:
    return next((suffix for start, suffix in _SUFFIXES.items() if data.startswith(start)), ".bin")


def _png(image: Any) -> bytes:
    """Return a PIL image as the bytes of a file, upright: no PNG file says how to turn it."""
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    file = BytesIO()
    try:
        upright.save(file, "PNG")
    except OSError:  # a mode that PNG files do not have, such as CMYK
        file = BytesIO()
        upright.convert("RGB").save(file, "PNG")
    return file.getvalue()
