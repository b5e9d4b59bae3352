"""A vector trained onto others holds them: it steers as all of them together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from slow_states import PAIRS

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.overlap import HeldOut, overlap, past_of
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.evaluation.shuffled import shuffled_vectors
from steerable_llm.methods.build import build_vector
from steerable_llm.methods.onto import ground
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.seen import hashes_of
from steerable_llm.vector.steering import Steering, WeighedVectors
from steerable_llm.vector.vector import SteeringVector

SCORED = [
    (
        "Context: The capital of Peru is Hull.\n\nQuestion: What is the capital of Peru?",
        "It is Hull.",
    )
]


@pytest.fixture(scope="module")
def exhibit() -> SteerableHFLLM:
    """The bundled model."""
    return SteerableHFLLM.demo()


@pytest.fixture
def first(exhibit: SteerableHFLLM, tmp_path: Path) -> Path:
    """A trained vector at half its strength."""
    vector = build_vector(exhibit, PAIRS, "bipo", "first", progress=False, steps=3)
    half = vector.with_calibration(Calibration(0.5, None, "generated", "absolute", True))
    return half.save(tmp_path / "first.safetensors")


def scores(llm: SteerableHFLLM, steering: Steering) -> torch.Tensor:
    """Log-probabilities of an answer under a steering."""
    return torch.tensor(llm.score_batch(SCORED, steering, reduction="none")[0])


@pytest.mark.parametrize("gated", [False, True])
def test_what_is_saved_does_what_training_saw(
    exhibit: SteerableHFLLM, first: Path, gated: bool
) -> None:
    settings = {"steps": 3, "gated": gated, "keep_sources": ("kept",)}
    pairs = [pair.model_copy(update={"source": "kept" if i % 2 else "log"})
             for i, pair in enumerate(PAIRS)]  # fmt: skip
    both = build_vector(
        exhibit, pairs, "bipo", "both", progress=False, onto=(str(first),), **settings
    )
    asked = [(pair.messages, pair.good) for pair in pairs]
    found = exhibit.score_batch(asked, both.steer(1.0), reduction="none")
    mean = sum(sum(each) for each in found) / len(found)
    assert mean == pytest.approx(both.provenance.facts["log_prob"]["good"]["after"], abs=1e-3)


def test_directions_onto_a_vector_add_up(exhibit: SteerableHFLLM, first: Path) -> None:
    both = build_vector(
        exhibit, PAIRS, "bipo", "both", progress=False, steps=3, onto=(str(first),), seed=1
    )
    under = SteeringVector.load(first, exhibit)
    rest = {k: v - 0.5 * under.directions[k] for k, v in both.directions.items()}
    alone = replace(both, name="rest", directions=rest)
    together = scores(exhibit, alone.steer(1.0) + under.steer())
    torch.testing.assert_close(scores(exhibit, both.steer(1.0)), together, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(scores(exhibit, alone.steer(1.0)), together, atol=1e-3)


def test_gates_onto_a_vector_leave_it_open(exhibit: SteerableHFLLM, first: Path) -> None:
    settings = {"steps": 3, "gated": True, "keep_sources": ("kept",), "layers": (2, 3)}
    pairs = [pair.model_copy(update={"source": "kept" if i % 2 else "log"})
             for i, pair in enumerate(PAIRS)]  # fmt: skip
    both = build_vector(
        exhibit, pairs, "bipo", "both", progress=False, onto=(str(first),), **settings
    )
    under = SteeringVector.load(first, exhibit)
    assert sorted(both.directions) == sorted(under.directions)
    gates = {
        layer: WeighedVectors(w.weights[:1], w.biases[:1], w.vectors[:1])
        for layer, w in both.weighed.items()
        if layer in (2, 3)
    }
    alone = replace(
        both, name="rest", weighed=gates, directions={k: both.directions[k] for k in gates}
    )
    together = scores(exhibit, alone.steer(1.0) + under.steer())
    torch.testing.assert_close(scores(exhibit, both.steer(1.0)), together, atol=1e-4, rtol=1e-4)
    loaded = SteeringVector.load(both.save(first.with_name("both.safetensors")), exhibit)
    torch.testing.assert_close(scores(exhibit, loaded.steer(1.0)), together, atol=1e-4, rtol=1e-4)


def test_what_steers_elsewhere_is_refused(exhibit: SteerableHFLLM, first: Path) -> None:
    with pytest.raises(InvalidInputError, match="scope all"):
        build_vector(
            exhibit, PAIRS, "bipo", "x", progress=False, steps=3, onto=(str(first),), scope="all"
        )


def test_it_has_seen_what_those_below_it_saw(
    exhibit: SteerableHFLLM, first: Path, tmp_path: Path
) -> None:
    below, others = SteeringVector.load(first), PAIRS[: len(PAIRS) // 2]
    on_top = build_vector(
        exhibit, others, "bipo", "second", progress=False, steps=3, onto=(str(first),)
    )
    assert below.provenance.seen is not None
    assert set(below.provenance.seen) > {*hashes_of(exhibit, others)}
    assert set(on_top.provenance.seen or ()) == set(below.provenance.seen)
    last = EvaluationItem(id="x", category="c", messages=PAIRS[-1].messages, accept=("a",))
    asked = EvaluationSet("asked", [last])
    with pytest.raises(InvalidInputError, match="the build of 'second' saw"):
        overlap([HeldOut.of(exhibit, asked)], past_of(on_top))
    # Where the record of one is missing, nobody knows.
    lost = replace(below, provenance=replace(below.provenance, seen=None))
    bare = build_vector(
        exhibit, others, "bipo", "third", progress=False, steps=3,
        onto=(str(lost.save(tmp_path / "lost.safetensors")),),
    )  # fmt: skip
    assert bare.provenance.seen is None


def test_a_vector_that_reaches_elsewhere_is_no_ground(exhibit: SteerableHFLLM, first: Path) -> None:
    vector = replace(SteeringVector.load(first), calibration=None, decision_tokens=6)
    ends = vector.with_calibration(Calibration(0.5, None, "decision", "absolute", True))
    assert ground([ends], "decision", True, False, 6).is_active
    with pytest.raises(InvalidInputError, match="steers 6 generated tokens"):
        ground([ends], "decision", True, False, 0)


def test_shuffled_labels_need_the_vectors_below_as_they_were(
    exhibit: SteerableHFLLM, first: Path
) -> None:
    made = build_vector(
        exhibit, PAIRS, "bipo", "both", progress=False, steps=3, onto=(str(first),)
    ).with_calibration(Calibration(0.5, None, "generated", "absolute", True))
    assert shuffled_vectors(exhibit, made, PAIRS, [0])
    stronger = Calibration(0.7, None, "generated", "absolute", True)
    SteeringVector.load(first).with_calibration(stronger).save(first)
    with pytest.raises(InvalidInputError, match=r"at \+0.5.*hold .*at \+0.7"):
        shuffled_vectors(exhibit, made, PAIRS, [0])
