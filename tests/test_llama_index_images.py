"""LlamaIndex's engines that answer from images: their steps, what counts as context, the log."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from adapter_models import random_vector
from llama_index.core import Settings
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.chat_engine import (
    MultiModalCondensePlusContextChatEngine,
    MultiModalContextChatEngine,
)
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import RichPromptTemplate
from llama_index.core.query_engine import CitationQueryEngine, RetrieverQueryEngine
from llama_index.core.schema import ImageNode, NodeWithScore, QueryBundle, TextNode
from PIL import Image
from vision_models import vision_llm

from steerable_llm.adapters.llama_index import record_answers, record_steering, tag_prompts
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.chat.context import has_context, quoted
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.policy.policy import Policy

QUESTION = "What is on it?"
STEPS = ("text_qa", "refine", "summary", "condense", "mine")


@pytest.fixture(scope="module")
def model() -> SteerableHFLLM:
    return vision_llm("llava", context_window=30_000)


@pytest.fixture(scope="module")
def llm(model: SteerableHFLLM) -> Any:
    """A vision-language model whose steps steer where there is context."""
    steps: dict[str, Any] = {
        step: {"vectors": [{"name": "a", "strength": 0.5}], "when": {"context": "present"}}
        for step in STEPS
    }
    policy = Policy.from_dict(
        {"default_step": "plain", "steps": {**steps, "plain": {}}},
        {"a": random_vector(model, "a", 0)},
    )
    processor = model.chat_format.vision.processor  # type: ignore[union-attr]
    engine = SteerableHFLLM(
        model.model, model.tokenizer, policy=policy, processor=processor,
        model_id="llava", context_window=30_000,
    )  # fmt: skip
    return engine.as_llama_index(max_tokens=3)


@pytest.fixture(autouse=True)
def counted(llm: Any) -> Iterator[None]:
    Settings.tokenizer = llm.tokens
    yield
    Settings.tokenizer = None  # type: ignore[assignment]


def png(colour: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (40, 40), colour).save(file, "PNG")
    return file.getvalue()


def png_base64(colour: str) -> str:
    return base64.b64encode(png(colour)).decode()


@pytest.fixture
def pages(tmp_path: Path) -> list[ImageNode]:
    for colour in ("red", "blue"):
        (tmp_path / f"{colour}.png").write_bytes(png(colour))
    return [
        ImageNode(id_=colour, image_path=str(tmp_path / f"{colour}.png"))
        for colour in ("red", "blue")
    ]


class Found(BaseRetriever):
    """Finds what it was given."""

    def __init__(self, nodes: list[Any]) -> None:
        super().__init__()
        self.nodes = nodes

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=node, score=1.0) for node in self.nodes]


def told(record: Any) -> list[tuple[str | None, bool]]:
    """Per answer its step, and whether what was found counted as context."""
    return [
        (answer.step, bool(answer.steered) and "context present" in str(answer.decision))
        for answer in record.answers
    ]


@pytest.mark.parametrize("tagged", [False, True], ids=["untagged", "tagged"])
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("compact", ["text_qa"]),
        ("refine", ["text_qa", "refine"]),
        ("tree_summarize", ["summary"]),
        ("simple_summarize", ["text_qa"]),
        ("accumulate", ["text_qa", "text_qa"]),
    ],
)
async def test_engines_of_images_tell_their_steps_and_that_images_are_context(
    llm: Any, pages: list[ImageNode], mode: Any, expected: list[str], tagged: bool
) -> None:
    engine = RetrieverQueryEngine.from_args(
        Found(pages), llm=llm, response_mode=mode, multimodal=True
    )
    if tagged:
        tag_prompts(engine)
    for ask in (engine.query, engine.aquery):
        with record_steering() as record:
            answer = ask(QUESTION)
            answer = await answer if ask == engine.aquery else answer
        assert told(record) == [(step, True) for step in expected]
        assert all(answer.usage.prompt_tokens > 0 for answer in record.answers)


def test_a_stream_and_cited_pages_tell_the_same(llm: Any, pages: list[ImageNode]) -> None:
    streaming = RetrieverQueryEngine.from_args(
        Found(pages), llm=llm, multimodal=True, streaming=True
    )
    with record_steering() as record:
        str(tag_prompts(streaming).query(QUESTION))
    assert told(record) == [("text_qa", True)]
    cited = CitationQueryEngine(Found(pages), llm=llm, multimodal=True)
    with record_steering() as record:
        cited.query(QUESTION)
    assert told(record)[0] == ("text_qa", True)


def test_a_users_own_prompt_with_images_tells_its_step_once_it_is_tagged(
    llm: Any, pages: list[ImageNode]
) -> None:
    glued = RichPromptTemplate(
        "{% chat role='user' %}{{ query_str }}{% for m in context_messages %}{% for b in m.blocks "
        "%}{% if b.block_type == 'image' %}{{ b.inline_url() | image }}{% endif %}{% endfor %}"
        "{% endfor %}{% endchat %}"
    )
    engine = RetrieverQueryEngine.from_args(
        Found(pages[:1]), llm=llm, multimodal=True, chat_content_qa_template=glued
    )
    for tags, step in ((None, "text_qa"), ({"text_qa": "mine"}, "mine")):
        with record_steering() as record:
            tag_prompts(engine, tags).query(QUESTION)
        assert told(record) == [(step, True)]


def test_an_image_that_a_user_shows_is_no_context(llm: Any) -> None:
    asked = [
        {"type": "image", "image": png("red")},
        {"type": "text", "text": QUESTION},
    ]
    assert not has_context([{"role": "user", "content": asked}])
    found = [
        {"type": "text", "text": "Context:\n"},
        {"type": "image", "image": png("red")},
        {"type": "text", "text": f"\n\nQuestion: {QUESTION}"},
    ]
    assert has_context([{"role": "user", "content": found}])


def memory(*texts: str) -> ChatMemoryBuffer:
    roles = ("user", "assistant") * len(texts)
    history = [ChatMessage(text, role=role) for role, text in zip(roles, texts, strict=False)]
    return ChatMemoryBuffer.from_defaults(chat_history=history)


async def test_chat_engines_of_images_tell_their_steps_once_they_are_tagged(
    llm: Any, pages: list[ImageNode]
) -> None:
    engine = MultiModalContextChatEngine.from_defaults(
        Found(pages), multi_modal_llm=llm, memory=memory(), system_prompt="Be brief."
    )
    with record_steering() as record:
        engine.chat(QUESTION)
    assert told(record) == [(None, False)]
    tag_prompts(engine)
    with record_steering() as record:
        engine.chat(QUESTION)
        await engine.achat(QUESTION)
    assert told(record) == [("text_qa", True)] * 2
    condensing = MultiModalCondensePlusContextChatEngine.from_defaults(
        Found([TextNode(text="The shop is red."), *pages]),
        multi_modal_llm=llm,
        memory=memory("Where?", "In Lyon."),
        system_prompt="Be brief.",
    )
    with record_steering() as record:
        tag_prompts(condensing, {"text_qa": "mine"}).chat(QUESTION)
    assert told(record) == [("condense", False), ("mine", True)]


@pytest.mark.parametrize("streaming", [False, True])
def test_found_images_are_logged_by_the_name_that_they_have_in_the_prompt(
    llm: Any, pages: list[ImageNode], tmp_path: Path, streaming: bool
) -> None:
    pages = [*pages, ImageNode(id_="drawn", image=png_base64("green"), text="A green page.")]
    url = f"sqlite:///{tmp_path}/answers.db"
    handler = record_answers(url)
    try:
        engine = RetrieverQueryEngine.from_args(
            Found(pages), llm=llm, multimodal=True, streaming=streaming
        )
        str(tag_prompts(engine).query(QUESTION))
        handler.recorder.flush()
    finally:
        handler.stop()
        handler.recorder.close()
    with AnswerLog(url) as log:
        [answer] = log.answers()
    assert answer.step == "text_qa"
    shown = [image for message in answer.messages for image in message.images]
    assert len(shown) == 3
    assert [passage.text for passage in answer.passages] == [
        shown[0].in_words, shown[1].in_words, "A green page.", shown[2].in_words
    ]  # fmt: skip
    assert [passage.id for passage in answer.passages] == ["red", "blue", "drawn", "drawn"]


def test_a_passage_may_be_an_image() -> None:
    coded = png_base64("red")
    content = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{coded}"}}]
    prompt = [{"role": "user", "content": content}]
    given = (coded, f"data:image/png;base64,{coded}", png_base64("blue"), "The shop is red.")
    assert quoted(prompt, given) == given[:2]
    assert quoted([{"role": "user", "content": QUESTION}], given) == ()
