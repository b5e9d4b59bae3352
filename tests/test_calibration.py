"""Strength, sign, scope and layers are chosen on dev, within a capability budget."""

from __future__ import annotations

import io
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from matplotlib import image
from planted_behaviour import planted_llm, planted_vector, questions
from rich.console import Console

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import CalibrationError, InvalidInputError, ModelMismatchError
from steerable_llm.evaluation.calibration import Sweep, _gentlest, calibrate, sweep
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.methods.method import Grid
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.seen import hashes_of, kept
from steerable_llm.vector.steering import Scope

STRENGTHS = (0.02, 0.12, 0.2)


@pytest.fixture(scope="module")
def llm(tiny_tokenizer: Any) -> SteerableHFLLM:
    return planted_llm(tiny_tokenizer)


def quick(llm: SteerableHFLLM, vectors: Any, dev: EvaluationSet, **more: Any) -> Sweep:
    settings = {"strengths": STRENGTHS, "scopes": ("generated",), "max_new_tokens": 4}
    return sweep(llm, vectors, dev, progress=False, **{**settings, **more})


@pytest.fixture(scope="module")
def result(llm: SteerableHFLLM) -> Sweep:
    vector = planted_vector(llm)
    candidates = {"noise": vector.randomised(3), "backwards": vector.negated()}
    kept = questions(llm, 12, "closed_book", want="either")
    return quick(llm, candidates, questions(llm, 40), capability=kept)


def test_the_planted_vector_is_found_and_its_sign_turned_round(result: Sweep) -> None:
    assert result.best.arm == "backwards"
    assert result.best.strength < 0
    assert result.best.success == 1.0 > result.unsteered
    chosen = result.vector.calibration
    assert chosen is not None
    assert chosen.strength == result.best.strength
    assert "against the vector as built" in chosen.note


def test_of_equals_the_smaller_strength_is_taken(result: Sweep) -> None:
    perfect = [row for row in result.rows if row.success == 1.0 and row.complete]
    assert len(perfect) >= 2
    assert abs(result.best.strength) == min(abs(row.strength) for row in perfect)


def test_with_a_target_the_other_categories_of_dev_may_not_be_lost(llm: SteerableHFLLM) -> None:
    vector = planted_vector(llm)
    harmed = EvaluationSet("dev", [*questions(llm, 30), *questions(llm, 30, "gold", want="bad")])
    free = quick(llm, vector, harmed.category("conflict"))
    assert free.best.success == 1.0
    with pytest.raises(CalibrationError, match="no setting within a capability budget"):
        quick(llm, vector, harmed, target="conflict")
    kept = EvaluationSet("dev", [*questions(llm, 30), *questions(llm, 30, "gold")])
    closed = questions(llm, 12, "closed_book", want="either")
    guarded = quick(llm, vector, kept, capability=closed, target="conflict")
    assert set(guarded.best.loss) == {"closed_book", "gold"}
    assert set(guarded.best.allowance) == {"gold"}
    assert guarded.best.success == free.best.success
    with pytest.raises(InvalidInputError, match="no category 'conflicts'; it has conflict, gold"):
        quick(llm, vector, kept, target="conflicts")


def test_a_second_calibration_remembers_what_the_first_looked_at(llm: SteerableHFLLM) -> None:
    first, second = questions(llm, 8), questions(llm, 8, seed=7)
    once = quick(llm, planted_vector(llm), first, controls=False).vector.calibration
    assert once is not None
    vector = replace(planted_vector(llm), calibration=once)
    twice = quick(llm, vector, second, controls=False).vector.calibration
    assert twice is not None
    assert [used.seen for used in twice.earlier] == [once.used[0].seen]
    again = quick(
        llm, replace(vector, calibration=twice), second, controls=False
    ).vector.calibration
    assert again is not None
    assert again.earlier == twice.earlier


def test_a_vector_of_another_model_needs_force(llm: SteerableHFLLM) -> None:
    stranger = llm.fingerprint.model_copy(update={"weights_hash": "0" * 64})
    foreign = replace(planted_vector(llm), fingerprint=stranger)
    dev = questions(llm, 8)
    with pytest.raises(ModelMismatchError):
        quick(llm, foreign, dev, controls=False)
    assert quick(llm, foreign, dev, controls=False, force=True).best.success == 1.0


@given(
    st.lists(
        st.tuples(
            st.floats(0.01, 0.2),
            st.integers(0, 100),
            st.floats(0, 0.02),
            st.sampled_from(["all", "prompt", "generated", "last_prompt"]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_of_settings_that_dev_cannot_tell_apart_the_gentlest_is_taken(
    result: Sweep, settings: list[tuple[float, int, float, Scope]]
) -> None:
    positions = {"last_prompt": 1, "generated": 20, "prompt": 100, "all": 120}
    row = replace(result.best, unsteered=0.2, prompts=100)
    rows = {
        number: replace(
            row, strength=strength, success=right / 100, loss={"reading": loss}, scope=scope
        )
        for number, (strength, right, loss, scope) in enumerate(settings)
    }
    allowed = {i: r for i, r in rows.items() if r.success > 0.2 and r.loss["reading"] <= 0.01}
    assume(allowed)
    best = max(allowed, key=lambda i: allowed[i].success)
    chosen = rows[_gentlest(rows, best, 0.01)]
    error = statistics.pstdev([1.0] * settings[best][1] + [0.0] * (100 - settings[best][1])) / 10
    assert chosen.success >= rows[best].success - error - 1e-9
    assert chosen.loss["reading"] <= 0.01 + 1e-9
    for other in allowed.values():
        gentler = (positions[other.scope], other.strength) < (
            positions[chosen.scope],
            chosen.strength,
        )
        assert not gentler or other.success < rows[best].success - error


def test_rows_agree_with_answers_made_one_by_one(result: Sweep, llm: SteerableHFLLM) -> None:
    vector, dev = planted_vector(llm).negated(), questions(llm, 40)
    checked = [row for row in result.rows if row.arm == "backwards" and row.complete]
    assert len(checked) == 1 + len(STRENGTHS)
    for row in checked:
        steering = vector.steer(row.strength)
        texts = [llm.generate(i.prompt, steering, max_new_tokens=4).text for i in dev]
        slow = sum(i.succeeds(text) for i, text in zip(dev, texts, strict=True)) / len(dev)
        assert row.success == pytest.approx(slow)


def test_the_choice_is_the_one_of_a_full_search(result: Sweep, llm: SteerableHFLLM) -> None:
    dev, best = questions(llm, 40), 0.0
    vector = planted_vector(llm)
    for candidate in (vector.randomised(3), vector.negated()):
        for strength in (s * sign for s in STRENGTHS for sign in (1, -1)):
            texts = [
                llm.generate(i.prompt, candidate.steer(strength), max_new_tokens=4).text
                for i in dev
            ]
            share = sum(i.succeeds(text) for i, text in zip(dev, texts, strict=True)) / len(dev)
            best = max(best, share)
    assert result.best.success == best


def test_the_choice_turned_round_and_a_random_vector_are_run_and_never_chosen(
    result: Sweep,
) -> None:
    controls = [row for row in result.rows if row.is_control]
    both = sorted([result.best.strength, -result.best.strength])
    assert sorted(row.strength for row in controls) == both
    assert not result.best.is_control
    (turned,) = [
        row
        for row in result.rows
        if row.label == result.best.label and row.strength == -result.best.strength
    ]
    assert turned.complete


def test_every_strength_of_the_chosen_sign_is_run_on_everything(llm: SteerableHFLLM) -> None:
    many = [0.01 * n for n in range(1, 13)]  # more than there are finalists
    dev = questions(llm, 40)
    found = quick(llm, planted_vector(llm), dev, strengths=many, controls=False)
    line = {row.strength for row in found.rows if row.complete and row.strength > 0}
    assert found.best.strength > 0
    assert line >= set(many)


def test_the_note_names_the_data_it_was_chosen_on(result: Sweep, llm: SteerableHFLLM) -> None:
    assert result.vector.calibration is not None
    assert questions(llm, 40).digest[:12] in result.vector.calibration.note


def test_a_calibrated_vector_survives_its_file(result: Sweep, tmp_path: Path) -> None:
    path = result.vector.save(tmp_path / "v.safetensors")
    again = type(result.vector).load(path)
    assert again.calibration == result.vector.calibration


def test_a_weaker_setting_is_taken_when_the_stronger_costs_too_much(llm: SteerableHFLLM) -> None:
    """The prompts of the budget want the other word, and only those with a wide margin keep it."""
    dev = questions(llm, 40)
    want_bad = questions(llm, 60, "closed_book", want="bad")
    margins = [llm.score(i.prompt, [i.good or "", i.bad or ""]) for i in want_bad]
    sure = [i for i, (g, b) in zip(want_bad, margins, strict=True) if g - b > 12]
    assert len(sure) >= 5
    kept = EvaluationSet("sure", sure)
    free = quick(llm, planted_vector(llm), dev)
    bound = quick(llm, planted_vector(llm), dev, capability=kept)
    assert 0 < bound.best.strength < free.best.strength
    assert bound.best.success > bound.unsteered
    assert bound.best.largest_loss <= 0.01


def test_halving_only_lets_settings_win_that_ran_on_all_of_dev(llm: SteerableHFLLM) -> None:
    vector = planted_vector(llm)
    candidates = {"planted": vector, **{f"noise {i}": vector.randomised(i) for i in range(4)}}
    found = quick(llm, candidates, questions(llm, 60), strengths=(0.02, 0.05, 0.12))
    assert any(not row.complete for row in found.rows)
    assert {row.prompts for row in found.rows} == {12, 60}
    assert (found.best.arm, found.best.complete) == ("planted", True)


def test_a_sweep_that_finds_nothing_says_so(llm: SteerableHFLLM) -> None:
    vector = planted_vector(llm)
    # A direction that nothing in the model reads.
    idle = replace(vector, directions={0: torch.eye(32)[-1] * 1e-3, 1: torch.eye(32)[-1]})
    want_bad = questions(llm, 30, "closed_book", want="bad")
    with pytest.raises(CalibrationError, match="no setting within a capability budget of 1 points"):
        quick(llm, idle, questions(llm, 20), strengths=(1e-4,))
    with pytest.raises(CalibrationError, match=r"losing .* points .* try a gentler push"):
        quick(llm, vector, questions(llm, 40), capability=want_bad, strengths=(0.2,))


def test_layers_and_scopes_are_tried_and_kept(llm: SteerableHFLLM) -> None:
    found = quick(
        llm,
        planted_vector(llm),
        questions(llm, 20),
        layers=((0,), (0, 1)),
        scopes=("prompt", "all"),
    )
    tried = {(row.scope, row.layers) for row in found.rows if not row.is_control}
    assert tried == {(s, x) for s in ("prompt", "all") for x in ((0,), (0, 1))}
    assert found.vector.calibration is not None
    assert found.vector.calibration.layers == found.best.layers
    assert found.vector.calibration.scope == found.best.scope
    assert found.best.label.endswith(("layers 0", "layers 0-1"))


def test_of_vectors_with_other_layers_each_is_tried_on_its_own(llm: SteerableHFLLM) -> None:
    planted = replace(planted_vector(llm), provenance=Provenance(method="caa"))  # one block each
    apart = {
        name: replace(planted, directions={layer: planted.directions[layer]})
        for name, layer in (("lower", 0), ("upper", 1))
    }
    found = quick(llm, apart, questions(llm, 20))
    tried = {(row.arm, row.layers) for row in found.rows if not row.is_control}
    assert tried == {("lower", (0,)), ("upper", (1,))}


def test_scopes_that_nobody_asked_for_are_tried_where_the_first_does_best(
    llm: SteerableHFLLM,
) -> None:
    subsets = ((0,), (1,), (0, 1))
    found = quick(llm, planted_vector(llm), questions(llm, 20), layers=subsets, scopes=None)
    tried: dict[str, set[tuple[tuple[int, ...] | None, bool]]] = {}
    for row in found.rows:
        if not row.is_control:
            tried.setdefault(row.scope or "", set()).add((row.layers, row.strength > 0))
    first, *others = Grid().scopes
    assert tried.keys() == {first, *others}
    assert tried[first] == {(subset, up) for subset in subsets for up in (True, False)}
    small = {
        (row.layers, row.strength > 0): row.success for row in found.rows if row.scope == first
    }
    best = max(small.values())
    for scope in others:
        assert len(tried[scope]) == 2
        assert any(small[line] == best for line in tried[scope])


def test_a_calibration_that_a_vector_brings_does_not_leak_into_the_sweep(
    llm: SteerableHFLLM, result: Sweep
) -> None:
    once = quick(llm, planted_vector(llm), questions(llm, 20), layers=((0,),))
    again = quick(llm, once.vector, questions(llm, 20))
    assert again.best.layers is None
    assert again.vector.calibration is not None
    assert again.vector.calibration.layers is None


def test_the_sweep_is_shown_as_picture_and_table(result: Sweep, tmp_path: Path) -> None:
    picture = result.figure(tmp_path / "sweep.png")
    assert image.imread(picture).shape[1] == 1200
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(result.table())
    text = console.export_text()
    assert "backwards, generated, all layers" in text
    assert "random (control)" in text


def test_input_that_cannot_be_calibrated_is_refused(llm: SteerableHFLLM) -> None:
    vector, dev = planted_vector(llm), questions(llm, 4)
    with pytest.raises(InvalidInputError, match="no vector to calibrate"):
        quick(llm, {}, dev)
    for budget in (-0.01, 1.5, float("nan")):
        with pytest.raises(InvalidInputError, match="a share from 0 to 1"):
            quick(llm, vector, dev, budget=budget)
    with pytest.raises(InvalidInputError, match="finite and not 0"):
        quick(llm, vector, dev, strengths=(0.0,))
    with pytest.raises(InvalidInputError, match="leave one of them out"):
        quick(llm, vector, dev, strengths=(0.1,), kl=(0.1,))
    with pytest.raises(InvalidInputError, match="no accept or reject phrases"):
        quick(llm, vector, EvaluationSet.from_pairs("pairs", dev.pairs()))


def test_dev_prompts_that_the_build_has_seen_are_refused(llm: SteerableHFLLM) -> None:
    pairs, fine = questions(llm, 4, seed=3).pairs(), questions(llm, 8)
    built = replace(planted_vector(llm), provenance=Provenance(seen=kept(hashes_of(llm, pairs))))
    leaks = EvaluationSet("dev", [*questions(llm, 2), *questions(llm, 1, seed=3)])
    with pytest.raises(InvalidInputError, match=r"^1 of the 3 prompts of 'dev' .* the build of"):
        quick(llm, built, leaks)
    seen = [x.model_copy(update={"category": "kept"}) for x in questions(llm, 3, seed=3)]
    with pytest.raises(InvalidInputError, match=r"^3 of the 3 prompts of 'kept' "):
        quick(llm, {"a": built}, fine, capability=EvaluationSet("kept", seen))
    once = calibrate(
        llm, built, fine, strengths=STRENGTHS, scopes=("generated",), max_new_tokens=4,
        progress=False,
    )  # fmt: skip
    # What an earlier calibration has seen does not matter: this one takes its place.
    again = quick(llm, once, fine, controls=False).vector.calibration
    assert again == once.calibration
    assert again is not None
    assert again.choice is not None
    assert again.choice.dev.seen == kept(hashes_of(llm, fine))


def test_pairs_are_dev_data_by_the_words_of_their_answers(llm: SteerableHFLLM) -> None:
    items = questions(llm, 12)
    quickly: dict[str, Any] = {"strengths": (0.12,), "max_new_tokens": 4, "progress": False}
    of_pairs = calibrate(llm, planted_vector(llm), items.pairs(), **quickly).calibration
    of_items = calibrate(llm, planted_vector(llm), items, **quickly).calibration
    assert of_pairs is not None
    assert of_items is not None
    assert (of_pairs.strength, of_pairs.scope) == (of_items.strength, of_items.scope)
