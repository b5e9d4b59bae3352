"""An error of a request reaches whoever asked, through every engine of both frameworks."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel, RunnablePassthrough
from llama_index.core import Document, Settings, SummaryIndex, VectorStoreIndex
from llama_index.core.agent.react import ReActChatFormatter, ReActOutputParser
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.evaluation import RelevancyEvaluator
from llama_index.core.indices.property_graph import SchemaLLMPathExtractor, SimpleLLMPathExtractor
from llama_index.core.indices.query.query_transform import (
    HyDEQueryTransform,
    StepDecomposeQueryTransform,
)
from llama_index.core.postprocessor import LLMRerank
from llama_index.core.query_engine import (
    CitationQueryEngine,
    FLAREInstructQueryEngine,
    MultiStepQueryEngine,
    RetryQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
    TransformQueryEngine,
)
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.question_gen.types import SubQuestion
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import TextNode
from llama_index.core.selectors import LLMMultiSelector, LLMSingleSelector
from llama_index.core.tools import FunctionTool, QueryEngineTool
from pydantic import BaseModel
from scripted import scripted_llm
from test_llama_index_engines import memory, what_it_says

from steerable_llm.adapters.llama_index import SteerableLlamaIndexLLM
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import SteerableError
from steerable_llm.policy.policy import Policy

# LlamaIndex's agents still go about pydantic and about their own workflows in an old way, and its
# chat engines read a stream in a thread, where the error is raised as well.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pydantic.warnings.PydanticDeprecationWarning",
    "ignore:is_running called from within a step",
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
    "ignore:Call to deprecated class",
)

QUESTION = "When?"
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "step": ({"step": "anwser"}, "'anwser' is not a known step; did you mean 'answer'"),
    "temperature": ({"temperature": -1.0}, "temperature is -1.0"),
    "length": ({"max_tokens": 8192}, "context window holds"),
}


class Place(BaseModel):
    """A place."""

    name: str


def opening(shop: str) -> str:
    """When a shop opens."""
    return f"{shop} opens at nine"


def under_policy(model: SteerableHFLLM, context_window: int = 8192) -> SteerableHFLLM:
    policy = Policy.from_dict({"steps": {"answer": {}}})
    return SteerableHFLLM(
        model.model, model.tokenizer, policy=policy, context_window=context_window
    )


@pytest.fixture(scope="module")
def plain() -> SteerableHFLLM:
    return under_policy(scripted_llm(what_it_says, "none"))


@pytest.fixture(scope="module")
def calling() -> SteerableHFLLM:
    return under_policy(scripted_llm(what_it_says, "hermes"))


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> tuple[dict[str, Any], str]:
    return FAULTS[request.param]


class Boastful(SteerableLlamaIndexLLM):
    """Tells LlamaIndex of a window that its model may not have, so that prompts come out long."""

    @property
    def metadata(self) -> LLMMetadata:
        return super().metadata.model_copy(update={"context_window": 8192})


class Bench:
    """What engines are made of: a model that answers, one whose requests fail, an index."""

    def __init__(
        self, plain: SteerableHFLLM, calling: SteerableHFLLM, fault: dict[str, Any]
    ) -> None:
        self.good = SteerableLlamaIndexLLM(llm=plain, max_tokens=64)
        if "max_tokens" in fault:
            plain, calling, fault = under_policy(plain, 65), under_policy(calling, 65), {}
        self.bad = Boastful(llm=plain, max_tokens=64, **fault)
        self.calling = Boastful(llm=calling, max_tokens=64, **fault)
        texts = [Document(text=f"Shop {i} opens at {i} o'clock.") for i in range(3)]
        self.index = VectorStoreIndex.from_documents(texts, embed_model=MockEmbedding(embed_dim=4))
        self.retriever = self.index.as_retriever()
        self.tool = FunctionTool.from_defaults(opening)
        self.node = TextNode(text="The shop is in Lyon.")

    def engine(self, llm: Any, **options: Any) -> Any:
        return self.index.as_query_engine(llm=llm, **options)

    def handbook(self, llm: Any) -> QueryEngineTool:
        return QueryEngineTool.from_defaults(self.engine(llm), name="handbook", description="d")

    def subquestions(self, use_async: bool) -> Any:
        return SubQuestionQueryEngine.from_defaults(
            [self.handbook(self.bad)],
            llm=self.good,
            question_gen=LLMQuestionGenerator.from_defaults(self.good),
            verbose=False,
            use_async=use_async,
        )


@pytest.fixture
def bench(
    plain: SteerableHFLLM, calling: SteerableHFLLM, fault: tuple[dict[str, Any], str]
) -> Iterator[Bench]:
    made = Bench(plain, calling, fault[0])
    Settings.tokenizer, Settings.llm = made.good.tokens, made.good
    yield made
    Settings.tokenizer = Settings._llm = None  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def threads_of_the_framework_have_ended() -> Iterator[None]:
    """What they fail with after a test would be told of the test behind it, of another file."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("Thread-"):
            thread.join(10)


async def asked(ask: Callable[[], Any]) -> None:
    """Ask, wait for the answer and read all of it, as its reader would."""
    answer = ask()
    if hasattr(answer, "__await__"):
        answer = await answer
    parts: Any = getattr(answer, "async_response_gen", None) or getattr(answer, "response_gen", ())
    parts = parts() if callable(parts) else parts
    if hasattr(answer, "__aiter__") or hasattr(answer, "__next__"):
        parts = answer
    if hasattr(parts, "__aiter__"):
        async for _ in parts:
            pass
    else:
        list(parts)


# LlamaIndex's query engines.

MODES = ["compact", "refine", "tree_summarize", "simple_summarize", "generation"]
STREAMLESS = ["accumulate", "compact_accumulate"]


@pytest.mark.parametrize("filtering", [False, True])
@pytest.mark.parametrize("how", ["query", "aquery", "stream", "astream"])
@pytest.mark.parametrize("mode", [*MODES, *STREAMLESS])
async def test_a_query_engine(
    bench: Bench, fault: tuple[dict[str, Any], str], mode: Any, how: str, filtering: bool
) -> None:
    if mode in STREAMLESS and how.endswith("stream"):
        return  # LlamaIndex refuses that
    engine = bench.engine(
        bench.bad,
        response_mode=mode,
        streaming=how.endswith("stream"),
        structured_answer_filtering=filtering,
    )
    ask = engine.aquery if how.startswith("a") else engine.query
    with pytest.raises(SteerableError, match=fault[1]):
        await asked(lambda: ask(QUESTION))


COMPOSED: dict[str, Callable[[Bench], Any]] = {
    "objects": lambda b: b.engine(b.bad, output_cls=Place),
    "a router's choice": lambda b: RouterQueryEngine(
        LLMSingleSelector.from_defaults(b.bad), [b.handbook(b.good)]
    ),
    "a router's engine": lambda b: RouterQueryEngine(
        LLMSingleSelector.from_defaults(b.good), [b.handbook(b.bad)]
    ),
    "several of a router's engines": lambda b: RouterQueryEngine(
        LLMMultiSelector.from_defaults(b.good), [b.handbook(b.bad), b.handbook(b.bad)]
    ),
    "sub-questions": lambda b: b.subquestions(use_async=False),
    "sub-questions at once": lambda b: b.subquestions(use_async=True),
    "a hypothetical document": lambda b: TransformQueryEngine(
        b.engine(b.good), HyDEQueryTransform(llm=b.bad)
    ),
    "steps": lambda b: MultiStepQueryEngine(
        b.engine(b.bad), StepDecomposeQueryTransform(llm=b.good), index_summary="shops"
    ),
    "citations": lambda b: CitationQueryEngine.from_args(b.index, llm=b.bad),
    "another try": lambda b: RetryQueryEngine(b.engine(b.bad), RelevancyEvaluator(llm=b.good)),
    "a judge of tries": lambda b: RetryQueryEngine(b.engine(b.good), RelevancyEvaluator(llm=b.bad)),
    "a look ahead": lambda b: FLAREInstructQueryEngine(b.engine(b.good), llm=b.bad),
    "a new order": lambda b: b.engine(b.good, node_postprocessors=[LLMRerank(llm=b.bad)]),
    "a list": lambda b: SummaryIndex([b.node]).as_query_engine(llm=b.bad),
}


@pytest.mark.parametrize("name", COMPOSED)
@pytest.mark.parametrize("how", ["query", "aquery"])
async def test_an_engine_of_engines(
    bench: Bench, fault: tuple[dict[str, Any], str], name: str, how: str
) -> None:
    with pytest.raises(SteerableError, match=fault[1]):
        await asked(lambda: getattr(COMPOSED[name](bench), how)(QUESTION))


CHATS: dict[str, Callable[[Bench], Any]] = {
    "simple": lambda b: SimpleChatEngine.from_defaults(llm=b.bad, memory=memory()),
    "context": lambda b: ContextChatEngine.from_defaults(
        b.retriever, llm=b.bad, memory=memory("Hello", "Hello!")
    ),
    "condense and context": lambda b: CondensePlusContextChatEngine.from_defaults(
        b.retriever, llm=b.bad, memory=memory("Hello", "Hello!")
    ),
    "context without history": lambda b: CondensePlusContextChatEngine.from_defaults(
        b.retriever, llm=b.bad, memory=memory()
    ),
    "condense": lambda b: CondenseQuestionChatEngine.from_defaults(
        b.engine(b.good), llm=b.bad, memory=memory("Hello", "Hello!")
    ),
    "the condensed question": lambda b: CondenseQuestionChatEngine.from_defaults(
        b.engine(b.bad, streaming=True), llm=b.good, memory=memory("Hello", "Hello!")
    ),
}


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("how", ["chat", "achat", "stream_chat", "astream_chat"])
async def test_a_chat_engine(
    bench: Bench, fault: tuple[dict[str, Any], str], name: str, how: str
) -> None:
    with pytest.raises(SteerableError, match=fault[1]):
        await asked(lambda: getattr(CHATS[name](bench), how)(QUESTION))


OTHERS: dict[str, Callable[[Bench], Any]] = {
    "generated queries": lambda b: QueryFusionRetriever(
        [b.retriever], llm=b.bad, use_async=False
    ).retrieve(QUESTION),
    "an agent in text": lambda b: ReActAgent(llm=b.bad, tools=[b.tool]).run("When?"),
    "an agent with calls": lambda b: FunctionAgent(llm=b.calling, tools=[b.tool]).run("When?"),
    "a workflow of agents": lambda b: AgentWorkflow(
        agents=[ReActAgent(name="clerk", llm=b.bad, tools=[b.tool])], root_agent="clerk"
    ).run(user_msg="When?"),
    "a tool in text": lambda b: b.bad.predict_and_call(
        [b.tool],
        "When?",
        react_chat_formatter=ReActChatFormatter(),
        output_parser=ReActOutputParser(),
        memory=memory(),
    ),
    "a tool in text, waited for": lambda b: b.bad.apredict_and_call(
        [b.tool],
        "When?",
        react_chat_formatter=ReActChatFormatter(),
        output_parser=ReActOutputParser(),
        memory=memory(),
    ),
    "a tool called": lambda b: b.calling.predict_and_call([b.tool], "When?"),
    "a graph of free triples": lambda b: SimpleLLMPathExtractor(llm=b.bad).acall([b.node]),
    "a graph of a schema": lambda b: SchemaLLMPathExtractor(llm=b.bad).acall([b.node]),
}


@pytest.mark.parametrize("name", OTHERS)
async def test_whatever_else_asks_the_model(
    bench: Bench, fault: tuple[dict[str, Any], str], name: str
) -> None:
    with pytest.raises(SteerableError, match=fault[1]):
        await asked(lambda: OTHERS[name](bench))


@pytest.mark.parametrize("kind", [ValueError, TypeError, AttributeError])
@pytest.mark.parametrize("how", ["query", "aquery", "stream"])
async def test_what_the_model_itself_raises(
    plain: SteerableHFLLM, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], how: str
) -> None:
    bench = Bench(plain, plain, {})
    monkeypatch.setattr(Settings, "_tokenizer", bench.good.tokens)

    def fail(*_: Any, **__: Any) -> Any:
        raise kind("no such\nshape")

    monkeypatch.setattr(plain.model, "forward", fail)
    engine = bench.engine(bench.good, streaming=how == "stream")
    ask = engine.aquery if how == "aquery" else engine.query
    with pytest.raises(SteerableError, match=f"{kind.__name__}: no such shape") as caught:
        await asked(lambda: ask(QUESTION))
    assert isinstance(caught.value.__cause__, kind)


def test_a_sub_question_that_another_models_error_ends_is_left_out_as_ever(
    plain: SteerableHFLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(plain, plain, {})
    monkeypatch.setattr(Settings, "_tokenizer", bench.good.tokens)
    engine = bench.subquestions(use_async=False)

    def fail(*_: Any) -> Any:
        raise RuntimeError("another model")

    monkeypatch.setattr(type(engine._query_engines["handbook"]), "query", fail)
    assert engine._query_subq(SubQuestion(sub_question=QUESTION, tool_name="handbook")) is None


# LangChain's chains and agents.

PROMPT = ChatPromptTemplate.from_messages([("system", "Answer."), ("human", "{question}")])
ASKED: Any = {"question": QUESTION}
TALK: Any = {"messages": [HumanMessage("Hi"), AIMessage("Hello"), HumanMessage(QUESTION)]}

CHAINS: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {
    "a prompt and a parser": (lambda bad, _: PROMPT | bad | StrOutputParser(), ASKED),
    "branches": (
        lambda bad, good: RunnableParallel(a=PROMPT | good, b=PROMPT | bad),
        ASKED,
    ),
    "an added field": (lambda bad, _: RunnablePassthrough.assign(answer=PROMPT | bad), ASKED),
    "an object": (lambda bad, _: PROMPT | bad.with_structured_output(Place), ASKED),
    "an object with what was said": (
        lambda bad, _: PROMPT | bad.with_structured_output(Place, include_raw=True),
        ASKED,
    ),
    "an agent": (lambda bad, _: create_agent(bad, [opening]), TALK),
    "an agent's object": (lambda bad, _: create_agent(bad, response_format=Place), TALK),
    "an agent's summary": (
        lambda bad, good: create_agent(
            good,
            middleware=[
                SummarizationMiddleware(bad, trigger=("messages", 2), keep=("messages", 1))
            ],
        ),
        TALK,
    ),
}


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """LangChain tries a failed summary again, without the seconds between its tries."""
    monkeypatch.setattr("tenacity.wait.wait_exponential_jitter.__call__", lambda *_: 0.0)


@pytest.mark.usefixtures("no_wait")
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream", "batch", "abatch"])
async def test_a_chain(
    calling: SteerableHFLLM, fault: tuple[dict[str, Any], str], name: str, how: str
) -> None:
    make, given = CHAINS[name]
    chain = make(
        calling.as_langchain(**{"max_tokens": 64, **fault[0]}), calling.as_langchain(max_tokens=64)
    )
    with pytest.raises(SteerableError, match=fault[1]):
        await asked(lambda: getattr(chain, how)([given, given] if "batch" in how else given))
