"""The leaderboard: what is measured, what is not measured again, and that it names who wins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.leaderboard import ARMS, GROUNDS, Leaderboard, Size, leaderboard, main, summary
from steerable_llm.demo import pairs
from steerable_llm.evaluation.comparison import ComparedArm, Comparison
from steerable_llm.evaluation.rows import Row
from steerable_llm.evaluation.verdict import Verdict
from steerable_llm.metrics import Estimate

SMALL = Size(pairs=4, dev=2, test=2)
EXHIBIT = GROUNDS["demo"]


def board(**shares: float) -> Comparison:
    """A comparison in which every method has this share of right answers."""
    rows = [
        Row(
            arm=name,
            category=category,
            capability=category == "reading",
            n=100,
            success=Estimate(value=value, low=value - 0.05, high=value + 0.05, n=100),
            change=None if name == "none" else Estimate(value=0.1, low=0, high=0.2, n=100),
            regressed=None if name == "none" else 0.01,
        )
        for name, share in shares.items()
        for category, value in (("conflict", share), ("reading", 0.9 if name == "none" else 0.85))
    ]
    passes = Verdict(promote=True, reasons=("better",))
    return Comparison(
        model="tiny@0",
        pairs=4,
        data_digest="d" * 64,
        test_name="test",
        test_digest="e" * 64,
        target="conflict",
        budget=0.01,
        arms=tuple(
            ComparedArm(name=name, verdict=passes if name == "caa" else None) for name in shares
        ),
        rows=tuple(rows),
    )


def test_it_says_so_when_decoding_or_the_prompt_wins() -> None:
    said = summary("faithfulness", board(none=0.4, prompt=0.5, cad=0.9, grains=0.7, caa=0.86))
    assert said.startswith("faithfulness: context-aware decoding does best, 90.0 % [85.0, 95.0]")
    assert "overlaps with caa." in said
    assert "The best vector is caa, 86.0 %" in said
    assert said.endswith("The promotion rules let through: caa.")
    strict = summary("x", board(none=0.4, prompt=0.8, grains=0.5))
    assert "strict instruction does best" in strict
    assert "overlaps" not in strict
    assert strict.endswith("The promotion rules let through: none of them.")


def test_it_says_so_when_nothing_helps() -> None:
    said = summary("x", board(none=0.6, grains=0.5))
    assert said == ("x: nothing does better than the unsteered model (60.0 % [55.0, 65.0]).")


def test_the_best_vector_is_named_once() -> None:
    assert "The best vector" not in summary("x", board(none=0.4, caa=0.9, cad=0.5))


def test_the_page_ranks_and_tells_what_is_lost(tmp_path: Path) -> None:
    made = Leaderboard(
        EXHIBIT, SMALL, {"faithfulness": board(none=0.4, prompt=0.5, caa=0.9)}, "cpu", "again"
    )
    text = made.page().save(tmp_path / "b.md", made.to_json).read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| caa", "| strict instruction", "| unsteered",
    ]  # fmt: skip
    assert "reading +5.0" in lines[2]
    assert (tmp_path / "b.faithfulness.png").is_file()


def test_under_a_step_the_page_tells_what_is_lost_without_its_condition(tmp_path: Path) -> None:
    without = next(
        row for row in board(none=0.4, caa=0.2).rows if row.arm == "caa" and row.capability
    )
    compared = board(none=0.4, caa=0.9).model_copy(
        update={
            "always": (
                without.model_copy(update={"success": Estimate(value=0.1, low=0, high=0.2, n=9)}),
            )
        }
    )
    made = Leaderboard(EXHIBIT, SMALL, {"x": compared}, "cpu", "again")
    text = made.page().save(tmp_path / "b.md", made.to_json).read_text("utf-8")
    [line] = [line for line in text.splitlines() if line.startswith("| caa")]
    assert line.split(" | ")[4:6] == ["reading +5.0", "reading +80.0"]


def test_the_page_shows_how_far_the_controls_of_a_vector_come(tmp_path: Path) -> None:
    control = board(none=0.125).rows[0]
    compared = board(none=0.4, caa=0.9).model_copy(update={"controls": {"caa": (control, control)}})
    made = Leaderboard(EXHIBIT, SMALL, {"x": compared}, "cpu", "again")
    text = made.page().save(tmp_path / "b.md", made.to_json).read_text("utf-8")
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    place = lines[0].index("random, sign-flipped")
    assert [line[place] for line in lines[2:]] == ["12.5 %, 12.5 %", ""]


def test_what_is_added_to_every_prompt_learns_nothing_of_those_to_be_left_alone() -> None:
    ground = GROUNDS["smollm2"]
    contest = ground.contest("refusal")
    known = ground.recipes(contest)
    sources = {pair.source for pair in contest.pairs}
    for name in ("caa", "grains", "icv", "contextfocus"):
        assert all(sources - set(recipe.leave_out) for recipe in known[name])
        assert all(set(recipe.leave_out) & sources for recipe in known[name])
    for name in ("bipo", "mat_steer", "lora"):
        assert all(recipe.leave_out == () for recipe in known[name])


@pytest.mark.parametrize(
    ("out", "told"),
    [("board", "use one of .md, .html, .json"), ("no-file/board.md", "name another place")],
)
def test_a_page_that_cannot_be_written_is_told_before_anything_is_measured(
    out: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "no-file").touch()
    keep = tmp_path / "keep"
    given = ["leaderboard", "--small", "--out", str(tmp_path / out), "--keep", str(keep)]
    monkeypatch.setattr("sys.argv", given)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert told in capsys.readouterr().err
    assert not keep.exists()


def test_a_small_board_chooses_among_fewer_settings() -> None:
    ground = GROUNDS["smollm2"]
    contest = ground.contest("civility")
    usual, small = ground.recipes(contest), replace(ground, small=True).recipes(contest)
    for name in ("caa", "iti", "grains"):
        assert len(small[name][0].configs) == 1 < len(usual[name][0].configs)
        assert len(small[name][0].search["kl"]) < len(usual[name][0].search["kl"])
    for name in ("iti", "nl_iti"):  # they have blocks of their own
        assert small[name][0].search["layers"] == (None,)
    assert small["bipo"] == usual["bipo"]
    assert small["cad"] == usual["cad"]


@pytest.mark.parametrize("name", [(g, b) for g, each in GROUNDS.items() for b in each.behaviours])
def test_every_contest_has_a_target_and_is_held_out(name: tuple[str, str]) -> None:
    ground = GROUNDS[name[0]]
    contest = ground.contest(name[1])
    for items in (contest.dev, contest.test):
        assert contest.settings.target in items.categories
    prompts = [
        {item.messages for item in items}
        for items in (contest.dev, contest.dev_capability, contest.test, contest.capability)
    ]
    prompts.append({pair.messages for pair in contest.pairs})
    assert not any(a & b for i, a in enumerate(prompts) for b in prompts[:i])
    assert set(ground.recipes(contest)) >= set(ARMS)


def test_a_smaller_contest_has_fewer_pairs_and_prompts() -> None:
    contest = EXHIBIT.contest("toxicity").of(SMALL)
    assert len(contest.pairs) == 4 < len(pairs("toxicity"))
    for items in (contest.dev, contest.test, contest.capability):
        assert len(items) == 2 * len(items.categories)


@pytest.mark.slow
def test_a_finished_cell_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (EXHIBIT, ("prompt", "adacad"), ("toxicity",), SMALL, tmp_path)
    first = leaderboard(*given, max_new_tokens=3, progress=False)
    assert len(list(tmp_path.iterdir())) == 3
    measure = "steerable_llm.evaluation.compare.run_arms"
    monkeypatch.setattr(measure, lambda *_: pytest.fail("measured again"))
    again = leaderboard(*given, max_new_tokens=3, progress=False)
    assert again == first
    rows = first.boards["toxicity"].rows
    assert {row.arm for row in rows} == {"none", "prompt", "adacad"}
    assert max(row.n for row in rows) == 2
