"""What a vision-language model reads beside tokens: images, by its own processor."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from threading import RLock
from typing import Any, BinaryIO, Literal, TypeAlias

import torch
from torch import Tensor, nn

from steerable_llm.chat.images import ImagePart, ImageSource
from steerable_llm.chat.web_images import ImageRefused, WebImages
from steerable_llm.errors import InvalidInputError, from_extra
from steerable_llm.forked import renew_in_forks

MOST_PIXELS = 64_000_000
"""Larger images are refused before they are unpacked: a file of kilobytes may hold gigabytes."""
# Formats that Pillow reads without other programs; whatever else it knows stays unread.
_FORMATS = ("PNG", "JPEG", "MPO", "GIF", "WEBP", "AVIF", "HEIF", "BMP", "TIFF", "JPEG2000", "PPM")


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt as the model takes it.

    Attributes:
        tokens: Its token ids; an image takes as many as it has patches after the projector.
        vision: What the model's forward pass takes beside them, by argument: pixel values, the
            sizes of grids and the like. Empty for a prompt of text alone.
    """

    tokens: list[int]
    vision: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def has_kinds(self) -> bool:
        """Whether the model is told the kind of every token, such as text or image."""
        return any(self.is_per_token(value) for value in self.vision.values())

    def followed_by(self, answer: Sequence[int], kind: int = 0) -> ReadPrompt:
        """Return the prompt with an answer behind it.

        Args:
            answer: Its tokens.
            kind: What kind of tokens they are, where the model is told so.
        """
        told = {
            name: nn.functional.pad(value, (0, len(answer)), value=kind)
            if self.is_per_token(value)
            else value
            for name, value in self.vision.items()
        }
        return ReadPrompt([*self.tokens, *answer], told)

    def is_per_token(self, value: Tensor) -> bool:
        """Whether something says one thing of every token."""
        return value.shape == (1, len(self.tokens))


Side: TypeAlias = Literal["left", "right"]
"""Where shorter prompts of a batch are padded."""


def in_one_batch(reads: Sequence[ReadPrompt], side: Side) -> dict[str, Tensor]:
    """Return what a model takes beside the tokens of prompts that stand in one batch.

    The kinds of tokens are padded as the tokens are. All else of the prompts follows each other,
    smaller pieces padded with zeros at their ends, as processors pad what they are given at once.

    Args:
        reads: The prompts; one is left as it is.
        side: On which side their tokens are padded.
    """
    if len(reads) == 1:
        return dict(reads[0].vision)
    longest = max(len(read.tokens) for read in reads)
    made = {}
    for name in reads[0].vision:
        parts = [read.vision[name] for read in reads]
        if all(read.is_per_token(part) for read, part in zip(reads, parts, strict=True)):
            room = [longest - part.shape[1] for part in parts]
            around = [(n, 0) if side == "left" else (0, n) for n in room]
            parts = [nn.functional.pad(p, a) for p, a in zip(parts, around, strict=True)]
        else:
            sizes = [max(part.shape[i] for part in parts) for i in range(1, parts[0].dim())]
            parts = [_filled(part, [len(part), *sizes]) for part in parts]
        made[name] = torch.cat(parts)
    return made


def _filled(part: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor with zeros at its ends, of a larger shape."""
    whole = part.new_zeros(list(shape))
    whole[tuple(slice(size) for size in part.shape)] = part
    return whole


class Vision:
    """The processor of one vision-language model."""

    def __init__(
        self, processor: Any, patch_id: int | None = None, web: WebImages | None = None
    ) -> None:
        """Remember the processor of transformers: a tokenizer and an image processor in one.

        Args:
            processor: Of the model.
            patch_id: The token that stands for one piece of an image, as the model has it; what the
                processor calls the image's token may be the mark before it.
            web: Which images of the web are fetched; default is none.
        """
        self.processor = processor
        self.web = web or WebImages()
        self._patch_id = patch_id

    @property
    def marks(self) -> frozenset[str]:
        """What stands for an image in a rendered prompt."""
        both = (self.processor, getattr(self.processor, "tokenizer", None))
        found = (getattr(one, name, None) for one in both for name in ("image_token", "boi_token"))
        return frozenset(mark for mark in found if isinstance(mark, str) and mark)

    @property
    def patch_id(self) -> int | None:
        """The token that stands for one piece of an image in what the processor gives."""
        both = (getattr(self.processor, "tokenizer", None), self.processor)
        found = (self._patch_id, *(getattr(one, "image_token_id", None) for one in both))
        return next((token for token in found if isinstance(token, int)), None)

    def read(self, text: str, images: Sequence[ImagePart], **options: Any) -> ReadPrompt:
        """Turn a rendered prompt and its images into tokens and pixels.

        Raises:
            InvalidInputError: An image cannot be read, or the template left its place out.
        """
        pictures = [read_image(image.where, place, self.web) for place, image in enumerate(images)]
        try:
            read = self.processor(text=[text], images=pictures, return_tensors="pt", **options)
        except (ValueError, TypeError, IndexError, StopIteration) as error:
            raise InvalidInputError(
                f"the model's processor refuses the prompt with {len(images)} image(s): "
                f"{_first_line(error)}"
            ) from error
        tokens: list[int] = read.pop("input_ids")[0].tolist()
        read.pop("attention_mask", None)  # one row, nothing is padded
        if self.patch_id is not None and self.patch_id not in tokens:
            raise InvalidInputError(
                "the model's chat template writes no place for an image into such a message: give "
                "the image in a message of the user"
            )
        for name, value in read.items():
            if isinstance(value, list | tuple) and _holds_tensors(value):
                raise InvalidInputError(
                    f"the model's processor gives {name} as a list, which cannot be passed on: "
                    "take a model whose processor gives tensors"
                )
        return ReadPrompt(tokens, {k: v for k, v in read.items() if isinstance(v, Tensor)})


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_tensors(each) for each in value)
    return isinstance(value, Tensor)


def on_device(vision: Mapping[str, Tensor], model: Any, device: torch.device) -> dict[str, Tensor]:
    """Return what a model takes beside the tokens, where and as precise as its weights are."""
    return {
        name: value.to(device, model.dtype if value.is_floating_point() else value.dtype)
        for name, value in vision.items()
    }


def turns(processor: Any) -> AbstractContextManager[Any]:
    """Return what the calls of one model take turns in; nothing without a processor.

    Some vision-language models keep a prompt's positions on themselves between two tokens, so two
    prompts at once would take each other's.
    """
    return nullcontext() if processor is None else _Turns()


class _Turns(AbstractContextManager[None]):
    """A lock that a forked process finds open, whoever held it."""

    def __init__(self) -> None:
        self.renew()
        renew_in_forks(self)

    def renew(self) -> None:
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def read_image(source: ImageSource, place: int = 0, web: WebImages | None = None) -> Any:
    """Read an image from wherever it is.

    Args:
        source: A PIL image, the bytes of a file, a path, a data: URL or a http(s) URL.
        place: Which image of the prompt it is, for the error.
        web: Which images of the web are fetched; default is none.

    Returns:
        A PIL image in RGB, upright.

    Raises:
        InvalidInputError: There is no image to be read, it is too large, or it is one of the web
            that may not be fetched.
        MissingExtraError: Pillow is not installed.
    """
    with from_extra("vision", "images need Pillow, which is not installed"):
        from PIL import Image, ImageOps
    try:
        if isinstance(source, Image.Image):
            return ImageOps.exif_transpose(source).convert("RGB")
        with _file_of(source, web or WebImages()) as file:
            return ImageOps.exif_transpose(_opened(file)).convert("RGB")
    except ImageRefused as error:
        raise InvalidInputError(f"image {place} of the prompt {error}") from error
    except Exception as error:  # of PIL, of the operating system
        raise InvalidInputError(
            f"image {place} of the prompt cannot be read ({_first_line(error)}): give a PIL image, "
            "bytes, the path of a file, a data: URL or a http(s) URL"
        ) from error


def _file_of(source: Any, web: WebImages) -> BinaryIO:
    if isinstance(source, bytes | bytearray):
        return BytesIO(source)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return BytesIO(web.fetch(source))
    if isinstance(source, str) and source.startswith("data:"):
        head, _, body = source.partition(",")
        kind = head.removeprefix("data:").partition(";")[0]
        try:
            if not (kind.startswith("image/") and head.endswith(";base64")):
                raise ValueError(f"the data: URL holds {kind or 'text'}")
            return BytesIO(base64.b64decode(body, validate=True))
        except (binascii.Error, ValueError) as error:
            raise ImageRefused(
                f"cannot be read ({_first_line(error)}): give data:image/png;base64,... and so on"
            ) from error
    return Path(source).open("rb")


def _opened(file: BinaryIO) -> Any:
    """Open an image whose pixels are not unpacked yet.

    Raises:
        ImageRefused: It is of no known format, or has too many pixels.
    """
    from PIL import Image, UnidentifiedImageError

    Image.init()
    known = [name for name in _FORMATS if name in Image.OPEN]
    try:
        image = Image.open(file, formats=known)
        width, height = image.size
        size = f"{width} x {height}"
    except UnidentifiedImageError:
        raise ImageRefused(
            "cannot be read (it is no image, or cut off at its start): give one of "
            f"{', '.join(known)}"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        width, height, size = MOST_PIXELS, 2, _first_line(error)
    if width * height > MOST_PIXELS:
        raise ImageRefused(
            f"has too many pixels ({size}, at most {MOST_PIXELS:,} are unpacked): give it smaller"
        )
    return image


def _first_line(error: Exception) -> str:
    # Some of these messages quote the whole image.
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return line if len(line) <= 200 else f"{line[:200]}..."
