"""The same question through a LangChain chain and a LlamaIndex query engine, steered and not.

Both retrieve from the same documents with the same embedding; what differs between the two answers
of a framework is the step that the model is asked for, and with it the policy's steering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from operator import itemgetter
from typing import Any

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.demo.embedding import langchain_embeddings, llama_index_embedding
from steerable_llm.errors import MissingExtraError

#: Passages per question; the bundled model reads up to four.
PASSAGES = 2
MAX_TOKENS = 32
#: From so many tokens on a context window holds the prompts that LlamaIndex writes by itself.
_USUAL_WINDOW = 2048


@dataclass(frozen=True)
class Layout:
    """How a LangChain prompt shows passages and question.

    Attributes:
        template: With `{documents}` and `{question}`.
        between: What stands between two passages.
        numbered: Whether each opens with its number, "[1] ".
    """

    template: str
    between: str
    numbered: bool

    def documents(self, passages: Sequence[str]) -> str:
        """Return what stands for `{documents}`."""
        if self.numbered:
            passages = [f"[{i}] {passage}" for i, passage in enumerate(passages, start=1)]
        return self.between.join(passages)

    def prompt(self, passages: Sequence[str], question: str) -> str:
        """Return the prompt as the model gets it."""
        return self.template.format(documents=self.documents(passages), question=question)


#: What the bundled model was trained on.
EXHIBIT = Layout("Documents:\n{documents}\n\nQuestion: {question}", "\n", numbered=True)
#: The prompt of LangChain's own introductions to retrieval.
USUAL = Layout(
    "Answer the question based only on the following context:\n{documents}\n\nQuestion: {question}",
    "\n\n",
    numbered=False,
)


@dataclass(frozen=True)
class SteppedAnswer:
    """What one framework answered under one step of the policy."""

    framework: str
    step: str
    question: str
    passages: tuple[str, ...]
    text: str
    steered: tuple[Mapping[str, Any], ...]


def check_extras() -> None:
    """Make sure that both frameworks and the embedding are installed.

    Raises:
        MissingExtraError: One of them is not.
    """
    for package in ("langchain_core", "llama_index", "sentence_transformers"):
        if find_spec(package) is None:
            raise MissingExtraError(
                f"this needs {package.replace('_', '-')}: "
                "pip install 'steerable-llm[langchain,llama-index]'"
            )


def ask_langchain(
    llm: SteerableHFLLM,
    documents: Mapping[str, str],
    question: str,
    steps: Sequence[str],
    layout: Layout = EXHIBIT,
) -> list[SteppedAnswer]:
    """Ask a retrieval chain: retriever, prompt, steered chat model."""
    from langchain_core.documents import Document
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import RunnablePassthrough
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore.from_documents(
        [Document(text, id=name) for name, text in documents.items()], langchain_embeddings()
    )
    retriever = store.as_retriever(search_kwargs={"k": PASSAGES})
    prompt = ChatPromptTemplate.from_messages([("user", layout.template)])

    def shown(given: dict[str, Any]) -> str:
        return layout.documents([page.page_content for page in given["passages"]])

    answers = []
    for step in steps:
        model = llm.as_langchain(step=step, max_tokens=MAX_TOKENS)
        chain = (
            RunnablePassthrough.assign(passages=itemgetter("question") | retriever)
            | RunnablePassthrough.assign(documents=shown)
            | RunnablePassthrough.assign(message=prompt | model)
        )
        found = chain.invoke({"question": question})
        answers.append(
            SteppedAnswer(
                "LangChain",
                step,
                question,
                tuple(page.page_content for page in found["passages"]),
                found["message"].text,
                tuple(found["message"].response_metadata["steering"]),
            )
        )
    return answers


def ask_llama_index(
    llm: SteerableHFLLM, documents: Mapping[str, str], question: str, steps: Sequence[str]
) -> list[SteppedAnswer]:
    """Ask a query engine over a vector index."""
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    from steerable_llm.adapters.llama_index import record_steering

    index = VectorStoreIndex(
        [TextNode(id_=name, text=text) for name, text in documents.items()],
        embed_model=llama_index_embedding(),
    )
    answers = []
    for step in steps:
        model = llm.as_llama_index(step=step, max_tokens=MAX_TOKENS)
        engine = index.as_query_engine(
            llm=model, similarity_top_k=PASSAGES, **_for_short_window(model)
        )
        # A query engine drops the model's own record, so it is kept beside it.
        with record_steering() as record:
            response = engine.query(question)
        answers.append(
            SteppedAnswer(
                "LlamaIndex",
                step,
                question,
                tuple(found.text for found in response.source_nodes),
                str(response),
                tuple(applied.to_dict() for applied in record.answers[-1].steered),
            )
        )
    return answers


def _for_short_window(model: Any) -> dict[str, Any]:
    """Return what `as_query_engine` needs for a model of a short context window, else nothing.

    The defaults keep 500 tokens free for refining an answer, and their prompt for chat models
    opens with a page of rules: more than the bundled model can hold.
    """
    from llama_index.core.prompts.default_prompts import (
        DEFAULT_REFINE_PROMPT,
        DEFAULT_TEXT_QA_PROMPT,
    )
    from llama_index.core.response_synthesizers import CompactAndRefine

    if model.metadata.context_window >= _USUAL_WINDOW:
        return {}
    synthesizer = CompactAndRefine(
        llm=model,
        text_qa_template=DEFAULT_TEXT_QA_PROMPT,
        refine_template=DEFAULT_REFINE_PROMPT,
        response_padding_size=MAX_TOKENS,
    )
    return {"response_synthesizer": synthesizer}
