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
        ("Keep it at -18 degrees.", "At 4 degrees.", "-18 degrees", "At -18 degrees."),
        ("", "It is 5 °C.", "\u221218 °C", "It is \u221218 °C."),
        ("", "It is -5 °C.", "18", "It is 18 °C."),
        ("", "It costs $5.", "3", "It costs $3."),
        ("", "It costs $5.", "3,50 €", "It costs 3,50 €."),
        ("", "It costs 5 €.", "CHF 3", "It costs CHF 3."),
        ("", "It costs USD 5.", "EUR 3.50", "It costs EUR 3.50."),
        ("", "It costs CHF 5.", "3 euros", "It costs 3 euros."),
        ("", "It costs ¥500.", "₹300", "It costs ₹300."),
        ("", "It costs $1.2 million.", "$950", "It costs $950."),
        ("", "It has 7,200 seats.", "1,234,567", "It has 1,234,567 seats."),
        ("", "It is 3.5 km.", "4,2 km", "It is 4,2 km."),
        ("", "It takes at least 2 hours.", "at least 4 hours", "It takes at least 4 hours."),
        ("", "It is open until 6 pm.", "5 pm", "It is open until 5 pm."),
        ("", "It was Apollo 13.", "Gemini 4", "It was Gemini 4."),
        ("", "It is in room 5.", "room 7", "It is in room 7."),
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
        ("", "It uses Python.", "Ruby", "It uses Ruby."),
        ("", "It uses Python.", "C", "It uses C."),
        ("", "It is in southern France.", "Lyon", "It is in Lyon."),
        ("", "It is in Doha.", "near Lyon", "It is near Lyon."),
        ("", "It is a cat.", "European hedgehog", "It is a European hedgehog."),
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
        ("Anna and Ben are the kings.", "Carl"),
        ("Anna is the king.", "Ben and Carl"),
    ],
)
def test_where_no_value_can_be_told_or_the_rest_would_be_false_there_is_no_edit(
    bad: str, told: str
) -> None:
    assert smallest_edit(CAPITAL, [THORNHILL], bad, told) is None


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        # ranges
        ("It is open from 8 to 18.", "9 to 17"),
        ("It is open from 8 am to 6 pm.", "9 am to 5 pm"),
        ("It is open from 8 to 18.", "9"),
        ("It takes 2 hours.", "3-4 hours"),
        ("It takes 2 hours.", "3\u20134 hours"),
        ("It takes 2 hours.", "between 3 and 4 hours"),
        ("It takes 3 to 4 hours.", "5 hours"),
        ("It takes between 3 and 4 hours.", "5 hours"),
        ("It lasted from 1914 to 1918.", "1939 to 1945"),
        ("It costs $5.", "$7 \u2013 $9"),
        ("It has four legs.", "five or six legs"),
        ("It was open Monday to Friday.", "Tuesday"),
        ("It runs from Paris to Lyon.", "Nice"),
        # numbers that are meant otherwise
        ("It is 5.", "~7"),
        ("It is 5.", "\u00b17"),
        ("It is 5.", "> 7"),
        ("It is 5.", "about 7"),
        ("You have 30 days.", "at least 14 days"),
        ("You have 30 days.", "14 days or more"),
        ("It is minus 5 degrees.", "10 degrees"),
        ("It was built in 300 BC.", "1500"),
        ("It was built in the 1800s.", "1789"),
        ("It was built in the 19th century.", "1789"),
        ("It was built in 1789.", "after 1804"),
        ("It happens 3 times a day.", "2 times a week"),
        ("It costs £5m.", "£3"),
        ("It has 5 million seats.", "3"),
        ("You have 30 days.", "2 weeks and 3 days"),
        # pieces of what letters and digits alone do not show
        ("It is 5.", ".7"),
        ("It is 5.", "5½"),
        ("It has 7200 seats.", "12'000"),
        ("It has 7200 seats.", "10^6"),
        ("It costs 5 €.", "US$3"),
        ("You have 30 days.", "24/7"),
        ("It uses Python.", "Node.js"),
        ("It uses Python.", "C++"),
        ("It is in Doha.", "AT&T"),
        ("It was Anna.", "Ben's cook"),
        ("They are A, B and C.", "D and E"),
        # several names
        ("It was Anna.", "Ben; Carl"),
        ("It was Anna.", "Ben Holm / Carl Nord"),
        ("It was Anna.", "Ben Holm (1900)"),
        ("It is in Doha.", "Ft. Worth"),
        ("It is in Doha.", "Thornhill in Kent"),
        ("It is in Doha.", "north of Lyon"),
    ],
)
def test_of_what_is_told_nothing_is_lost(bad: str, told: str) -> None:
    assert smallest_edit("", [], bad, told) is None


@pytest.mark.parametrize(
    ("bad", "told", "good", "cut"),
    [
        ("It is in Doha.", "Washington, D.C.", "It is in Washington, D.C.", None),
        ("It is in Washington, D.C.", "Doha", "It is in Doha.", None),
        (
            "It is in Washington, D.C., near a river.",
            "Doha",
            "It is in Doha.",
            "It is in Washington, D.C.",
        ),
        ("It is in the U.S. It is large.", "Doha", "It is in Doha.", "It is in the U.S."),
        ("It is in Doha.", "the U.S. state of Ohio", "It is in the U.S. state of Ohio.", None),
        ("It was Leo Tolstoy.", "J. R. R. Tolkien", "It was J. R. R. Tolkien.", None),
        ("It was J.R.R. Tolkien.", "Louis C.K.", "It was Louis C.K.", None),
    ],
)
def test_initials_are_a_part_of_the_name(bad: str, told: str, good: str, cut: str | None) -> None:
    assert edited("", "", bad, told) == (good, cut or bad)


@pytest.mark.parametrize("sentence", ["It stands in the U.S. Visitors come.", "In D.C. Visitors."])
def test_a_name_ends_where_the_next_sentence_may_begin(sentence: str) -> None:
    found = smallest_edit("", [sentence], "It stands in Doha.", None)
    assert found is None or "Visitors" not in found.good


def test_behind_the_initials_of_a_state_a_sentence_begins() -> None:
    passage = "It stands in Washington, D.C. Visitors come by train."
    assert edited("", passage, "It stands in Doha.", None)[0] == "It stands in Washington, D.C."


@pytest.mark.parametrize(
    ("question", "passage", "bad"),
    [
        ("When does it open?", "It opens at 10:15 and closes at 18:30.", "It opens at 9:00."),
        ("How long does it take?", "It takes 3-4 hours.", "It takes 2 hours."),
        ("How long does it take?", "It takes at least 4 hours.", "It takes 2 hours."),
        ("Which city is it?", "The city is not Snowstead.", "The city is Paris."),
    ],
)
def test_passages_tell_no_value_that_they_have_only_a_part_of(
    question: str, passage: str, bad: str
) -> None:
    assert smallest_edit(question, [passage], bad) is None


def test_a_sentence_that_would_lose_its_verb_is_left_alone() -> None:
    assert smallest_edit("", [], "The house, in Paris, is old.", "Thornhill") is None


@pytest.mark.parametrize(
    "rest",
    [
        ", and Marseille is a port.",
        ", and Paris is on the Seine.",
        " and Paris is on the Seine.",
        ", but Marseille is a port.",
        ", or Lyon was.",
        ", Marseille is a port.",
        ", and Marseille became a port.",
        " and London lies north.",
    ],
)
def test_the_clause_of_another_name_is_no_part_of_the_value(rest: str) -> None:
    bad = f"The capital of France is Paris{rest}"
    stem = "The capital of France is {}."
    assert edited(CAPITAL, "", bad, "Thornhill") == (stem.format("Thornhill"), stem.format("Paris"))


@pytest.mark.parametrize(
    ("bad", "told", "good"),
    [
        ("It was Anna and Ben.", "Carl", "It was Carl."),
        ("Anna, Ben and Carl were the kings.", "Dora and Eve", "Dora and Eve were the kings."),
        ("Trinidad and Tobago is the winner.", "Ghana", "Ghana is the winner."),
        ("It was Anna.", "Ben or Carl", "It was Ben or Carl."),
    ],
)
def test_names_of_a_list_stay_together(bad: str, told: str, good: str) -> None:
    assert edited("", "", bad, told) == (good, bad)


@pytest.mark.parametrize(
    ("passage", "bad", "told", "good"),
    [
        ("It takes an hour.", "It takes a minute.", "hour", "It takes an hour."),
        ("It takes an hour.", "It takes a minute.", None, "It takes an hour."),
        ("She is at a university.", "At an inn.", "university", "At a university."),
        ("It is an historic day.", "It is a feast.", "historic day", "It is an historic day."),
        ("", "It is a pear.", "orange", "It is an orange."),
        ("", "It is an apple.", "pear", "It is a pear."),
        ("", "It is a day.", "hour", "It is an hour."),
        ("", "He is a liar.", "honest man", "He is an honest man."),
        ("", "It is an inn.", "university", "It is a university."),
        ("", "It is an inch.", "unit", "It is a unit."),
        ("", "It is an alley.", "one-way street", "It is a one-way street."),
        ("", "It is a cat.", "umbrella", "It is an umbrella."),
        ("", "He is a cook.", "FBI agent", "He is an FBI agent."),
        ("", "It is a 5 kg bag.", "8 kg", "It is an 8 kg bag."),
        ("", "It is an 8 kg bag.", "110 kg", "It is a 110 kg bag."),
    ],
)
def test_the_article_is_that_of_the_documents_and_else_as_the_value_is_spoken(
    passage: str, bad: str, told: str | None, good: str
) -> None:
    assert edited("", passage, bad, told)[0] == good


amounts = st.sampled_from(
    "{}|-{}|{}-{}|{} to {}|{} and {}|from {} to {}|between {} and {}|at least {}|under {}|{}.{}"
    "|{},{}|${}|EUR {}|~{}|+{}|{}/{}|{}'{}|{} x {}".split("|")
)
counts = st.integers(2, 99)


@given(amounts, counts, counts, counts, st.sampled_from(["{}", "{} to {}", "{}-{}", "-{}", "${}"]))
def test_an_edit_has_all_of_a_bare_amount_and_nothing_of_the_wrong_one(
    form: str, low: int, high: int, other: int, wrong: str
) -> None:
    told = form.format(low, high)
    bad = f"It is {wrong.format(other, other + 1)}."
    found = smallest_edit("", [], bad, told)
    if found is not None:
        sign = "$" if wrong.startswith("$") and "$" not in told and "EUR" not in told else ""
        assert found.good == f"It is {sign}{told}."


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


def test_a_correction_that_differs_in_several_places_is_taken_as_written() -> None:
    asked = "What colour is the carrot?"
    assert smallest_edit(asked, [], "Usually it is orange.", "Here it is pink.") is None
