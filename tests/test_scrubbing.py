"""Personal data goes, the same value by the same placeholder, and groundedness stays."""

from __future__ import annotations

import sys

import pytest
from failures import draft

from steerable_llm.errors import MissingExtraError
from steerable_llm.logs.answers import Passage
from steerable_llm.pairs.judge import support
from steerable_llm.pairs.pairing import Draft
from steerable_llm.pairs.scrub import Scrubber

ADDRESS, PHONE = "jane.doe@example.com", "+49 170 1234567"


@pytest.fixture(scope="module")
def personal() -> Draft:
    return draft(
        f"Write to {ADDRESS}.",
        "Write to info@example.org.",
        question=f"I am {ADDRESS.upper()}, my phone is {PHONE}. Whom do I ask?",
        passages=[Passage(id=f"letters/{ADDRESS}", text=f"Ask {ADDRESS} (+491701234567).")],
        messages=[{"role": "user", "content": f"Text:\nAsk {ADDRESS}.\n\nI am {PHONE}."}],
        correction=f"Write to {ADDRESS}.",
    )


def test_a_value_is_one_placeholder_in_every_text(personal: Draft) -> None:
    scrubber = Scrubber()
    clean = scrubber.scrub(personal)
    answer = clean.answer
    (passage,) = answer.passages
    assert clean.good == answer.correction
    assert answer.question.startswith("I am <EMAIL_ADDRESS_1>, my phone is <PHONE_NUMBER_1>.")
    assert passage.text == "Ask <EMAIL_ADDRESS_1> (<PHONE_NUMBER_1>)."
    assert passage.id == "letters/<EMAIL_ADDRESS_1>"
    assert "<EMAIL_ADDRESS_1>" in answer.messages[0].content
    assert answer.answer == "Write to <EMAIL_ADDRESS_2>."
    assert scrubber.found == {"EMAIL_ADDRESS": 2, "PHONE_NUMBER": 1}
    everything = f"{answer.model_dump_json()} {clean.good}".casefold()
    assert not [value for value in (ADDRESS, "170", "info@") if value in everything]


def test_calls_and_their_results_are_scrubbed_too() -> None:
    call = {"id": "1", "function": {"name": "mail", "arguments": {"to": [ADDRESS], "copies": 2}}}
    messages = [
        {"role": "user", "content": "Write.", "name": ADDRESS},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": f"Sent to {ADDRESS}."},
    ]
    scrubbed = Scrubber().scrub(draft("Done.", messages=messages)).answer.messages
    assert scrubbed[0].name == "<EMAIL_ADDRESS_1>"
    assert scrubbed[1].tool_calls[0].arguments == {"to": ["<EMAIL_ADDRESS_1>"], "copies": 2}
    assert (scrubbed[2].tool_call_id, scrubbed[2].content) == ("1", "Sent to <EMAIL_ADDRESS_1>.")


def test_a_value_that_only_its_words_give_away_is_replaced_where_these_are_missing_too() -> None:
    told = [Passage(id="p", text="My social security number is 536904399.")]
    bare = "It is 536904399."
    assert Scrubber().scrub(draft(bare)).good == bare
    clean = Scrubber().scrub(draft(bare, passages=told))
    assert clean.answer.passages[0].text == "My social security number is <US_SSN_1>."
    assert clean.good == "It is <US_SSN_1>."


def test_what_was_grounded_stays_grounded_and_what_was_not_stays_so(personal: Draft) -> None:
    def scores(entry: Draft) -> list[float | None]:
        passages = [passage.text for passage in entry.answer.passages]
        return [
            support("Whom?", passages, text) for text in (entry.good or "", entry.answer.answer)
        ]

    before, after = scores(personal), scores(Scrubber().scrub(personal))
    assert [score is not None and score >= 0.5 for score in before] == [True, False]
    assert [score is not None and score >= 0.5 for score in after] == [True, False]


def test_a_scrubber_remembers_values_across_answers() -> None:
    scrubber = Scrubber()
    first = scrubber.scrub(draft(f"Ask {ADDRESS}."))
    second = scrubber.scrub(draft(f"Ask bob@example.com or {ADDRESS}.", name="a2"))
    assert first.good == "Ask <EMAIL_ADDRESS_1>."
    assert second.good == "Ask <EMAIL_ADDRESS_2> or <EMAIL_ADDRESS_1>."


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("My card is 4111 1111 1111 1111.", "CREDIT_CARD"),
        ("Pay to DE89370400440532013000.", "IBAN_CODE"),
        ("From 192.168.0.12.", "IP_ADDRESS"),
        ("My social security number is 536-90-4399.", "US_SSN"),
        ("My social security number is 536904399.", "US_SSN"),
    ],
)
def test_kinds_of_personal_data(text: str, kind: str) -> None:
    scrubber = Scrubber()
    assert f"<{kind}_1>" in (scrubber.scrub(draft(text)).good or "")
    assert scrubber.found == {kind: 1}


def test_everyday_numbers_and_times_stay() -> None:
    entry = draft("It opens at 7:45 on 2026-11-20, costs 1,250.00 euros, order 12345678, 23 days.")
    assert Scrubber().scrub(entry) is entry


def test_a_missing_package_is_named_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'steerable-llm\[scrub\]'"):
        Scrubber()
