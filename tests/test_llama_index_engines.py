"""Which step each call of each kind of LlamaIndex engine gets, untagged and tagged."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from adapter_models import RecordingLLM, random_vector
from llama_index.core import Document, PromptTemplate, Settings, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow, ReActAgent
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import ChatPromptTemplate
from llama_index.core.query_engine import (
    CitationQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
    TransformQueryEngine,
)
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import ResponseMode, TreeSummarize
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.selectors import LLMMultiSelector, LLMSingleSelector
from llama_index.core.tools import FunctionTool, QueryEngineTool
from llama_index.core.workflow import StartEvent, StopEvent, Workflow, step
from scripted import scripted_llm

from steerable_llm.adapters.llama_index import (
    SteerableLlamaIndexLLM,
    record_steering,
    steer_step,
    tag_prompts,
)
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.policy import Policy

# LlamaIndex's names for prompts, the places that tags know, and two of this application's own.
TYPES = ("text_qa", "refine", "summary", "single_select", "multi_select", "sub_question")
PLACES = ("hyde", "condense", "condense_question", "query_gen")
OWN = ("answer", "combine")
QUESTION = "When?"


def memory(*texts: str) -> ChatMemoryBuffer:
    """A conversation so far; LlamaIndex's default memory leaves a database connection open."""
    roles = ("user", "assistant") * len(texts)
    history = [ChatMessage(text, role=role) for role, text in zip(roles, texts, strict=False)]
    return ChatMemoryBuffer.from_defaults(chat_history=history)


def what_it_says(prompt: str) -> str:
    """What a model with sense would say where LlamaIndex must be able to read the answer."""
    if "return the choice that is most relevant" in prompt:
        return json.dumps([{"choice": 1, "reason": "it fits"}])
    if "return the top choices" in prompt:
        return json.dumps([{"choice": n, "reason": "it fits"} for n in (1, 2)])
    if "<User Question>" in prompt:
        return json.dumps({"items": [{"sub_question": "When?", "tool_name": "handbook"}]})
    if "Observation:" in prompt.split("## Current Conversation")[-1]:
        return "Thought: I can answer.\nAnswer: nine"
    if "Thought:" in prompt:
        return 'Thought: I need a tool.\nAction: opening\nAction Input: {"shop": "Lyon"}'
    return "I do not know."


@pytest.fixture(scope="module")
def scripted() -> SteerableHFLLM:
    return scripted_llm(what_it_says, "none")


@pytest.fixture
def engine(scripted: SteerableHFLLM) -> RecordingLLM:
    """A scripted model under a policy that knows every name in use, and steers two of them."""
    vectors = {name: random_vector(scripted, name, i) for i, name in enumerate("ab")}
    steps: dict[str, Any] = {name: {} for name in (*TYPES, *PLACES, *OWN, "plain")}
    steps["text_qa"] = {"vectors": [{"name": "a", "strength": 0.8}]}
    steps["refine"] = {"vectors": [{"name": "b", "strength": -0.8}]}
    policy = Policy.from_dict({"default_step": "plain", "steps": steps}, vectors)
    return RecordingLLM(scripted, policy, context_window=8192)


@pytest.fixture
def llm(engine: RecordingLLM) -> SteerableLlamaIndexLLM:
    return SteerableLlamaIndexLLM(llm=engine, max_tokens=64)


@pytest.fixture(autouse=True)
def counted(llm: SteerableLlamaIndexLLM) -> Iterator[None]:
    """LlamaIndex counts tokens as the model does."""
    Settings.tokenizer = llm.tokens
    yield
    Settings.tokenizer = None  # type: ignore[assignment]


@pytest.fixture
def index() -> VectorStoreIndex:
    documents = [Document(text=f"Shop {i} opens at {i} o'clock.") for i in range(3)]
    return VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=4))


def steps_of(llm: SteerableLlamaIndexLLM) -> list[str | None]:
    """The steps of the calls since the last look, as the model itself saw them."""
    seen: list[str | None] = llm.llm.steps  # type: ignore[attr-defined]
    llm.llm.steps = []  # type: ignore[attr-defined]
    return seen


# Query engines.

MODES = [
    ("compact", ["text_qa"]),
    ("refine", ["text_qa", "refine", "refine"]),
    ("tree_summarize", ["summary"]),
    ("simple_summarize", ["text_qa"]),
    ("accumulate", ["text_qa"] * 3),
    ("compact_accumulate", ["text_qa"]),
]


@pytest.mark.parametrize(("mode", "expected"), MODES)
async def test_a_query_engines_own_prompts_tell_the_steps(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex, mode: Any, expected: list[str]
) -> None:
    engine = index.as_query_engine(llm=llm, response_mode=mode, similarity_top_k=3)
    engine.query(QUESTION)
    assert steps_of(llm) == expected
    await engine.aquery(QUESTION)
    assert steps_of(llm) == expected


@pytest.mark.parametrize(("mode", "expected"), MODES[:4])
def test_a_streaming_query_engine_tells_the_same_steps(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex, mode: Any, expected: list[str]
) -> None:
    engine = index.as_query_engine(llm=llm, response_mode=mode, similarity_top_k=3, streaming=True)
    list(engine.query(QUESTION).response_gen)
    assert steps_of(llm) == expected


def test_a_streaming_query_engine_takes_the_step_of_where_it_is_read_unless_it_is_tagged(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex
) -> None:
    """LlamaIndex calls the model only when the response is read."""
    engine = index.as_query_engine(llm=llm, streaming=True)
    with steer_step("answer"), record_steering() as record:
        list(engine.query(QUESTION).response_gen)
    assert steps_of(llm) == list(record.steps) == ["answer"]
    with steer_step("answer"):
        late = engine.query(QUESTION)
    list(late.response_gen)
    assert steps_of(llm) == ["text_qa"]
    with steer_step("combine"):
        late = tag_prompts(engine, "answer").query(QUESTION)
    list(late.response_gen)
    assert steps_of(llm) == ["answer"]


def test_passages_that_need_two_calls_are_refined(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex
) -> None:
    # Two passages that do not fit into one prompt together.
    for number in range(2):
        index.insert(Document(text=f"{number} " + "shop " * 900))
    small = index.as_query_engine(llm=llm.for_step(None), similarity_top_k=5)
    small._response_synthesizer._prompt_helper.context_window = 2400
    small.query(QUESTION)
    assert steps_of(llm) == ["text_qa", "refine"]


async def test_an_engine_that_cites_its_sources_tells_the_steps(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex
) -> None:
    engine = CitationQueryEngine.from_args(index, llm=llm)
    engine.query(QUESTION)
    await engine.aquery(QUESTION)
    assert steps_of(llm) == ["text_qa", "text_qa"]
    two = CitationQueryEngine.from_args(
        index, llm=llm, response_mode=ResponseMode.REFINE, similarity_top_k=2
    )
    two.query(QUESTION)
    assert steps_of(llm) == ["text_qa", "refine"]


def test_a_users_own_prompts_tell_the_step_once_they_are_tagged(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex
) -> None:
    answer = ChatPromptTemplate.from_messages([("user", "{context_str}\n{query_str}")])
    refine = PromptTemplate("{existing_answer} {context_msg} {query_str}")
    engine = index.as_query_engine(
        llm=llm,
        response_mode="refine",
        similarity_top_k=2,
        text_qa_template=answer,
        refine_template=refine,
    )
    engine.query(QUESTION)
    assert steps_of(llm) == [None, None]
    assert tag_prompts(engine) is engine
    engine.query(QUESTION)
    assert steps_of(llm) == ["text_qa", "refine"]
    tag_prompts(engine, {"text_qa": "answer"}).query(QUESTION)
    assert steps_of(llm) == ["answer", "refine"]
    tag_prompts(engine, "combine").query(QUESTION)
    assert steps_of(llm) == ["combine", "combine"]
    assert "steer_step" not in answer.metadata
    assert "steer_step" not in refine.metadata


def test_a_tag_stays_with_the_engine_that_got_it(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex
) -> None:
    tagged = tag_prompts(index.as_query_engine(llm=llm, similarity_top_k=3), "answer")
    tagged.query(QUESTION)
    assert steps_of(llm) == ["answer"]
    index.as_query_engine(llm=llm, similarity_top_k=3).query(QUESTION)
    assert steps_of(llm) == ["text_qa"]


def handbook(llm: SteerableLlamaIndexLLM, index: VectorStoreIndex) -> QueryEngineTool:
    engine = index.as_query_engine(llm=llm)
    return QueryEngineTool.from_defaults(engine, name="handbook", description="the handbook")


def router_of(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex, selector: Any
) -> RouterQueryEngine:
    tool = handbook(llm, index)
    return RouterQueryEngine(selector, [tool, tool], llm=llm, summarizer=TreeSummarize(llm=llm))


def test_a_routers_choice_is_told_from_the_answers(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex
) -> None:
    router = router_of(llm, index, LLMSingleSelector.from_defaults(llm))
    router.query(QUESTION)
    assert steps_of(llm) == ["single_select", "text_qa"]
    tag_prompts(router, {"query_engines:*:text_qa_template": "answer"}).query(QUESTION)
    assert steps_of(llm) == ["single_select", "answer"]


def test_a_router_to_several_engines_sums_their_answers_up(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex
) -> None:
    router_of(llm, index, LLMMultiSelector.from_defaults(llm)).query(QUESTION)
    assert steps_of(llm) == ["multi_select", "text_qa", "text_qa", "summary"]


async def test_sub_questions_are_told_from_their_answers_and_from_what_combines_them(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex
) -> None:
    tool = handbook(llm, index)
    engine = SubQuestionQueryEngine.from_defaults(
        [tool],
        llm=llm,
        question_gen=LLMQuestionGenerator.from_defaults(llm),
        verbose=False,
        use_async=False,
    )
    engine.query(QUESTION)
    assert steps_of(llm) == ["sub_question", "text_qa", "text_qa"]
    tag_prompts(engine, {"response_synthesizer:text_qa_template": "combine"})
    engine.query(QUESTION)
    assert steps_of(llm) == ["sub_question", "text_qa", "combine"]
    await engine.aquery(QUESTION)
    assert steps_of(llm) == ["sub_question", "text_qa", "combine"]


def test_hypothetical_documents_are_told_from_summaries_once_they_are_tagged(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex
) -> None:
    engine = TransformQueryEngine(index.as_query_engine(llm=llm), HyDEQueryTransform(llm=llm))
    engine.query(QUESTION)
    assert steps_of(llm) == ["summary", "text_qa"]
    tag_prompts(engine).query(QUESTION)
    assert steps_of(llm) == ["hyde", "text_qa"]


async def test_generated_queries_tell_their_step_once_they_are_tagged(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex
) -> None:
    retriever = QueryFusionRetriever([index.as_retriever()], llm=llm, use_async=False)
    retriever.retrieve(QUESTION)
    assert steps_of(llm) == [None]
    tag_prompts(retriever).retrieve(QUESTION)
    assert steps_of(llm) == ["query_gen"]
    await tag_prompts(retriever, "answer").aretrieve(QUESTION)
    assert steps_of(llm) == ["answer"]


# Chat engines.


async def test_a_condense_question_chat_engine(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex
) -> None:
    engine = CondenseQuestionChatEngine.from_defaults(
        index.as_query_engine(llm=llm), llm=llm, memory=memory("Hello", "Hello!")
    )
    engine.chat(QUESTION)
    assert steps_of(llm) == [None, "text_qa"]
    tag_prompts(engine).chat(QUESTION)
    assert steps_of(llm) == ["condense_question", "text_qa"]
    await engine.achat(QUESTION)
    assert steps_of(llm) == ["condense_question", "text_qa"]
    list(engine.stream_chat(QUESTION).response_gen)
    assert steps_of(llm) == ["condense_question", "text_qa"]


async def test_a_context_chat_engine(llm: SteerableLlamaIndexLLM, index: VectorStoreIndex) -> None:
    engine = ContextChatEngine.from_defaults(
        index.as_retriever(), llm=llm, memory=memory("Hello", "Hello!")
    )
    engine.chat(QUESTION)
    assert steps_of(llm) == [None]
    tag_prompts(engine).chat(QUESTION)
    assert steps_of(llm) == ["text_qa"]
    await tag_prompts(engine, {"text_qa": "answer"}).achat(QUESTION)
    assert steps_of(llm) == ["answer"]
    list(engine.stream_chat(QUESTION).response_gen)
    assert steps_of(llm) == ["answer"]


async def test_a_condense_plus_context_chat_engine(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex
) -> None:
    engine = CondensePlusContextChatEngine.from_defaults(
        index.as_retriever(), llm=llm, memory=memory("Hello", "Hello!")
    )
    engine.chat(QUESTION)
    assert steps_of(llm) == [None, None]
    tag_prompts(engine).chat(QUESTION)
    assert steps_of(llm) == ["condense", "text_qa"]
    await tag_prompts(engine, {"*:text_qa_template": "answer"}).achat(QUESTION)
    assert steps_of(llm) == ["condense", "answer"]
    list(engine.stream_chat(QUESTION).response_gen)
    assert steps_of(llm) == ["condense", "answer"]


def test_a_simple_chat_engine_gets_its_step_with_the_model_or_around_the_call(
    llm: SteerableLlamaIndexLLM,
) -> None:
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory())
    with steer_step("answer"):
        engine.chat(QUESTION)
    engine.chat(QUESTION)
    assert steps_of(llm) == ["answer", None]
    SimpleChatEngine.from_defaults(llm=llm.for_step("combine"), memory=memory()).chat(QUESTION)
    assert steps_of(llm) == ["combine"]
    with pytest.raises(InvalidInputError, match="for_step"):
        tag_prompts(engine)


# Agents and workflows.


# LlamaIndex's agents still go about pydantic and about their own workflows in an old way.
OLD_WAYS = pytest.mark.filterwarnings(
    "ignore::pydantic.warnings.PydanticDeprecationWarning",
    "ignore:is_running called from within a step",
)


def opening(shop: str) -> str:
    """When a shop opens."""
    return f"{shop} opens at nine"


@OLD_WAYS
@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_that_reasons_in_text(llm: SteerableLlamaIndexLLM, streaming: bool) -> None:
    agent = ReActAgent(
        llm=llm, tools=[FunctionTool.from_defaults(opening)], streaming=streaming, verbose=False
    )
    with steer_step("answer"):
        answer = await agent.run("When does Lyon open?", memory=memory())
    assert str(answer) == "nine"
    assert steps_of(llm) == ["answer", "answer"]
    own = ReActAgent(llm=llm.for_step("combine"), tools=agent.tools, streaming=streaming)
    with record_steering() as record:
        await own.run("When does Lyon open?", memory=memory())
    assert steps_of(llm) == list(record.steps) == ["combine", "combine"]
    with pytest.raises(InvalidInputError, match="sends no prompts but messages"):
        tag_prompts(agent)


@OLD_WAYS
async def test_the_agents_of_a_workflow_each_have_their_step(llm: SteerableLlamaIndexLLM) -> None:
    tool = FunctionTool.from_defaults(opening)
    agent = ReActAgent(name="clerk", llm=llm.for_step("answer"), tools=[tool])
    await AgentWorkflow(agents=[agent], root_agent="clerk").run(user_msg="When?", memory=memory())
    assert steps_of(llm) == ["answer", "answer"]


async def test_each_step_of_a_workflow_may_name_its_own(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex
) -> None:
    engine = index.as_query_engine(llm=llm)

    class Desk(Workflow):
        @step
        async def run_it(self, event: StartEvent) -> StopEvent:
            with steer_step("condense"):
                question = await llm.acomplete(event.question)
            found = await engine.aquery(question.text)
            reply = await llm.acomplete(str(found), step="combine")
            return StopEvent(result=reply.text)

    with record_steering() as record:
        await Desk().run(question=QUESTION)
    assert steps_of(llm) == list(record.steps) == ["condense", "text_qa", "combine"]


# What cannot be tagged.


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda e: tag_prompts(e, {"text_qua": "answer"}), "no prompt fits 'text_qua'; known: "),
        (lambda _: tag_prompts(object()), "holds no prompts"),
    ],
)
def test_a_tag_that_would_do_nothing_is_an_error(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex, make: Callable[[Any], Any], said: str
) -> None:
    engine = index.as_query_engine(llm=llm)
    with pytest.raises(InvalidInputError, match=said) as caught:
        make(engine)
    assert "\n" not in str(caught.value)
    engine.query(QUESTION)
    assert steps_of(llm) == ["text_qa"]
