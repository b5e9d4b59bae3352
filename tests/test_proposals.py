"""What the model proposes for failures without a good answer, and what of it may be accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from failures import HOURS, draft

from steerable_llm.answer.request import GenerationRequest
from steerable_llm.chat.phrases import STRICT_INSTRUCTIONS
from steerable_llm.cli.pairs import answerer_of
from steerable_llm.errors import InvalidInputError
from steerable_llm.logs.answers import Passage
from steerable_llm.pairs.judge import Claim
from steerable_llm.pairs.pair import Edit
from steerable_llm.pairs.pairing import Draft
from steerable_llm.pairs.proposals import (
    PROPOSERS,
    REFUSAL,
    Ask,
    Proposal,
    ProposalSettings,
    ProposedPair,
    acceptable,
    propose,
    stronger,
    usual_refusal,
)
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.steering import Steering

MISSING = draft(None, source="no correction and no good answer to the same prompt")
NEW = 8
STRICT, CAD, SENTENCE = "strict prompt", "context-aware decoding", "extracted sentence"
EDIT = "smallest edit"


def settings(**given: Any) -> ProposalSettings:
    return ProposalSettings(max_new_tokens=NEW, **given)


def texts(proposed: ProposedPair) -> dict[str, str]:
    return {proposal.kind: proposal.text for proposal in proposed.proposals}


def test_each_proposer_answers_the_failures_own_prompt(tiny_llm: Any, tiny_vector: Any) -> None:
    steering = tiny_vector.steer(0.6)
    given = settings(steering=steering)
    unsure = draft(None, reason="not in documents")
    (found,) = propose(answerer_of(tiny_llm), [unsure], settings=given)
    prompt = [{**message} for message in unsure.answer.messages]
    strict = [{"role": "system", "content": STRICT_INSTRUCTIONS["faithfulness"]}, *prompt]
    asked = {
        "strict prompt": GenerationRequest(strict, Steering.none(), max_new_tokens=NEW),
        "context-aware decoding": GenerationRequest(
            prompt, Steering.none(), max_new_tokens=NEW, contrast=Contrast("cad", 1.0)
        ),
        "higher strength": GenerationRequest(prompt, steering, max_new_tokens=NEW),
    }
    answers = tiny_llm.generate_batch(list(asked.values()))
    expected = {kind: a.text.strip() for kind, a in zip(asked, answers, strict=True)}
    assert len(set(expected.values())) == 3  # they differ, so the test can tell them apart
    fixed = {EDIT: "It opens at ten.", SENTENCE: HOURS, "refusal": REFUSAL}
    assert texts(found) == {**expected, **fixed}
    assert (found.id, found.bad) == (unsure.answer.id, unsure.answer.answer)
    assert found.document_ids == ("hours",)


def kinds(found: list[ProposedPair]) -> set[str]:
    return set(texts(found[0]))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"reason": "contradicts"}, {EDIT, STRICT, CAD, SENTENCE}),
        ({"reason": "should have refused"}, {STRICT, CAD, "refusal"}),
        ({"reason": "rude"}, {STRICT}),
        ({"reason": "not in documents", "passages": []}, {STRICT}),
    ],
)
def test_only_what_can_mend_the_failure_is_proposed(
    tiny_llm: Any, fields: dict[str, Any], expected: set[str]
) -> None:
    assert (
        kinds(propose(answerer_of(tiny_llm), [draft(None, **fields)], settings=settings()))
        == expected
    )


def test_manners_have_an_instruction_of_their_own() -> None:
    request = PROPOSERS["strict prompt"](draft(None, reason="rude"), settings())
    assert isinstance(request, Ask)
    assert request.messages[0]["content"] == STRICT_INSTRUCTIONS["civility"]


def test_the_sentence_nearest_to_the_question_is_extracted() -> None:
    passages = [
        Passage(id="1", text="The bank is closed. Our shop opens at ten! Bring cash."),
        Passage(id="2", text="Parking is free."),
    ]
    extract = PROPOSERS["extracted sentence"]
    assert extract(draft(None, passages=passages), settings()) == "Our shop opens at ten!"
    nothing = draft(None, passages=[Passage(id="2", text="Parking is free.")])
    assert extract(nothing, settings()) is None


def test_what_repeats_the_failure_or_another_proposal_is_left_out(tiny_llm: Any) -> None:
    repeated = draft(None, HOURS.upper())
    assert "extracted sentence" not in kinds(
        propose(answerer_of(tiny_llm), [repeated], settings=settings())
    )


def test_a_prompt_that_does_not_fit_is_not_asked(tiny_llm: Any) -> None:
    long = draft(None, messages=[{"role": "user", "content": "Text:\n" + "word " * 300}])
    (found,) = propose(answerer_of(tiny_llm), [long], settings=settings())
    assert set(texts(found)) == {EDIT, SENTENCE}


def test_the_judge_orders_proposals_and_a_refusal_comes_first_only_where_it_is_due(
    tiny_llm: Any,
) -> None:
    def judge(claims: Sequence[Claim]) -> list[float]:
        return [0.1 * place for place in range(len(claims))]

    unsure, should = (
        draft(None, name=reason, reason=reason)
        for reason in ("not in documents", "should have refused")
    )
    first, second = propose(
        answerer_of(tiny_llm), [unsure, should], judge=judge, settings=settings()
    )
    assert [option.kind for option in first.proposals] == [EDIT, CAD, STRICT, SENTENCE, "refusal"]
    assert [option.score for option in first.proposals] == [None, 0.1, 0.0, None, 0.2]
    assert [option.kind for option in second.proposals] == ["refusal", CAD, STRICT]


def test_an_edit_with_the_value_of_the_passages_is_proposed_with_both_its_answers() -> None:
    chatty = draft(None, "The shop opens at nine, as on every day of the year.")
    (found,) = propose(lambda asks: [None] * len(asks), [chatty])
    pair = found.pair()
    assert (pair.good, pair.bad) == ("The shop opens at ten.", "The shop opens at nine.")
    assert pair.proposed
    assert pair.source == "log/contradicts/proposal/smallest edit"
    assert pair.edit == Edit(wrong="nine", value="ten", bad=chatty.answer.answer)
    assert pair.as_written == pair  # nobody wrote another one
    assert (
        acceptable(chatty, ProposedPair(**{**dict(found), "proposals": found.proposals[:1]}), 0.0)
        is None
    )


def test_an_extracted_sentence_is_grounded_whatever_it_says_so_only_a_person_accepts_it() -> None:
    sentence = Proposal(kind=SENTENCE, text=HOURS)
    assert acceptable(MISSING, proposed(sentence), 0.0) is None


def proposed(*options: Proposal) -> ProposedPair:
    entry = MISSING.answer
    return ProposedPair(
        id=entry.id, messages=entry.messages, bad=entry.answer, source="log/x", proposals=options
    )


def test_only_what_the_judge_finds_grounded_is_acceptable() -> None:
    good = Proposal(kind="strict prompt", text="At ten.", score=0.5)
    taken = acceptable(MISSING, proposed(good), 0.5)
    assert taken is not None
    assert (taken.good, taken.source) == ("At ten.", "proposal/strict prompt")
    assert taken.pair().proposed
    assert acceptable(MISSING, proposed(good), 0.6) is None
    untold = Proposal(kind="strict prompt", text="Gladly.", score=None)
    assert acceptable(MISSING, proposed(untold), 0.0) is None


def test_a_bare_refusal_is_acceptable_only_where_one_was_due() -> None:
    refusal = Proposal(kind="refusal", text="I do not know.")
    hedged = Proposal(kind="strict prompt", text="I do not know, but at noon.", score=0.0)
    due = draft(None, reason="should have refused")
    assert acceptable(due, proposed(refusal), 0.5) is not None
    assert acceptable(due, proposed(hedged), 0.5) is None
    assert acceptable(MISSING, proposed(refusal), 0.5) is None


def test_the_log_refuses_in_its_own_words() -> None:
    words: list[Draft] = [draft("The text does not say."), draft("At ten."), MISSING]
    assert usual_refusal([draft("I don't know."), *words, *words]) == "The text does not say."
    assert usual_refusal([draft("At ten.")]) is None


def test_a_vector_proposes_more_strongly_than_it_is_calibrated(tiny_vector: Any) -> None:
    calibrated = replace(tiny_vector, calibration=Calibration(strength=-0.2))
    (term,) = stronger(calibrated, 2.0).terms
    assert term.strength == pytest.approx(-0.4)
    with pytest.raises(InvalidInputError, match="not calibrated"):
        stronger(tiny_vector)
    with pytest.raises(InvalidInputError, match="above 0"):
        stronger(calibrated, 0)
