"""Pairs come from corrections and from praised answers to the same prompt; none is invented."""

import pytest

from steerable_llm.errors import EmptyLogError, PairError
from steerable_llm.logs.answers import LoggedAnswer, Passage
from steerable_llm.pairs.pair import Edit
from steerable_llm.pairs.pairing import pair_answers


def logged(name: str, answer: str, **fields: object) -> LoggedAnswer:
    given: dict[str, object] = {
        "id": name,
        "question": "When does the shop open?",
        "passages": [Passage(id="hours", text="The shop opens at ten.")],
        "messages": [{"role": "user", "content": "When does the shop open?"}],
        "answer": answer,
    }
    return LoggedAnswer.model_validate({**given, **fields})


def bad(name: str = "bad", answer: str = "At nine.", **fields: object) -> LoggedAnswer:
    return logged(name, answer, verdict="bad", **{"reason": "contradicts", **fields})


def good(name: str = "good", answer: str = "At ten.", **fields: object) -> LoggedAnswer:
    return logged(name, answer, verdict="good", **fields)


def test_a_correction_is_preferred_to_a_praised_answer() -> None:
    found = pair_answers([good(), bad(correction="It opens at ten.")])
    (pair,) = found.pairs
    assert (pair.good, pair.bad) == ("At ten.", "At nine.")
    assert pair.as_written.good == "It opens at ten."
    assert pair.document_ids == ("hours",)
    assert found.by_source == {"correction": 1}


def test_without_a_correction_a_praised_answer_to_the_same_prompt_serves() -> None:
    found = pair_answers([bad(), good()])
    assert [pair.good for pair in found.pairs] == ["At ten."]
    assert found.by_source == {"good answer": 1}


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"passages": [Passage(id="hours", text="The shop opens at noon.")]},
        {"messages": [{"role": "user", "content": "When does the bank open?"}]},
    ],
)
def test_a_praised_answer_over_other_passages_or_to_another_prompt_makes_no_pair(
    elsewhere: dict[str, object],
) -> None:
    found = pair_answers([bad("paired", correction="At ten."), bad(), good(**elsewhere)])
    assert [pair.id for pair in found.pairs] == ["paired"]
    assert sum(found.left_out.values()) == 1


def test_failures_of_retrieval_are_left_out_and_counted() -> None:
    found = pair_answers(
        [bad(correction="At ten."), bad("lost", reason="wrong retrieval", correction="At ten.")]
    )
    assert [pair.id for pair in found.pairs] == ["bad"]
    assert found.left_out == {"wrong retrieval: steering cannot mend it": 1}


def test_a_correction_that_repeats_the_answer_is_left_out() -> None:
    found = pair_answers([bad(correction="At ten."), bad("same", correction=" At nine. ")])
    assert [pair.id for pair in found.pairs] == ["bad"]


@pytest.mark.parametrize("blank", ["", "  \n"])
def test_a_blank_correction_hides_no_better_answer(blank: str) -> None:
    expected = bad("expected", correction=blank, reference="It opens at ten.")
    praised = bad("praised", correction=blank, reference=blank)
    found = pair_answers([good(), expected, praised], own_words=False)
    assert [pair.good for pair in found.pairs] == ["It opens at ten.", "At ten."]
    assert found.by_source == {"reference": 1, "good answer": 1}


def test_a_correction_is_brought_to_the_words_of_the_bad_answer_and_the_pair_says_so() -> None:
    told = bad(answer="The shop opens at nine, as my uncle Bob told me.", correction="Ten!")
    (pair,) = pair_answers([told]).pairs
    assert (pair.good, pair.bad) == ("The shop opens at ten.", "The shop opens at nine.")
    assert pair.source == "log/contradicts/correction/smallest edit"
    assert pair.edit == Edit(wrong="nine", value="ten", good="Ten!", bad=told.answer)
    assert not pair.proposed  # a person said what is right
    (written,) = pair_answers([told], own_words=False).pairs
    assert written == pair.as_written
    assert (written.good, written.bad, written.edit) == ("Ten!", told.answer, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"label_source": "preference pair"},
        {"reason": "rude"},
        {"correction": "The documents do not say."},
        {"answer": "As I recall, it opens at nine."},
        {"answer": "I do not know."},
    ],
)
def test_what_no_value_mends_stays_as_it_was_written(fields: dict[str, object]) -> None:
    (pair,) = pair_answers([bad(**{"correction": "It opens at ten.", **fields})]).pairs
    assert pair.good == fields.get("correction", "It opens at ten.")
    assert (pair.bad, pair.edit) == (fields.get("answer", "At nine."), None)


def test_without_passages_the_prompt_says_how_a_value_is_written() -> None:
    messages = [{"role": "user", "content": "Text: Bob lives in New Lyon.\n\nWhere does he live?"}]
    told = bad(answer="Bob lives in Oslo.", passages=(), messages=messages, correction="new lyon")
    assert pair_answers([told]).pairs[0].good == "Bob lives in New Lyon."


def test_reasons_choose_among_the_bad_answers() -> None:
    rude = bad("rude", "Look it up!", reason="rude", correction="At ten, madam.")
    found = pair_answers([bad(correction="At ten."), rude], reasons=["rude"])
    assert [pair.id for pair in found.pairs] == ["rude"]


def test_nothing_to_pair_is_an_error_that_says_what_is_missing() -> None:
    with pytest.raises(EmptyLogError, match="empty"):
        pair_answers([])
    with pytest.raises(PairError, match="add corrections"):
        pair_answers([bad()])
    with pytest.raises(PairError, match=r"reasons \['rude'\]"):
        pair_answers([bad(correction="At ten.")], reasons=["rude"])
