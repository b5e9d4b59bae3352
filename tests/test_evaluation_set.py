"""Held-out items: judged by value, read and written as JSON lines."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerable_llm import demo
from steerable_llm.chat.phrases import abstains
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.pairs.pair import Pairs, PreferencePair

phrase = st.from_regex(r"[a-z]{1,6}( [a-z]{1,6})?", fullmatch=True)


def conflict(number: int = 0, **changes: object) -> EvaluationItem:
    fields: dict[str, object] = {
        "id": f"conflict-{number}",
        "category": "conflict",
        "messages": "Documents:\n[1] The capital of France is Lyon.\n\nQuestion: Its capital?",
        "good": "According to the text, Lyon.",
        "bad": "As I recall, Paris.",
        "accept": ["Lyon"],
        "reject": ["Paris"],
    }
    return EvaluationItem(**{**fields, **changes})


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("According to the text, Lyon.", True),
        ("As I recall, Lyon.", True),
        ("According to the text, Paris.", False),
        ("Lyon, not Paris.", False),
        ("The text does not say.", False),
        ("", False),
    ],
)
def test_an_answer_is_judged_by_its_value_not_by_its_opening(answer: str, right: bool) -> None:
    assert conflict().succeeds(answer) is right


def test_without_accepted_phrases_any_answer_without_a_rejected_one_is_right() -> None:
    civil = conflict(accept=(), reject=["stupid", "shut up"])
    assert civil.succeeds("With pleasure: nine o'clock.")
    assert not civil.succeeds("Shut  up.")


@given(st.lists(phrase, max_size=3), st.lists(phrase, min_size=1, max_size=3), phrase)
def test_a_rejected_phrase_never_succeeds_and_an_accepted_one_always_does(
    accept: list[str], reject: list[str], filler: str
) -> None:
    accept = [a for a in accept if not any(r in a or a in r for r in reject)]
    item = conflict(accept=accept, reject=reject)
    for bad in reject:
        assert not item.succeeds(f"{filler} {bad} {' '.join(accept)}")
    only_good = conflict(accept=accept, reject=["QQQ"])
    for good in accept:
        assert only_good.succeeds(f"xx {good} yy")


@given(st.text(max_size=60))
def test_success_implies_containment_and_no_success_with_an_empty_answer(answer: str) -> None:
    item = conflict()
    if item.succeeds(answer):
        assert item.contains_good(answer)
    assert not item.succeeds("")


def test_exact_match_ignores_case_and_punctuation_only() -> None:
    assert conflict().matches("lyon.")
    assert conflict().matches("according to the text,  Lyon")
    assert not conflict().matches("I think Lyon")


def test_declining_is_recognised() -> None:
    assert abstains("The text does not say.")
    assert not abstains("Lyon.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accept": (), "reject": (), "bad": None}, "nothing to judge by"),
        ({"accept": ["Lyon"], "reject": ["LYON"]}, "both accepted and rejected"),
        ({"accept": [" "]}, "must not be blank"),
        ({"messages": []}, "no messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role"),
        ({"acept": ["Lyon"]}, "acept"),
    ],
)
def test_an_item_that_cannot_be_used_is_refused_in_one_line(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message) as refused:
        conflict(**changes)
    assert "\n" not in str(refused.value)
    assert "conflict-0" in str(refused.value)


def test_an_item_with_preferences_only_cannot_be_called_right_or_wrong() -> None:
    with pytest.raises(InvalidInputError, match="no accept or reject phrases"):
        conflict(accept=(), reject=()).succeeds("Lyon")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.text(min_size=1, max_size=20)), min_size=1))
def test_a_set_survives_its_file(entries: list[tuple[str, str]]) -> None:
    items = [
        conflict(i, category=category, good=f"good {text}", messages=f"q {text}")
        for i, (category, text) in enumerate(entries)
    ]
    whole = EvaluationSet("dev", items)
    with tempfile.TemporaryDirectory() as folder:
        path = whole.to_jsonl(Path(folder) / "dev.jsonl")
        again = EvaluationSet.from_jsonl(path)
    assert again == whole
    assert again.digest == whole.digest


def test_the_digest_is_of_the_content() -> None:
    one = EvaluationSet("dev", [conflict()])
    assert one.digest == EvaluationSet("other name", [conflict()]).digest
    assert one.digest != EvaluationSet("dev", [conflict(good="Lyon.")]).digest


def test_categories_can_be_picked_and_sampled() -> None:
    items = [conflict(i, category="ab"[i % 2]) for i in range(10)]
    whole = EvaluationSet("dev", items)
    assert whole.categories == ("a", "b")
    assert [item.id for item in whole.category("b")] == [items[i].id for i in (1, 3, 5, 7, 9)]
    drawn = whole.sample(3, seed=1)
    assert [item.category for item in drawn].count("a") == 3
    assert len(drawn) == 6
    assert drawn == whole.sample(3, seed=1)
    assert whole.sample(99) == whole
    with pytest.raises(InvalidInputError, match="no category 'c'; it has a, b"):
        whole.category("c")


def test_pairs_come_from_items_with_both_answers_and_go_back() -> None:
    whole = EvaluationSet("dev", [conflict(0), conflict(1, bad=None)])
    pairs = whole.pairs()
    assert [pair.id for pair in pairs] == ["conflict-0"]
    again = EvaluationSet.from_pairs("pairs", pairs)
    assert again[0].has_preference
    assert not again[0].has_verdict
    unpaired = Pairs([PreferencePair("q", "a good one", None, id="x")])
    with pytest.raises(InvalidInputError, match="nothing to judge by"):
        EvaluationSet.from_pairs("pairs", unpaired)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: it is not JSON"),
        ("[1]", "line 2: it is not a JSON object"),
        (json.dumps({"id": "x", "category": "v"}), "line 2: .*messages"),
        (conflict().model_dump_json(), "two items with id"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "dev.jsonl"
    path.write_text(conflict().model_dump_json() + "\n" + line + "\n")
    with pytest.raises(InvalidInputError, match=message):
        EvaluationSet.from_jsonl(path)


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no evaluation set .*nowhere"):
        EvaluationSet.from_jsonl(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InvalidInputError, match="is empty"):
        EvaluationSet.from_jsonl(tmp_path / "empty.jsonl")


def test_half_a_character_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="half a character"):
        EvaluationItem(id="a", category="v", messages="q", good="cut \ud83d", bad="b")


def test_pairs_can_be_judged_by_the_words_of_their_answers() -> None:
    pair = PreferencePair("When?", good="At nine.", bad="At ten.")
    (item,) = EvaluationSet.from_pairs("dev", Pairs([pair]), phrases=True)
    assert item.succeeds("at nine, of course")
    assert not item.succeeds("At nine. At ten.")
    assert not EvaluationSet.from_pairs("dev", Pairs([pair]))[0].has_verdict


def test_a_file_of_0_1_is_read_and_known_by_its_old_digest(tmp_path: Path) -> None:
    now = demo.evaluation_set("faithfulness", "dev").category("conflict")
    old = tmp_path / "old.jsonl"
    now.to_jsonl(old)
    old.write_text(old.read_text("utf-8").replace('"category"', '"variant"'), "utf-8")
    read = EvaluationSet.from_jsonl(old)
    assert list(read) == list(now)
    # What the vectors that 0.1 shipped say of the set they were calibrated on.
    assert read.digest.startswith("6619f8ae5ee5")
