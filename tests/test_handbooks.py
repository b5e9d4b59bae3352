"""Questions about handbooks: held out is held out, and what counts as told stands there."""

from __future__ import annotations

from itertools import combinations

import pytest

from experiments import passages
from experiments.facts import Split
from experiments.handbook_details import DETAILS, SUBJECTS
from experiments.handbooks import FIRST, prompts
from experiments.questions import DATA, REFUSALS
from steerable_llm.chat.phrases import occurs
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet

SPLITS: tuple[Split, ...] = ("build", "dev", "test")
HELD_OUT: tuple[Split, ...] = ("dev", "test")


def learnt() -> list[tuple[str, str, str]]:
    """What the build prompts ask handbooks for."""
    items = passages.prompts("build")
    return [asked(item) for item in items if item.category.endswith("handbooks")]


def asked(item: EvaluationItem) -> tuple[str, str, str]:
    """The kind of handbook, its subject and the name of the detail that is asked for."""
    for kind, details in DETAILS.items():
        for split in SPLITS:
            for subject in SUBJECTS[split].get(kind, ()):
                for name, detail in details.items():
                    if detail.question.format(s=subject) in item.question:
                        return kind, subject, name
    raise AssertionError(item.question)


def test_no_subject_stands_in_two_splits() -> None:
    subjects = {s: {n for names in SUBJECTS[s].values() for n in names} for s in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not subjects[one] & subjects[other]


@pytest.mark.parametrize("split", HELD_OUT)
def test_a_handbook_tells_what_can_be_answered_and_nothing_of_what_cannot(split: Split) -> None:
    items = prompts(split)
    assert len({item.messages for item in items}) == len({item.id for item in items}) == len(items)
    for item in items:
        kind, subject, name = asked(item)
        detail = DETAILS[kind][name]
        told = [
            value
            for value in detail.values
            for said in [detail.statement.format(s=subject, v=value)]
            if said[0].upper() + said[1:] in item.messages[0].content
        ]
        if item.category.startswith("gold"):
            assert told == list(item.accept)
            assert item.good is not None
            assert item.good in item.messages[0].content
            assert item.succeeds(item.good)
        else:
            assert not told
            assert item.accept == REFUSALS
        assert detail.everywhere or split == "test"


def test_some_handbooks_tell_it_of_a_neighbour_and_some_kinds_are_tests_alone() -> None:
    beside = 0
    for item in (each for each in prompts("test") if each.category.startswith("unanswerable")):
        kind, _, name = asked(item)
        values = DETAILS[kind][name].values
        neighbours = [s for s in SUBJECTS["test"][kind] if occurs(s, item.messages[0].content)]
        beside += len(neighbours) > 1 and any(occurs(v, item.messages[0].content) for v in values)
    number = sum(item.category.startswith("unanswerable") for item in prompts("test"))
    assert 0.3 * number < beside < 0.7 * number
    names = {
        split: {asked(i)[::2] for i in prompts(split) if i.category.endswith("handbook")}
        for split in HELD_OUT
    }
    built = {each[::2] for each in learnt()}
    alone = {(k, n) for k, ds in DETAILS.items() for n, d in ds.items() if not d.everywhere}
    assert names["dev"] <= built
    assert names["test"] - built == names["test"] & alone != set()


def test_some_kinds_of_handbook_are_never_learnt() -> None:
    built = {kind for kind, _, _ in learnt()}
    kinds = {split: {asked(item)[0] for item in prompts(split)} for split in HELD_OUT}
    assert set(FIRST) < built
    assert kinds["dev"] - built
    assert kinds["test"] - built - kinds["dev"]
    assert not kinds["dev"] & kinds["test"] - built
    for split in HELD_OUT:
        for item in prompts(split):
            assert item.category.endswith("new kind") == (asked(item)[0] not in built)


@pytest.mark.parametrize("split", HELD_OUT)
def test_the_held_out_sets_are_those_that_the_script_draws(split: Split) -> None:
    kept = EvaluationSet.from_jsonl(DATA / f"handbooks.{split}.jsonl")
    assert list(kept) == prompts(split)
