"""Documents that a framework hands over are context, wherever the prompt has them."""

import asyncio
import dataclasses
from typing import Annotated, Any, TypedDict

import pytest
from adapter_models import random_vector
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from llama_index.core import Document as LlamaDocument
from llama_index.core import VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel

from steerable_llm.adapters.langchain import record_steering
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.policy.policy import Policy

PASSAGE = "The shop opens at nine."
# Nothing marks where the passage is.
GLUED = "{context} And so: {question}"


class Shelf(BaseRetriever):
    """Finds the same passage whatever is asked."""

    found: tuple[str, ...] = (PASSAGE,)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return [Document(text) for text in self.found]


@pytest.fixture(scope="module")
def llm(tiny_llm: SteerableHFLLM) -> SteerableHFLLM:
    """The tiny model, steered where there is context."""
    when = {"context": "present"}
    policy = Policy.from_dict(
        {
            "default_step": "answer",
            "steps": {"answer": {"vectors": [{"name": "a", "strength": 0.5}], "when": when}},
        },
        {"a": random_vector(tiny_llm, "a", 0)},
    )
    return SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, policy=policy, model_id="tiny")


def chain(llm: SteerableHFLLM, retriever: BaseRetriever, text: str = GLUED) -> Runnable[str, Any]:
    joined = RunnableLambda(lambda found: "\n\n".join(x.page_content for x in found))
    prompt = ChatPromptTemplate.from_template(text)
    sources = {"context": retriever | joined, "question": RunnablePassthrough()}
    return sources | prompt | llm.as_langchain(max_tokens=3)


def reasons(message: AIMessage) -> str:
    return " ".join(message.response_metadata["decision"]["reasons"])


def test_what_a_chains_retriever_found_is_context(llm: SteerableHFLLM) -> None:
    made = chain(llm, Shelf())
    assert "context present" in reasons(made.invoke("When?"))
    assert "context present" in reasons(asyncio.run(made.ainvoke("When?")))
    assert all("context present" in reasons(one) for one in made.batch(["When?", "Why?"]))
    *_, last = (chunk for chunk in made.stream("When?") if chunk.response_metadata)
    assert "context present" in reasons(last)


def test_what_was_found_and_is_not_in_the_prompt_is_no_context(llm: SteerableHFLLM) -> None:
    made = chain(llm, Shelf(), "{question}")
    assert "context absent" in reasons(made.invoke("When?"))


def test_what_another_run_found_is_no_context(llm: SteerableHFLLM) -> None:
    chain(llm, Shelf()).invoke("When?")
    [found] = Shelf().invoke("When?")
    prompt = GLUED.format(context=found.page_content, question="When?")
    assert "context absent" in reasons(llm.as_langchain(max_tokens=3).invoke(prompt))


def test_the_callers_word_goes_before_the_retriever(llm: SteerableHFLLM) -> None:
    joined = RunnableLambda(lambda found: found[0].page_content)
    model = llm.as_langchain(max_tokens=3).bind(context=False)
    made = Shelf() | joined | model
    assert "context absent" in reasons(made.invoke("When?"))


class State(TypedDict, total=False):
    question: str
    context: list[Document]
    answer: Any
    messages: Annotated[list[Any], add_messages]


@dataclasses.dataclass
class DataState:
    question: str
    context: list[Document] = dataclasses.field(default_factory=list)
    answer: Any = None


class ModelState(BaseModel):
    question: str
    context: list[Any] = []
    answer: Any = None


@pytest.mark.parametrize("schema", [State, DataState, ModelState])
def test_documents_in_the_state_of_a_graph_are_context(llm: SteerableHFLLM, schema: Any) -> None:
    model = llm.as_langchain(max_tokens=3)

    def read(state: Any, name: str) -> Any:
        return state[name] if isinstance(state, dict) else getattr(state, name)

    def search(state: Any) -> dict[str, Any]:  # a store's own search tells no handler
        return {"context": [Document(PASSAGE)]}

    def answer(state: Any) -> dict[str, Any]:
        [found] = read(state, "context")
        text = GLUED.format(context=found.page_content, question=read(state, "question"))
        return {"answer": model.invoke(text)}

    graph = StateGraph(schema)
    graph.add_node("search", search)
    graph.add_node("generate", answer)
    graph.add_edge(START, "search")
    graph.add_edge("search", "generate")
    graph.add_edge("generate", END)
    made = graph.compile().invoke({"question": "When?"})
    assert "context present" in reasons(made["answer"])


def test_a_chain_after_the_model_is_as_before(llm: SteerableHFLLM) -> None:
    text = (chain(llm, Shelf()) | StrOutputParser()).invoke("When?")
    assert text == chain(llm, Shelf()).invoke("When?").text


# LlamaIndex.

LLAMA_GLUED = PromptTemplate("{context_str} And so: {query_str}")


def decided(llm: SteerableHFLLM, ask: Any) -> list[str]:
    with record_steering() as record:
        ask(llm.as_llama_index(max_tokens=3))
    return [" ".join(answer.decision.reasons) for answer in record.answers if answer.decision]


def test_the_text_that_llama_index_fills_in_is_context(llm: SteerableHFLLM) -> None:
    index = VectorStoreIndex.from_documents(
        [LlamaDocument(text=PASSAGE)], embed_model=MockEmbedding(embed_dim=4)
    )

    def ask(model: Any) -> None:
        engine = index.as_query_engine(
            llm=model, text_qa_template=LLAMA_GLUED, response_mode="simple_summarize"
        )
        engine.query("When?")

    [why] = decided(llm, ask)
    assert "context present" in why


def test_a_prompt_that_asks_nothing_beside_its_text_has_no_context(llm: SteerableHFLLM) -> None:
    made_up = PromptTemplate("Please write a passage to answer the question\n{context_str}\n")
    [why] = decided(llm, lambda model: model.predict(made_up, context_str="When does it open?"))
    assert "context absent" in why


async def test_every_way_to_fill_a_prompt_in_tells_its_text(llm: SteerableHFLLM) -> None:
    told = {"context_str": PASSAGE, "query_str": "When?"}
    model = llm.as_llama_index(max_tokens=3)
    with record_steering() as record:
        model.predict(LLAMA_GLUED, **told)
        await model.apredict(LLAMA_GLUED, **told)
        list(model.stream(LLAMA_GLUED, **told))
        [_ async for _ in await model.astream(LLAMA_GLUED, **told)]
        model.predict(LLAMA_GLUED.partial_format(query_str="When?"), context_str=PASSAGE)
    assert len(record.answers) == 5
    for answer in record.answers:
        assert answer.decision is not None
        assert "context present" in " ".join(answer.decision.reasons)
