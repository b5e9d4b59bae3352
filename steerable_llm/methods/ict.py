"""Image-object cross-level trusted intervention, ICT (Chen et al. 2024, arXiv:2411.15268).

x is what one attention head hands to the output projection, at the last token of a prompt with its
good answer. Two levels compare it with what the head gives when less is to be seen:

| level | good answer says no | any other |
|---|---|---|
| base | the image + good | the image + good |
| image | the image + bad | the blurred image + good |
| object | the blurred image + good | the image, its boxes blacked out, + good |

Per level, as in inference-time intervention: logistic probes, fit on one half of the pairs and
judged on the other in turn, rank the heads; each of the best K moves by sigma theta, the unit mean
difference from the comparison to the base times the standard deviation of all projections on it.
Applied at the last position of every step, without keeping the length::

    x' = x + a (sigma theta of the image level + sigma theta of the object level)

with a = 8 and K = 256 in the source.
"""

import re
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from steerable_llm.chat.images import ImagePart
from steerable_llm.chat.message import Message
from steerable_llm.chat.vision import ReadPrompt, read_image
from steerable_llm.chat.web_images import WebImages
from steerable_llm.errors import InvalidInputError, PairError
from steerable_llm.methods.decision import stem_length
from steerable_llm.methods.iti import HEADS, best_heads, training_pairs
from steerable_llm.methods.method import Extraction, Grid, Method
from steerable_llm.methods.probes import Split, logistic_probes
from steerable_llm.methods.states import (
    ANSWER_PLACES,
    AnswerStates,
    chosen_layers,
    prompt_scales,
    read_prompt,
    read_states,
    without_end,
)
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.progress import Advance
from steerable_llm.runtime.blocks import text_config
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.provenance import Provenance

Level = Literal["image", "object"]

_NO = re.compile(r"\b(no|not|none|nothing)\b", re.IGNORECASE)


class IctConfig(AnswerStates):
    """Settings of ICT.

    Attributes:
        level: What to compare with; None is both, or the image level alone where no pair says
            where its object is.
        heads: K, how many heads to steer per level; all of them where a model has fewer.
        blur: Radius of the blur, in pixels.
        seed: Of the two halves of the pairs.
    """

    level: Literal["image", "object", "both"] | None = None
    heads: int = Field(default=256, ge=1)
    blur: float = Field(default=5.0, gt=0)
    seed: int = 0


def extract_ict(
    llm: HookedModel, pairs: Pairs, config: IctConfig, progress: Advance | None = None
) -> Extraction:
    """Build the directions of the heads that tell what is seen from what is guessed.

    Raises:
        InvalidInputError: The model reads text alone.
        PairError: Fewer than two prompts, a pair without an image, without a bad answer where the
            good one says no, or without boxes at the object level.
        UnknownArchitectureError: The model's attention cannot be told.
    """
    if not llm.tower:
        raise InvalidInputError(
            f"method 'ict' learns from what a model sees, and {llm.model_id} reads text alone: "
            "take a vision-language model, or method 'iti'"
        )
    layers = chosen_layers(llm, config.layers)
    training = training_pairs(pairs, 0.5, config.seed).repeat(2)
    number = int(text_config(llm.model).num_attention_heads)

    vision = llm.chat_format.vision
    web = None if vision is None else vision.web

    def states(level: Level | None) -> Tensor:
        texts = []
        for pair in pairs:
            shown = (
                less_seen(pair, level, config.blur, web) if level else (pair.messages, pair.good)
            )
            texts.append(_read(llm, pair, *shown, config.answer_tokens))
        return read_states(llm, texts, "heads")[:, list(layers)]

    base = states(None)
    labels = torch.tensor([1.0] * len(pairs) + [0.0] * len(pairs))
    rows, differences = torch.zeros(base.shape[1:]), torch.zeros(base.shape)
    chosen: list[dict[str, Any]] = []
    levels = _levels(pairs, config)
    for level in levels:
        other = states(level)
        both = torch.cat([base, other]).reshape(len(labels), len(layers) * number, -1)
        halves = (training, ~training)
        accuracy = torch.stack([logistic_probes(Split(both, labels, half)) for half in halves])
        found, heads = best_heads(both, labels, accuracy.mean(0), layers, config.heads)
        rows, differences = rows + found, differences + (base - other) / len(levels)
        chosen += [{"level": level, **head} for head in heads]
    if progress is not None:
        progress(len(pairs))
    steered = sorted({head["layer"] for head in chosen})
    return Extraction(
        directions={layer: rows[layers.index(layer)] for layer in steered},
        scales=prompt_scales(llm, pairs, steered, "heads"),
        provenance=Provenance(facts={"heads": chosen}),
        differences=differences,
        layers=layers,
    )


def less_seen(
    pair: PreferencePair, level: Level, blur: float, web: WebImages | None = None
) -> tuple[tuple[Message, ...], str]:
    """Return the prompt and the answer that a level compares a pair with.

    Raises:
        PairError: The pair lacks what the level needs.
    """
    from PIL import ImageDraw, ImageFilter

    if not pair.images:
        raise PairError(
            f"pair {pair.id} has no image, and method 'ict' learns from images: leave it out, or "
            "use method 'iti'"
        )

    def blurred(image: ImagePart) -> Any:
        return read_image(image.where, web=web).filter(ImageFilter.GaussianBlur(blur))

    def blacked(image: ImagePart) -> Any:
        picture = read_image(image.where, web=web)
        for box in image.boxes:
            ImageDraw.Draw(picture).rectangle(_inside(box, picture.size, pair), fill=0)
        return picture

    says_no = bool(_NO.search(pair.good.partition(".")[0]))
    if level == "image" and says_no:
        if pair.bad is None:
            raise PairError(
                f"pair {pair.id} has no bad answer, and its good one says no: give the answer that "
                "says yes, or leave the pair out"
            )
        return pair.messages, pair.bad
    if level == "image" or says_no:
        return _shown(pair, blurred), pair.good
    if not any(image.boxes for image in pair.images):
        raise PairError(
            f"pair {pair.id} does not say where in its image the object is: give the image "
            '"boxes": [[left, top, right, bottom], ...] in pixels, or level="image"'
        )
    return _shown(pair, blacked), pair.good


def _levels(pairs: Pairs, config: IctConfig) -> tuple[Level, ...]:
    boxes = any(image.boxes for pair in pairs for image in pair.images)
    if config.level == "both" or (config.level is None and boxes):
        return ("image", "object")
    return ("object",) if config.level == "object" else ("image",)


def _shown(pair: PreferencePair, change: Callable[[ImagePart], Any]) -> tuple[Message, ...]:
    """The prompt of a pair with its images changed."""
    return tuple(
        message.with_images(lambda one: ImagePart(change(one))) for message in pair.messages
    )


def _inside(box: tuple[float, ...], size: tuple[int, int], pair: PreferencePair) -> list[int]:
    """The pixels of a box, both ends included, cut to the picture."""
    left, top, right, bottom = box
    width, height = size
    found = [
        max(0, round(left)),
        max(0, round(top)),
        min(width, round(right)) - 1,
        min(height, round(bottom)) - 1,
    ]
    if found[0] > found[2] or found[1] > found[3]:
        raise PairError(
            f"pair {pair.id} has the box {list(box)} in an image of {width} by {height} pixels, "
            "where nothing is in it: give [left, top, right, bottom] in pixels of the image"
        )
    return found


def _read(
    llm: HookedModel,
    pair: PreferencePair,
    messages: tuple[Message, ...],
    answer: str,
    answer_tokens: int | None,
) -> ReadPrompt:
    prompt = read_prompt(llm, messages, pair.id)
    ids = without_end(llm, answer)
    if answer_tokens is not None:
        both = [without_end(llm, each) for each in (pair.good, pair.bad) if each is not None]
        ids = ids[: (stem_length(*both) if len(both) == 2 else 0) + answer_tokens]
    llm.check_fit(len(prompt.tokens), len(ids), f"pair {pair.id}")
    return llm.followed(prompt, ids)


ICT = Method(
    IctConfig,
    extract_ict,
    application=HEADS,
    grid=Grid(
        unit="absolute",
        scopes=("generated",),
        configs=tuple({**place, "heads": heads} for place in ANSWER_PLACES for heads in (16, 256)),
    ),
    images=True,
)
