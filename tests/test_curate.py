"""From failures to pairs: what is kept, what waits, what is set aside, and the report of it all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from failures import draft, failure

from steerable_llm.errors import InvalidInputError, PairError
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.answers import Passage
from steerable_llm.pairs.curate import CurationSettings, curate
from steerable_llm.pairs.filters import FilterSettings
from steerable_llm.pairs.judge import judge_named
from steerable_llm.pairs.pairing import NO_GOOD_ANSWER, Draft, draft_pairs
from steerable_llm.pairs.proposals import Proposal, ProposedPair
from steerable_llm.pairs.scrub import Scrubber

LEXICAL = judge_named("lexical")
UNANSWERED = "What is the fee?"


def failures() -> list[Draft]:
    entries = [
        failure("kept", correction="It opens at ten."),
        failure("made up", correction="It opens at noon in Rome.", question="And on Sunday?"),
        failure("open", question=UNANSWERED),
        failure("lost", reason="wrong retrieval", correction="At ten."),
        failure("same", correction=" It opens at nine. "),
    ]
    return list(draft_pairs((entry, None) for entry in entries))


def proposing(text: str, score: float | None) -> CurationSettings:
    def propose(missing: Sequence[Draft]) -> list[ProposedPair]:
        return [
            ProposedPair(
                id=entry.answer.id,
                messages=entry.answer.messages,
                bad=entry.answer.answer,
                source="log/contradicts",
                proposals=(Proposal(kind="strict prompt", text=text, score=score),),
            )
            for entry in missing
        ]

    return CurationSettings(FilterSettings(judge=LEXICAL), propose=propose)


def test_every_failure_is_accounted_for() -> None:
    found = curate(failures(), CurationSettings(FilterSettings(judge=LEXICAL)))
    assert [pair.id for pair in found.pairs] == ["kept"]
    assert [answer.id for answer in found.wrong_retrieval] == ["lost"]
    report = found.report
    assert [entry.id for entry in report.wrong_retrieval] == ["lost"]
    assert [entry.id for entry in report.examples] == ["made up"]
    assert report.left_out == {
        "no correction and no good answer to the same prompt": 1,
        "the correction repeats the bad answer": 1,
    }
    dropped = sum(sum(count.dropped.values()) for count in report.filters)
    set_aside = len(report.wrong_retrieval) + sum(report.left_out.values()) + report.proposed
    assert report.pairs + dropped + set_aside == report.failures == 5


def test_proposals_wait_for_a_person() -> None:
    found = curate(failures(), proposing("At ten.", 1.0))
    assert [pair.id for pair in found.pairs] == ["kept"]
    assert [entry.id for entry in found.proposed] == ["open"]
    assert found.report.left_out == {"the correction repeats the bad answer": 1}
    assert "1 failures have proposals that wait for a review" in found.report.lines()


def accepting(settings: CurationSettings) -> CurationSettings:
    return replace(settings, accept_proposals=True)


def test_accepted_proposals_are_marked_in_the_pair_and_counted() -> None:
    found = curate(failures(), accepting(proposing("At ten.", 1.0)))
    assert [(pair.id, pair.proposed) for pair in found.pairs] == [("kept", False), ("open", True)]
    assert found.pairs[1].source == "log/contradicts/proposal/strict prompt"
    assert (found.proposed, found.report.proposed_pairs) == ((), 1)
    assert "2 pairs**, 1 of them proposed" in found.report.page().to_markdown()


def test_what_the_judge_does_not_find_grounded_is_not_accepted() -> None:
    found = curate(failures(), accepting(proposing("At noon.", 0.0)))
    assert [pair.id for pair in found.pairs] == ["kept"]
    assert [entry.id for entry in found.proposed] == ["open"]


def test_accepted_proposals_pass_the_filters_like_all_others() -> None:
    twice = [draft(), *failures()[2:3]]
    found = curate(twice, accepting(proposing("At noon in Rome.", 0.9)))
    assert [pair.id for pair in found.pairs] == ["a1"]
    assert found.report.accepted == 1
    assert [entry.id for entry in found.report.examples] == ["open"]


def test_personal_data_is_gone_before_anything_is_kept_or_reported() -> None:
    address = "jane@example.com"
    shown = [Passage(id="p", text=f"Ask {address}.")]
    entries = [
        draft(f"Ask {address}.", "Call nobody.", passages=shown),
        draft(f"Ask {address} in Rome.", "Ask me.", "out", passages=shown, question=address),
    ]
    found = curate(entries, CurationSettings(FilterSettings(judge=LEXICAL), scrubber=Scrubber()))
    assert [pair.good for pair in found.pairs] == ["Ask <EMAIL_ADDRESS_1>."]
    assert found.report.scrubbed == {"EMAIL_ADDRESS": 1}
    assert address not in json.dumps(found.report.to_dict()) + found.report.page().to_markdown()


def test_answers_that_differ_only_in_how_a_number_is_written_are_no_pair_once_scrubbed() -> None:
    entry = draft("Call +49 170 1234567.", "Call +491701234567.")
    found = curate([entry, draft(name="a2")], CurationSettings(scrubber=Scrubber()))
    assert [pair.id for pair in found.pairs] == ["a2"]
    assert found.report.left_out == {"without personal data both answers are the same": 1}


def test_an_id_used_twice_never_takes_the_proposal_for_another_prompt() -> None:
    other = draft(
        None, name="open", source=NO_GOOD_ANSWER, messages=[{"role": "user", "content": "Who?"}]
    )
    settings = accepting(proposing("At ten.", 1.0))
    assert settings.propose is not None
    only_other = replace(settings, propose=lambda missing: settings.propose(missing[1:]))
    found = curate([failures()[2], other], only_other)
    assert [pair.messages for pair in found.pairs] == [other.answer.messages]


def test_a_log_and_its_answers_in_memory_give_the_same(tmp_path: Path) -> None:
    entries = [failure("b", correction="It opens at ten."), failure("c", question="Why?")]
    good = failure("g", "At ten.", verdict="good", reason=None, question="Why?")
    with AnswerLog(f"sqlite:///{tmp_path / 'a.db'}") as log:
        log.add([*entries, good])
        from_log = list(log.drafts())
    praised = good.answer
    assert from_log == list(draft_pairs([(entries[0], praised), (entries[1], praised)]))


def test_a_log_without_failures_is_an_error() -> None:
    with pytest.raises(PairError, match="no bad answers"):
        curate([], CurationSettings())


def test_the_report_is_saved_as_a_page_or_as_data(tmp_path: Path) -> None:
    report = curate(failures(), CurationSettings(FilterSettings(judge=LEXICAL))).report
    page = report.save(tmp_path / "r.md").read_text()
    assert "## Wrong retrieval" in page
    assert "### Dropped: good grounded, bad not" in page
    assert "| made up | the good answer is not in the passages | And on Sunday? |" in page
    data = json.loads(report.save(tmp_path / "r.json").read_text())
    assert data["filters"][1]["dropped"] == {"the good answer is not in the passages": 1}
    with pytest.raises(InvalidInputError, match=r"'r.txt'; use one of .md, .html, .json"):
        report.save(tmp_path / "r.txt")


def test_what_answers_say_cannot_break_the_page() -> None:
    odd = draft("a|b\n# c <b>", "It opens at nine.", "x|y")
    page = (
        curate([odd], CurationSettings(FilterSettings(judge=LEXICAL))).report.page().to_markdown()
    )
    assert "a\\|b # c \\<b\\>" in page


def test_the_terminal_hears_how_many_pairs_are_missing_to_fifty() -> None:
    lines = curate(failures(), CurationSettings()).report.lines()
    assert lines[0] == "2 pairs (2 by correction)"
    assert lines[-1] == "48 more pairs would make 50, a good start"


def test_the_terminal_hears_of_faults_of_several_kinds() -> None:
    mixed = [
        failure("a", correction="It opens at ten."),
        failure("b", correction="It opens at ten.", question="Tell me kindly?", reason="rude"),
    ]
    found = curate(draft_pairs((entry, None) for entry in mixed), CurationSettings())
    told = "1 contradicts, 1 rude: give different faults a vector each (--reason)"
    assert told in found.report.lines()
    assert not any(
        "--reason" in line for line in curate(failures(), CurationSettings()).report.lines()
    )
