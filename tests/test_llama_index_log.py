"""The LlamaIndex handler logs whole runs of real query engines and never gets in their way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockLLM
from llama_index.core.prompts.default_prompts import DEFAULT_TEXT_QA_PROMPT
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import CompactAndRefine
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index_instrumentation import get_dispatcher

from steerable_llm.adapters.llama_index import record_answers
from steerable_llm.adapters.llama_index.log import AnswerLogEventHandler
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.chat.message import ToolCall
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.answers import LoggedAnswer

PAGES = {
    "hours.md": "The shop in Lyon opens at ten.",
    "price.md": "A cup of tea costs four euros.",
}
QUESTION = "When does the shop in Lyon open?"


class PageRetriever(BaseRetriever):
    """Finds every page, in order."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=TextNode(id_=i, text=t), score=1.0) for i, t in PAGES.items()]


def engine_of(llm: Any, **settings: Any) -> RetrieverQueryEngine:
    synthesizer = CompactAndRefine(
        llm=llm, text_qa_template=DEFAULT_TEXT_QA_PROMPT, response_padding_size=16, **settings
    )
    return RetrieverQueryEngine(PageRetriever(), synthesizer)


@pytest.fixture(scope="module")
def demo() -> SteerableHFLLM:
    return SteerableHFLLM.demo()


@pytest.fixture
def handler(tmp_path: Path) -> Iterator[AnswerLogEventHandler]:
    made = record_answers(f"sqlite:///{tmp_path / 'answers.db'}")
    yield made
    made.stop()
    made.recorder.close()


def kept(handler: AnswerLogEventHandler) -> list[LoggedAnswer]:
    assert handler.recorder.flush(30)
    assert handler.recorder.dropped == 0
    with AnswerLog(handler.recorder.url) as log:
        return list(log.answers())


def test_a_query_engine_on_the_bundled_model_is_logged_whole(
    demo: SteerableHFLLM, handler: AnswerLogEventHandler
) -> None:
    response = engine_of(demo.as_llama_index(max_tokens=8)).query(QUESTION)
    (entry,) = kept(handler)
    assert entry.answer == str(response)
    assert entry.question == QUESTION
    assert {p.id: p.text for p in entry.passages} == PAGES
    assert QUESTION in entry.messages[-1].content
    assert entry.model == demo.fingerprint.model_id
    assert entry.revision == demo.fingerprint.revision
    assert set(entry.usage) == {"prompt_tokens", "completion_tokens"}
    assert entry.trace_id != entry.id
    assert entry.time is not None


def test_the_revision_of_the_model_is_logged(
    demo: SteerableHFLLM, handler: AnswerLogEventHandler
) -> None:
    pinned = SteerableHFLLM(demo.model, demo.tokenizer, model_id="demo", revision="v7")
    pinned.as_llama_index(max_tokens=2).complete("Hello")
    (entry,) = kept(handler)
    assert entry.revision == "v7"


async def test_async_and_streamed_queries_are_logged_alike(
    demo: SteerableHFLLM, handler: AnswerLogEventHandler
) -> None:
    llm = demo.as_llama_index(max_tokens=6)
    engine_of(llm).query(QUESTION)
    await engine_of(llm).aquery(QUESTION)
    for _ in engine_of(llm, streaming=True).query(QUESTION).response_gen:
        pass
    entries = kept(handler)
    assert len({entry.id for entry in entries}) == 3
    same = {"answer", "question", "passages", "messages", "model", "step", "usage", "steering"}
    first, *others = [entry.model_dump(include=same) for entry in entries]
    assert others == [first] * 2


def test_a_chat_that_is_answered_by_completing_is_one_answer(
    handler: AnswerLogEventHandler,
) -> None:
    # This model's chat calls its own complete; both tell LlamaIndex.
    MockLLM(max_tokens=3).chat([ChatMessage(role="user", content="one two three four")])
    MockLLM(max_tokens=3).complete("five six")
    first, second = kept(handler)
    assert first.messages[0].content == "one two three four"
    assert (second.question, second.passages) == ("five six", ())


def test_two_engines_are_not_mixed_up(handler: AnswerLogEventHandler) -> None:
    engine = engine_of(MockLLM())
    engine.query("first?")
    engine.query("second?")
    first, second = kept(handler)
    assert (first.question, second.question) == ("first?", "second?")
    assert len(first.passages) == len(second.passages) == 2
    assert first.trace_id != second.trace_id


def test_after_stop_nothing_is_logged(handler: AnswerLogEventHandler) -> None:
    handler.stop()
    engine_of(MockLLM()).query(QUESTION)
    assert handler.recorder.flush(1)
    assert handler.recorder.written == 0
    assert handler not in get_dispatcher().event_handlers


def test_a_dead_server_does_not_break_a_query(tmp_path: Path) -> None:
    dead = record_answers(f"postgresql://nobody@/log?host={tmp_path}")
    try:
        assert "shop" in str(engine_of(MockLLM()).query(QUESTION))
    finally:
        dead.stop()
        dead.recorder.close(0.2)
    assert dead.recorder.flush(10)
    assert dead.recorder.dropped == 1


def test_tool_turns_and_images_are_logged_as_they_were_asked(
    handler: AnswerLogEventHandler,
) -> None:
    call = ToolCallBlock(tool_call_id="1", tool_name="opening", tool_kwargs={"shop": "Köln"})
    unread = ToolCallBlock(tool_call_id="2", tool_name="opening", tool_kwargs="{")
    asked = [
        ChatMessage(blocks=[TextBlock(text="See"), ImageBlock(image=b"\x89PNG picture")]),
        ChatMessage(role="assistant", blocks=[call]),
        ChatMessage("At nine.", role="tool", additional_kwargs={"tool_call_id": "1"}),
        ChatMessage(role="assistant", blocks=[TextBlock(text="Well."), unread]),
    ]
    MockLLM(max_tokens=3).chat(asked)
    (entry,) = kept(handler)
    first, second, third, last = entry.messages
    assert (first.content, first.images[0].data) == ("See", b"\x89PNG picture")
    assert second.tool_calls == (ToolCall("1", "opening", {"shop": "Köln"}),)
    assert (third.role, third.tool_call_id, third.name) == ("tool", "1", "opening")
    assert (last.role, last.content) == ("assistant", "Well.")
