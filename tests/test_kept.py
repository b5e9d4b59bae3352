"""Right answers become pairs, too: of prompts that a vector with gates is to leave alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Steerable, steerable
from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.chat.phrases import abstains
from steerable_llm.errors import PairError
from steerable_llm.logs.answers import LoggedAnswer, Passage, write_answers
from steerable_llm.pairs.kept import CORRECTED, PRAISED, kept_pairs
from steerable_llm.pairs.pair import Pairs

__all__ = ["steerable"]

REFUSAL = "I cannot find this in the documents."
HOURS = "Staff come at eight.\n\nThe shop opens at ten. It closes in Washington, D.C. at noon."


def logged(name: str, answer: str, **fields: object) -> LoggedAnswer:
    given: dict[str, object] = {
        "id": name,
        "question": "When does the shop open?",
        "passages": [Passage(id="hours", text=HOURS)],
        "messages": [{"role": "user", "content": "When does the shop open?"}],
        "answer": answer,
        "step": "answer",
    }
    return LoggedAnswer.model_validate({**given, **fields})


def test_a_praised_answer_is_kept_up_to_its_first_sentence() -> None:
    entry = logged("a", "At ten. Come early, since the queue is long.", verdict="good")
    (pair,) = kept_pairs([entry], [REFUSAL])
    assert (pair.good, pair.bad, pair.source) == ("At ten.", REFUSAL, PRAISED)
    assert (pair.id, pair.messages, pair.document_ids) == ("kept-a", entry.messages, ("hours",))


@pytest.mark.parametrize(
    ("answer", "first"),
    [
        ("\n At ten. Come early.", "At ten."),
        ("1. It opens at ten.\n2. It closes at one.", "1. It opens at ten."),
        ("It is 5.5 km away", "It is 5.5 km away"),
    ],
)
def test_the_first_sentence_says_something(answer: str, first: str) -> None:
    (pair,) = kept_pairs([logged("a", answer, verdict="good")], [REFUSAL])
    assert pair.good == first


def test_what_the_model_missed_is_kept_with_the_sentence_of_its_documents() -> None:
    entry = logged("a", "At nine.", verdict="bad", correction=" The shop opens at ten. ")
    (pair,) = kept_pairs([entry], [REFUSAL])
    assert (pair.good, pair.bad, pair.source) == ("The shop opens at ten.", REFUSAL, CORRECTED)


def test_the_documents_may_stand_in_the_prompt() -> None:
    prompt = "Answer from this:\nThe shop opens at ten.\n\nQuestion: When does it open?"
    entry = logged("a", "At nine.", verdict="bad", correction="The shop opens at ten.",
                   passages=[], messages=[{"role": "user", "content": prompt}])  # fmt: skip
    assert [pair.good for pair in kept_pairs([entry], [REFUSAL])] == ["The shop opens at ten."]


@pytest.mark.parametrize(
    "correction",
    ["ten", "Washington, D.C.", "opens at ten.", "The shop opens at noon.", "", None],
)
def test_other_corrections_say_nothing_of_what_is_to_be_left_alone(correction: str | None) -> None:
    entries = [
        logged("a", "At nine.", verdict="bad", correction=correction),
        logged("b", "At ten.", verdict="good"),
    ]
    assert [pair.id for pair in kept_pairs(entries, [REFUSAL])] == ["kept-b"]


@pytest.mark.parametrize(
    "answer",
    [
        REFUSAL,
        "The price is not explicitly mentioned in the text.",
        "There is no information about prices.",
        "we have moved",
        " ",
        "-",
    ],
)
def test_a_praised_refusal_is_not_set_against_a_refusal(answer: str) -> None:
    entries = [logged("a", answer, verdict="good"), logged("b", "At ten.", verdict="good")]
    found = kept_pairs(entries, [REFUSAL, "We have moved."])
    assert [pair.id for pair in found] == ["kept-b"]


def test_what_nobody_judged_or_another_step_asked_is_left_out() -> None:
    entries = [
        logged("a", "At ten."),
        logged("b", "At ten.", verdict="good", step="reply"),
        logged("c", "It opens at ten.", verdict="good"),
        logged("d", "At nine.", correction="The shop opens at ten."),
    ]
    assert [pair.id for pair in kept_pairs(entries, [REFUSAL], step="answer")] == ["kept-c"]
    assert [pair.id for pair in kept_pairs(entries, [REFUSAL])] == ["kept-b", "kept-c"]


@given(
    st.lists(st.sampled_from(["At ten.", REFUSAL, "It opens at ten. Really."]), min_size=1),
    st.lists(st.sampled_from(["No.", "I do not know.", REFUSAL]), min_size=1, unique=True),
)
def test_texts_are_taken_in_turn_and_no_pair_refuses(said: list[str], against: list[str]) -> None:
    entries = [
        logged(str(n), text, verdict="good", messages=[{"role": "user", "content": f"When, {n}?"}])
        for n, text in enumerate(said)
    ]
    right = [str(n) for n, text in enumerate(said) if text != REFUSAL]
    if not right:
        with pytest.raises(PairError, match="no praised answer"):
            kept_pairs(entries, against)
        return
    found = kept_pairs(entries, against)
    assert [pair.id for pair in found] == [f"kept-{name}" for name in right]
    assert not any(abstains(pair.good) for pair in found)
    assert [pair.bad for pair in found] == [against[n % len(against)] for n in range(len(found))]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "told",
    [
        {"correction": REFUSAL},
        {"correction": "I do not know."},
        {"correction": "We have moved."},
        {"reason": "should have refused"},
    ],
)
def test_a_prompt_where_the_refusal_is_right_is_not_to_be_left_alone(
    told: dict[str, str], first: bool
) -> None:
    refuse = logged("a", "At nine.", verdict="bad", **told)
    praised = [logged("b", "At ten.", verdict="good"), logged("c", "Ten.", verdict="good")]
    other = [{"role": "user", "content": "When does it close?"}]
    entries = [refuse, *praised] if first else [*praised, refuse]
    entries.append(logged("d", "At noon.", verdict="good", messages=other))
    found = kept_pairs(entries, [REFUSAL, "We have moved."])
    assert [(pair.id, pair.bad) for pair in found] == [("kept-d", REFUSAL)]


def test_an_answer_makes_one_pair_and_none_if_it_was_called_bad_too() -> None:
    entries = [
        logged("a", "At ten. Come early.", verdict="good"),
        logged("b", "At  ten.", verdict="good"),
        logged("c", "The shop opens at ten.", verdict="good"),
        logged("d", "At nine.", verdict="bad", correction="The shop opens at ten."),
        logged("e", "At one.", verdict="good"),
        logged("f", "at one.", verdict="bad"),
        logged("g", "At ten. It is free.", verdict="bad"),
    ]
    assert [pair.id for pair in kept_pairs(entries, [REFUSAL])] == ["kept-a", "kept-c"]


@pytest.mark.parametrize("against", [[], [""], [REFUSAL, " "]])
def test_it_has_to_be_said_what_must_not_be_said(against: list[str]) -> None:
    with pytest.raises(PairError, match="give the refusal"):
        kept_pairs([logged("a", "At ten.", verdict="good")], against)


def test_a_log_without_right_answers_says_what_to_do() -> None:
    with pytest.raises(PairError, match=r"no praised answer at step 'answer'.*verdict good"):
        kept_pairs([logged("a", "At nine.", verdict="bad")], [REFUSAL], step="answer")


def test_the_command_reads_a_file_and_a_database_and_build_takes_both_files(
    steerable: Steerable, tmp_path: Path
) -> None:
    log, database = tmp_path / "log.jsonl", tmp_path / "answers.db"
    entries = [
        logged("a", "At ten.", verdict="good"),
        logged("b", "At one.", verdict="bad", reason="should have refused", correction=REFUSAL,
               messages=[{"role": "user", "content": "Who owns the shop?"}]),
        logged("c", "At five.", verdict="bad", correction="The shop opens at ten."),
        logged("d", "At six.", verdict="good", step="reply"),
    ]  # fmt: skip
    write_answers(log, entries)
    steerable("log", "import", log, "--from", "answers", "--log", database)
    kept, also = tmp_path / "kept.jsonl", tmp_path / "also.jsonl"
    against = ("--against", REFUSAL, "--step", "answer")
    said = steerable("pairs", "keep", log, *against, "--out", kept)
    assert "2 pairs (1 by good answer, 1 by correction)" in said
    steerable("pairs", "keep", database, *against, "--out", also)
    pairs = Pairs.from_jsonl(kept)
    assert Pairs.from_jsonl(also) == pairs == kept_pairs(entries, [REFUSAL], step="answer")

    refused = tmp_path / "refused.jsonl"
    steerable("pairs", log, "--reason", "should have refused", "--max-refusals", 1, "-o", refused)
    vector = tmp_path / "v.safetensors"
    gated = ("--method", "bipo", "--set", "gated=true", "--set", "steps=2")
    sources = ("--set", f'keep_sources=["{PRAISED}", "{CORRECTED}"]')
    said = steerable("build", refused, kept, *gated, *sources, "--out", vector)
    assert "3 pairs" in said
