"""A log of answers survives the trip to disk, and a broken one says where it is broken."""

from pathlib import Path

import pytest

from steerable_llm.errors import EmptyLogError, InvalidInputError
from steerable_llm.logs.answers import LoggedAnswer, Passage, read_answers, write_answers


def logged(number: int = 1, **fields: object) -> LoggedAnswer:
    given: dict[str, object] = {
        "id": f"a{number}",
        "question": "When does the shop open?",
        "messages": [{"role": "user", "content": "When does the shop open?"}],
        "answer": "At nine.",
    }
    return LoggedAnswer.model_validate({**given, **fields})


def test_a_log_comes_back_as_it_was_written(tmp_path: Path) -> None:
    answers = [
        logged(1, verdict="bad", reason="contradicts", correction="At ten: été."),
        logged(2, passages=[Passage(id="hours", text="It opens at ten.")], verdict="good"),
    ]
    assert read_answers(write_answers(tmp_path / "log.jsonl", answers)) == answers


def test_a_missing_log_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"nowhere\.jsonl"):
        read_answers(tmp_path / "nowhere.jsonl")


def test_an_empty_log_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("\n\n")
    with pytest.raises(EmptyLogError, match="log some answers first"):
        read_answers(tmp_path / "log.jsonl")


@pytest.mark.parametrize("line", ["{", '{"id": "a"}', '{"id": "a", "surprise": 1}', "[]"])
def test_a_malformed_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    path = write_answers(tmp_path / "log.jsonl", [logged()])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InvalidInputError, match="line 2"):
        read_answers(path)
