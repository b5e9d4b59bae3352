"""Questions over many passages: the number of them says nothing of whether the answer is told."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import combinations

import pytest

from experiments.facts import RELATIONS, Split, facts
from experiments.handbook_details import DETAILS, SUBJECTS
from experiments.passages import COUNTS, prompts
from experiments.questions import DATA, LAYOUTS, REFUSALS, slug
from experiments.vectors import BEHAVIOURS, PASSAGES_LOG, held_out
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.logs.answers import read_answers
from steerable_llm.pairs.kept import CORRECTED, PRAISED

SPLITS: tuple[Split, ...] = ("build", "dev", "test")
drawn = cache(prompts)


def shown(item: EvaluationItem) -> list[str]:
    """The passages, without the words of the layout around them."""
    text = item.messages[0].content
    for layout in LAYOUTS:
        before, after = layout.split("{context_str}")
        after = after.split("{query_str}")[0]
        if text.startswith(before) and after in text:
            return text.removeprefix(before).split(after)[0].split("\n\n")
    raise AssertionError(text)


def values_told(item: EvaluationItem) -> set[str]:
    """Every value that a sentence of the passages states of what is asked for."""
    _, where = item.id.split("-passages-")
    said = " ".join(shown(item)).lower()
    found = set()
    for fact in facts():
        if where == f"fact-{slug(fact)}":
            relation = RELATIONS[fact.relation]
            values = {each.value for each in facts() if each.relation == fact.relation}
            found |= {
                value
                for value in values
                for statement in relation.statements
                if f" {statement.format(s=fact.subject, v=value)} ".lower() in f" {said} "
            }
    for kind, details in DETAILS.items():
        for subject in (s for split in SPLITS for s in SUBJECTS[split].get(kind, ())):
            for name, detail in details.items():
                if where == f"handbook-{subject.lower().replace(' ', '-')}-{name}":
                    found |= {
                        value
                        for value in detail.values
                        if detail.statement.format(s=subject, v=value).lower() in said
                    }
    return found


@pytest.mark.parametrize("split", SPLITS)
def test_passages_tell_what_can_be_answered_once_and_nothing_of_what_cannot(split: Split) -> None:
    items = drawn(split)
    assert len({item.messages for item in items}) == len({item.id for item in items}) == len(items)
    for item in items:
        if item.category.startswith("gold"):
            assert values_told(item) == set(item.accept)
            assert item.good is not None
            assert item.good in " ".join(shown(item))
            assert item.succeeds(item.good)
        else:
            assert not values_told(item)
            assert item.accept == REFUSALS


@pytest.mark.parametrize("split", SPLITS)
def test_the_number_of_passages_tells_nothing_of_the_answer(split: Split) -> None:
    counts = {
        kind: Counter(len(shown(item)) for item in drawn(split) if item.category.startswith(kind))
        for kind in ("gold", "unanswerable")
    }
    for of in counts.values():
        assert set(of) == set(COUNTS[split])
        assert max(of.values()) - min(of.values()) <= 2


def test_what_a_neighbour_tells_says_nothing_of_the_answer() -> None:
    beside: dict[str, list[bool]] = {"gold": [], "unanswerable": []}
    for item in drawn("build"):
        said = " ".join(shown(item)).lower()
        for kind, details in DETAILS.items():
            for subject in SUBJECTS["build"].get(kind, ()):
                for name, detail in details.items():
                    if item.id.endswith(f"-{subject.lower().replace(' ', '-')}-{name}"):
                        beside[item.category.split(",")[0]].append(
                            any(
                                detail.statement.format(s=other, v=value).lower() in said
                                for other in SUBJECTS["build"][kind]
                                if other != subject
                                for value in detail.values
                            )
                        )
    told, not_told = (sum(each) / len(each) for each in beside.values())
    assert len(beside["gold"]) == len(beside["unanswerable"]) == 150
    assert 0.3 < told < 0.5
    assert abs(told - not_told) < 0.1


def test_half_of_the_told_facts_are_not_the_true_ones() -> None:
    true = {f"gold-passages-fact-{slug(fact)}": fact.value for fact in facts()}
    for split in SPLITS:
        told = [item for item in drawn(split) if item.id in true]
        assert sum(true[item.id] in item.accept for item in told) == len(told) / 2


def test_six_passages_are_never_learnt() -> None:
    assert max(COUNTS["test"]) > max(COUNTS["build"])
    assert set(COUNTS["dev"]) <= set(COUNTS["build"])


@pytest.mark.parametrize("split", ["dev", "test"])
def test_the_held_out_sets_are_those_that_the_script_draws(split: Split) -> None:
    assert list(EvaluationSet.from_jsonl(DATA / f"passages.{split}.jsonl")) == drawn(split)


def test_the_log_is_of_the_prompts_and_counts_as_good_what_they_tell() -> None:
    entries = list(read_answers(DATA / PASSAGES_LOG))
    items = drawn("build")
    assert [(e.id, tuple(e.messages)) for e in entries] == [(i.id, i.messages) for i in items]
    for entry, item in zip(entries, items, strict=True):
        assert (entry.verdict == "good") == item.succeeds(entry.answer)


def test_nothing_is_asked_in_two_splits() -> None:
    asked = {split: {item.question for item in drawn(split)} for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not asked[one] & asked[other]
    documents = BEHAVIOURS["documents"]
    trained = {str(pair.messages) for pair in documents.pairs(documents.answers())}
    for split in ("dev", "test"):
        assert not trained & {str(item.messages) for item in held_out(documents, split)}


def test_what_is_told_stays_and_what_is_not_is_to_change() -> None:
    documents = BEHAVIOURS["documents"]
    pairs = documents.pairs(documents.answers())
    for pair in pairs:
        kept = pair.source in (PRAISED, CORRECTED)
        assert kept == (("gold" in pair.id) or ("conflict" in pair.id) or ("closed" in pair.id)), (
            pair.id
        )
