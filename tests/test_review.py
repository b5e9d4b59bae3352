"""A review keeps each decision at once, goes on where it ended, and can be undone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerable_llm.chat.message import as_messages
from steerable_llm.errors import InvalidInputError, PairError
from steerable_llm.pairs.pair import Edit, Pairs, PreferencePair
from steerable_llm.pairs.proposals import Proposal, ProposedPair, write_proposals
from steerable_llm.pairs.review import Review, ReviewItem, read_items


def item(name: str, good: str = "At ten.") -> ReviewItem:
    about = {"source": "log/x", "document_ids": ["hours"]}
    return ReviewItem((PreferencePair(f"When, {name}?", good, "At nine.", id=name, **about),))


ITEMS = [item("a"), item("b"), item("c")]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "pairs.reviewed.jsonl"


def ids(out: Path) -> list[str]:
    return [pair.id for pair in Pairs.from_jsonl(out)]


def shown(review: Review) -> str | None:
    return None if review.current is None else review.current.id


def test_every_decision_is_in_the_files_before_the_next_pair_is_shown(out: Path) -> None:
    review = Review(ITEMS, out, reviewer="Ana")
    review.approve(ITEMS[0])
    assert ids(out) == ["a"]
    review.reject(ITEMS[1])
    review.approve(ITEMS[2], edited="At ten o'clock.")
    assert ids(out) == ["a", "c"]
    lines = [json.loads(line) for line in review.journal.read_text().splitlines()]
    assert [(line["id"], line["action"], line["reviewer"]) for line in lines] == [
        ("a", "approve", "Ana"),
        ("b", "reject", "Ana"),
        ("c", "approve", "Ana"),
    ]
    edited = Pairs.from_jsonl(out)[1]
    assert (edited.good, edited.source) == ("At ten o'clock.", "log/x/edited")


def test_beside_an_edit_a_person_can_take_the_correction_as_it_was_written(out: Path) -> None:
    edit = Edit(wrong="nine", value="ten", good="Ten!", bad="It opens at nine, says Bob.")
    source = "log/x/correction/smallest edit"
    pair = PreferencePair(
        "When?", "It opens at ten.", "It opens at nine.", id="a", source=source, edit=edit
    )
    (item,) = read_items([Pairs([pair]).to_jsonl(out.with_name("made.jsonl"))])
    assert item.options == (pair, pair.as_written)
    review = Review([item], out)
    review.approve(item, 1)
    (kept,) = Pairs.from_jsonl(out)
    assert (kept.good, kept.bad, kept.edit) == ("Ten!", "It opens at nine, says Bob.", None)
    assert kept.source == "log/x/correction"
    review.undo()
    review.approve(item, 0, edited="It opens at ten o'clock.")
    (kept,) = Pairs.from_jsonl(out)
    assert (kept.edit, kept.source) == (None, f"{source}/edited")


def test_a_later_review_goes_on_where_the_last_one_ended(out: Path) -> None:
    first = Review(ITEMS, out)
    first.approve(ITEMS[0])
    first.skip(ITEMS[1])
    second = Review(ITEMS, out)
    assert shown(second) == "c"
    second.reject(ITEMS[2])
    assert shown(second) == "b"  # what was skipped comes again, last
    second.skip(ITEMS[1])
    assert shown(second) is None  # but not twice in one sitting
    assert second.counts == {"approved": 1, "rejected": 1, "skipped": 1, "left": 0}


def test_the_file_of_approved_pairs_is_made_again_from_the_journal(out: Path) -> None:
    Review(ITEMS, out).approve(ITEMS[1])
    out.unlink()  # as if killed between journal and file
    Review(ITEMS, out)
    assert ids(out) == ["b"]


def test_a_line_cut_short_was_not_decided(out: Path) -> None:
    review = Review(ITEMS, out)
    review.approve(ITEMS[0])
    whole = review.journal.read_bytes()
    review.approve(ITEMS[1])
    cut = review.journal.read_bytes()[: len(whole) + 20]
    review.journal.write_bytes(cut)
    again = Review(ITEMS, out)
    assert shown(again) == "b"
    again.reject(ITEMS[1])
    assert len(Review(ITEMS, out).journal.read_text().splitlines()) == 2
    assert shown(Review(ITEMS, out)) == "c"


def test_undo_takes_back_also_what_an_earlier_review_decided(out: Path) -> None:
    Review(ITEMS, out).approve(ITEMS[0])
    review = Review(ITEMS, out)
    assert shown(review) == "b"
    undone = review.undo()
    assert undone is not None
    assert (undone.id, shown(review), ids(out)) == ("a", "a", [])
    assert review.undo() is None
    assert shown(Review(ITEMS, out)) == "a"  # the journal knows of it


def test_undo_of_a_second_look_gives_back_the_first(out: Path) -> None:
    Review(ITEMS[:1], out).skip(ITEMS[0])
    review = Review(ITEMS[:1], out)
    review.approve(ITEMS[0])
    review.undo()
    assert review.counts["skipped"] == 1
    assert shown(review) == "a"


def test_two_reviewers_at_once_keep_each_others_decisions(out: Path) -> None:
    ana, bob = Review(ITEMS, out, "Ana"), Review(ITEMS, out, "Bob")
    ana.approve(ITEMS[0])
    bob.reject(ITEMS[1])
    assert ids(out) == ["a"]
    assert bob.counts == {"approved": 1, "rejected": 1, "skipped": 0, "left": 1}
    assert shown(bob) == "c"
    bob.approve(ITEMS[2])
    undone = ana.undo()
    assert undone is not None
    assert (undone.id, ids(out)) == ("a", ["c"])  # what Bob decided stays
    assert Review(ITEMS, out).counts == {"approved": 1, "rejected": 1, "skipped": 0, "left": 1}


def test_approved_pairs_that_are_no_longer_there_are_counted(out: Path) -> None:
    review = Review(ITEMS, out)
    for one in ITEMS[:2]:
        review.approve(one)
    review.reject(ITEMS[2])
    fewer = Review([ITEMS[1]], out)
    assert (ids(out), fewer.left_behind) == (["b"], 1)
    fewer.undo()
    assert fewer.left_behind == 1
    assert (Review(ITEMS, out).left_behind, ids(out)) == (0, ["a"])


def test_a_decision_belongs_to_the_texts_that_were_seen(out: Path) -> None:
    Review(ITEMS, out).approve(ITEMS[0])
    changed = Review([item("a", good="At eleven."), *ITEMS[1:]], out)
    assert shown(changed) == "a"
    assert changed.counts["approved"] == 0


def test_an_answer_that_makes_no_pair_decides_nothing(out: Path) -> None:
    review = Review(ITEMS, out)
    for text in ("  ", " At nine. "):
        with pytest.raises(PairError):
            review.approve(ITEMS[0], edited=text)
    assert not review.journal.exists()
    assert not out.exists()


@settings(max_examples=30)
@given(actions=st.lists(st.sampled_from("arsuk"), max_size=12))
def test_a_review_that_is_killed_anywhere_is_the_same_afterwards(
    actions: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("review")
    review = Review(ITEMS, folder / "out.jsonl")
    model: list[tuple[str, str]] = []  # what was decided, in order; undo takes the last away
    for action in actions:
        current = review.current
        if action == "k":
            review = Review(ITEMS, folder / "out.jsonl")
        elif action == "u":
            review.undo()
            model = model[:-1]
        elif current is not None:
            {"a": review.approve, "r": review.reject, "s": review.skip}[action](current)
            model.append((current.id, action))
    latest = dict(model)
    for seen in (review, Review(ITEMS, folder / "out.jsonl")):
        expected = [entry.id for entry in ITEMS if latest.get(entry.id) == "a"]
        assert [pair.id for pair in seen.approved] == expected
        assert seen.counts["rejected"] == list(latest.values()).count("r")


def test_pairs_and_proposals_are_read_from_files(tmp_path: Path) -> None:
    pair = PreferencePair("When?", good="At ten.", bad="At nine.", source="log/x", id="p")
    pairs = Pairs([pair]).to_jsonl(tmp_path / "pairs.jsonl")
    options = (Proposal(kind="refusal", text="No."), Proposal(kind="strict prompt", text="Ten."))
    entry = ProposedPair(
        id="q", messages=as_messages("Who?"), bad="Me.", source="log/y", proposals=options
    )
    proposals = write_proposals(tmp_path / "proposals.jsonl", [entry])
    first, second = read_items([pairs, proposals])
    assert first.pair() == pair
    assert second.pair(1).source == "log/y/proposal/strict prompt"
    assert second.pair(1, "Us.").source == "log/y/proposal/strict prompt/edited"
    assert second.pair(1, "Us.").proposed


def test_what_cannot_be_reviewed_is_named(tmp_path: Path, out: Path) -> None:
    with pytest.raises(PairError, match="no pairs to review"):
        Review([], out)
    with pytest.raises(PairError, match="no file of pairs"):
        read_items([tmp_path / "none.jsonl"])
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "x", "proposals": []}\n')
    with pytest.raises(PairError, match=r"line 1: messages: .*make the file"):
        read_items([bad])
    Review(ITEMS, out).approve(ITEMS[0])
    journal = out.with_name("pairs.reviewed.decisions.jsonl")
    journal.write_text("nonsense\n" + journal.read_text())
    with pytest.raises(InvalidInputError, match=r"line 1: .*no journal of a review"):
        Review(ITEMS, out)
