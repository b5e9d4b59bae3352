"""A trace is read call by call, and a wrong line is named."""

from pathlib import Path

import pytest

from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.check import TracedCall, read_trace


def test_calls_are_read_in_order(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(
        '{"step": "answer", "messages": "Hi"}\n\n'
        '{"node": "n", "tags": ["a"], "messages": [{"role": "user", "content": "x"}]}\n{}\n'
    )
    first, second, third = read_trace(file)
    assert (first.step, first.messages) == ("answer", "Hi")
    assert (second.node, second.tags) == ("n", ("a",))
    assert third == TracedCall()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"stepp": "answer"}', "line 1: stepp: 'stepp' is not a known key; did you mean 'step'"),
        ("{}\n{", "line 2"),
        ('{"messages": [{"role": "user"}]}', "message 0"),
        ("\n", "is empty"),
    ],
)
def test_a_wrong_trace_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(text)
    with pytest.raises(InvalidInputError) as caught:
        read_trace(file)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="there is no trace"):
        read_trace(tmp_path / "none.jsonl")
