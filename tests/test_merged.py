"""Merged sequences of words and images: what a decoder says of altered ones, on many families."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from vision_families import FAMILIES, IMAGE, family

from steerable_llm.chat.vision import ReadPrompt
from steerable_llm.errors import UnknownArchitectureError
from steerable_llm.methods.grains.merged import MergedObjective
from steerable_llm.methods.grains.objective import EncodedPair
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.merged import Merged, MergedDecoder

MERGING = [name for name in FAMILIES if name != "mllama"]
ANSWER = "A small shop."


class Case:
    """A family with its prompt and an answer, captured."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.llm, self.prompt, self.positions = family(name)
        self.whole = self.llm.followed(self.prompt, self.llm.encode_answer(ANSWER))
        self.decoder = MergedDecoder(self.llm)
        self.text = self.decoder.capture(self.whole)
        self.decoder.learn(self.text)

    @property
    def columns(self) -> range:
        return range(len(self.prompt.tokens) - 1, len(self.whole.tokens))


@pytest.fixture(scope="session", params=MERGING)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def slow_logits(llm: HookedModel, whole: ReadPrompt, row: Tensor | None = None) -> Tensor:
    """The whole model on its real inputs, its embeddings exchanged as they enter the decoder."""
    [decoder] = [
        module
        for module in llm.model.modules()
        if any(
            isinstance(child, torch.nn.ModuleList) and child[0] is llm.blocks[0]
            for child in module.children()
        )
    ]

    def change(_: Any, args: Any, named: dict[str, Any]) -> Any:
        if row is None:
            return None
        d = named["inputs_embeds"].shape[-1]
        altered = {**named, "inputs_embeds": row[None, :, :d]}
        if row.shape[-1] > d:  # Qwen3-VL
            image = named["visual_pos_masks"][0]
            altered["deepstack_visual_embeds"] = [row[image, d:]]
        return args, altered

    handle = decoder.register_forward_pre_hook(change, with_kwargs=True)
    ids = torch.tensor([whole.tokens])
    try:
        return llm.model(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **whole.vision
        ).logits[0]
    finally:
        handle.remove()


def altered(text: Merged, count: int = 3) -> Tensor:
    """Rows on the way from zeros to the text."""
    shares = torch.linspace(0.3, 1.0, count)
    return shares[:, None, None] * text.rows


def test_an_unaltered_text_is_what_the_model_says(case: Case) -> None:
    with torch.no_grad():
        expected = slow_logits(case.llm, case.whole)[list(case.columns)]
        found = case.decoder.logits(case.text, case.text.rows[None], case.columns)[0]
    assert case.decoder.replays
    assert torch.equal(found, expected)


def test_positions_of_the_image_are_told_one_by_one(case: Case) -> None:
    expected = [token == IMAGE for token in case.whole.tokens]
    assert case.text.image.tolist() == expected
    assert int(case.text.image.sum()) == case.positions


def test_altered_texts_together_are_what_the_whole_model_says_of_each(case: Case) -> None:
    points = altered(case.text)
    with torch.no_grad():
        found = case.decoder.logits(case.text, points, case.columns)
        expected = [slow_logits(case.llm, case.whole, point) for point in points]
    torch.testing.assert_close(
        found, torch.stack(expected)[:, list(case.columns)], rtol=1e-5, atol=1e-6
    )


def test_gradients_reach_every_row_that_counts(case: Case) -> None:
    points = altered(case.text, 2).requires_grad_()
    loss = case.decoder.logits(case.text, points, [len(case.prompt.tokens) - 1]).sin().sum()
    found = torch.autograd.grad(loss, points)[0]
    one = points[0].detach().requires_grad_()
    logits = slow_logits(case.llm, case.whole, one)[len(case.prompt.tokens) - 1]
    expected = torch.autograd.grad(logits.sin().sum(), one)[0]
    torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-4)
    assert bool(found[:, case.text.image].flatten(2).any(-1).all())


def test_states_are_those_inside_of_the_whole_model(case: Case) -> None:
    last = len(case.prompt.tokens) - 1
    points = altered(case.text)
    found = case.decoder.states(case.text, points, last)
    seen: list[Tensor] = []
    hook = case.llm.blocks[0].register_forward_hook(
        lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        for point in points:
            slow_logits(case.llm, case.whole, point)
    hook.remove()
    expected = torch.stack([states[0, last] for states in seen])
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_a_prompt_never_looks_ahead_at_its_answer(case: Case) -> None:
    # Gemma 3's answers are of kind 0 and PaliGemma's of kind 1: with the other, words look ahead.
    last = len(case.prompt.tokens) - 1
    alone = case.decoder.capture(case.prompt)
    states = [
        case.decoder.states(text, text.rows[None], last)
        for text in (
            alone,
            case.text,
            case.decoder.capture(case.llm.followed(case.prompt, case.llm.encode_answer("No."))),
        )
    ]
    for other in states[1:]:
        torch.testing.assert_close(other, states[0], rtol=1e-5, atol=1e-6)


def test_without_all_its_rows_an_image_is_gone(case: Case) -> None:
    # Also where its features enter again in later blocks.
    vision = {**case.whole.vision, "pixel_values": case.whole.vision["pixel_values"].flip(-1)}
    other = case.decoder.capture(ReadPrompt(case.whole.tokens, vision))
    found = []
    for text in (case.text, other):
        rows = text.rows.clone()
        rows[text.image] = 0
        with torch.no_grad():
            found.append(case.decoder.logits(text, rows[None], case.columns))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(case.text.rows, other.rows)


def test_a_text_without_an_image_is_read_too(case: Case) -> None:
    text = case.decoder.capture(ReadPrompt(case.llm.encode_answer("Where is the shop?")))
    assert not bool(text.image.any())
    points = altered(text)
    with torch.no_grad():
        found = case.decoder.logits(text, points, [len(text.rows) - 1])
        expected = [slow_logits(case.llm, text.read, point)[-1] for point in points]
    torch.testing.assert_close(found[:, 0], torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_a_preference_is_that_of_two_plain_passes(case: Case) -> None:
    # Both answers stand behind one prompt, but where the attention has a window shorter than that.
    good, bad = (tuple(case.llm.encode_answer(text)) for text in (ANSWER, "A cat in a hat."))
    pair = EncodedPair("one", tuple(case.prompt.tokens), good, bad, case.prompt.vision)
    assert len(pair.stem) > 1
    objective = MergedObjective(case.llm, [pair])
    assert objective.reader.packs == (case.name not in ("aya_vision", "gemma3"))
    points = torch.linspace(0.3, 1.0, 3)[:, None, None] * objective.embeddings(0)
    [found] = objective.gradients([(0, points)])
    leaf = points[0].clone().requires_grad_()
    values = []
    for point in (leaf, *points[1:]):
        value = torch.zeros(())
        for sign, answer in ((1, good), (-1, bad)):
            whole = case.llm.followed(case.prompt, answer[:-1])
            rest = case.decoder.capture(whole).rows[len(point) :]
            logits = slow_logits(case.llm, whole, torch.cat([point, rest]))
            log_probs = logits[len(point) - 1 :].log_softmax(-1)
            value = value + sign * log_probs[range(len(answer)), answer].sum()
        values.append(value)
    torch.testing.assert_close(found.values, torch.stack(values).detach(), rtol=1e-4, atol=1e-4)
    slope = torch.autograd.grad(values[0], leaf)[0]
    torch.testing.assert_close(found.gradients[0], slope, rtol=1e-3, atol=1e-3)


def test_features_that_enter_again_stand_beside_their_row() -> None:
    case = Case("qwen3_vl")
    d = case.text.width
    assert case.text.rows.shape[1] == 2 * d
    assert bool(case.text.rows[case.text.image, d:].any(-1).all())
    assert not bool(case.text.rows[~case.text.image, d:].any())


def test_positions_of_a_model_in_three_rows_are_the_real_ones() -> None:
    case = Case("qwen2_vl")
    positions = case.text.arguments["position_ids"]
    assert positions.shape[1:] == (1, len(case.whole.tokens))
    # An image's pieces share one time and differ in height and width.
    time, height, width = positions[-3:, 0, case.text.image]
    assert len(time.unique()) == 1
    assert len(height.unique()) == 4
    assert len(width.unique()) == 3


def test_images_across_the_attention_are_refused_in_one_line() -> None:
    llm, prompt, _ = family("mllama")
    with pytest.raises(UnknownArchitectureError, match=r"Mllama.* as one sequence") as told:
        MergedDecoder(llm).capture(prompt)
    assert "\n" not in str(told.value)


def test_a_model_with_something_behind_its_output_layer_is_run_whole() -> None:
    case = Case("llava")
    llm = case.llm
    real = llm.model.forward

    def capped(*args: Any, **named: Any) -> Any:
        output = real(*args, **named)
        output.logits = 30 * torch.tanh(output.logits / 3)
        return output

    llm.model.forward = capped
    decoder = MergedDecoder(llm)
    text = decoder.capture(case.whole)
    decoder.learn(text)
    assert decoder.head is None
    points = altered(text)
    with torch.no_grad():
        found = decoder.logits(text, points, case.columns)
        expected = [slow_logits(llm, case.whole, point) for point in points]
    torch.testing.assert_close(found, torch.stack(expected)[:, list(case.columns)])


def test_a_decoder_that_says_something_else_by_itself_is_run_inside_of_its_model() -> None:
    case = Case("qwen3_vl")
    llm = case.llm
    inside: list[bool] = []
    real = llm.model.base_model.forward

    def forward(*args: Any, **named: Any) -> Any:
        inside.append(True)
        try:
            return real(*args, **named)
        finally:
            inside.pop()

    llm.model.base_model.forward = forward
    llm.blocks[0].register_forward_hook(lambda _m, _i, out: out if inside else out * 2)
    decoder = MergedDecoder(llm)
    text = decoder.capture(case.whole)
    decoder.learn(text)
    assert decoder.replays is False
    points = altered(text).requires_grad_()
    found = decoder.logits(text, points, case.columns)
    assert bool(torch.autograd.grad(found.sin().sum(), points)[0].any())
    with torch.no_grad():
        expected = [slow_logits(llm, case.whole, point) for point in points]
    torch.testing.assert_close(found, torch.stack(expected)[:, list(case.columns)])
