"""The step of a LlamaIndex call is told from its prompt, or from what is around the call."""

from collections.abc import Iterator
from typing import Any

import pytest
from adapter_models import QUESTION, TOKENS, RecordingEngine, last, random_vector
from llama_index.core import Document, PromptTemplate, Settings, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptType
from llama_index.core.response_synthesizers import CompactAndRefine, Refine

from steerable_llm.adapters.llama_index import SteerableLlamaIndexLLM, steer_step
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.demo.embedding import llama_index_embedding
from steerable_llm.errors import UnknownStepError
from steerable_llm.policy.policy import Policy

# Short, since the tiny model's context window holds 256 tokens and its tokenizer is coarse.
ANSWER_PROMPT = PromptTemplate("{context_str}\nQ: {query_str}", PromptType.QUESTION_ANSWER)
REFINE_PROMPT = PromptTemplate("{existing_answer}|{context_msg}|{query_str}", PromptType.REFINE)
SUMMARY_PROMPT = PromptTemplate("{context_str}|{query_str}", PromptType.SUMMARY)


@pytest.fixture
def engine(tiny_llm: SteerableHFLLM) -> RecordingEngine:
    """The tiny model under a policy whose steps have the names of prompt types, and others."""
    vectors = {name: random_vector(tiny_llm, name, i) for i, name in enumerate("ab")}
    a = {"vectors": [{"name": "a", "strength": 0.8}]}
    b = {"vectors": [{"name": "b", "strength": -0.8, "layers": [1]}]}
    steps = {"plain": {}, "text_qa": a, "refine": b, "summary": b, "condense": b}
    return RecordingEngine(
        tiny_llm, Policy.from_dict({"default_step": "plain", "steps": steps}, vectors)
    )


@pytest.fixture
def llm(engine: RecordingEngine) -> SteerableLlamaIndexLLM:
    """The LLM without a step of its own."""
    return SteerableLlamaIndexLLM(engine=engine, max_tokens=TOKENS)


@pytest.fixture
def counted(llm: SteerableLlamaIndexLLM) -> Iterator[None]:
    """LlamaIndex counts tokens as the model does."""
    Settings.tokenizer = llm.tokens
    yield
    Settings.tokenizer = None  # type: ignore[assignment]


def test_the_step_is_told_from_the_nearest_place(llm: SteerableLlamaIndexLLM) -> None:
    named = PromptTemplate("{q}", metadata={"steer_step": "refine"})
    typed = PromptTemplate("{q}", PromptType.QUESTION_ANSWER)
    untyped = PromptTemplate("{q}")

    def step_of(model: SteerableLlamaIndexLLM, prompt: PromptTemplate) -> str | None:
        model.predict(prompt, q="Hello")
        return model.engine.steps[-1]  # type: ignore[attr-defined]

    assert step_of(llm, untyped) is None
    assert step_of(llm, typed) == "text_qa"
    with steer_step("condense"):
        assert step_of(llm, untyped) == step_of(llm, typed) == "condense"
        assert step_of(llm, named) == "refine"
        assert step_of(llm.for_step("summary"), named) == "summary"
        assert llm.for_step("summary").complete("Hello", step="plain").raw["step"] == "plain"
    assert step_of(llm, untyped) is None


async def test_the_prompts_type_is_the_step_on_each_path(llm: SteerableLlamaIndexLLM) -> None:
    prompt = PromptTemplate("{q}", PromptType.SUMMARY)
    llm.predict(prompt, q="Hello")
    await llm.apredict(prompt, q="Hello")
    list(llm.stream(prompt, q="Hello"))
    await last(await llm.astream(prompt, q="Hello"))
    assert llm.engine.steps == ["summary"] * 4  # type: ignore[attr-defined]


async def test_a_streams_step_is_the_one_that_held_when_it_was_asked_for(
    llm: SteerableLlamaIndexLLM,
) -> None:
    with steer_step("condense"):
        text = llm.stream_complete(QUESTION)
        chat = llm.stream_chat([ChatMessage(QUESTION)])
        atext = await llm.astream_complete(QUESTION)
        achat = await llm.astream_chat([ChatMessage(QUESTION)])
    with steer_step("text_qa"):
        responses = [list(text)[-1], list(chat)[-1], await last(atext), await last(achat)]
    assert [response.raw["step"] for response in responses] == ["condense"] * 4


def documents() -> list[Document]:
    return [Document(text=f"Shop {i} opens at {i} o'clock.") for i in range(3)]


# LlamaIndex keeps 500 tokens free in these two modes, more than the tiny model can hold.
SMALL_RESERVE: dict[str, Any] = {
    "compact": CompactAndRefine,
    "refine": Refine,
}


def query_engine(
    llm: SteerableLlamaIndexLLM, index: VectorStoreIndex, mode: str, top: int, **options: Any
) -> Any:
    """A query engine with prompts short enough for the tiny model."""
    prompts = {"text_qa_template": ANSWER_PROMPT, "refine_template": REFINE_PROMPT}
    if mode in SMALL_RESERVE:
        synthesizer = SMALL_RESERVE[mode](llm=llm, response_padding_size=16, **prompts, **options)
        return index.as_query_engine(
            llm=llm, similarity_top_k=top, response_synthesizer=synthesizer
        )
    return index.as_query_engine(
        llm=llm,
        similarity_top_k=top,
        response_mode=mode,  # type: ignore[arg-type]
        summary_template=SUMMARY_PROMPT,
        **prompts,
    )


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("compact", ["text_qa"]),
        ("refine", ["text_qa", "refine", "refine"]),
        ("tree_summarize", ["summary"]),
        ("simple_summarize", ["text_qa"]),
        ("accumulate", ["text_qa"] * 3),
    ],
)
def test_a_query_engines_calls_are_told_apart_by_their_prompts(
    llm: SteerableLlamaIndexLLM, mode: str, expected: list[str]
) -> None:
    index = VectorStoreIndex.from_documents(documents(), embed_model=MockEmbedding(embed_dim=4))
    response = query_engine(llm, index, mode, 3).query("When?")
    assert str(response)
    assert llm.engine.steps == expected  # type: ignore[attr-defined]


@pytest.mark.usefixtures("counted")
async def test_a_query_over_real_embeddings_answers_as_the_engine_does(
    llm: SteerableLlamaIndexLLM,
) -> None:
    texts = ["The shop in Lyon opens at nine.", "Mercury is the planet nearest to the sun."]
    index = VectorStoreIndex.from_documents(
        [Document(text=text) for text in texts], embed_model=llama_index_embedding()
    )
    engine = query_engine(llm, index, "compact", 1)
    response = engine.query(QUESTION)
    assert [node.text for node in response.source_nodes] == texts[:1]
    direct = llm.engine.generate(
        f"{texts[0]}\nQ: {QUESTION}", step="text_qa", max_new_tokens=TOKENS
    )
    assert str(response) == direct.text
    assert str(await engine.aquery(QUESTION)) == direct.text
    streaming = query_engine(llm, index, "compact", 1, streaming=True)
    assert "".join(streaming.query(QUESTION).response_gen) == direct.text


def test_an_unknown_step_that_was_named_is_an_error(llm: SteerableLlamaIndexLLM) -> None:
    with steer_step("condence"), pytest.raises(UnknownStepError, match="'condense'"):
        llm.complete("Hello")
    # A prompt type that the policy does not name is none.
    assert llm.predict(PromptTemplate("{q}", PromptType.KEYWORD_EXTRACT), q="Hello")
    assert llm.engine.steps == [None]  # type: ignore[attr-defined]
