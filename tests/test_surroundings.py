"""What steered the calls of an engine that drops all but the text of its last answer."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest
from adapter_models import QUESTION, TOKENS, last, under_three_steps
from langchain_core.output_parsers import StrOutputParser
from llama_index.core import Document, PromptTemplate, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import ChatMessage
from llama_index.core.response_synthesizers import TreeSummarize

from steerable_llm.adapters.llama_index import SteerableLlamaIndexLLM, record_steering, steer_step
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import PromptTooLongError


@pytest.fixture
def llm(tiny_llm: SteerableHFLLM) -> SteerableLlamaIndexLLM:
    return SteerableLlamaIndexLLM(llm=under_three_steps(tiny_llm), max_tokens=TOKENS)


def test_a_query_engines_steering_is_given_back(llm: SteerableLlamaIndexLLM) -> None:
    index = VectorStoreIndex.from_documents(
        [Document(text="At nine.")], embed_model=MockEmbedding(embed_dim=4)
    )
    synthesizer = TreeSummarize(
        llm=llm,
        summary_template=PromptTemplate(
            "{context_str}\n{query_str}", metadata={"steer_step": "answer"}
        ),
    )
    engine = index.as_query_engine(llm=llm, response_synthesizer=synthesizer)
    with record_steering() as record:
        response = engine.query(QUESTION)
    direct = llm.llm.generate(f"At nine.\n{QUESTION}", step="answer", max_new_tokens=TOKENS)
    assert record.answers == (direct,)
    assert str(response) == direct.text
    (told,) = record.to_list()
    assert told["step"] == "answer"
    assert told["steering"] == [applied.to_dict() for applied in direct.steered] != []
    assert told["prompt_tokens"] == direct.usage.prompt_tokens
    assert told["completion_tokens"] == len(direct.token_ids)


async def test_every_way_in_is_recorded(llm: SteerableLlamaIndexLLM) -> None:
    message = [ChatMessage(QUESTION)]
    with record_steering() as record:
        llm.complete(QUESTION, step="answer")
        llm.chat(message, step="reply")
        list(llm.stream_complete(QUESTION, step="plain"))
        list(llm.stream_chat(message, step="answer"))
        await llm.acomplete(QUESTION, step="reply")
        await llm.achat(message, step="plain")
        await last(await llm.astream_complete(QUESTION, step="answer"))
        await last(await llm.astream_chat(message, step="reply"))
    llm.complete(QUESTION)
    assert record.steps == (
        "answer",
        "reply",
        "plain",
        "answer",
        "reply",
        "plain",
        "answer",
        "reply",
    )


async def test_every_way_into_a_langchain_model_is_recorded(tiny_llm: SteerableHFLLM) -> None:
    chat = under_three_steps(tiny_llm).as_langchain(max_tokens=TOKENS)
    parsed = chat | StrOutputParser()
    with record_steering() as record:
        texts = [
            parsed.invoke(QUESTION, {"tags": ["steer:answer"]}),
            await parsed.ainvoke(QUESTION, {"tags": ["steer:reply"]}),
            "".join((chat.for_step("answer") | StrOutputParser()).stream(QUESTION)),
            "".join(
                [x async for x in (chat.for_step("reply") | StrOutputParser()).astream(QUESTION)]
            ),
        ]
        batch = chat.batch([QUESTION, "Hi"], {"tags": ["steer:reply"]})
        abatch = await chat.abatch([QUESTION, "Hi"], {"tags": ["steer:answer"]})
    parsed.invoke(QUESTION)
    assert record.steps == ("answer", "reply") * 2 + ("reply",) * 2 + ("answer",) * 2
    assert [answer.text for answer in record.answers[:4]] == texts
    made = [str(message.content) for message in (*batch, *abatch)]
    assert sorted(answer.text for answer in record.answers[4:]) == sorted(made)
    assert record.to_list()[0]["steering"][0]["name"] == "a"


async def test_a_stream_belongs_to_the_block_in_which_it_was_asked_for(
    llm: SteerableLlamaIndexLLM,
) -> None:
    with record_steering() as record:
        stream = llm.stream_complete(QUESTION, step="answer")
        astream = await llm.astream_complete(QUESTION, step="reply")
    assert record.answers == ()
    with record_steering() as other:
        list(stream)
        await last(astream)
    assert record.steps == ("answer", "reply")
    assert other.answers == ()


def test_a_stream_that_is_left_early_has_no_answer_to_record(llm: SteerableLlamaIndexLLM) -> None:
    with record_steering() as record:
        stream = llm.stream_complete(QUESTION)
        next(stream)
        stream.close()
        with pytest.raises(PromptTooLongError):
            llm.complete("word " * 400)
    assert record.answers == ()


def test_an_inner_block_has_its_own_record_and_the_outer_one_has_all(
    llm: SteerableLlamaIndexLLM,
) -> None:
    with record_steering() as outer:
        llm.complete(QUESTION, step="answer")
        with record_steering() as inner:
            llm.complete(QUESTION, step="reply")
    assert inner.steps == ("reply",)
    assert outer.steps == ("answer", "reply")


async def test_tasks_and_threads_do_not_mix_their_records(llm: SteerableLlamaIndexLLM) -> None:
    async def ask(step: str) -> tuple[str | None, ...]:
        with record_steering() as record, steer_step(step):
            await asyncio.gather(*(llm.acomplete(QUESTION, max_tokens=3) for _ in range(3)))
        return record.steps

    found = await asyncio.gather(*(ask(step) for step in ("answer", "reply", "plain")))
    assert found == [("answer",) * 3, ("reply",) * 3, ("plain",) * 3]

    barrier = threading.Barrier(3)

    def ask_in_thread(step: str) -> tuple[str | None, ...]:
        with record_steering() as record:
            barrier.wait(10)
            llm.complete(QUESTION, step=step, max_tokens=3)
        return record.steps

    with ThreadPoolExecutor(3) as pool:
        steps = list(pool.map(ask_in_thread, ("answer", "reply", "plain")))
    assert steps == [("answer",), ("reply",), ("plain",)]


def test_threads_that_inherit_the_context_share_a_record(llm: SteerableLlamaIndexLLM) -> None:
    with record_steering() as record, ThreadPoolExecutor(4) as pool:
        work = [
            pool.submit(copy_context().run, llm.complete, QUESTION, max_tokens=2) for _ in range(8)
        ]
        for done in work:
            done.result()
    assert len(record.answers) == 8
