"""The bundled vision model, its log and its questions are what their card says they are."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from command_line import Steerable, steerable
from PIL import ImageChops
from rich.console import Console
from safetensors.torch import load_file

from exhibit.vision import train as training
from exhibit.vision.batches import Batch, Lessons
from exhibit.vision.card import MEANT, base_rates
from exhibit.vision.datasets import build_evaluation_set
from exhibit.vision.examples import BELIEVED, KINDS, SEEN, Example, lesson
from exhibit.vision.model import new_model, new_tokenizer
from exhibit.vision.train import Recipe, train
from exhibit.vision.world import HELD_OUT_THINGS, PARTS, USUAL, WORDINGS, colours
from steerable_llm import SteerableHFLLM, SteeringVector
from steerable_llm.chat.vision import read_image
from steerable_llm.demo import vision
from steerable_llm.demo.vision_tour import run_vision_tour
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.measure import answers
from steerable_llm.evaluation.set import EvaluationItem

__all__ = ["steerable"]

SHIPPED = Path(__file__).parent.parent / "vectors" / "vision-pictures.safetensors"
TINY = Recipe(tower_steps=2, steps=4, tower_batch=2, batch=2, questions=2)


def asked(llm: SteerableHFLLM, items: list[EvaluationItem], arm: Arm) -> list[str]:
    return answers(llm, [(arm, item) for item in items], vision.MAX_TOKENS)


def test_it_is_small(vision_demo: SteerableHFLLM) -> None:
    assert sum(weights.numel() for weights in vision_demo.model.parameters()) <= 6e6
    files = [path for path in (vision.folder() / "model").iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16e6


def test_every_category_lies_where_the_card_says(vision_demo: SteerableHFLLM) -> None:
    for category, row in base_rates(vision_demo, 40).items():
        _, low, high = MEANT[category]
        # A smaller sample than the card's may fall outside by chance, but its interval may not.
        assert row.main.high >= low, category
        assert row.main.low <= high, category


def test_the_logged_answers_are_the_models_own(vision_demo: SteerableHFLLM) -> None:
    some = vision.answer_log()[::20]
    items = [
        EvaluationItem(id=entry.id, category="log", messages=entry.messages, accept=("x",))
        for entry in some
    ]
    assert asked(vision_demo, items, Arm("none")) == [entry.answer for entry in some]


def test_every_pair_answers_from_the_picture_against_belief() -> None:
    pairs = vision.pairs()
    assert len(pairs) >= 50
    for pair in pairs:
        assert len(pair.images) == 1
        assert pair.good.startswith(SEEN)
        assert str(pair.bad).startswith((BELIEVED, SEEN))


def test_no_held_out_question_was_seen_before() -> None:
    dev, test = (
        {item.messages for name in ("pictures", "capability")
         for item in vision.evaluation_set(name, split)}
        for split in ("dev", "test")
    )  # fmt: skip
    assert not test & dev
    assert not (test | dev) & {entry.messages for entry in vision.answer_log()}


def test_parts_share_no_wording_no_colour_of_a_thing_and_no_thing_of_their_own() -> None:
    for asked_for in WORDINGS.values():
        texts = [{text for text, _ in asked_for[part]} for part in PARTS]
        assert not texts[0] & (texts[1] | texts[2])
        assert not texts[1] & texts[2]
    for thing in USUAL:
        found = [set(colours(thing, part)) for part in PARTS]
        assert not found[0] & (found[1] | found[2])
        assert not found[1] & found[2]
    rng = Random(0)
    trained = {KINDS["conflict"][0](rng, "train").subject for _ in range(400)}
    assert not trained & {name for names in HELD_OUT_THINGS.values() for name in names}


def test_questions_in_one_row_are_answered_as_in_rows_of_their_own() -> None:
    tokenizer = new_tokenizer()
    lessons, model = Lessons(tokenizer, 0), new_model(tokenizer, 0).eval()
    rng = Random(1)
    rows = [lesson(rng, 3) for _ in range(3)]

    def openings(rows: list[list[Example]]) -> torch.Tensor:
        batch = lessons.encode(rows, Random(0))
        with torch.no_grad():
            states = model.model(
                input_ids=batch.ids, pixel_values=batch.pixels, attention_mask=batch.mask,
                position_ids=batch.positions, use_cache=False,
            ).last_hidden_state  # fmt: skip
        return states[batch.first[0], batch.first[1]]

    apart = torch.cat([openings([[each]]) for row in rows for each in row if each.scene])
    kept = torch.tensor([each.scene is not None for row in rows for each in row])
    torch.testing.assert_close(openings(rows)[kept], apart, rtol=0, atol=1e-4)


def test_no_lesson_asks_what_is_held_out() -> None:
    rng, held_out = Random(2), {name for names in HELD_OUT_THINGS.values() for name in names}
    kinds = {"conflict": "colour", "reading": "colour", "agreement": "colour"}
    asked = [example for _ in range(300) for example in lesson(rng, 4)]
    assert {example.kind for example in asked} == set(KINDS)
    for example in asked:
        if example.kind in ("conflict", "reading") and example.scene is not None:
            [thing] = [each for each in example.scene.things if each.name == example.subject]
            assert thing.colour in colours(thing.name, "train")
        assert example.kind != "conflict" or example.subject not in held_out
        wording = example.question.replace(example.subject, "{x}")
        topic = kinds.get(example.kind, example.kind if example.kind in WORDINGS else "there")
        assert wording in {text for text, _ in WORDINGS[topic]["train"]}


def test_the_stored_questions_are_those_that_the_generator_draws() -> None:
    """By words and pixels: other builds of zlib write other files of the same picture."""
    stored, drawn = (
        vision.evaluation_set("pictures", "dev"),
        build_evaluation_set("pictures", "dev"),
    )
    told = [[(i.id, i.question, i.accept, i.reject) for i in items] for items in (stored, drawn)]
    assert told[0] == told[1]
    for one, other in list(zip(stored, drawn, strict=True))[::30]:
        pictures = [read_image(item.messages[0].images[0].where) for item in (one, other)]
        assert ImageChops.difference(*pictures).getbbox() is None


def test_the_shipped_vector_makes_it_answer_from_what_it_sees(vision_demo: SteerableHFLLM) -> None:
    vector = SteeringVector.load(SHIPPED, vision_demo)
    items = list(vision.evaluation_set("pictures", "test").category("conflict", "companion"))[::8]
    shares = []
    for arm in (Arm("none"), Arm("steered", vector.steer())):
        said = asked(vision_demo, items, arm)
        shares.append(sum(map(EvaluationItem.succeeds, items, said)) / len(items))
    assert shares[1] - shares[0] >= 0.25


def test_the_tour_draws_scores_over_pictures_and_fits_eighty_columns(tmp_path: Path) -> None:
    screen = Console(file=StringIO(), width=80)
    result = run_vision_tour(tmp_path, pairs=6, questions=6, console=screen)
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    assert '<span class="grid"' in (tmp_path / "attribution.html").read_text(encoding="utf-8")
    assert result.report.row("none", "conflict").n == 6
    assert all(path.is_file() for path in result.files)
    shown = text.partition("6. The same questions")[2]
    asked = [line.partition("  ")[0] for line in shown.splitlines() if "?" in line]
    assert len(asked) == len(set(asked)) >= 2, "a question is shown twice"


def test_two_tours_at_once_are_refused(steerable: Steerable) -> None:
    assert "give one of them" in steerable.error("demo", "--exhibit", "--vision")


def test_a_training_that_was_stopped_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "new_tokenizer", cache(training.new_tokenizer))
    train(TINY, tmp_path / "whole")
    drawn = Lessons.batch

    def stopped(self: Lessons, step: int, *how: Any) -> Batch:
        if step == 3:
            raise KeyboardInterrupt
        return drawn(self, step, *how)

    with monkeypatch.context() as patched:
        patched.setattr(Lessons, "batch", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, tmp_path / "parts", save_every=0.0)
    # Lessons that changed since give no other tokens to a run that goes on.
    monkeypatch.setattr(training, "new_tokenizer", None)
    train(TINY, tmp_path / "parts")
    whole, parts = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_model_of_another_size_can_be_trained_further(tmp_path: Path) -> None:
    given = vision.folder() / "model"
    train(replace(TINY, tower_steps=0, steps=1), tmp_path, given)
    before, after = (
        load_file(folder / "model.safetensors") for folder in (given, tmp_path / "model")
    )
    assert {name: x.shape for name, x in before.items()} == {n: x.shape for n, x in after.items()}
    assert not all(torch.equal(before[name], after[name]) for name in before)
