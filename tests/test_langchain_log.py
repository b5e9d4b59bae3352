"""The LangChain handler logs whole runs of real chains and never gets in their way."""

from __future__ import annotations

import asyncio
import base64
import time
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, FunctionMessage, HumanMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnablePassthrough

from steerable_llm.adapters.langchain import AnswerLogHandler
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.chat.message import ToolCall
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.answers import LoggedAnswer

PAGES = {
    "hours.md": "The shop in Lyon opens at ten.",
    "price.md": "A cup of tea costs four euros.",
}
QUESTION = "When does the shop in Lyon open?"


class Pages(BaseRetriever):
    """Finds every page, in order."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return [Document(text, id=name) for name, text in PAGES.items()]


@pytest.fixture(scope="module")
def demo() -> SteerableHFLLM:
    return SteerableHFLLM.demo()


def chain_of(model: Any) -> Runnable[Any, Any]:
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Use the documents."), ("user", "Documents:\n{pages}\n\nQuestion: {question}")]
    )

    def numbered(given: dict[str, Any]) -> str:
        return "\n".join(f"[{i}] {d.page_content}" for i, d in enumerate(given["found"], start=1))

    return (
        RunnablePassthrough.assign(found=itemgetter("question") | Pages())
        | RunnablePassthrough.assign(pages=numbered)
        | prompt
        | model
    )


def kept(handler: AnswerLogHandler) -> list[LoggedAnswer]:
    assert handler.recorder.flush(30)
    assert handler.recorder.dropped == 0
    with AnswerLog(handler.recorder.url) as log:
        return list(log.answers())


@pytest.fixture
def handler(tmp_path: Path) -> Any:
    made = AnswerLogHandler(f"sqlite:///{tmp_path / 'answers.db'}")
    yield made
    made.recorder.close()


def test_a_chain_on_the_bundled_model_is_logged_whole(
    demo: SteerableHFLLM, handler: AnswerLogHandler
) -> None:
    chain = chain_of(demo.as_langchain(max_tokens=8))
    message = chain.invoke({"question": QUESTION}, config={"callbacks": [handler]})
    (entry,) = kept(handler)
    assert entry.answer == message.text
    assert entry.question == QUESTION
    assert {p.id: p.text for p in entry.passages} == PAGES
    assert [m.role for m in entry.messages] == ["system", "user"]
    assert entry.messages[1].content.endswith(f"Question: {QUESTION}")
    assert entry.model == message.response_metadata["model_name"]
    assert entry.step == message.response_metadata["step"]
    assert list(entry.steering) == message.response_metadata["steering"]
    assert entry.usage == {
        "prompt_tokens": message.usage_metadata["input_tokens"],
        "completion_tokens": message.usage_metadata["output_tokens"],
    }
    assert entry.time is not None
    assert entry.verdict is None


def test_the_revision_of_the_model_is_logged(
    demo: SteerableHFLLM, handler: AnswerLogHandler
) -> None:
    pinned = SteerableHFLLM(demo.model, demo.tokenizer, model_id="demo", revision="v7")
    pinned.as_langchain(max_tokens=2).invoke("Hello", config={"callbacks": [handler]})
    (entry,) = kept(handler)
    assert entry.revision == "v7"


async def test_every_way_of_calling_is_logged_alike(
    demo: SteerableHFLLM, handler: AnswerLogHandler
) -> None:
    chain = chain_of(demo.as_langchain(max_tokens=6))
    config: Any = {"callbacks": [handler]}
    asked = {"question": QUESTION}
    await asyncio.to_thread(chain.invoke, asked, config)
    await asyncio.to_thread(lambda: list(chain.stream(asked, config)))
    await chain.ainvoke(asked, config)
    async for _ in chain.astream(asked, config):
        pass
    await asyncio.to_thread(chain.batch, [asked, asked], config)
    entries = await asyncio.to_thread(kept, handler)
    assert len(entries) == 6
    assert len({entry.id for entry in entries}) == 6
    assert len({entry.trace_id for entry in entries}) == 6
    same = {"answer", "question", "passages", "messages", "model", "step", "usage", "steering"}
    first, *others = [entry.model_dump(include=same) for entry in entries]
    assert others == [first] * 5


def test_each_step_is_logged_with_what_was_retrieved_before_it(handler: AnswerLogHandler) -> None:
    rewrite = FakeListChatModel(responses=["shop opening time"]).with_config(
        metadata={"steer_step": "condense"}
    )
    answer = FakeListChatModel(responses=["At ten."]).with_config(tags=["steer:answer"])
    chain = RunnablePassthrough.assign(
        rewritten=itemgetter("question") | rewrite
    ) | chain_of(answer)  # fmt: skip
    chain.invoke({"question": QUESTION}, config={"callbacks": [handler]})
    first, second = kept(handler)
    assert (first.step, first.passages, first.answer) == ("condense", (), "shop opening time")
    assert (second.step, len(second.passages), second.answer) == ("answer", 2, "At ten.")
    assert first.trace_id == second.trace_id
    assert second.question == QUESTION


def test_a_model_asked_by_itself_is_logged(handler: AnswerLogHandler) -> None:
    FakeListChatModel(responses=["Hi."]).invoke("Hello", config={"callbacks": [handler]})
    (entry,) = kept(handler)
    assert (entry.question, entry.passages, entry.answer) == ("Hello", (), "Hi.")


def test_a_failing_model_leaves_nothing_behind(handler: AnswerLogHandler) -> None:
    class Failing(FakeListChatModel):
        def _call(self, *_: Any, **__: Any) -> str:
            raise TimeoutError("too slow")

    with pytest.raises(TimeoutError):
        chain_of(Failing(responses=[])).invoke(
            {"question": QUESTION}, config={"callbacks": [handler]}
        )
    assert kept_nothing(handler)
    assert not handler._prompts
    assert not handler._traces._traces


def kept_nothing(handler: AnswerLogHandler) -> bool:
    return handler.recorder.flush(1) and handler.recorder.written == 0


def test_ended_runs_leave_nothing_in_memory(handler: AnswerLogHandler) -> None:
    chain = chain_of(FakeListChatModel(responses=["At ten."]))
    for _ in range(5):
        chain.invoke({"question": QUESTION}, config={"callbacks": [handler]})
    assert not handler._prompts
    assert not handler._traces._traces
    assert not handler._traces._roots


def test_a_dead_server_neither_breaks_nor_slows_a_chain(tmp_path: Path) -> None:
    chain = chain_of(FakeListChatModel(responses=["At ten."]))
    dead = AnswerLogHandler(f"postgresql://nobody@/log?host={tmp_path}")
    chain.invoke({"question": QUESTION})
    start = time.monotonic()
    for _ in range(20):
        message = chain.invoke({"question": QUESTION}, config={"callbacks": [dead]})
        assert message.text == "At ten."
    # One attempt to reach the server alone waits longer than this.
    assert time.monotonic() - start < 5
    dead.recorder.close(0.2)
    assert dead.recorder.flush(10)
    assert dead.recorder.dropped == 20


def test_tool_turns_and_images_are_logged_as_they_were_asked(handler: AnswerLogHandler) -> None:
    call = {"name": "opening", "args": {"shop": "Köln"}, "id": "1"}
    data = base64.b64encode(b"\x89PNG picture").decode()
    asked = [
        HumanMessage(
            [
                {"type": "text", "text": "See"},
                {"type": "image", "base64": data, "mime_type": "image/png"},
            ]
        ),
        AIMessage("", tool_calls=[call]),
        ToolMessage("At nine.", tool_call_id="1"),
        FunctionMessage("At ten.", name="old"),
    ]
    FakeListChatModel(responses=["Hi."]).invoke(asked, config={"callbacks": [handler]})
    (entry,) = kept(handler)
    first, second, third, last = entry.messages
    assert (first.content, first.images[0].data) == ("See", b"\x89PNG picture")
    assert second.tool_calls == (ToolCall("1", "opening", {"shop": "Köln"}),)
    assert (third.role, third.tool_call_id, third.name) == ("tool", "1", "opening")
    assert (last.role, last.content) == ("user", "Function: At ten.")
    assert entry.question == "Function: At ten."
