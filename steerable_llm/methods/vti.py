"""Visual and textual intervention, VTI (Liu et al. 2024, arXiv:2410.15778).

An image is seen steadily: with V_l(i) what block l of the vision tower gives for image i, patch by
patch, and i_1 to i_50 the image with 99 % of its patches, drawn, set to the mean of their channel::

    D_l = {mean over k of V_l(i_k) - V_l(i)}     over the images, for each patch by itself
    v_l = first principal component of D_l, centred + mean of D_l

What is said keeps to it: with H(t) the outputs of all decoder blocks at the last token of text t,
read while the tower is steered, the direction of the words is that of in-context vectors, over
H(p g) - H(p b). Where images have unlike numbers of patches, D_l holds means over the patches, and
the tower has one direction per block.

Applied to the output x of each MLP, of the tower (patch by patch) and of the decoder (every
position), a = 0.9 for both in the source::

    x' = |x| normalise(x / |x| + 0.1 a v / |v|)

A vector of this method holds 0.1 v / |v|, so that a is its strength in the unit "absolute".
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize, pad

from steerable_llm.chat.vision import ReadPrompt
from steerable_llm.errors import InvalidInputError, PairError, UnknownArchitectureError
from steerable_llm.methods.aggregation import aggregate
from steerable_llm.methods.method import Extraction, Grid, Method
from steerable_llm.methods.states import (
    ANSWER_PLACES,
    AnswerStates,
    answer_deltas,
    chosen_layers,
    prompt_scales,
    read_prompt,
)
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import Advance
from steerable_llm.runtime.blocks import find_decoder, find_site
from steerable_llm.runtime.forward import tower_states
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.hooks import replaced_outputs
from steerable_llm.vector.provenance import Deltas, Provenance
from steerable_llm.vector.steering import Application, steer_hidden, turn_delta

SHARE = 0.1
"""How long a direction is stored, in lengths of the state: at strength 1 it adds so much."""


class VtiConfig(AnswerStates):
    """Settings of VTI beside those of `AnswerStates`, whose layers are blocks of the decoder.

    Attributes:
        modality: Steer tower and decoder, or one of them.
        maskings: How often each image is masked.
        masked: Share of its patches.
        vision_strength: How strongly the tower is steered while the answers are read.
        seed: Of the choice of patches.
    """

    modality: Literal["joint", "text", "vision"] = "joint"
    maskings: int = Field(default=50, ge=1)
    masked: float = Field(default=0.99, gt=0, le=1)
    vision_strength: float = Field(default=0.9, ge=0)
    seed: int = 0


def extract_vti(
    llm: HookedModel, pairs: Pairs, config: VtiConfig, progress: Advance | None = None
) -> Extraction:
    """Build the directions of the tower, and under them those of the decoder.

    Raises:
        InvalidInputError: The model reads text alone.
        PairError: No pair has an image.
        AttributionError: Fewer than two pairs or images.
        UnknownArchitectureError: The model's MLPs, or the patches of its images, cannot be told.
    """
    if not llm.tower:
        raise InvalidInputError(
            f"method 'vti' steers what a model sees, and {llm.model_id} reads text alone: take a "
            "vision-language model, or method 'icv'"
        )
    layers = chosen_layers(llm, config.layers)
    tower: dict[int, Tensor] = {}
    if config.modality != "text":
        tower = vision_directions(llm, pairs, config, progress)
    deltas = None
    pieces = torch.zeros(len(layers), llm.fingerprint.hidden_size)
    if config.modality != "vision":
        with steered_tower(llm, tower, config.vision_strength):
            layers, deltas = answer_deltas(llm, pairs, config)
        pieces = aggregate(deltas.flatten(1), "pca_plus_mean").view(len(layers), -1)
    if progress is not None:
        progress(len(pairs) if not tower else sum(not pair.images for pair in pairs))
    return Extraction(
        directions=dict(zip(layers, SHARE * normalize(pieces, dim=-1), strict=True)),
        scales=prompt_scales(llm, pairs, layers, "mlp"),
        provenance=Provenance(deltas=None if deltas is None else Deltas(len(deltas))),
        tower=tower,
        differences=deltas,
        layers=layers,
    )


def vision_directions(
    llm: HookedModel, pairs: Pairs, config: VtiConfig, progress: Advance | None = None
) -> dict[int, Tensor]:
    """Return per block of the tower what steers it, `[d]` or `[T, d]`, each `SHARE` long."""
    images = Counter(pair.images for pair in pairs if pair.images)
    if len(images) < 2:
        raise PairError(
            f"method 'vti' learns from images, and the pairs have {len(images)}: give pairs with "
            'two different ones at least, or modality="text"'
        )
    source = torch.Generator().manual_seed(config.seed)
    changes = []
    for shown, count in images.items():
        pair = next(pair for pair in pairs if pair.images == shown)
        changes.append(masked_change(llm, read_prompt(llm, pair.messages, pair.id), config, source))
        if progress is not None:
            progress(count)
    # Patches have a place of their own only where every image has the same ones.
    alike = len({change[0].shape for change in changes}) == 1 and changes[0][0].dim() == 3
    found = {}
    for layer, deltas in enumerate(zip(*changes, strict=True)):
        if alike:
            per_patch = torch.stack([delta.mean(0) for delta in deltas], dim=1)
            direction = torch.stack([aggregate(each, "pca_plus_mean") for each in per_patch])
        else:
            means = torch.stack([delta.flatten(0, -2).mean(0) for delta in deltas])
            direction = aggregate(means, "pca_plus_mean")
        found[layer] = SHARE * normalize(direction, dim=-1)
    return found


def masked_change(
    llm: HookedModel, read: ReadPrompt, config: VtiConfig, source: torch.Generator
) -> list[Tensor]:
    """Return what masking changes on the average in every block of the tower, on the CPU."""
    decoder = find_decoder(llm.model, llm.blocks)
    if "pixel_values" not in read.vision:
        raise _unknown(llm, f"takes {', '.join(read.vision)} and no pixel_values")
    pixels = read.vision["pixel_values"]
    clean = tower_states(llm, decoder, read)
    total = [torch.zeros_like(h, dtype=torch.float32) for h in clean]
    for _ in range(config.maskings):
        hidden = masked_pixels(llm, pixels, config.masked, source)
        seen = replace(read, vision={**read.vision, "pixel_values": hidden})
        for whole, h in zip(total, tower_states(llm, decoder, seen), strict=True):
            whole += h
    pairs = zip(total, clean, strict=True)
    return [(whole / config.maskings - h.float()).cpu() for whole, h in pairs]


def masked_pixels(
    llm: HookedModel, pixels: Tensor, share: float, source: torch.Generator
) -> Tensor:
    """Set patches of pixels, chosen at random, to the mean of their channel.

    Args:
        llm: The model.
        pixels: `[..., 3, height, width]`, each with patches of its own; or one patch a row.
        share: Of the patches.
        source: Of their choice.

    Raises:
        UnknownArchitectureError: Pixels that lie otherwise.
    """
    if pixels.dim() == 2 and pixels.shape[1] % 3 == 0:
        chosen = torch.randperm(len(pixels), generator=source)[: int(share * len(pixels))]
        colours = pixels.view(len(pixels), 3, -1)
        means = colours.mean((0, 2))[:, None].expand(colours.shape[1:]).flatten()
        return pixels.index_fill(0, chosen, 0.0).index_add(
            0, chosen, means.expand(len(chosen), -1).contiguous()
        )
    if pixels.dim() < 4 or pixels.shape[-3] != 3:
        raise _unknown(llm, f"takes pixel_values of shape {tuple(pixels.shape)}")
    size = getattr(getattr(llm.model.config, "vision_config", None), "patch_size", 14)
    down, across = (size, size) if isinstance(size, int) else size
    images = pixels.flatten(0, -4)
    height, width = images.shape[-2:]
    rows, columns = height // down, width // across
    hidden = torch.zeros(len(images), rows * columns, dtype=torch.bool)
    for one in hidden:
        one[torch.randperm(len(one), generator=source)[: int(share * len(one))]] = True
    grid = hidden.view(-1, rows, columns)
    grid = grid.repeat_interleave(down, 1).repeat_interleave(across, 2)
    grid = pad(grid, (0, width - grid.shape[2], 0, height - grid.shape[1]))
    means = images.mean((2, 3), keepdim=True)
    return torch.where(grid[:, None], means, images).view_as(pixels)


@contextmanager
def steered_tower(
    llm: HookedModel, directions: Mapping[int, Tensor], strength: float
) -> Iterator[None]:
    """Steer the vision tower in the forward passes of this thread."""

    def turn(share: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda _, h: steer_hidden(h[None], turn_delta(h, share.to(h.device))[None])[0]

    with ExitStack() as stack:
        for layer, direction in directions.items():
            mlp = find_site(llm.tower[layer], "mlp").module
            stack.enter_context(replaced_outputs([mlp], turn(strength * direction)))
        yield


def _unknown(llm: HookedModel, why: str) -> UnknownArchitectureError:
    return UnknownArchitectureError(
        f"the patches of images cannot be told for {type(llm.model).__name__}, which {why}: give "
        'modality="text", or take another method'
    )


VTI = Method(
    VtiConfig,
    extract_vti,
    application=Application(site="mlp", rule="turn", unit="absolute", scope="all"),
    grid=Grid(unit="absolute", scopes=("all",), configs=ANSWER_PLACES),
    images=True,
)
