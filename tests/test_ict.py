"""ICT: directions and heads of both levels against a slow reading of the paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from sklearn.linear_model import LogisticRegression
from slow_vision import picture, slow_inputs, slow_pass
from vision_models import vision_llm

from steerable_llm.errors import InvalidInputError, PairError
from steerable_llm.methods.build import build_vector
from steerable_llm.methods.ict import IctConfig
from steerable_llm.methods.iti import training_pairs
from steerable_llm.pairs.pair import Pairs, PreferencePair

HEADS, LAYERS = 4, 3
BOX = (5, 8, 21, 30)


def asked(seed: int, thing: str, good: str, bad: str | None, boxes: Any = (BOX,)) -> PreferencePair:
    image: dict[str, Any] = {"type": "image", "image": picture(seed)}
    if boxes:
        image["boxes"] = boxes
    text = {"type": "text", "text": f"Is there a {thing}?"}
    messages = [{"role": "user", "content": [image, text]}]
    return PreferencePair(messages, good, bad, id=f"{thing}{seed}")


PAIRS = Pairs(
    [
        asked(0, "shop", "Yes.", "No."),
        asked(1, "cat", "No.", "Yes.", ()),
        asked(2, "ship", "Yes.", "No."),
        asked(3, "dog", "None is there.", "Yes.", ()),
        asked(4, "city", "Yes, it is Rome.", None),
        asked(5, "book", "Yes.", "No."),
    ]
)


@pytest.fixture(scope="module")
def llm() -> Any:
    return vision_llm("llava")


def blacked(image: Image.Image) -> Image.Image:
    pixels = np.array(image)
    left, top, right, bottom = BOX
    pixels[top:bottom, left:right] = 0
    return Image.fromarray(pixels)


def slow_heads(llm: Any, image: Image.Image, pair: PreferencePair, answer: str) -> Any:
    """What every head of every block gives at the answer's last token, [L H, e]."""
    parts = [{"type": "image", "image": image}, {"type": "text", "text": pair.messages[0].content}]
    shown = PreferencePair([{"role": "user", "content": parts}], "a", "b")
    inputs = slow_inputs(llm, shown.messages, llm.encode_answer(answer)[:-1])
    with torch.no_grad():
        _, states, _ = slow_pass(llm, inputs, site="heads")
    return torch.stack([h[-1] for h in states]).double().view(LAYERS * HEADS, -1).numpy()


def slow_level(llm: Any, level: str) -> NDArray[np.float64]:
    """Base states then those of a level, [2n, L H, e]."""
    base, other = [], []
    for pair in PAIRS:
        image = pair.images[0].source
        dim = image.filter(ImageFilter.GaussianBlur(5))
        base.append(slow_heads(llm, image, pair, pair.good))
        no = pair.good.startswith("No")
        if level == "image":
            seen, answer = (image, str(pair.bad)) if no else (dim, pair.good)
        else:
            seen, answer = (dim if no else blacked(image)), pair.good
        other.append(slow_heads(llm, seen, pair, answer))
    return np.array([*base, *other])


def slow_direction(x: NDArray[np.float64]) -> NDArray[np.float64]:
    n = len(x) // 2
    difference = x[:n].mean(0) - x[n:].mean(0)
    theta = difference / np.linalg.norm(difference)
    found: NDArray[np.float64] = (x @ theta).std() * theta
    return found


def test_both_levels_move_every_head_towards_what_is_seen(llm: Any) -> None:
    vector = build_vector(llm, PAIRS, "ict", progress=False)
    assert (vector.application.site, vector.application.unit) == ("heads", "absolute")
    levels = [slow_level(llm, level) for level in ("image", "object")]
    for layer in range(LAYERS):
        found = vector.directions[layer].view(HEADS, -1)
        for head in range(HEADS):
            place = layer * HEADS + head
            expected = sum(slow_direction(x[:, place]) for x in levels)
            np.testing.assert_allclose(found[head], expected, rtol=1e-2, atol=1e-6)
    assert [h["level"] for h in vector.provenance.facts["heads"]] == (
        ["image"] * LAYERS * HEADS + ["object"] * LAYERS * HEADS
    )


def test_heads_are_ranked_by_probes_that_judge_the_other_half(llm: Any) -> None:
    vector = build_vector(llm, PAIRS, "ict", heads=3, level="image", progress=False)
    x = slow_level(llm, "image")
    y = np.repeat([1, 0], len(PAIRS))
    half = training_pairs(PAIRS, 0.5, IctConfig().seed).repeat(2).numpy()
    assert half.sum() == len(PAIRS)
    accuracy = np.zeros(LAYERS * HEADS)
    for train in (half, ~half):
        for head in range(LAYERS * HEADS):
            probe = LogisticRegression(tol=1e-9, max_iter=5000).fit(x[train, head], y[train])
            accuracy[head] += probe.score(x[~train, head], y[~train]) / 2
    told = {h["layer"] * HEADS + h["head"]: h["accuracy"] for h in vector.provenance.facts["heads"]}
    assert len(told) == 3
    for head, value in told.items():
        assert value == pytest.approx(accuracy[head], abs=1e-4)
    assert min(told.values()) >= max(v for h, v in enumerate(accuracy) if h not in told) - 1e-4
    moved = {
        layer * HEADS + head
        for layer, direction in vector.directions.items()
        for head in range(HEADS)
        if direction.view(HEADS, -1)[head].any()
    }
    assert moved == set(told)


def test_the_vector_acts_at_the_last_position_of_every_pass(llm: Any) -> None:
    steering = build_vector(llm, PAIRS, "ict", progress=False).steer(8.0)
    answer = llm.generate(PAIRS[0].messages, steering, max_new_tokens=4)
    assert answer.steered[0].steered_tokens == answer.usage.completion_tokens


def test_without_boxes_the_image_level_stands_alone(llm: Any) -> None:
    bare = Pairs([asked(0, "shop", "Yes.", "No.", ()), asked(1, "cat", "No.", "Yes.", ())])
    vector = build_vector(llm, bare, "ict", progress=False)
    assert {h["level"] for h in vector.provenance.facts["heads"]} == {"image"}


@pytest.mark.parametrize(
    ("pair", "settings", "said"),
    [
        (asked(0, "shop", "Yes.", "No.", ()), {"level": "object"}, "shop0 does not say where"),
        (asked(0, "shop", "Yes.", "No.", [[50, 0, 60, 9]]), {}, r"shop0 has the box \[50.0"),
        (asked(0, "cat", "No.", None), {}, "cat0 has no bad answer"),
        (PreferencePair("Is it?", "Yes.", "No.", id="words"), {}, "words has no image"),
    ],
)
def test_a_pair_that_lacks_something_is_named(
    llm: Any, pair: PreferencePair, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(PairError, match=said) as told:
        build_vector(llm, [pair, PAIRS[1]], "ict", progress=False, **settings)
    assert "\n" not in str(told.value)


def test_boxes_stay_with_their_image_in_files(tmp_path: Any) -> None:
    path = tmp_path / "pairs.jsonl"
    PAIRS.to_jsonl(path)
    loaded = Pairs.from_jsonl(path)
    assert [pair.images[0].boxes for pair in loaded] == [pair.images[0].boxes for pair in PAIRS]
    assert loaded.digest == PAIRS.digest
    # They are nothing that a model sees, so that prompts with and without them are one prompt.
    bare = asked(0, "shop", "Yes.", "No.", ())
    assert PAIRS[0].messages[0].key == bare.messages[0].key
    assert PAIRS[0].messages == bare.messages


def test_a_box_that_is_none_is_refused() -> None:
    with pytest.raises(PairError, match="the boxes of an image are"):
        asked(0, "shop", "Yes.", "No.", [[5, 5, 1, 9]])
    with pytest.raises(InvalidInputError, match="the boxes of an image are"):
        vision_llm("llava").generate(
            [{"role": "user", "content": [{"type": "image", "image": "x", "boxes": [[1, 2]]}]}]
        )
