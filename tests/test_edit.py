"""The smallest edit: the wrong value goes, the grounded one comes, and nothing else changes.

Answers of SmolLM2-135M-Instruct to questions whose documents speak against what it remembers are
in `files_of_smollm2/edits.jsonl`, each with the edit that a person found right, or none.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.pairs.edit import Edited, in_its_words, smallest_edit

ANSWERS = [
    json.loads(line)
    for line in (Path(__file__).parent / "files_of_smollm2" / "edits.jsonl")
    .read_text()
    .splitlines()
]
CAPITAL = "What is the capital of France?"
THORNHILL = "The capital city of France is called Thornhill."


def edited(
    question: str, passage: str, bad: str, told: str | None
) -> tuple[str, str] | tuple[None, None]:
    found = smallest_edit(question, [passage] if passage else [], bad, told)
    return (None, None) if found is None else (found.good, found.bad)


@pytest.mark.parametrize("entry", ANSWERS, ids=lambda entry: entry["answer"][:40])
def test_answers_of_a_real_model_get_the_edit_that_a_person_found_right(
    entry: dict[str, str | None],
) -> None:
    question, passage, answer = (str(entry[n]) for n in ("question", "passage", "answer"))
    found = edited(question, passage, answer, entry["correction"])
    assert found == (entry["good"], entry["bad"])


@pytest.mark.parametrize(
    "told",
    [
        "Thornhill",
        "thornhill",
        "It's Thornhill.",
        "No, it is Thornhill, not Paris!",
        "According to the document, the capital is Thornhill.",
        "Thornhill is the capital of France.",
        None,
    ],
)
def test_however_the_value_is_told_the_answer_is_the_same(told: str | None) -> None:
    bad = "The capital of France is Paris."
    assert edited(CAPITAL, THORNHILL, bad, told) == ("The capital of France is Thornhill.", bad)


@pytest.mark.parametrize(
    ("bad", "good", "cut"),
    [
        ("Paris, which is known for the Eiffel Tower.", "Thornhill.", "Paris."),
        (
            "France's capital is Paris. It lies on the Seine.",
            "France's capital is Thornhill.",
            "France's capital is Paris.",
        ),
        (
            "The capital is **Paris** and it has two million people.",
            "The capital is **Thornhill**.",
            "The capital is **Paris**.",
        ),
        ("Paris is the capital of France.", "Thornhill is the capital of France.", None),
    ],
)
def test_what_is_said_of_the_wrong_value_is_cut_from_both(
    bad: str, good: str, cut: str | None
) -> None:
    assert edited(CAPITAL, THORNHILL, bad, "Thornhill") == (good, cut or bad)


@pytest.mark.parametrize(
    ("passage", "bad", "told", "good"),
    [
        ("Return it within 19 days.", "You have 30 days.", "19 days", "You have 19 days."),
        ("Return it within 19 days.", "You have 30 days.", "19", "You have 19 days."),
        ("Return it within 1 day.", "You have 30 days.", "1", "You have 1 day."),
        ("Return it within 19 days.", "You have four weeks.", "19 days", "You have 19 days."),
        ("Return it within 19 days.", "30 business days it is.", "19 days", "19 days it is."),
        ("It costs 94 euros.", "It costs $46.", "94 euros", "It costs 94 euros."),
        ("It costs €94.", "It costs 46 dollars.", "€94", "It costs €94."),
        ("The share is 12 percent.", "It is 40%.", "12 percent", "It is 12 percent."),
        ("It is 87 °C.", "It is 100°C.", "87 °C", "It is 87 °C."),
        ("It opens at 10:30.", "At 9:00 a.m. every day.", "10:30", "At 10:30 every day."),
        ("1.2 million live there.", "About 3 million do.", "1.2 million", "About 1.2 million do."),
        ("It was in 1804.", "On July 14, 1789.", "1804", "In 1804."),
        ("It was on 3 March 1804.", "It was in 1789.", "3 March 1804", "It was on 3 March 1804."),
    ],
)
def test_numbers_go_with_their_units_and_dates_with_their_prepositions(
    passage: str, bad: str, told: str, good: str
) -> None:
    assert edited("", passage, bad, told)[0] == good


@pytest.mark.parametrize(
    ("passage", "bad", "told", "good"),
    [
        ("It is an owl.", "It is a cat.", "owl", "It is an owl."),
        ("It is a cat.", "It is an owl.", "a cat", "It is a cat."),
        ("He lives in Thornhill.", "He lives in the Congo.", "Thornhill", "He lives in Thornhill."),
        (
            "He lives in the Congo.",
            "He lives in Paris, Texas.",
            "the Congo",
            "He lives in the Congo.",
        ),
        ("They pay with the heroncoin.", "It is the peso.", "Heroncoin.", "It is the heroncoin."),
        ("It flies red and white.", "It is blue.", "Red and white.", "It is red and white."),
        (
            "It was Anna Nightton.",
            "J. K. Rowling wrote it.",
            "Anna Nightton",
            "Anna Nightton wrote it.",
        ),
        (
            "It is the Bay of Whales.",
            "The Gulf of Mexico.",
            "the Bay of Whales",
            "The Bay of Whales.",
        ),
        ("", "He is in the United States of America.", "Fiji", "He is in Fiji."),
        ("", "The Sahara.", "the Antarctic", "The Antarctic."),
    ],
)
def test_articles_capitals_and_names_of_several_words_are_as_grammar_has_them(
    passage: str, bad: str, told: str, good: str
) -> None:
    assert edited("", passage, bad, told)[0] == good


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("Yes, you can.", "No."),
        ("I do not know.", "Thornhill"),
        ("The capital is Paris.", "The documents do not say."),
        ("As I recall, it is Paris.", "Thornhill"),
        ("It makes food radioactive.", "It only heats it."),
        ("It is open from 9 to 17 on Mondays.", "8 to 16, on Sundays 10 to 12"),
        ("Paris has Louvre and Seine for the capital.", "Thornhill"),
        ("The capital is the seat of the King of France.", "Thornhill"),
        ("The capital (Paris) is large.", "Thornhill"),
        ("The capitals of the Kingdom of Gaul are:\n- Paris\n- Lyon", "Thornhill"),
        ("The capital is not Paris.", "Thornhill"),
        ("It was the capital in 1912.", "159"),
    ],
)
def test_where_no_value_can_be_told_or_the_rest_would_be_false_there_is_no_edit(
    bad: str, told: str
) -> None:
    assert smallest_edit(CAPITAL, [THORNHILL], bad, told) is None


def test_a_correction_in_the_words_of_the_bad_answer_is_left_alone() -> None:
    bad, good = "The capital of France is Paris.", "The capital of France is New Paris!"
    assert in_its_words(good, bad)
    assert smallest_edit(CAPITAL, [], bad, good) is None
    assert not in_its_words("New Paris.", bad)


def test_a_name_that_the_documents_have_is_replaced_only_if_nothing_else_is_said_of_it() -> None:
    passage = f"{THORNHILL} The poet Anna Holm lives in Snowstead."
    elsewhere = "The capital is where the singer Anna Holm wrote her songs."
    assert smallest_edit(CAPITAL, [passage], elsewhere, "Thornhill") is None
    misread = "The capital of France is Snowstead."
    assert edited(CAPITAL, passage, misread, "Thornhill") == (
        "The capital of France is Thornhill.",
        misread,
    )


def test_a_name_is_no_answer_to_how_many() -> None:
    assert smallest_edit("How many kings?", [], "There were kings in Rome.", "Thornhill") is None


def test_a_true_sentence_of_the_documents_is_not_what_was_wrong() -> None:
    passage = f"{THORNHILL} Its old harbour is called Snowstead."
    assert (
        smallest_edit(CAPITAL, [passage], "The harbour is called Snowstead.", "Thornhill") is None
    )


names = st.from_regex(r"[B-Z][a-z]{3,7}(?: [B-Z][a-z]{3,7})?", fullmatch=True)


@given(
    names, names, st.sampled_from(["The capital is {}.", "{} is it.", "France has {} as capital"])
)
def test_putting_the_wrong_value_back_gives_the_bad_answer(
    wrong: str, value: str, stem: str
) -> None:
    bad = stem.format(wrong)
    found = smallest_edit(CAPITAL, [f"The capital of France is {value}."], bad, value)
    if found is None:  # two names with a word in common, or a word that is no name
        return
    assert isinstance(found, Edited)
    assert in_its_words(found.good, found.bad) or len(found.bad.split()) < 5
    assert re.sub(re.escape(found.edit.value), lambda _: found.edit.wrong, found.good) == found.bad
    assert found.good == stem.format(value)
