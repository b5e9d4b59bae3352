"""The judge of answers knows whole words, whatever the case, the spacing and the quotes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.chat.phrases import ABSTENTIONS, abstains, normalise, occurs, says_only

words = st.lists(
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=6), min_size=1, max_size=6
)


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("Lyon", "According to the text, LYON."),
        ("Mexico City", "It is Mexico\n  City, of course"),
        ("30 days", "You have 30 days."),
        ("30", "(30)"),
        ("30", "30, or 31"),
        ("don't know", "I don\u2019t know."),
        ("Straße", "STRASSE"),
        ("C++", "It is written in C++."),
        ("东京", "答案: 东京"),
    ],
)
def test_a_phrase_occurs_as_whole_words(phrase: str, text: str) -> None:
    assert occurs(phrase, text)


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("Lima", "The climate is mild."),
        ("30", "130 days"),
        ("30", "30.5 days"),
        ("30", "1,30"),
        ("3", "3,000"),
        ("Lyon", "Ly on"),
        ("Lyon", ""),
    ],
)
def test_a_part_of_a_word_or_number_is_not_an_occurrence(phrase: str, text: str) -> None:
    assert not occurs(phrase, text)


@given(words, st.integers(0, 5), st.integers(1, 6))
def test_any_run_of_words_of_a_text_occurs_in_it(text: list[str], start: int, length: int) -> None:
    run = text[start : start + length] or text
    assert occurs(" ".join(run), " ".join(text))


@given(words, words)
def test_occurrence_agrees_with_a_search_word_by_word(text: list[str], phrase: list[str]) -> None:
    text, phrase = [normalise(w) for w in text], [normalise(w) for w in phrase]
    spots = range(len(text) - len(phrase) + 1)
    found = any(text[spot : spot + len(phrase)] == phrase for spot in spots)
    assert occurs(" ".join(phrase), " ".join(text)) == found


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(words)
def test_case_and_spacing_do_not_count(text: list[str]) -> None:
    phrase = " ".join(text)
    assert occurs(phrase, "  ".join(text).upper()) == occurs(phrase, phrase.upper())
    assert says_only(f"  {phrase}. ", phrase)


@pytest.mark.parametrize("phrase", ABSTENTIONS)
def test_every_listed_refusal_is_recognised(phrase: str) -> None:
    assert abstains(f"Sorry, {phrase} it.")
    assert not abstains("According to the text, Lyon.")
