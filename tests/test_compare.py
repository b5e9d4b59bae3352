"""Several methods on the same data: what is chosen, what is told, and what agrees with a card."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import build_tiny_model
from planted_behaviour import planted_llm, planted_vector, questions
from slow_states import PAIRS

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError, PairError
from steerable_llm.evaluation import compare as ways
from steerable_llm.evaluation.calibration import calibrate
from steerable_llm.evaluation.compare import WAYS, compare
from steerable_llm.evaluation.comparison import Comparison
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.methods import METHODS
from steerable_llm.pairs.pair import Pairs
from steerable_llm.reports.parts import Table

UNHEARD = "ab"
QUICK: dict[str, Any] = {"progress": False, "max_new_tokens": 4, "strict_instruction": UNHEARD}


@pytest.fixture(scope="module")
def llm(tiny_tokenizer: Any) -> SteerableHFLLM:
    return planted_llm(tiny_tokenizer)


@pytest.fixture(scope="module")
def sets(llm: SteerableHFLLM) -> dict[str, EvaluationSet]:
    return {
        "dev": questions(llm, 16, seed=1),
        "test": questions(llm, 40),
        "capability": questions(llm, 12, "closed_book", want="either"),
        "dev_capability": questions(llm, 8, "closed_book", seed=1, want="either"),
    }


@pytest.fixture
def found(
    llm: SteerableHFLLM, sets: dict[str, EvaluationSet], monkeypatch: pytest.MonkeyPatch
) -> Comparison:
    """CAA finds the planted vector here, icv a random one."""
    vectors = {
        "caa": planted_vector(llm, "caa"),
        "icv": planted_vector(llm, "icv").randomised(5),
    }
    monkeypatch.setattr(ways, "build_vector", lambda *_, method, **__: vectors[method])
    return compare(
        llm, questions(llm, 6, seed=2).pairs(), **sets, methods=["icv", "prompt", "caa"], **QUICK
    )


def test_a_method_is_calibrated_and_tested_as_it_would_be_alone(
    found: Comparison, llm: SteerableHFLLM, sets: dict[str, EvaluationSet]
) -> None:
    alone = calibrate(
        llm, planted_vector(llm, "caa"), sets["dev"], capability=sets["dev_capability"],
        max_new_tokens=4, progress=False, controls=False,
    )  # fmt: skip
    card = evaluate(
        llm, alone.vector, sets["test"], against=["prompt"], capability=sets["capability"],
        progress=False, max_new_tokens=4, strict_instruction=UNHEARD,
    )  # fmt: skip
    mine = next(row for row in found.ranked("conflict") if row.arm == "caa")
    assert mine.success == card.row("steered").success
    assert mine.kl_per_token == card.row("steered").kl_per_token
    assert mine.regressed == card.row("steered").regressed
    assert found.contender("caa").dev == alone.best.success
    verdict = found.contender("caa").verdict
    assert verdict is not None
    assert verdict.promote == card.verdict.promote is True


def test_what_makes_most_worse_stands_first(found: Comparison) -> None:
    for category in found.categories:
        worse = [row.regressed or 0.0 for row in found.ranked(category)]
        assert worse == sorted(worse, reverse=True)
    assert found.categories == ("conflict", "closed_book")


def test_a_method_that_helps_nobody_is_listed_and_not_promoted(found: Comparison) -> None:
    random = found.contender("icv")
    assert random.failed or (random.verdict is not None and not random.verdict.promote)
    names = {contender.name for contender in found.contenders}
    assert names == {"none", "icv", "prompt", "caa"}


def test_a_comparison_can_be_read_in_every_form(found: Comparison, tmp_path: Any) -> None:
    assert Comparison.model_validate_json(found.model_dump_json()) == found
    text = found.save(tmp_path / "c.md").read_text("utf-8")
    assert "| caa |" in text
    assert "## What was chosen on dev" in text
    assert (tmp_path / "c.methods.png").read_bytes().startswith(b"\x89PNG")
    page = found.save(tmp_path / "c.html").read_text("utf-8")
    assert page.count("<table>") == len(found.categories) + 1
    assert "&quot;ab&quot;" in page
    with pytest.raises(InvalidInputError, match=r"\.md, \.html, \.json"):
        found.save(tmp_path / "c.pdf")
    with pytest.raises(InvalidInputError, match="it has none"):
        found.contender("repe")
    tables = [part for part in found.table().parts if isinstance(part, Table)]
    assert sum(len(table.rows) for table in tables) == len(found.rows)


def test_every_way_runs_on_real_pairs(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    monkeypatch.setattr(ways, "LORA_RATES", (1e-2,))
    own = SteerableHFLLM(build_tiny_model("llama", tiny_tokenizer), tiny_tokenizer)

    def asked(name: str, pairs: Any) -> EvaluationSet:
        # Anything but what the random model says is right, so that any push helps.
        return EvaluationSet(
            name,
            [
                EvaluationItem(
                    id=f"{name}-{n}", category="x", messages=p.messages, good=p.good, bad=p.bad,
                    reject=(own.generate(p.messages, max_new_tokens=2).text,),
                )
                for n, p in enumerate(pairs)
            ],
        )  # fmt: skip

    before = own.answer_logits(PAIRS[0].messages, "At nine.")
    found = compare(
        own, PAIRS, asked("dev", PAIRS[:3]), asked("test", PAIRS[3:]), progress=False,
        max_new_tokens=2,
    )  # fmt: skip
    assert [c.name for c in found.contenders] == ["none", *WAYS]
    failed = {c.name: c.failed for c in found.contenders if c.failed}
    assert not set(failed) - {"cad", "adacad", "lora"}, failed
    assert {*METHODS, "prompt", "cad", "adacad", "lora"} == set(WAYS)
    assert {row.arm for row in found.rows} == {"none", *WAYS} - set(failed)
    assert own.answer_logits(PAIRS[0].messages, "At nine.").equal(before)


def test_what_cannot_be_compared_is_refused(
    llm: SteerableHFLLM, sets: dict[str, EvaluationSet]
) -> None:
    pairs = questions(llm, 4).pairs()
    with pytest.raises(InvalidInputError, match=r"unknown method 'magic': choose from prompt, cad"):
        compare(llm, pairs, sets["dev"], sets["test"], methods=["magic"], **QUICK)
    with pytest.raises(PairError, match="no pairs"):
        compare(llm, Pairs(), sets["dev"], sets["test"], **QUICK)
    with pytest.raises(InvalidInputError, match=r"40 prompts of test .* are in dev"):
        compare(llm, pairs, sets["test"], sets["test"], methods=["prompt"])
    with pytest.raises(InvalidInputError, match="no category"):
        compare(llm, pairs, sets["dev"], sets["test"], target="gold", methods=["prompt"])
