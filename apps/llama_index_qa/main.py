"""Questions about a handbook with LlamaIndex: each call of the model is steered as its step asks.

Run it with `python apps/llama_index_qa/main.py`. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from llama_index.core import Document, PromptHelper, PromptTemplate, VectorStoreIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.chat_engine import CondenseQuestionChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptType
from llama_index.core.response_synthesizers import CompactAndRefine

from steerable_llm import SteerableHFLLM
from steerable_llm.adapters.llama_index import record_steering, tag_prompts
from steerable_llm.demo.embedding import llama_index_embedding
from steerable_llm.errors import InvalidInputError, SteerableError
from steerable_llm.files import read_text

HERE = Path(__file__).resolve().parent
QUESTION = "What is the return period of Maple Books?"
FOLLOW_UP = "And Oak Books?"
COMPLAINT = "Hello. The tent that I ordered from Maple Books has not come."

# The bundled model knows these layouts; a larger model needs none of the three prompts.
ANSWER = PromptTemplate(
    "Documents:\n{context_str}\n\nQuestion: {query_str}", PromptType.QUESTION_ANSWER
)
REFINE = PromptTemplate("Documents:\n{context_msg}\n\nQuestion: {query_str}", PromptType.REFINE)


def last_exchange(chat_history: str, **_: Any) -> str:
    """The last question and answer of a conversation, laid out as the bundled model learnt it."""
    question, answer = chat_history.splitlines()[-2:]
    value = answer.removesuffix(".").rpartition(" it is ")[2]
    return f"Question: {question.removeprefix('user: ')}\nAnswer: {value}"


CONDENSE = PromptTemplate(
    "Rewrite the follow-up as a question of its own.\n{chat_history}\nFollow-up: {question}",
    function_mappings={"chat_history": last_exchange},
)


def read_handbook(folder: Path) -> list[Document]:
    """Read the pages; what is no text is told, since an answer would not show what it left out.

    Raises:
        InvalidInputError: A file is not in UTF-8, or the folder holds no text.
    """
    # Without metadata, which LlamaIndex would write above each passage (the path, say).
    pages = [Document(text=read_text(file)) for file in sorted(folder.glob("*.txt"))]
    if not any(page.text.strip() for page in pages):
        raise InvalidInputError(f"{folder} holds no text: put the handbook there, as .txt files")
    return pages


def make_query_engine(llm: Any) -> BaseQueryEngine:
    """A query engine over the handbook; it takes its steering from the policy's `text_qa`."""
    pages = read_handbook(HERE / "handbook")
    index = VectorStoreIndex.from_documents(pages, embed_model=llama_index_embedding())
    # `index.as_query_engine(llm=llm)` is enough for a model with a usual context window. The
    # defaults keep 500 tokens free, which is all that the bundled model can hold.
    synthesizer = CompactAndRefine(
        llm=llm,
        text_qa_template=ANSWER,
        refine_template=REFINE,
        # Passages are cut to what fits, which only the model's own tokens tell.
        prompt_helper=PromptHelper.from_llm_metadata(llm.metadata, tokenizer=llm.tokens),
        response_padding_size=16,
    )
    return index.as_query_engine(llm=llm, similarity_top_k=1, response_synthesizer=synthesizer)


def make_chat_engine(llm: Any) -> CondenseQuestionChatEngine:
    """A chat engine over it; the prompt that rewrites follow-ups is told by a tag."""
    engine = CondenseQuestionChatEngine.from_defaults(
        make_query_engine(llm),
        condense_question_prompt=CONDENSE,
        llm=llm,
        memory=ChatMemoryBuffer.from_defaults(),
    )
    return tag_prompts(engine)


def show(title: str, asked: str, answer: object, record: Any) -> None:
    """Print an answer with the steps that led to it."""
    print(f"\n{title}\n  > {asked}\n  {answer}")
    for call in record.to_list():
        vectors = ", ".join(f"{v['name']} {v['strength']:+.2f}" for v in call["steering"])
        print(f"    step {call['step'] or '(default)'}: {vectors or 'not steered'}")


def main(arguments: list[str] | None = None) -> int:
    """Ask the query engine, the chat engine and the model itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--question", default=QUESTION, help="what the handbook is asked")
    parser.add_argument("--follow-up", default=FOLLOW_UP, help="what the chat is asked next")
    parser.add_argument("--message", default=COMPLAINT, help="what the customer wrote")
    given = parser.parse_args(arguments)
    if not all(text.strip() for text in (given.question, given.follow_up, given.message)):
        raise InvalidInputError(
            "a question or the message is empty: ask something, or leave the option out"
        )
    llm = SteerableHFLLM.demo(policy=HERE / "policy.toml").as_llama_index(max_tokens=32)
    unsteered = SteerableHFLLM.demo().as_llama_index(max_tokens=32)

    for title, model in (("Query engine, no policy", unsteered), ("Query engine", llm)):
        with record_steering() as record:
            response = make_query_engine(model).query(given.question)
        show(title, given.question, response, record)

    chat = make_chat_engine(llm)
    for message in (given.question, given.follow_up):
        with record_steering() as record:
            answer = chat.chat(message)
        show("Chat engine", message, answer, record)

    for title, model in (("Reply, no policy", unsteered), ("Reply", llm)):
        with record_steering() as record:
            reply = model.for_step("reply" if model is llm else None).complete(given.message)
        show(title, given.message, reply, record)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerableError as error:  # bad input: one line, as the command steerable has it
        print(f"{HERE.name}: {error}", file=sys.stderr)
        sys.exit(2)
