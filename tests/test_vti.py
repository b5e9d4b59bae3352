"""VTI: both directions against a slow reading of the paper, and what they do in every pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from slow_states import slow_component
from slow_vision import PAIRS, pair, slow_inputs, slow_log_prob
from torch import Tensor
from vision_families import FAMILIES, family
from vision_models import vision_llm

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.errors import (
    InvalidInputError,
    ModelMismatchError,
    PairError,
    SteeringNotAppliedError,
)
from steerable_llm.methods.build import build_vector
from steerable_llm.methods.vti import VtiConfig, masked_change, masked_pixels
from steerable_llm.pairs.pair import PreferencePair
from steerable_llm.runtime.hooks import capture_site, steering_hooks
from steerable_llm.runtime.plan import SteeringPlan
from steerable_llm.vector.steering import Application, Steering
from steerable_llm.vector.vector import SteeringVector

MASKINGS = 3
SETTINGS: dict[str, Any] = {"maskings": MASKINGS, "masked": 0.8}


@pytest.fixture(scope="module", params=["llava", "qwen2_vl"])
def llm(request: pytest.FixtureRequest) -> SteerableHFLLM:
    made = vision_llm(request.param)
    with torch.no_grad():  # what MLPs of random weights give is next to nothing
        for mlp in (*towers_mlps(made), *(block.mlp for block in made.blocks)):
            for weight in mlp.parameters():
                weight.mul_(20)
    return made


@pytest.fixture(scope="module")
def vector(llm: SteerableHFLLM) -> SteeringVector:
    return build_vector(llm, PAIRS, "vti", progress=False, **SETTINGS)


def towers_mlps(llm: Any) -> list[Any]:
    model = llm.model.model
    if hasattr(model, "visual"):
        return [block.mlp for block in model.visual.blocks]
    return [block.mlp for block in model.vision_tower.encoder.layers]


def towers_blocks(llm: Any) -> Any:
    model = llm.model.model
    return model.visual.blocks if hasattr(model, "visual") else model.vision_tower.encoder.layers


@contextmanager
def turned(modules: list[Any], directions: dict[int, Tensor], alpha: float) -> Iterator[None]:
    """`x' = |x| normalise(x / |x| + 0.1 alpha v / |v|)`, by hooks of the test's own."""

    def hook(v: Tensor) -> Any:
        unit = v / v.norm(dim=-1, keepdim=True)

        def after(_m: Any, _i: Any, x: Tensor) -> Tensor:
            length = x.norm(dim=-1, keepdim=True)
            y = x / length + 0.1 * alpha * unit
            return length * y / y.norm(dim=-1, keepdim=True)

        return after

    handles = [m.register_forward_hook(hook(directions[i])) for i, m in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def slow_tower(llm: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    kept: list[Tensor] = []
    hooks = [
        b.register_forward_hook(lambda _m, _i, o: kept.append(o[0] if isinstance(o, tuple) else o))
        for b in towers_blocks(llm)
    ]
    with torch.no_grad():
        llm.model(**inputs)
    for handle in hooks:
        handle.remove()
    return kept


def slow_masked(pixels: Tensor, chosen: list[int]) -> Tensor:
    """The patches of a picture of 4 x 4, or of one patch a row, at the mean of their colour."""
    made = pixels.clone()
    if pixels.dim() == 2:
        for colour in range(3):
            part = slice(colour * 32, colour * 32 + 32)
            for row in chosen:
                made[row, part] = pixels[:, part].mean()
        return made
    for place in chosen:
        top, left = place // 4 * 8, place % 4 * 8
        for colour in range(3):
            made[0, colour, top : top + 8, left : left + 8] = pixels[0, colour].mean()
    return made


def oriented(rows: np.ndarray) -> Tensor:
    component, mean = slow_component(rows), rows.mean(0)
    return torch.tensor(component * np.sign(component @ mean) + mean).float()


def parallel(found: Tensor, expected: Tensor) -> None:
    """Both point the same way, and what is stored is a tenth of a state's length long."""
    unit = expected / expected.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(found, 0.1 * unit, rtol=1e-2, atol=2e-4)


def test_the_tower_is_steered_by_what_masking_changes(
    llm: SteerableHFLLM, vector: SteeringVector
) -> None:
    source = torch.Generator().manual_seed(0)
    changes = []
    for each in PAIRS:
        if not each.images:
            continue
        inputs = slow_inputs(llm, each.messages)
        pixels = inputs["pixel_values"]
        clean = slow_tower(llm, inputs)
        total = [torch.zeros_like(h) for h in clean]
        patches = len(pixels) if pixels.dim() == 2 else 16
        for _ in range(MASKINGS):
            chosen = torch.randperm(patches, generator=source)[: int(0.8 * patches)].tolist()
            seen = slow_tower(llm, {**inputs, "pixel_values": slow_masked(pixels, chosen)})
            total = [a + b for a, b in zip(total, seen, strict=True)]
        changes.append([a / MASKINGS - b for a, b in zip(total, clean, strict=True)])
    assert list(vector.tower) == list(range(len(changes[0])))
    for layer, found in vector.tower.items():
        deltas = torch.stack([change[layer] for change in changes]).double().numpy()
        if found.dim() == 1:  # one patch a row: images of any number
            parallel(found, oriented(deltas.mean(1)))
            continue
        assert found.shape == deltas.shape[2:]
        for patch in range(len(found)):
            parallel(found[patch], oriented(deltas[:, 0, patch]))


def test_the_words_are_read_while_the_tower_is_steered(
    llm: SteerableHFLLM, vector: SteeringVector
) -> None:
    deltas = []
    for each in PAIRS:
        ends = []
        for answer in (each.good, str(each.bad)):
            inputs = slow_inputs(llm, each.messages, llm.encode_answer(answer)[:-1])
            kept: list[Tensor] = []

            def keep(_m: Any, _i: Any, out: Any, kept: list[Tensor] = kept) -> None:
                kept.append((out[0] if isinstance(out, tuple) else out)[0, -1])

            hooks = [block.register_forward_hook(keep) for block in llm.blocks]
            with torch.no_grad(), turned(towers_mlps(llm), dict(vector.tower), 0.9):
                llm.model(**inputs)
            for handle in hooks:
                handle.remove()
            ends.append(torch.cat(kept))
        deltas.append(ends[0] - ends[1])
    pieces = oriented(torch.stack(deltas).double().numpy()).view(len(llm.blocks), -1)
    for layer, found in vector.directions.items():
        parallel(found, pieces[layer])


def test_every_way_to_run_the_model_is_steered_by_the_papers_formula(
    llm: SteerableHFLLM, vector: SteeringVector
) -> None:
    asked = PAIRS[0].messages
    # The directions are random ones: those of random weights hardly move an answer.
    strong = vector.randomised(1).steer(8.0)
    [term] = strong.terms
    mlps = [block.mlp for block in llm.blocks]
    with (
        turned(towers_mlps(llm), dict(term.tower), 8.0),
        turned(mlps, dict(term.vector.directions), 8.0),
    ):
        inputs = slow_inputs(llm, asked)
        made = llm.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        with torch.no_grad():
            expected = float(slow_log_prob(llm, asked, "A shop."))
    ids = made[0, inputs["input_ids"].shape[1] :].tolist()
    answer = llm.generate(asked, strong, max_new_tokens=8)
    assert list(answer.token_ids) == ids
    assert answer.token_ids != llm.generate(asked, max_new_tokens=8).token_ids
    assert answer.steered[0].tower_layers == tuple(vector.tower)
    assert llm.score(asked, ["A shop."], strong)[0] == pytest.approx(expected, abs=1e-3)
    *_, last = llm.stream(asked, strong, max_new_tokens=8)
    assert last.final is not None
    assert list(last.final.token_ids) == ids
    given = [(asked, strong), ("Hello", strong), (PAIRS[1].messages, Steering.none())]
    requests = [GenerationRequest(m, steering, max_new_tokens=8) for m, steering in given]
    together = llm.generate_batch(requests)
    assert [x.token_ids for x in together] == [
        llm.generate_batch([request])[0].token_ids for request in requests
    ]


def test_an_image_of_another_number_of_patches_is_turned_by_their_mean() -> None:
    llm = vision_llm("llava")
    per_patch = build_vector(llm, PAIRS, "vti", progress=False, **SETTINGS)
    [term] = per_patch.steer(1.0).terms
    h = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    mean = per_patch.tower[0].mean(0)
    share = 0.1 * mean / mean.norm()
    expected = h.norm(dim=-1, keepdim=True) * share
    torch.testing.assert_close(term.tower_delta(0, h), expected)


def test_a_vector_keeps_its_tower_in_its_file(
    llm: SteerableHFLLM, vector: SteeringVector, tmp_path: Path
) -> None:
    loaded = SteeringVector.load(vector.save(tmp_path / "vti.safetensors"), llm)
    assert loaded.application == vector.application
    assert loaded.fingerprint_id == vector.fingerprint_id
    for layer, direction in vector.tower.items():
        assert torch.equal(loaded.tower[layer], direction)
    assert vector.negated().fingerprint_id != vector.fingerprint_id
    assert torch.equal(vector.negated().tower[0], -vector.tower[0])
    other = vector.randomised(0).tower[0]
    torch.testing.assert_close(other.norm(dim=-1), vector.tower[0].norm(dim=-1))


def test_one_modality_leaves_the_other_alone() -> None:
    llm = vision_llm("llava")
    seen = build_vector(llm, PAIRS, "vti", modality="vision", progress=False, **SETTINGS)
    assert seen.tower
    assert not any(direction.any() for direction in seen.directions.values())
    assert llm.generate(PAIRS[0].messages, seen.steer(0.9), max_new_tokens=4).steered
    said = build_vector(llm, PAIRS, "vti", modality="text", progress=False)
    assert not said.tower
    both = build_vector(llm, PAIRS, "vti", progress=False, **SETTINGS)
    assert not torch.equal(said.directions[2], both.directions[2])


def test_what_cannot_be_learnt_from_is_refused_in_one_line(tiny_llm: Any) -> None:
    llm = vision_llm("llava")
    text = PreferencePair("Where is the shop?", "In Lyon.", "In Nice.", id="words")
    same = [pair(0, "A shop.", "A cat."), pair(0, "A ship.", "A dog.", "And now?")]
    said = []
    for model, pairs, error, method in (
        (tiny_llm, PAIRS, InvalidInputError, "vti"),
        (llm, [text, text], PairError, "vti"),
        (llm, same, PairError, "vti"),
        (tiny_llm, PAIRS, InvalidInputError, "ict"),
    ):
        with pytest.raises(error) as told:
            build_vector(model, pairs, method, progress=False)
        said.append(str(told.value))
    assert not any("\n" in line for line in said)
    assert "reads text alone" in said[0]
    assert "the pairs have 1" in said[2]


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_tower_of_every_family_is_found_masked_and_steered(name: str) -> None:
    llm, prompt, _ = family(name)
    source = torch.Generator().manual_seed(0)
    pixels = prompt.vision["pixel_values"]
    hidden = masked_pixels(llm, pixels, 0.5, source)
    assert hidden.shape == pixels.shape
    changed = float((hidden != pixels).float().mean())
    assert changed == pytest.approx(0.5, abs=0.02)
    settings = VtiConfig(maskings=2, masked=0.5)
    change = masked_change(llm, prompt, settings, source)
    assert len(change) == len(llm.tower) >= 2
    assert all(bool(h.any()) for h in change)
    tower = {layer: torch.randn(h.shape[-1], generator=source) for layer, h in enumerate(change)}
    vector = SteeringVector(
        "seen",
        {0: torch.zeros(32)},
        {0: 1.0},
        llm.fingerprint,
        application=Application(site="mlp", rule="turn", unit="relative", scope="all"),
        tower=tower,
    )
    ids = torch.tensor([prompt.tokens])
    plan = SteeringPlan([vector.steer(0.5)], torch.ones_like(ids), ids.shape[1] - 1, pictured=True)
    with torch.no_grad(), capture_site(llm.tower, "mlp") as raw:
        with (
            steering_hooks(llm.blocks, plan, llm.tower),
            capture_site(llm.tower, "mlp") as seen,
        ):
            llm.model(input_ids=ids, attention_mask=torch.ones_like(ids), **prompt.vision)
    plan.check_applied()
    for layer, v in tower.items():
        x = raw[layer]
        y = x / x.norm(dim=-1, keepdim=True) + 0.5 * v / v.norm()
        expected = x.norm(dim=-1, keepdim=True) * y / y.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(seen[layer], expected, rtol=1e-3, atol=1e-6)


def test_a_tower_that_sees_nothing_of_an_image_is_told(vector: SteeringVector) -> None:
    steering = replace(vector, tower={0: vector.tower[0]}).steer(1.0)
    plan = SteeringPlan([steering], torch.ones(1, 3), 2, pictured=True)
    for layer in vector.directions:
        plan.apply(layer, torch.ones(1, 3, 32), "mlp")
    with pytest.raises(SteeringNotAppliedError, match="vision tower"):
        plan.check_applied()


def test_towers_steered_in_two_ways_are_not_run_in_one_pass(vector: SteeringVector) -> None:
    plan = SteeringPlan([vector.steer(1.0), vector.steer(0.5)], torch.ones(2, 3), 2, pictured=True)
    with pytest.raises(InvalidInputError, match="one after the other"):
        plan.apply_in_tower(0, torch.ones(2, 17, vector.tower[0].shape[-1]))


def test_a_tower_of_another_model_is_refused(vector: SteeringVector) -> None:
    llm = vision_llm("gemma3")
    wide = {layer: torch.ones(99) for layer in vector.tower}
    own = build_vector(llm, PAIRS, "vti", modality="text", progress=False)
    for tower, what in ((wide, "99"), ({7: torch.ones(16)}, r"\[7\]")):
        foreign = SteeringVector(
            "foreign",
            own.directions,
            own.scales,
            llm.fingerprint,
            application=own.application,
            tower=tower,
        )
        with pytest.raises(ModelMismatchError, match=what):
            llm.generate(pair(0, "a", "b").messages, foreign.steer(1.0), max_new_tokens=2)
