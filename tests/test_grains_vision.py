"""GrAInS over words and pieces of images, beside a slow oracle: a whole pass for every point."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Steerable, steerable
from slow_vision import PAIRS, slow_inputs, slow_log_prob, slow_pass
from torch import Tensor
from vision_families import family
from vision_models import vision_llm

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import AttributionError, InvalidInputError
from steerable_llm.methods.aggregation import aggregate
from steerable_llm.methods.build import build, build_vector
from steerable_llm.methods.grains.budget import row_bytes
from steerable_llm.methods.grains.grains import GRAINS_PRESETS
from steerable_llm.methods.grains.merged import MergedObjective
from steerable_llm.methods.grains.objective import EncodedPair
from steerable_llm.methods.grains.sheet import contact_sheet_page
from steerable_llm.pairs.pair import PreferencePair
from steerable_llm.runtime.merged import Merged
from steerable_llm.vector.vector import SteeringVector

__all__ = ["steerable"]

# Five Riemann steps from zero miss most of the preference on random models, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:the token scores miss")


@pytest.fixture(scope="session", params=["llava", "qwen2_vl", "gemma3"])
def llm(request: pytest.FixtureRequest) -> SteerableHFLLM:
    return vision_llm(request.param)


@pytest.fixture(scope="session")
def llava() -> SteerableHFLLM:
    return vision_llm("llava")


def rows_of(llm: Any, pair: PreferencePair) -> tuple[Tensor, Tensor]:
    """A prompt's merged rows `[T, d]` and which tokens stand for pieces of an image."""
    inputs = slow_inputs(llm, pair.messages)
    with torch.no_grad():
        rows = slow_pass(llm, inputs)[2]
    return rows, inputs["input_ids"][0] == llm.model.config.image_token_id


def slow_preference(llm: Any, pair: PreferencePair, row: Tensor) -> Tensor:
    return slow_log_prob(llm, pair.messages, pair.good, row) - slow_log_prob(
        llm, pair.messages, str(pair.bad), row
    )


def slow_state(llm: Any, pair: PreferencePair, row: Tensor) -> Tensor:
    """What every block gives before the first token in which the answers differ."""
    good, bad = llm.encode_answer(pair.good), llm.encode_answer(str(pair.bad))
    stem = next(i for i, (g, b) in enumerate(zip(good, bad, strict=False)) if g != b)
    with torch.no_grad():
        _, states, _ = slow_pass(llm, slow_inputs(llm, pair.messages, good[:stem]), row)
    return torch.stack([h[-1] for h in states])


@pytest.fixture(scope="session")
def attributed(llm: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Rows, pieces of images and scores of every pair (eq. 1 to 3), in five steps from zero."""
    found = []
    for pair in PAIRS:
        rows, image = rows_of(llm, pair)
        slope = torch.zeros_like(rows)
        for step in range(1, 6):
            point = (rows * step / 5).requires_grad_()
            slope += torch.autograd.grad(slow_preference(llm, pair, point), point)[0] / 5
        found.append((rows, image, (rows * slope).sum(-1)))
    return found


def oracle(
    llm: Any, attributed: list[tuple[Tensor, Tensor, Tensor]], modality: str, k: int
) -> Tensor:
    """Eq. 4 to 6: the direction of every block."""
    plus, minus = [], []
    for pair, (rows, image, found) in zip(PAIRS, attributed, strict=True):
        words = torch.tensor(llm.chat_format.special_token_mask(pair.messages)).logical_not()
        open_to = {"joint": words | image, "text": words & ~image, "vision": image}[modality]
        places = [i for i in found.argsort().tolist() if open_to[i]]
        for removed, deltas in (
            ([i for i in places[::-1][:k] if found[i] > 0], plus),
            ([i for i in places[:k] if found[i] < 0], minus),
        ):
            if removed:
                masked = rows.clone()
                masked[removed] = 0
                deltas.append(slow_state(llm, pair, rows) - slow_state(llm, pair, masked))
    direction = [
        aggregate(torch.stack(plus)[:, layer], "mean")
        - aggregate(torch.stack(minus)[:, layer], "mean")
        for layer in range(len(llm.blocks))
    ]
    return torch.stack(direction)


@pytest.mark.parametrize("modality", ["joint", "text", "vision"])
def test_a_vector_is_that_of_the_slow_oracle(
    llm: SteerableHFLLM, attributed: list[tuple[Tensor, Tensor, Tensor]], modality: str
) -> None:
    built = build(llm, PAIRS, modality=modality, k=4, progress=False)
    directions = oracle(llm, attributed, modality, k=4)
    for seen, (*_, expected) in zip(built.attributions, attributed, strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(seen.scores, expected, rtol=1e-3, atol=1e-3 * scale)
    for layer, expected in enumerate(directions):
        found = built.vector.directions[layer]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.norm()))


def test_what_can_be_selected_is_what_the_modality_says(llm: SteerableHFLLM) -> None:
    parts = {}
    for modality in ("joint", "text", "vision"):
        built = build(llm, PAIRS, modality=modality, k=100, progress=False)
        parts[modality] = {
            seen.segments[place]
            for seen in built.attributions
            for place in (*seen.positive, *seen.negative)
        }
        chosen = [
            seen.segments[place] == "image"
            for seen in built.attributions
            for place in (*seen.positive, *seen.negative)
        ]
        share = built.vector.provenance.facts["image_share"]
        assert share == pytest.approx(sum(chosen) / len(chosen), abs=1e-3)
    assert parts["joint"] == {"image", "context", "question"}
    assert parts["text"] == {"context", "question"}
    assert parts["vision"] == {"image"}


@pytest.mark.parametrize("baseline", ["zero", "mean", "eos", "pad"])
def test_scores_add_up_from_every_baseline(llava: SteerableHFLLM, baseline: str) -> None:
    built = build(
        llava, PAIRS[:2], baseline=baseline, steps=60, quadrature="gauss_legendre", progress=False
    )
    for pair, seen in zip(PAIRS, built.attributions, strict=False):
        rows, image = rows_of(llava, pair)
        table = llava.model.get_input_embeddings().weight.detach()
        words = {
            "zero": torch.zeros(rows.shape[1]),
            "mean": table.mean(0),
            "eos": table[llava.tokenizer.eos_token_id],
            "pad": table[llava.tokenizer.pad_token_id],
        }[baseline]
        pieces = words
        if baseline == "mean":  # the mean piece over all pairs that are given
            pieces = torch.cat([x[own] for x, own in (rows_of(llava, p) for p in PAIRS[:2])]).mean(
                0
            )
        neutral = torch.where(image[:, None], pieces, words)
        with torch.no_grad():
            value, floor = (float(slow_preference(llava, pair, x)) for x in (rows, neutral))
        assert seen.value == pytest.approx(value, abs=1e-4)
        assert seen.baseline_value == pytest.approx(floor, abs=1e-4)
        if baseline != "zero":  # from there a norm makes the path a jump
            assert float(seen.scores.sum()) == pytest.approx(value - floor, rel=0.1, abs=1e-3)


@pytest.mark.parametrize(
    "attribution", ["conservative", "gradient", "gradient_input", "smoothgrad", "random"]
)
def test_verified_scores_are_what_is_lost_without_each(
    llm: SteerableHFLLM, attribution: str
) -> None:
    one = PAIRS[:1]
    built = build(llm, one, attribution=attribution, verified=1000, k=3, progress=False)
    [seen] = built.attributions
    assert len(seen.verified) == sum(seen.selectable)  # so that this is leaving out each in turn
    rows, image = rows_of(llm, one[0])
    with torch.no_grad():
        whole = float(slow_preference(llm, one[0], rows))
        words = [i for i, part in enumerate(seen.segments) if part == "question"]
        for place in (int(image.nonzero()[2]), words[0]):
            masked = rows.clone()
            masked[place] = 0
            lost = whole - float(slow_preference(llm, one[0], masked))
            assert place in seen.verified
            assert float(seen.scores[place]) == pytest.approx(lost, abs=1e-4)


@pytest.mark.parametrize("attribution", ["gradient", "gradient_input"])
def test_the_gradient_is_the_plain_one(llm: SteerableHFLLM, attribution: str) -> None:
    built = build(llm, PAIRS, attribution=attribution, progress=False)
    for pair, seen in zip(PAIRS, built.attributions, strict=True):
        rows = rows_of(llm, pair)[0].requires_grad_()
        slope = torch.autograd.grad(slow_preference(llm, pair, rows), rows)[0]
        factor = rows.detach() if attribution == "gradient_input" else torch.ones_like(slope)
        expected = (factor * slope).sum(-1)
        scale = float(expected.abs().max())
        torch.testing.assert_close(seen.scores, expected, rtol=1e-3, atol=1e-3 * scale)


def test_one_pair_at_a_time_is_the_same_vector(llava: SteerableHFLLM) -> None:
    wide, narrow = (
        build_vector(llava, PAIRS, baseline="mean", progress=False, memory_budget=budget)
        for budget in (None, 1)
    )
    for layer, direction in wide.directions.items():
        torch.testing.assert_close(narrow.directions[layer], direction, rtol=1e-3, atol=1e-5)


def test_kept_images_and_activations_share_one_budget(
    llava: SteerableHFLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = [
        EncodedPair(
            pair.id,
            llava.chat_format.tokens(pair.messages).ids,
            tuple(llava.encode_answer(pair.good)),
            tuple(llava.encode_answer(str(pair.bad))),
            llava.chat_format.read(pair.messages).vision,
        )
        for pair in PAIRS
    ]
    wide = MergedObjective(llava, encoded)
    points = [(i, wide.embeddings(i).expand(8, -1, -1)) for i in range(len(PAIRS))]
    cost = min(row_bytes(wide.reader, shape, gradients=True) for shape in wide.shapes)
    budget = 8 * cost
    # As large as on a model that was trained: the image of a small one is next to nothing.
    monkeypatch.setattr(Merged, "size", property(lambda _: cost))
    objective = MergedObjective(llava, encoded, memory_budget=budget)
    seen: list[int] = []
    real = objective._decoder.logits

    def watched(text: Any, rows: Tensor, columns: Any) -> Tensor:
        seen.append(len(rows))
        assert objective.kept_bytes + len(rows) * cost <= budget
        return real(text, rows, columns)

    monkeypatch.setattr(objective._decoder, "logits", watched)
    found = objective.gradients(points)
    assert 1 < max(seen) < 8
    assert objective.kept_bytes == budget // 2
    for one, other in zip(found, wide.gradients(points), strict=True):
        torch.testing.assert_close(one.gradients, other.gradients, rtol=1e-4, atol=1e-6)


def test_a_neutral_word_has_no_features_and_a_mean_piece_has_the_mean_ones() -> None:
    llm, prompt, _ = family("qwen3_vl")
    answers = [tuple(llm.encode_answer(text)) for text in ("A shop.", "No, a cat.")]
    pair = EncodedPair("deep", tuple(prompt.tokens), *answers, prompt.vision)
    objective = MergedObjective(llm, [pair])
    rows, image = objective.embeddings(0), objective.image(0)
    d = rows.shape[1] // 2
    for mean in (False, True):
        neutral = objective.neutral(0, objective.baseline(torch.ones(d), mean=mean))
        assert torch.equal(neutral[~image][:, d:], torch.zeros(int((~image).sum()), d))
    assert torch.equal(neutral[image][0], rows[image].mean(0))


def test_answers_stay_what_they_are_while_a_vector_is_built() -> None:
    # Qwen2-VL keeps the positions of its latest prompt on itself.
    llm = vision_llm("qwen2_vl")
    asked = [PAIRS[0].messages, PAIRS[3].messages] * 4
    expected = [llm.generate(messages, max_new_tokens=12).token_ids for messages in asked]
    alone = build_vector(llm, PAIRS, progress=False)
    with ThreadPoolExecutor(3) as pool:
        built = pool.submit(build_vector, llm, PAIRS, progress=False)
        found = list(pool.map(lambda m: llm.generate(m, max_new_tokens=12).token_ids, asked))
    assert found == expected
    for layer, direction in alone.directions.items():
        torch.testing.assert_close(built.result().directions[layer], direction)


def test_pairs_without_an_image_to_look_at_are_told(llava: SteerableHFLLM) -> None:
    text = [PreferencePair("Where is the shop?", "In Lyon.", "In Nice.")]
    with pytest.raises(AttributionError, match="modality='vision'"):
        build_vector(llava, text, modality="vision", progress=False)


def test_the_papers_preset_for_images() -> None:
    preset = GRAINS_PRESETS["paper-vlm"]
    assert (preset.k, preset.steps, preset.aggregation) == (20, 5, "pca")
    assert (preset.modality, preset.baseline, preset.quadrature) == ("joint", "zero", "right")


@pytest.mark.parametrize("modality", ["joint", "text"])
def test_a_contact_sheet_shows_what_speaks_for_each_answer(
    llm: SteerableHFLLM, modality: str
) -> None:
    built = build(llm, PAIRS, k=3, modality=modality, progress=False)
    sheets = contact_sheet_page(llm, PAIRS, built).to_html().split("<article>")[1:]
    assert len(sheets) == sum(bool(pair.images) for pair in PAIRS)
    for seen, sheet in zip(built.attributions, sheets, strict=False):
        pictures = re.findall(r"<figure>(.*?)<figcaption>(.*?)</figcaption>", sheet, re.DOTALL)
        captions = [caption for _, caption in pictures]
        assert captions == [
            "as it was seen",
            f"for the good answer: {seen.good}",
            f"for the bad answer: {seen.bad}",
            "for the good answer against the bad one",
        ]
        good, bad, both = (
            torch.tensor([float(x) for x in re.findall(r'title="([-+.e\d]+)"', drawn)])
            for drawn, _ in pictures[1:]
        )
        pieces = [part == "image" for part in seen.segments]
        torch.testing.assert_close(both, seen.scores[pieces], rtol=1e-3, atol=1e-6)
        # Riemann sums are linear in what is attributed: the answers' scores tell the preference.
        scale = float(torch.cat([good, bad]).abs().max())
        torch.testing.assert_close(good - bad, both, rtol=1e-2, atol=5e-3 * scale + 1e-8)
        chosen = {seen.segments[place] for place in (*seen.positive, *seen.negative)}
        assert ("picked" in pictures[3][0]) == ("image" in chosen)
        assert "picked" not in pictures[1][0] + pictures[2][0]


def test_a_contact_sheet_of_likelihoods_claims_no_preference(llava: SteerableHFLLM) -> None:
    built = build(llava, PAIRS, k=3, objective="likelihood", progress=False)
    sheet = contact_sheet_page(llava, PAIRS, built).to_html()
    assert "for the good answer:" in sheet
    assert "for the bad answer:" in sheet
    assert "against the bad one" not in sheet


def test_a_contact_sheet_needs_pictures(llava: SteerableHFLLM) -> None:
    words = build(llava, PAIRS[3:], progress=False)
    with pytest.raises(InvalidInputError, match="no pictures to show"):
        contact_sheet_page(llava, PAIRS[3:], words)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_a_vector_is_built_from_a_file_on_the_command_line(
    name: str, steerable: Steerable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = vision_llm(name)
    if name == "llava":
        llm.model.save_pretrained(tmp_path / "model")
        llm.chat_format.vision.processor.save_pretrained(tmp_path / "model")  # type: ignore[union-attr]
    else:  # its processor cannot be read again without torchvision
        monkeypatch.setattr("steerable_llm.cli.learn.load_model", lambda *_, **__: llm)
    PAIRS.to_jsonl(tmp_path / "pairs.jsonl")
    said = steerable(
        "build", "pairs.jsonl", "--model", tmp_path / "model", "--preset", "paper-vlm",
        "--set", "modality=vision", "--out", "v.safetensors", "--heatmap", "map.html",
        "--contact-sheet", "sheet.html",
    )  # fmt: skip
    assert "100 % of the selected positions are pieces of images" in said
    vector = SteeringVector.load(tmp_path / "v.safetensors")
    expected = build_vector(llm, PAIRS, preset="paper-vlm", modality="vision", progress=False)
    for layer, direction in expected.directions.items():
        torch.testing.assert_close(vector.directions[layer], direction, rtol=1e-3, atol=1e-5)
    for page in ("map.html", "sheet.html"):
        assert "data:image/" in (tmp_path / page).read_text("utf-8")
    PAIRS[3:].to_jsonl(tmp_path / "words.jsonl")
    refused = steerable.error(
        "build", "words.jsonl", "--out", "w.safetensors", "--contact-sheet", "s.html"
    )
    assert "no pair of words.jsonl has one" in refused
