"""The built-in judge: numbers and names must be in the passages, most other words too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.pairs.judge import fixed_terms, support, terms

SHOP = ["Customers of Maple Books can return an item within 23 days.", "It opens at 7:45."]


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("According to the text, it is 23 days.", 1.0),
        ("Within twenty-three days.", 1.0),
        ("As I recall, it is 14 days.", 0.0),
        ("At 7:45.", 1.0),
        ("At 7:15.", 0.0),
        ("Customers may return items.", 1.0),
        ("Ask Maria about it.", 0.0),
        ("You can return an umbrella.", 0.5),
        ("The text does not say.", None),
        ("I do not know.", None),
        ("", None),
    ],
)
def test_answers_are_scored_by_what_they_claim(answer: str, score: float | None) -> None:
    assert support("How long?", SHOP, answer) == score


def test_what_only_repeats_the_question_is_no_claim() -> None:
    asked = "Can I return a lamp to Oak Foods within 30 days?"
    assert support(asked, SHOP, "Return a lamp to Oak Foods within 30 days.") is None


def test_a_number_is_not_part_of_a_longer_one() -> None:
    assert support("How much?", ["It costs 1,250 euros."], "250 euros") == 0.0
    assert support("How much?", ["It costs 1,250 euros."], "1250 euros") == 1.0


def test_number_words_are_numbers_and_one_is_a_pronoun() -> None:
    assert [term.key for term in terms("forty-two of the seventeen, and this one")] == ["42", "17"]


def test_numbers_and_names_are_what_must_not_differ() -> None:
    assert fixed_terms("Maple Books opens at ten") == {"book", "10"}
    assert fixed_terms("The shop of Maple Books opens.") == {"mapl", "book"}


def test_a_word_after_a_mark_is_large_because_it_opens_a_sentence() -> None:
    assert fixed_terms('It says: Shops close. Doors open! "Lamps" and Oslo.') == {"oslo"}
    assert fixed_terms("Twenty-two Lamps. Twenty two.") == {"22", "lamp"}


@given(st.lists(st.text(max_size=30), max_size=3), st.text(max_size=40))
def test_a_score_is_a_share_and_what_a_passage_says_is_grounded_in_it(
    passages: list[str], answer: str
) -> None:
    score = support("", passages, answer)
    assert score is None or 0 <= score <= 1
    assert support("", [*passages, answer], answer) in (None, 1.0)
