"""Questions about the pages of a PDF, which a vision-language model sees as pictures.

Pages are found by their text, shown to the model as pictures, and the answer is steered as the
policy says of pages that were found. Run it with `python apps/page_images/main.py`; `--pdf` and
`--model` take any file and any vision-language model of the Hugging Face Hub.
"""

from __future__ import annotations

import argparse
import base64
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pypdfium2
from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.indices.prompt_helper import ChatPromptHelper
from llama_index.core.prompts import RichPromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import SimpleSummarize
from llama_index.core.schema import ImageNode

from steerable_llm import SteerableHFLLM, Steering
from steerable_llm.adapters.llama_index import (
    SteerableLlamaIndexLLM,
    record_steering,
    tag_prompts,
)
from steerable_llm.demo.embedding import llama_index_embedding
from steerable_llm.errors import InvalidInputError, SteerableError

HERE = Path(__file__).resolve().parent
ALBUM = HERE / "album.pdf"
QUESTIONS = (
    "What colour is the banana?",
    "What colour is the tomato?",
    "What colour is the snowman?",
    "What colour is the carrot?",
    "What colour is the chair?",
    "What colour is the swan?",
)
EXHIBIT = "vision-demo"
# The bundled model knows no instructions: a picture, and the question. Others get LlamaIndex's own.
PICTURE_AND_QUESTION = RichPromptTemplate(
    "{% chat role='user' %}{% for message in context_messages %}{% for block in message.blocks %}"
    "{% if block.block_type == 'image' %}{{ block.inline_url() | image }}{% endif %}"
    "{% endfor %}{% endfor %}{{ query_str }}{% endchat %}"
)


def pages_of(pdf: Path, dpi: int) -> list[ImageNode]:
    """Draw each page, and read the text that finds it."""
    try:
        document = pypdfium2.PdfDocument(pdf)
    except (pypdfium2.PdfiumError, OSError) as error:
        said = " ".join(str(error).split())
        raise InvalidInputError(f"cannot read {pdf} ({said}): give a PDF file") from error
    pages = []
    with document:
        for number, page in enumerate(document, start=1):
            file = BytesIO()
            page.render(scale=dpi / 72).to_pil().convert("RGB").save(file, "PNG")
            text = page.get_textpage().get_text_bounded().strip()
            pages.append(
                ImageNode(
                    id_=f"{pdf.name}, page {number}",
                    image=base64.b64encode(file.getvalue()).decode(),
                    text=text or f"page {number}",
                    metadata={"page": number},
                )
            )
    return pages


def make_engine(llm: SteerableLlamaIndexLLM, pages: list[ImageNode], top: int) -> BaseQueryEngine:
    """Find pages by their text and answer from their pictures; the step is `text_qa`."""
    # MiniLM of an installed package; an embedding of page pictures would take its place here.
    index = VectorStoreIndex(pages, embed_model=llama_index_embedding())
    is_exhibit = llm.llm.model_id.endswith(EXHIBIT)
    synthesizer = SimpleSummarize(  # all pages that were found in one prompt
        llm=llm,
        multimodal=True,
        chat_content_qa_template=PICTURE_AND_QUESTION if is_exhibit else None,
        # LlamaIndex counts 2,125 tokens for any image, and silently drops what it thinks too long.
        chat_prompt_helper=ChatPromptHelper(
            context_window=max(llm.metadata.context_window, 32_000)
        ),
    )
    retriever = index.as_retriever(similarity_top_k=top)
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, response_synthesizer=synthesizer)
    return tag_prompts(engine)  # a prompt of one's own tells no step by itself


def load(model: str, policy: Path | None) -> SteerableHFLLM:
    """Load a model under a policy, or the bundled exhibit."""
    if model == EXHIBIT:
        return SteerableHFLLM.vision_demo(policy=policy)
    llm = SteerableHFLLM.from_pretrained(model, dtype="auto", policy=policy)
    if not llm.supports_images:
        raise InvalidInputError(f"{model} reads text only: give a vision-language model")
    return llm


def ask(llm: SteerableLlamaIndexLLM, pages: list[ImageNode], top: int, question: str) -> Any:
    """Ask the engine; return its response and the record of what steered it."""
    with record_steering() as record:
        response = make_engine(llm, pages, top).query(question)
    return response, record


def main(arguments: list[str] | None = None) -> int:
    """Answer questions about a PDF, steered and not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", nargs="*", help="what is asked; some questions by default")
    parser.add_argument("--pdf", type=Path, default=ALBUM, help="the file")
    parser.add_argument("--model", default=EXHIBIT, help="Hugging Face id or folder")
    parser.add_argument("--policy", type=Path, help="policy file with the step text_qa")
    parser.add_argument("--top", type=int, default=1, help="how many pages the model sees")
    parser.add_argument("--dpi", type=int, default=144, help="how finely pages are drawn")
    parser.add_argument("--tokens", type=int, default=64, help="longest answer")
    given = parser.parse_args(arguments)
    for option, number in (("--top", given.top), ("--dpi", given.dpi)):
        if number < 1:
            raise InvalidInputError(f"{option} is {number}: give at least 1")
    if not all(question.strip() for question in given.question):
        raise InvalidInputError("a question is empty: ask something, or give none for some of ours")
    own = "policy.toml" if given.model == EXHIBIT else "any-model.toml"
    llm = load(given.model, given.policy or HERE / own)
    pages = pages_of(given.pdf, given.dpi)
    steered = llm.as_llama_index(max_tokens=given.tokens)
    plain = llm.as_llama_index(max_tokens=given.tokens, steering=Steering.none())
    for question in given.question or QUESTIONS:
        print(f"\n  > {question}")
        for title, model in (("no policy", plain), ("policy", steered)):
            response, record = ask(model, pages, given.top, question)
            found = ", ".join(str(hit.node.metadata["page"]) for hit in response.source_nodes)
            [told] = record.to_list()
            vectors = ", ".join(f"{v['name']} {v['strength']:+.2f}" for v in told["steering"])
            print(f"  {title}, page {found}: {response}")
            print(f"    step {told['step'] or '(default)'}: {vectors or 'no vector'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SteerableError as error:  # bad input: one line, as the command steerable has it
        print(f"{HERE.name}: {error}", file=sys.stderr)
        sys.exit(2)
