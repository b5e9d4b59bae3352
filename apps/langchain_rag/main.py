"""A LangChain RAG chain whose four steps are steered in four ways, from one file.

Run it with `python apps/langchain_rag/main.py`. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from steerable_llm import Constraint, SteerableHFLLM
from steerable_llm.demo.embedding import langchain_embeddings
from steerable_llm.errors import InvalidInputError, SteerableError
from steerable_llm.files import read_text

HERE = Path(__file__).resolve().parent
QUESTION = "What is the return period of Maple Books?"
MESSAGE = "You are useless. I want my money back for the lamp from Maple Books."

NOTHING = "The text does not say."
# What a note on a page may be, so that a program can tell the two apart.
NOTE = Constraint.regex(r"According to the text, it is [^.]{1,40}\.|The text does not say\.")

ONE_PAGE = ChatPromptTemplate.from_template("Documents:\n[1] {page}\n\nQuestion: {question}")
ALL_PAGES = ChatPromptTemplate.from_template("Documents:\n{pages}\n\nQuestion: {question}")
LETTER = ChatPromptTemplate.from_template("{message}")


def read_handbook(file: Path) -> list[str]:
    """Read the pages, a line each; blank lines are none.

    Raises:
        InvalidInputError: The file is not in UTF-8, or holds no text.
    """
    pages = [line for line in read_text(file).splitlines() if line.strip()]
    if not pages:
        raise InvalidInputError(f"{file} holds no text: write a page on each line")
    return pages


def make_chain(llm: SteerableHFLLM) -> Runnable[dict[str, Any], dict[str, Any]]:
    """Make the chain: retrieve -> condense -> answer -> reply.

    It takes a `question` and the customer's `message`, and adds what each step found.
    """
    model = llm.as_langchain(max_tokens=32)
    pages = read_handbook(HERE / "handbook.txt")
    store = InMemoryVectorStore.from_documents(
        [Document(page) for page in pages], langchain_embeddings()
    )
    retriever = store.as_retriever(search_kwargs={"k": 3})
    read_one_page = ONE_PAGE | model.for_step("condense").bind(response_format=NOTE)

    def retrieve(given: dict[str, Any]) -> list[str]:
        return [page.page_content for page in retriever.invoke(given["question"])]

    def condense(given: dict[str, Any]) -> dict[str, Any]:
        """Ask each page alone, all in one batch, and keep those that have an answer."""
        asked = [{"page": page, "question": given["question"]} for page in given["retrieved"]]
        notes = read_one_page.batch(asked)
        kept = [
            page
            for page, note in zip(given["retrieved"], notes, strict=True)
            if note.text != NOTHING
        ]
        return {"kept": kept or given["retrieved"], "notes": notes}

    def numbered(given: dict[str, Any]) -> dict[str, str]:
        kept = enumerate(given["condensed"]["kept"], start=1)
        return {
            "pages": "\n".join(f"[{number}] {page}" for number, page in kept),
            "question": given["question"],
        }

    return (
        RunnablePassthrough.assign(retrieved=retrieve)
        | RunnablePassthrough.assign(condensed=condense)
        | RunnablePassthrough.assign(answer=numbered | ALL_PAGES | model.for_step("answer"))
        | RunnablePassthrough.assign(reply=LETTER | model.for_step("reply"))
    )


def applied(message: AIMessage) -> str:
    """Say what steered a message, as the message itself tells it."""
    vectors = message.response_metadata["steering"]
    told = ", ".join(f"{vector['name']} {vector['strength']:+.2f}" for vector in vectors)
    return told or "not steered"


def show(title: str, found: dict[str, Any]) -> None:
    """Print what each step made, and what steered it."""
    condensed = found["condensed"]
    print(f"\n{title}")
    print(f"  retrieve  {len(found['retrieved'])} pages")
    print(f"  condense  {len(condensed['kept'])} kept    [{applied(condensed['notes'][0])}]")
    print(f"  answer    {found['answer'].text}    [{applied(found['answer'])}]")
    print(f"  reply     {found['reply'].text}    [{applied(found['reply'])}]")


def main(arguments: list[str] | None = None) -> int:
    """Run the chain without and with its policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--question", default=QUESTION, help="what the handbook is asked")
    parser.add_argument("--message", default=MESSAGE, help="what the customer wrote")
    given = parser.parse_args(arguments)
    if not (given.question.strip() and given.message.strip()):
        raise InvalidInputError(
            "the question or the message is empty: ask something, or leave the option out"
        )
    asked = {"question": given.question, "message": given.message}

    print(f"> {given.message}\n> {given.question}")
    show("Without a policy", make_chain(SteerableHFLLM.demo()).invoke(asked))
    steered = SteerableHFLLM.demo(policy=HERE / "policy.toml")
    show("With policy.toml", make_chain(steered).invoke(asked))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerableError as error:  # bad input: one line, as the command steerable has it
        print(f"{HERE.name}: {error}", file=sys.stderr)
        sys.exit(2)
