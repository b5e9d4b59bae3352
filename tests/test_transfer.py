"""What a vector does to other behaviours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planted_behaviour import planted_llm, planted_vector, questions

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError, ModelMismatchError
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.evaluation.transfer import Transfer, transfer
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.seen import hashes_of
from steerable_llm.vector.vector import SteeringVector


@pytest.fixture(scope="module")
def llm(tiny_tokenizer: Any) -> SteerableHFLLM:
    return planted_llm(tiny_tokenizer)


@pytest.fixture(scope="module")
def vectors(llm: SteerableHFLLM) -> list[SteeringVector]:
    strong = planted_vector(llm, "wanted").with_calibration(Calibration(0.12))
    nothing = planted_vector(llm, "idle").with_calibration(Calibration(0.0001))
    return [strong, nothing]


@pytest.fixture(scope="module")
def sets(llm: SteerableHFLLM) -> list[EvaluationSet]:
    good = EvaluationSet("good", [*questions(llm, 20), *questions(llm, 8, "gold")])
    return [good, EvaluationSet("bad", list(questions(llm, 20, want="bad")))]


@pytest.fixture(scope="module")
def found(llm: SteerableHFLLM, vectors: Any, sets: Any) -> Transfer:
    return transfer(llm, vectors, sets, max_new_tokens=4, progress=False, command="again")


def test_every_cell_is_what_an_evaluation_of_its_own_finds(
    llm: SteerableHFLLM, vectors: Any, sets: Any, found: Transfer
) -> None:
    for vector in vectors:
        for items in sets:
            card = evaluate(llm, vector, items, against=["none"], max_new_tokens=4, progress=False)
            for category in items.categories:
                mine = found.row(vector.name, f"{items.name}/{category}")
                alone = card.row("steered", category)
                assert (mine.success, mine.change) == (alone.success, alone.change)


def test_what_helps_one_behaviour_may_harm_another_for_sure(found: Transfer) -> None:
    assert found.categories == ("good/conflict", "good/gold", "bad/conflict")
    assert found.cell("wanted", "good/conflict").startswith("+")
    assert found.cell("wanted", "bad/conflict").startswith("-")
    assert found.cell("wanted", "bad/conflict").endswith("*")
    assert found.cell("idle", "good/conflict").startswith("+0.0 [")
    assert not found.cell("idle", "good/conflict").endswith("*")


def test_it_can_be_read_in_every_form(found: Transfer, tmp_path: Path) -> None:
    text = found.save(tmp_path / "t.md").read_text("utf-8")
    assert (tmp_path / "t.matrix.png").read_bytes().startswith(b"\x89PNG")
    for part in ("| good/conflict | 20 |", "of 6 cells", found.vectors["idle"], "again"):
        assert part in text
    assert "data:image/png" in found.save(tmp_path / "t.html").read_text("utf-8")
    data = found.save(tmp_path / "t.json").read_text("utf-8")
    assert Transfer.model_validate_json(data) == found
    assert len(found.table().parts[0].rows) == 3
    with pytest.raises(InvalidInputError, match=r"no cell for 'x'.*vectors are wanted, idle"):
        found.row("x", "good/gold")


def test_only_the_categories_that_are_asked_for_run(
    llm: SteerableHFLLM, vectors: Any, sets: Any
) -> None:
    found = transfer(
        llm, vectors[:1], sets, categories={"good": ["gold"]}, max_new_tokens=4, progress=False
    )
    assert found.categories == ("good/gold", "bad/conflict")


def test_prompts_that_a_vector_has_seen_are_refused(
    llm: SteerableHFLLM, vectors: Any, sets: Any
) -> None:
    seen = replace(vectors[1], provenance=Provenance(seen=hashes_of(llm, sets[1][3:4])))
    with pytest.raises(InvalidInputError, match=r"^1 of the 28 prompts of 'good' .* the build of"):
        transfer(llm, [vectors[0], seen], sets, progress=False)


def test_what_cannot_be_compared_is_refused(llm: SteerableHFLLM, vectors: Any, sets: Any) -> None:
    with pytest.raises(InvalidInputError, match="no vector to run"):
        transfer(llm, [], sets)
    with pytest.raises(InvalidInputError, match="no evaluation set to run"):
        transfer(llm, vectors, [])
    with pytest.raises(InvalidInputError, match="two of the vectors are called 'idle'"):
        transfer(llm, [vectors[1], vectors[1]], sets)
    with pytest.raises(InvalidInputError, match="two of the evaluation sets are called 'bad'"):
        transfer(llm, vectors, [sets[1], sets[1]])
    with pytest.raises(InvalidInputError, match="must not be called 'none'"):
        transfer(llm, [replace(vectors[0], name="none")], sets)
    with pytest.raises(InvalidInputError, match="not calibrated"):
        transfer(llm, [vectors[0].with_calibration(None)], sets, progress=False)
    stranger = llm.fingerprint.model_copy(update={"weights_hash": "0" * 64})
    with pytest.raises(ModelMismatchError):
        transfer(llm, [replace(vectors[0], fingerprint=stranger)], sets)
