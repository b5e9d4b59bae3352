"""A trial keeps what it has measured, and knows when it must measure again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planted_behaviour import planted_llm, planted_vector, questions

from steerable_llm.errors import CalibrationError, InvalidInputError, MissingExtraError
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.compare import Entry, Ready, Setup, Trial, joined
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.steering import Steering


@pytest.fixture(scope="module")
def trial(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    llm = planted_llm(tiny_tokenizer)
    setup = Setup(
        llm, questions(llm, 4, seed=2).pairs(), questions(llm, 6, seed=1), None, 0.01, "ab", 4,
        64, 0, False,
    )  # fmt: skip
    return Trial(setup, questions(llm, 10), None, "conflict", None)


class Planted:
    """A way that steers with the planted vector, and counts how often it is set up."""

    def __init__(self, strength: float = 0.12) -> None:
        self.strength, self.calls = strength, 0

    def __call__(self, setup: Setup, name: str) -> Ready:
        self.calls += 1
        vector = planted_vector(setup.llm).with_calibration(Calibration(self.strength))
        assert vector.calibration is not None
        return Ready((Arm(name, vector.steer()),), "planted", 1.0, (vector.calibration,))


def test_a_finished_result_is_not_measured_again(trial: Trial, tmp_path: Path) -> None:
    way = Planted()
    kept = replace(trial, keep=tmp_path)
    first = kept.run(Entry("planted", way, [1]))
    again = kept.run(Entry("planted", way, [1]))
    assert way.calls == 1
    assert again == first
    assert first.rows
    assert first.calibrations[0].strength == 0.12
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("planted-")


def test_another_recipe_name_or_setup_is_another_result(trial: Trial, tmp_path: Path) -> None:
    way = Planted()
    kept = replace(trial, keep=tmp_path)
    llm = trial.setup.llm
    others = [
        (kept, Entry("planted", way, [1])),
        (kept, Entry("planted", way, [2])),
        (kept, Entry("other", way, [1])),
        (replace(kept, test=questions(llm, 9)), Entry("planted", way, [1])),
        (replace(kept, capability=questions(llm, 3, "kept")), Entry("planted", way, [1])),
    ]
    changed: list[dict[str, Any]] = [
        {"budget": 0.5}, {"seed": 1}, {"instruction": "b"}, {"max_new_tokens": 3},
        {"dev": questions(llm, 5, seed=1)}, {"capability": questions(llm, 3, "kept")},
        {"pairs": questions(llm, 3, seed=2).pairs()},
    ]  # fmt: skip
    for change in changed:
        others.append(
            (replace(kept, setup=replace(kept.setup, **change)), Entry("planted", way, [1]))
        )
    for each, entry in others:
        each.run(entry)
    assert way.calls == len(others) == len(list(tmp_path.iterdir()))


def test_a_file_that_was_cut_short_is_measured_again(trial: Trial, tmp_path: Path) -> None:
    way = Planted()
    kept = replace(trial, keep=tmp_path)
    first = kept.run(Entry("planted", way, [1]))
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text("utf-8")[:100], "utf-8")
    assert kept.run(Entry("planted", way, [1])).rows == first.rows
    assert way.calls == 2


def test_a_failure_is_kept_but_not_one_that_an_installation_mends(
    trial: Trial, tmp_path: Path
) -> None:
    kept = replace(trial, keep=tmp_path)

    def fails(error: Exception) -> Any:
        def way(setup: Setup, name: str) -> Ready:
            raise error

        return way

    lasting = kept.run(Entry("a", fails(CalibrationError("nothing helps")), None))
    passing = kept.run(Entry("b", fails(MissingExtraError("pip install peft")), None))
    assert lasting.contender.failed == "nothing helps"
    assert passing.contender.failed == "pip install peft"
    assert [file.name[0] for file in tmp_path.iterdir()] == ["a"]


def test_several_arms_are_one_row_that_lists_them(trial: Trial) -> None:
    def two(setup: Setup, name: str) -> Ready:
        vector = planted_vector(setup.llm)
        return Ready(tuple(Arm(name, vector.steer(s)) for s in (0.12, -0.12)), "both ways")

    row = next(r for r in trial.run(Entry("two", two, None)).rows if r.arm == "two")
    assert row.runs[0] > row.runs[1]
    assert row.main.value == pytest.approx(sum(row.runs) / 2)


def test_joined_results_have_every_row_once_and_verdicts(trial: Trial) -> None:
    strict = Entry("prompt", lambda _, n: Ready((Arm(n, Steering.none(), "ab"),), ""), None)
    results = [trial.unsteered(), trial.run(strict), trial.run(Entry("planted", Planted(), 1))]
    contenders, rows = joined(results, "conflict", 0.01)
    assert [row.arm for row in rows] == ["none", "prompt", "planted"]
    assert contenders[2].verdict is not None
    assert any("capability was not measured" in r for r in contenders[2].verdict.reasons)
    assert contenders[0].verdict is contenders[1].verdict is None


def test_dev_prompts_in_test_are_refused(trial: Trial) -> None:
    leaky = replace(trial, test=trial.setup.dev)
    with pytest.raises(InvalidInputError, match="no held-out result"):
        leaky.check()
