"""Histories of other models: what is read, what is left out with a word, and what is refused."""

import warnings
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from llama_index.core.base.llms.types import (
    CacheControl,
    CachePoint,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    TextBlock,
    ThinkingBlock,
)
from llama_index.core.llms import ChatMessage

from steerable_llm.adapters.langchain.messages import read_messages as read_langchain
from steerable_llm.adapters.llama_index.messages import read_messages as read_llama_index
from steerable_llm.chat.message import as_messages
from steerable_llm.errors import InvalidInputError

TEXT = {"type": "text", "text": "It opens at nine."}
FOREIGN: list[dict[str, Any]] = [
    {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "shop"}},
    {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [{"url": "https://x"}]},
    {"type": "server_tool_call", "id": "s2", "name": "run", "args": {}},
    {"type": "server_tool_result", "tool_call_id": "s2", "status": "success"},
    {"type": "code_interpreter_call", "id": "c1", "code": "1 + 1"},
    {"type": "mcp_call", "id": "m1"},
    {"type": "non_standard", "value": {"type": "compaction"}},
    {"cachePoint": {"type": "default"}},
]


def kind_of(block: dict[str, Any]) -> str:
    return str(block.get("type", "cachePoint"))


@pytest.mark.parametrize("block", FOREIGN, ids=kind_of)
def test_a_block_of_another_models_answer_is_left_out_and_told(block: dict[str, Any]) -> None:
    history = [HumanMessage("When?"), AIMessage([block, TEXT]), HumanMessage("And in Lyon?")]
    with pytest.warns(UserWarning, match=rf"{kind_of(block)} \(1\)"):
        read = read_langchain(history)
    assert [message.content for message in read] == ["When?", TEXT["text"], "And in Lyon?"]


def test_one_warning_tells_of_a_whole_history_and_none_of_a_plain_one() -> None:
    with pytest.warns(UserWarning, match="only other models read them") as told:
        read_langchain([HumanMessage("?"), AIMessage([*FOREIGN]), AIMessage([*FOREIGN])])
    assert len(told) == 1
    assert "mcp_call (2)" in str(told[0].message)
    thought = AIMessage([{"type": "thinking", "thinking": "hm"}, TEXT])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_langchain([HumanMessage("?"), thought])


@pytest.mark.parametrize("block", [{"cachePoint": {"type": "default"}}, {"type": "cache_point"}])
@pytest.mark.parametrize("kind", [HumanMessage, SystemMessage])
def test_cache_points_are_left_out_of_any_message(kind: Any, block: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="left out of the prompt"):
        [message] = read_langchain([kind([TEXT, block])])
    assert message.content == TEXT["text"]


def test_a_refusal_is_what_was_said() -> None:
    block = {"type": "refusal", "refusal": "I will not."}
    refusals = [AIMessage([block]), AIMessage("", additional_kwargs={"refusal": "I will not."})]
    told = [*read_langchain(refusals), *as_messages([{"role": "assistant", "content": [block]}])]
    assert [message.content for message in told] == ["I will not."] * 3


@pytest.mark.parametrize("kind", [HumanMessage, AIMessage])
@pytest.mark.parametrize("block", ["audio", "video", "file", "input_audio"])
def test_what_a_reader_would_miss_is_refused(kind: Any, block: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_langchain([kind([TEXT, {"type": block, "base64": "AAAA", "mime_type": "a/b"}])])


def test_an_openai_clients_message_with_all_its_empty_fields_is_read() -> None:
    dumped: dict[str, Any] = {
        "role": "assistant", "content": "At nine.", "refusal": None, "annotations": [],
        "audio": None, "function_call": None, "tool_calls": None,
    }  # fmt: skip
    assert as_messages([dumped]) == as_messages([{"role": "assistant", "content": "At nine."}])
    with pytest.raises(InvalidInputError, match="no 'annotations'"):
        as_messages([{**dumped, "annotations": [{"type": "url_citation"}]}])


def test_llama_indexs_blocks_for_other_models() -> None:
    cited = CitationBlock(cited_content="Nine.", source="s", title="t", additional_location_info={})
    hours = CitableBlock(title="Hours", source="s", content="Open at nine.")
    point = CachePoint(cache_control=CacheControl(type="ephemeral"))
    history = [
        ChatMessage([hours, TextBlock(text="When?")]),
        ChatMessage(
            [ThinkingBlock(content="hm"), TextBlock(text="Nine."), cited], role="assistant"
        ),
        ChatMessage([TextBlock(text="And?"), point]),
    ]
    with pytest.warns(UserWarning, match=r"cache \(1\), citation \(1\)") as told:
        read = read_llama_index(history)
    assert len(told) == 1
    assert [message.content for message in read] == ["Open at nine.\nWhen?", "Nine.", "And?"]
    document = DocumentBlock(data=b"AAAA", document_mimetype="application/pdf")
    inside = ChatMessage([CitableBlock(title="t", source="s", content=[document])])
    with pytest.raises(InvalidInputError, match="DocumentBlock"):
        read_llama_index([inside])
