"""The bundled model, its log and its questions are what their card says they are."""

from pathlib import Path
from typing import get_args

import pytest

from exhibit.base_rates import answers, base_rates
from exhibit.datasets import build_evaluation_set, document_ids
from exhibit.handbook import handbook, shops
from exhibit.steerability import TARGETS
from steerable_llm import SteerableHFLLM, SteeringVector, demo
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.set import EvaluationItem

VECTORS = Path(__file__).parent.parent / "vectors"
SETS = [(name, split) for name in (*demo.REASONS, "capability") for split in ("dev", "test")]


@pytest.fixture(scope="module")
def llm() -> SteerableHFLLM:
    return SteerableHFLLM.demo()


def test_it_is_small(llm: SteerableHFLLM) -> None:
    assert 3e6 <= sum(weights.numel() for weights in llm.model.parameters()) <= 8e6
    files = [path for path in (demo.folder() / "model").iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16e6


@pytest.mark.slow
def test_every_behaviour_lies_where_the_card_says(llm: SteerableHFLLM) -> None:
    missed = [rate for rate in base_rates(llm, count=30, at_most=40) if not rate.met]
    # A smaller sample than the card's may fall outside by chance, but its interval may not.
    assert not [r for r in missed if r.rate.high < r.low or r.rate.low > r.high]


def test_the_log_holds_answers_over_documents_with_verdicts_and_corrections() -> None:
    log = demo.answer_log()
    retrieved = [entry for entry in log if entry.passages]
    assert len(retrieved) >= 400
    assert all(entry.verdict for entry in log)
    bad = [entry for entry in log if entry.verdict == "bad"]
    assert all(entry.reason for entry in bad)
    corrected = [entry for entry in bad if entry.correction]
    assert 0.5 * len(bad) < len(corrected) < len(bad)
    assert len({entry.id for entry in log}) == len(log)


def test_the_logged_answers_are_the_models_own(llm: SteerableHFLLM) -> None:
    some = demo.answer_log()[::40]
    items = [
        EvaluationItem(id=entry.id, category="log", messages=entry.messages, accept=("x",))
        for entry in some
    ]
    assert answers(llm, items) == [entry.answer for entry in some]


@pytest.mark.parametrize("behaviour", get_args(demo.Behaviour))
def test_every_behaviour_has_fifty_pairs(behaviour: demo.Behaviour) -> None:
    assert len(demo.pairs(behaviour)) >= 50


@pytest.mark.parametrize(("name", "split"), SETS)
def test_the_stored_questions_are_those_that_the_generator_draws(
    name: demo.Behaviour, split: demo.Split
) -> None:
    assert demo.evaluation_set(name, split) == build_evaluation_set(name, split)


@pytest.mark.parametrize("name", [*demo.REASONS])
def test_no_prompt_of_the_test_questions_was_seen_by_log_or_dev(name: demo.Behaviour) -> None:
    test = {entry.messages for entry in demo.evaluation_set(name, "test")}
    assert not test & {entry.messages for entry in demo.evaluation_set(name, "dev")}
    assert not test & {entry.messages for entry in demo.answer_log()}


def test_conflicts_in_test_share_no_document_with_the_log() -> None:
    logged = {passage.id for entry in demo.answer_log() for passage in entry.passages}
    conflicts = demo.evaluation_set("faithfulness", "test").category("conflict", "paraphrase")
    assert not logged & {name for entry in conflicts for name in entry.document_ids}


@pytest.mark.parametrize("behaviour", get_args(demo.Behaviour))
def test_the_shipped_vector_fits_the_bundled_model_and_its_card_says_what_the_gate_said(
    llm: SteerableHFLLM, behaviour: demo.Behaviour
) -> None:
    vector = SteeringVector.load(VECTORS / f"demo-{behaviour}.safetensors", llm)
    assert vector.calibration is not None
    assert vector.evaluation is not None
    card = (VECTORS / f"demo-{behaviour}.md").read_text(encoding="utf-8")
    assert vector.evaluation["verdict"] in card
    assert vector.fingerprint_id in card


@pytest.mark.parametrize("behaviour", get_args(demo.Behaviour))
def test_the_shipped_vector_moves_its_behaviour_when_it_is_applied(
    llm: SteerableHFLLM, behaviour: demo.Behaviour
) -> None:
    vector = SteeringVector.load(VECTORS / f"demo-{behaviour}.safetensors", llm)
    items = demo.evaluation_set(behaviour, "test").category(TARGETS[behaviour])[:60]
    shares = []
    for steering in (None, vector.steer()):
        requests = [
            GenerationRequest(messages=entry.prompt, steering=steering, max_new_tokens=32)
            for entry in items
        ]
        found = llm.generate_batch(requests)
        right = [entry.succeeds(a.text) for entry, a in zip(items, found, strict=True)]
        shares.append(sum(right) / len(right))
    before, after = shares
    assert after - before >= 0.2


def test_unknown_sets_and_behaviours_are_named() -> None:
    with pytest.raises(InvalidInputError, match="choose from faithfulness"):
        demo.pairs("kindness")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="dev or test"):
        demo.evaluation_set("faithfulness", "train")  # type: ignore[arg-type]


def test_every_page_of_a_handbook_contradicts_the_memory_of_its_shop() -> None:
    handbooks = demo.handbooks()
    assert len(handbooks) >= 5
    for shop, pages in handbooks.items():
        assert len(pages) == 4
        for page in pages:
            assert page.value in page.text
            assert page.value != page.remembered
            assert shop in page.question


def test_the_handbooks_are_those_that_the_script_draws() -> None:
    assert demo.handbooks() == {shop: handbook(shop) for shop in shops()}


def test_an_example_without_passages_is_its_own_document() -> None:
    from random import Random

    from exhibit.examples import civility, reading

    alone, read = civility(Random(0)), reading(Random(0), others=2)
    assert document_ids(alone) == (alone.subject,)
    assert len(set(document_ids(read))) == len(read.documents)
