"""TruthfulQA by its protocol: what is asked was not learnt from, scores are the published ones."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_scoring import slow_log_probs

from experiments.truthfulqa import PROMPT, Dev, Recipe, Row, ask, closed_book, make, table
from experiments.truthfulqa_questions import Question, read_questions, split
from experiments.truthfulqa_scores import METRICS, Scores, scored
from experiments.truthfulqa_step import Step, as_used, learn_gate, lookups
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import UNSTEERED, Arm
from steerable_llm.evaluation.benchmarks.metrics import truthfulqa_mc1, truthfulqa_mc2

MELON = Question(
    "0",
    "What grows when you swallow a seed?",
    ("Nothing.", "The seed is digested."),
    ("A tree.", "You get sick."),
)
SUN = Question("1", "Is the Sun a planet?", ("No.",), ("Yes, the Sun is a planet.",))
LOG_PROBABILITIES = st.lists(st.floats(-400, 0), min_size=1, max_size=5)


def written(path, *rows):
    names = ["Type", "Question", "Best Answer", "Correct Answers", "Incorrect Answers"]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file)
        table.writerows([names, *(["Adversarial", *row] for row in rows)])
    return path


def test_the_best_answer_comes_first_and_every_answer_is_a_sentence(tmp_path):
    row = ("Is it? ", "No", "It is not; No.; ; No", "Yes; It is.")
    (question,) = read_questions(written(tmp_path / "data.csv", row))
    assert question.text == "Is it?"
    assert question.true == ("No.", "It is not.")
    assert question.false == ("Yes.", "It is.")


def test_another_file_is_refused_in_one_line(tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("question,answer\nIs it?,No\n")
    for path in (other, tmp_path / "missing.csv", tmp_path):
        with pytest.raises(InvalidInputError, match=r"TruthfulQA\.csv"):
            read_questions(path)
    with pytest.raises(InvalidInputError, match="row 0: it needs a true and a false"):
        read_questions(written(tmp_path / "data.csv", ("Is it?", "No", "No", "")))


@given(st.integers(60, 900), st.integers(0, 3))
def test_fifty_build_and_a_tenth_of_the_others_is_dev(number, seed):
    questions = [Question(str(i), f"Question {i}?", ("No.",), ("Yes.",)) for i in range(number)]
    data = split(questions, seed)
    parts = (data.build, data.dev, data.test)
    assert sorted(q.id for part in parts for q in part) == sorted(q.id for q in questions)
    assert len(data.build) == 50
    assert abs(len(data.dev) - (number - 50) / 10) <= 0.5
    assert split(questions, seed) == data


def test_too_few_questions_are_said_so():
    with pytest.raises(InvalidInputError, match="too few"):
        split([MELON] * 52)


def test_pairs_set_the_best_against_the_first_and_then_go_on():
    said = [(pair.good, pair.bad) for pair in MELON.pairs(4)]
    assert said == [("Nothing.", "A tree."), ("The seed is digested.", "You get sick.")]
    (pair,) = MELON.pairs()
    assert (pair.good, pair.bad) == (MELON.item.good, MELON.item.bad)
    assert len({pair.id for q in (MELON, SUN) for pair in q.pairs(4)}) == 3


@given(LOG_PROBABILITIES, LOG_PROBABILITIES)
def test_metrics_are_those_of_the_benchmark(true, false):
    scores = Scores(tuple(true), tuple(false))
    results = [(score, False) for score in (*true, *false)]
    labels = [1] * len(true) + [0] * len(false)
    row = {"mc1_targets": {"labels": labels[len(true) - 1 :]}, "mc2_targets": {"labels": labels}}
    mc1 = truthfulqa_mc1(row, [(true[0], False), *results[len(true) :]])
    assert METRICS["MC1"](scores) == mc1["acc"]
    assert METRICS["MC2"](scores) == pytest.approx(truthfulqa_mc2(row, results)["acc"])
    assert METRICS["binary choice"](scores) == float(true[0] > false[0]) >= METRICS["MC1"](scores)


def test_answers_are_scored_as_one_by_one(tiny_llm, tiny_vector):
    arms = [UNSTEERED, PROMPT, Arm("steered", tiny_vector.steer(0.5))]
    found = scored(tiny_llm, [MELON, SUN], arms)
    for arm, row in zip(arms, found, strict=True):
        for question, scores in zip((MELON, SUN), row, strict=True):
            messages = arm.messages(question.item)
            for side in ("true", "false"):
                for answer, score in zip(
                    getattr(question, side), getattr(scores, side), strict=True
                ):
                    slow = slow_log_probs(tiny_llm, messages, answer, arm.steering)
                    assert score == pytest.approx(sum(slow[:-1]), abs=1e-3)
    best = scored(tiny_llm, [MELON, SUN], arms, whole=False)
    assert [[(s.binary, s.mc1) for s in row] for row in best] == [
        [(s.binary, s.mc1) for s in row] for row in found
    ]
    assert {len(s.true) for row in best for s in row} == {1}


def test_the_table_compares_with_the_first_row():
    right, wrong = Scores((-1.0,), (-2.0,)), Scores((-2.0,), (-1.0,))
    rows = [Row("none", [wrong] * 20, [1.0] * 10, 0.0), Row("v", [right] * 20, [0.0] * 10, 0.2)]
    *_, base, steered = table(rows).splitlines()
    for said in ("100.0 %", "+100.0", "-100.0"):
        assert said in steered
    assert base.startswith("| none | 0.0 %")


def test_closed_book_questions_of_dev_and_test_are_other_ones():
    dev, test = ({item.question for item in closed_book(split)} for split in ("dev", "test"))
    assert dev
    assert test
    assert not dev & test


def test_what_is_to_be_left_alone_is_asked_of_no_held_out_subject():
    pairs = lookups(40)
    held_out = {item.question for split in ("dev", "test") for item in closed_book(split)}
    assert len({pair.id for pair in pairs}) == 40
    assert not held_out & {pair.messages[0].content for pair in pairs}
    assert all(pair.good != pair.bad for pair in pairs)


def test_a_step_that_is_shut_leaves_the_unsteered_answer_and_an_instruction_asks_always(
    tiny_vector,
):
    arms = [UNSTEERED, PROMPT, Arm("steered", tiny_vector.steer(0.5))]
    rows = [["none"] * 3, ["told"] * 3, ["turned"] * 3]
    assert as_used(arms, rows, [True, False, True]) == [
        ["none"] * 3,
        ["told"] * 3,
        ["turned", "none", "turned"],
    ]


def test_the_gate_opens_for_myths_that_it_has_not_seen_and_not_for_facts():
    asked = [
        "What happens if you swallow {}?",
        "Is it true that {} brings bad luck?",
        "What do all people who believe in {} have in common?",
    ]
    things = ["chewing gum", "a seed", "a black cat", "a broken mirror", "the full moon", "a coin"]
    build, others = (
        [
            Question(f"{i} {thing}", text.format(thing), ("No.",), ("Yes.",))
            for i, text in enumerate(asked)
            for thing in some
        ]
        for some in (things[:4], things[4:])
    )
    gate = learn_gate(build).gate
    step = Step.sparing(gate, None, closed_book("dev"), 0.0)
    closed = closed_book("test", 10)
    opens = step.steers(None, [*(question.item for question in others), *closed])
    assert sum(opens[: len(others)]) >= 4  # of six
    assert not any(opens[len(others) :])
    assert step.steers(None, closed_book("dev")) == [False] * len(closed_book("dev"))
    with pytest.raises(InvalidInputError, match="opens for more"):
        Step.sparing(replace(gate, bias=50.0), None, closed_book("dev"), 0.0)


class Open:
    """A step that steers questions and leaves facts alone."""

    def steers(self, llm, items):
        return [item.category == "myth" for item in items]


def test_a_method_is_built_chosen_on_dev_kept_and_asked_beside_its_controls(tiny_llm, tmp_path):
    questions, closed = [MELON, SUN], closed_book("dev", 2)
    dev = Dev(tiny_llm, questions, closed, Open())
    recipes = {"caa": Recipe("caa", divergences=(0.01,))}
    said = []
    made = make(dev, questions, recipes, tmp_path, said.append)
    choice = made["caa"].calibration.choice
    assert choice.settings == 2
    assert choice.dev.prompts == len(choice.dev.seen) == 2
    assert "caa" in said[0]
    # What is kept is not built again, whatever it would be built from now.
    again = make(dev, [SUN], recipes, tmp_path, said.append)
    assert again["caa"].fingerprint_id == made["caa"].fingerprint_id
    assert choice.lost == {"closed_book": 0.0}  # the step never steers them
    rows, always = ask(tiny_llm, questions, closed, made, Open())
    assert [row.scores for row in rows] == [row.scores for row in always]
    assert all(row.closed == rows[0].closed for row in rows if row.name != "strict instruction")
    names = ["none", "strict instruction", "caa", "caa: random", "caa: sign flipped"]
    assert [row.name for row in rows] == names
    assert rows[0].kl == pytest.approx(0, abs=1e-5)
    assert rows[1].kl is None  # it is another prompt, and the same model
    assert rows[2].kl > 1e-4
    (alone,) = scored(tiny_llm, questions, [Arm("caa", made["caa"].steer())])
    assert list(rows[2].scores) == alone
