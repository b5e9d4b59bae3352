"""Calls in pieces: put together they are the calls of the whole answer, wherever it is cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.utils.json import parse_partial_json
from scripted import scripted_llm
from test_tool_calling import MULTIPLY, WRITTEN

from steerable_llm.answer.calls import CallStream
from steerable_llm.chat.tool_formats.table import FORMATS
from steerable_llm.chat.tools import CallPiece

# Two calls each, the first with all that a reader of brackets could stumble over.
F = r'{"a": "x\"}]\\", "b": [1, {"c": 2}]}'
TWO = {
    "hermes": f'So.\n<tool_call>\n{{"name": "f", "arguments": {F}}}\n</tool_call>\n'
    '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
    "llama3": f'{{"name": "f", "parameters": {F}}}; {{"name": "g", "parameters": {{}}}}',
    "mistral": f'So.[TOOL_CALLS] [{{"name": "f", "arguments": {F}, "id": "x"}}, '
    '{"name": "g", "arguments": {}}]',
    "mistral-args": f"So.[TOOL_CALLS]f[ARGS]{F}[TOOL_CALLS]g[CALL_ID]x[ARGS]{{}}",
}


def put_together(pieces: list[CallPiece]) -> list[list[str | None]]:
    """Name, id and arguments of each call, as who reads a stream puts them together."""
    calls: dict[int, list[str | None]] = {}
    for piece in pieces:
        call = calls.setdefault(piece.index, [None, None, ""])
        call[0], call[1] = call[0] or piece.name, call[1] or piece.id
        call[2] = f"{call[2]}{piece.arguments}"
    assert sorted(calls) == list(range(len(calls)))
    return [calls[index] for index in sorted(calls)]


def fixed(text: str | None) -> object:
    """The arguments as LangChain reads them, which mends what is cut off."""
    try:
        return parse_partial_json(text) if text else {}
    except ValueError:
        return None


@given(st.data())
def test_the_pieces_are_the_calls_however_the_text_comes_and_wherever_it_ends(
    data: st.DataObject,
) -> None:
    family = data.draw(st.sampled_from(sorted(TWO)))
    raw = TWO[family][: data.draw(st.integers(0, len(TWO[family])))]
    most = data.draw(st.sampled_from([None, 1]))
    stream = CallStream(FORMATS[family], lambda number, name: f"{number}{name}", most)
    ends = data.draw(st.lists(st.integers(0, len(raw))).map(sorted))
    pieces = [piece for end in [*ends, len(raw)] for piece in stream.push(raw[:end])]
    parsed = FORMATS[family].parse(raw)
    calls = put_together([*pieces, *stream.finish(parsed)])
    read = [(name, id_, fixed(text)) for name, id_, text in calls]
    assert [call for call in read if isinstance(call[2], dict)] == [
        (name, f"{number}{name}", arguments)
        for number, (name, arguments) in enumerate(parsed.calls[:most])
    ]
    broken = [name for name, _, arguments in read if not isinstance(arguments, dict)]
    if most is None:
        assert broken == [call.name for call in parsed.invalid]


@pytest.mark.parametrize("family", sorted(TWO))
def test_two_calls_in_one_answer_are_read_as_two(family: str) -> None:
    parsed = FORMATS[family].parse(TWO[family])
    assert parsed.calls == (("f", json.loads(F)), ("g", {}))
    assert parsed.invalid == ()


def test_arguments_are_told_as_they_come() -> None:
    for family, said in WRITTEN.items():
        chunks = list(scripted_llm({"Hi": said}, family).stream("Hi", tools=[MULTIPLY]))
        pieces = [piece for chunk in chunks for piece in chunk.calls]
        assert all(len({p.index for p in chunk.calls}) == len(chunk.calls) for chunk in chunks)
        final = chunks[-1].final
        assert final is not None
        (call,) = final.tool_calls
        assert (pieces[0].name, pieces[0].id) == (call.name, call.id)
        assert len(pieces) > 3
        assert [(piece.name, piece.id) for piece in pieces[1:]] == [(None, None)] * len(pieces[1:])
        assert "".join(piece.arguments for piece in pieces) == '{"a": 3, "b": 4}'


def test_only_the_first_call_is_told_where_one_is_wanted() -> None:
    stream = CallStream(FORMATS["hermes"], lambda number, name: f"{number}{name}", 1)
    pieces = stream.push(TWO["hermes"])
    assert [piece.name for piece in pieces if piece.name] == ["f"]
    assert stream.finish(FORMATS["hermes"].parse(TWO["hermes"])) == []
