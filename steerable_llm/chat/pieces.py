"""Where the pieces of images lie: each token of an image is a part of what the model saw of it."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor

from steerable_llm.chat.images import ImagePart
from steerable_llm.chat.vision import ReadPrompt, Vision, read_image

_LARGEST = 448
"""Pixels of the longer side of a picture that is kept to draw on."""


@dataclass(frozen=True)
class Pieces:
    """The pieces of one image.

    Attributes:
        picture: What the model saw of the image, small, as the bytes of a JPEG file.
        size: Its width and height.
        rows: The places of the tokens of each row of pieces, from the top. A single row of many
            where it is not known how they lie, as in models that cut an image into tiles.
    """

    picture: bytes
    size: tuple[int, int]
    rows: tuple[tuple[int, ...], ...]

    @property
    def lie_known(self) -> bool:
        """Whether each piece has its place in the picture."""
        return len(self.rows) > 1

    @property
    def places(self) -> tuple[int, ...]:
        """The places of all its tokens."""
        return tuple(place for row in self.rows for place in row)

    @property
    def url(self) -> str:
        """The picture as a data: URL."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.picture).decode()}"


def pieces_of(read: ReadPrompt, images: Sequence[ImagePart], vision: Vision) -> tuple[Pieces, ...]:
    """Return where the pieces of a prompt's images lie; nothing where images cannot be told apart.

    Args:
        read: The prompt.
        images: Its images, in order.
        vision: What read them: it knows the token of a piece, and how pixels were scaled.
    """
    tokens = enumerate(read.tokens)
    groups = groupby(tokens, key=lambda each: each[1] == vision.patch_id)
    runs = [[place for place, _ in group] for is_piece, group in groups if is_piece]
    if not images or len(runs) % len(images):
        return ()
    share = len(runs) // len(images)
    found = []
    for number, image in enumerate(images):
        own = runs[number * share : (number + 1) * share]
        picture, cropped = _seen(read, number, len(images), image, vision)
        file = BytesIO()
        picture.thumbnail((_LARGEST, _LARGEST))
        picture.save(file, "JPEG", quality=85)
        rows = _rows(own, read, number, square=cropped)
        found.append(Pieces(file.getvalue(), picture.size, rows))
    return tuple(found)


def _rows(
    runs: Sequence[Sequence[int]], read: ReadPrompt, number: int, square: bool
) -> tuple[tuple[int, ...], ...]:
    places = [place for run in runs for place in run]
    grids = read.vision.get("image_grid_thw")
    columns = len(places)
    if grids is not None:  # patches are joined in squares
        _, height, width = grids[number].tolist()
        side = math.isqrt(height * width // len(places))
        if side and (height // side) * (width // side) == len(places):
            columns = width // side
    elif square and len(runs) == 1 and math.isqrt(len(places)) ** 2 == len(places):
        columns = math.isqrt(len(places))
    elif len(runs) > 1 and len({len(run) for run in runs}) == 1:
        # Rows end with a mark of their own; tiles stand further apart.
        if all(b[0] - a[-1] == 2 for a, b in pairwise(runs)):
            columns = len(runs[0])
    return tuple(tuple(places[start : start + columns]) for start in range(0, len(places), columns))


def _seen(
    read: ReadPrompt, number: int, count: int, image: ImagePart, vision: Vision
) -> tuple[Any, bool]:
    """Return the picture that the model saw, and whether its pixels tell it, cut as they are."""
    from PIL import Image

    pixels = read.vision.get("pixel_values")
    if pixels is None or pixels.dim() != 4 or len(pixels) != count or pixels.shape[1] != 3:
        return read_image(image.where, number, vision.web), False
    shown = _unscaled(pixels[number].float(), getattr(vision.processor, "image_processor", None))
    return Image.fromarray((shown * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()), True


def _unscaled(pixels: Tensor, scaler: Any) -> Tensor:
    """Return pixels `[3, H, W]` between 0 and 1, as they were before the processor scaled them."""
    mean, std = (getattr(scaler, name, None) for name in ("image_mean", "image_std"))
    if mean is None or std is None:
        low, high = pixels.min(), pixels.max()
        return (pixels - low) / (high - low).clamp_min(1e-6)
    spread, middle = (torch.tensor(each).view(3, 1, 1) for each in (std, mean))
    return (pixels * spread + middle).clamp(0, 1)
