"""One thing changed at a time: what is built for each ablation, and what the report shows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_behaviour import planted_llm, planted_vector, questions

from experiments.ablations import ABLATIONS, NAMES, AblationReport, Base, ablate, main
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation import recipes as making
from steerable_llm.evaluation.recipes import Recipe, nested
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.pairs.pair import Pairs
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.vector import SteeringVector

CHOSEN = Calibration(-0.08, scope="last_prompt")
pytestmark = pytest.mark.filterwarnings("ignore:the token scores miss")


def base(**changed: Any) -> Base:
    given: dict[str, Any] = {
        "config": {}, "depth": 6, "pairs": 60, "sizes": (10, 25, 50, 100), "seeds": 2,
        "chosen": CHOSEN,
    }  # fmt: skip
    return Base(**{**given, **changed})


def recipes(name: str, **changed: Any) -> dict[str, tuple[Recipe, ...]]:
    return ABLATIONS[name].arms(base(**changed))


def test_attribution_tries_the_papers_scorers_and_several_random_ones() -> None:
    found = recipes("attribution")
    assert list(found) == [
        "attribution conservative", "attribution integrated gradients", "attribution smoothgrad",
        "attribution gradient", "attribution random",
    ]  # fmt: skip
    assert found["attribution integrated gradients"] == ()  # the reference itself
    assert [r.configs for r in found["attribution random"]] == [
        ({"attribution": "random", "verified": 0, "seed": 0},),
        ({"attribution": "random", "verified": 0, "seed": 1},),
    ]


def test_a_reference_with_verified_scores_stands_beside_the_plain_attributions() -> None:
    found = recipes("attribution", config={"attribution": "gradient", "verified": 7})
    assert [name for name, made in found.items() if not made] == ["verified 7"]
    assert found["attribution gradient"][0].configs == ({"attribution": "gradient", "verified": 0},)


def test_the_reference_stands_where_its_own_setting_is() -> None:
    assert [name for name, r in recipes("k").items() if not r] == ["k 3"]
    assert [name for name, r in recipes("k", config={"k": 7}).items() if not r] == ["k 7"]
    assert [name for name, r in recipes("objective").items() if not r] == ["objective preference"]
    assert recipes("k", config={"k": 7})["k 10"][0].configs == ({"k": 10},)


def test_strengths_keep_the_references_sign_scope_and_layers() -> None:
    found = recipes("strength")
    assert found["strength -0.08"] == ()
    for name, (recipe,) in ((n, r) for n, r in found.items() if r):
        assert recipe.calibration is not None
        assert recipe.calibration.strength == float(name.split()[1]) < 0
        assert recipe.calibration.scope == "last_prompt"
    assert recipes("strength", chosen=None) == {}  # without a reference there is no other


@pytest.mark.parametrize(("depth", "single"), [(2, 2), (6, 6), (7, 4), (32, 6)])
def test_layers_are_all_thirds_and_single_ones(depth: int, single: int) -> None:
    found = recipes("layers", depth=depth)
    subsets = {name: r[0].search["layers"][0] for name, r in found.items() if r}
    thirds = [layers for name, layers in subsets.items() if "third" in name]
    assert sorted(layer for third in thirds for layer in third) == list(range(depth))
    alone = [layers for name, layers in subsets.items() if "only" in name]
    assert len(alone) == single
    assert all(len(layers) == 1 for layers in alone)


def test_the_learning_curve_ends_at_the_pairs_there_are() -> None:
    found = recipes("pairs")
    assert list(found) == ["pairs 10", "pairs 25", "pairs 50", "pairs 60"]
    assert [(r.pairs, r.order) for r in found["pairs 25"]] == [(25, 0), (25, 1)]
    assert found["pairs 60"] == ()
    assert list(recipes("pairs", pairs=100)) == ["pairs 10", "pairs 25", "pairs 50", "pairs 100"]


def test_of_one_order_fewer_pairs_are_always_among_more(tiny_tokenizer: Any) -> None:
    pairs = questions(planted_llm(tiny_tokenizer), 12).pairs()
    orders = []
    for order in range(3):
        ids = [{pair.id for pair in nested(pairs, size, order)} for size in (2, 5, 12)]
        assert ids[0] < ids[1] < ids[2]
        orders.append(frozenset(ids[1]))
    assert len(set(orders)) > 1
    with pytest.raises(InvalidInputError, match="cannot take 13 of 12 pairs"):
        nested(pairs, 13, 0)


@pytest.fixture(scope="module")
def llm(tiny_tokenizer: Any) -> SteerableHFLLM:
    return planted_llm(tiny_tokenizer)


@pytest.fixture(scope="module")
def sets(llm: SteerableHFLLM) -> dict[str, EvaluationSet]:
    return {
        "dev": questions(llm, 16, seed=1),
        "test": questions(llm, 30),
        "capability": questions(llm, 10, "closed_book", want="either"),
        "dev_capability": questions(llm, 6, "closed_book", seed=1, want="either"),
    }


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, Any]]]:
    """What was built: how many pairs, which settings. k = 3 finds the planted vector."""
    calls: list[tuple[int, dict[str, Any]]] = []

    def build(llm: Any, pairs: Any, method: str, name: str, **config: Any) -> SteeringVector:
        config.pop("progress")
        calls.append((len(pairs), config))
        planted = planted_vector(llm, name)
        noise = torch.nn.functional.normalize(planted.randomised(4).directions[0], dim=0)
        share = 0.0 if config.get("k", 3) == 3 and len(pairs) > 2 else 0.6
        directions = {i: (1 - share) * v + share * noise for i, v in planted.directions.items()}
        return SteeringVector(name, directions, planted.scales, llm.fingerprint)

    monkeypatch.setattr(making, "build_vector", build)
    return calls


QUICK: dict[str, Any] = {"progress": False, "max_new_tokens": 4, "strict_instruction": "ab"}


def test_every_arm_of_a_section_is_measured_and_drawn(
    llm: SteerableHFLLM, sets: dict[str, EvaluationSet], built: Any, tmp_path: Path
) -> None:
    found = ablate(
        llm, questions(llm, 6, seed=2).pairs(), **sets, ablations=["k", "pairs"], sizes=[2, 4],
        seeds=2, **QUICK,
    )  # fmt: skip
    by_name = {row.arm: row for row in found.rows if row.category == "conflict"}
    assert by_name["k 3"].main == by_name["reference"].main == by_name["pairs 6"].main
    assert by_name["k 3"].main.value > by_name["none"].main.value
    assert len(by_name["pairs 2"].runs) == 2
    assert [size for size, _ in built] == [6, 6, 6, 6, 6, 2, 2, 4, 4]
    assert [section.name for section in found.sections] == ["k", "pairs"]
    assert found.arm("k 3").verdict is not None

    text = found.save(tmp_path / "a.md").read_text("utf-8")
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["a.k.png", "a.md", "a.pairs.png"]
    assert "## How many pairs" in text
    assert "![Success by k, with 95 % intervals](a.k.png)" in text
    page = found.save(tmp_path / "a.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == 2
    assert AblationReport.model_validate_json(found.model_dump_json()) == found


def test_an_interrupted_ablation_goes_on_where_it_stopped(
    llm: SteerableHFLLM, sets: dict[str, EvaluationSet], built: Any, tmp_path: Path
) -> None:
    pairs = questions(llm, 6, seed=2).pairs()
    first = ablate(llm, pairs, **sets, ablations=["objective"], keep=tmp_path, **QUICK)
    assert len(built) == 2
    again = ablate(llm, pairs, **sets, ablations=["objective", "strength"], keep=tmp_path, **QUICK)
    # Only the strengths beside the reference's own are new.
    assert len(built) == 2 + len(again.sections[1].arms) - 1
    assert again.arm("objective likelihood") == first.arm("objective likelihood")


def test_tokens_are_taken_away_from_the_references_own_attributions(
    tiny_llm: Any, tmp_path: Path
) -> None:
    from slow_states import PAIRS

    from steerable_llm.evaluation.set import EvaluationItem

    pairs = Pairs(PAIRS[:2])

    def asked(name: str, pairs: Any) -> EvaluationSet:
        return EvaluationSet(
            name,
            [
                EvaluationItem(
                    id=p.id, category="x", messages=p.messages, good=p.good, bad=p.bad,
                    reject=(tiny_llm.generate(p.messages, max_new_tokens=2).text,),
                )
                for p in pairs
            ],
        )  # fmt: skip

    found = ablate(
        tiny_llm, pairs, asked("dev", PAIRS[2:3]), asked("test", PAIRS[3:]), ["tokens"],
        config={"k": 2, "baseline": "mean"}, progress=False, max_new_tokens=2,
    )  # fmt: skip
    assert found.tokens is not None
    assert (found.tokens.baseline, found.tokens.pairs) == ("mean", len(pairs))
    text = found.save(tmp_path / "t.md").read_text("utf-8")
    assert "## Taking attributed tokens away" in text
    assert (tmp_path / "t.tokens.png").is_file()


def test_what_cannot_be_ablated_is_refused(
    llm: SteerableHFLLM, sets: dict[str, EvaluationSet]
) -> None:
    pairs = questions(llm, 4, seed=2).pairs()
    both = (llm, pairs, sets["dev"], sets["test"])
    with pytest.raises(InvalidInputError, match=f"choose from {', '.join(NAMES)}"):
        ablate(*both, ["magic"])
    with pytest.raises(InvalidInputError, match=r"setting of method 'grains'.*kk"):
        ablate(*both, ["k"], config={"kk": 3})
    with pytest.raises(InvalidInputError, match="sizes of at least 2 pairs"):
        ablate(*both, ["pairs"], sizes=[1])


def test_the_command_writes_reports_with_their_pictures_and_goes_on(
    tiny_llm: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from slow_states import PAIRS

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.ablations.load_model", lambda *_: tiny_llm)
    Pairs(PAIRS[:3]).to_jsonl("pairs.jsonl")
    for name, some in (("dev", PAIRS[3:4]), ("test", PAIRS[4:])):
        items = EvaluationSet.from_pairs(name, Pairs(some), "x")
        judged = [item.model_copy(update={"accept": ("a",)}) for item in items]
        EvaluationSet(name, judged).to_jsonl(f"{name}.jsonl")

    def run(*arguments: str) -> str:
        given = ("pairs.jsonl", "--dev", "dev.jsonl", "--test", "test.jsonl", *arguments)
        monkeypatch.setattr(sys, "argv", ["ablations", *given, "--keep", "kept", "--sample", "2"])
        main()
        return capsys.readouterr().out

    ablation = ("--ablation", "objective", "--ablation", "tokens", "--set", "k=1")
    found = json.loads(run(*ablation, "--report", "a.md", "--report", "a.html", "--json"))
    assert [c["name"] for c in found["arms"]][:3] == ["none", "prompt", "reference"]
    assert found["rows"][0]["n"] == 2
    assert Path("a.objective.png").is_file()
    assert Path("a.tokens.png").is_file()
    kept = {path: path.stat().st_mtime_ns for path in Path("kept").iterdir()}
    assert len(kept) == 4
    run(*ablation)
    assert {path: path.stat().st_mtime_ns for path in Path("kept").iterdir()} == kept
    for arguments, told in (
        (("--ablation", "magic"), "invalid choice: 'magic'"),
        ((*ablation, "--report", "a.pdf"), "'a.pdf'; use one of"),
    ):
        with pytest.raises(SystemExit) as ended:
            run(*arguments)
        assert ended.value.code == 2
        assert told in capsys.readouterr().err
