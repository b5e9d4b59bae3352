"""The LLM in LlamaIndex: every way in answers alike, and prompt types choose the steering."""

import asyncio
import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from adapter_models import QUESTION, TOKENS, RecordingLLM, last, random_vector
from llama_index.core import Document, PromptTemplate, Settings, VectorStoreIndex
from llama_index.core.base.llms.types import ImageBlock, MessageRole
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.extractors import TitleExtractor
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptType
from llama_index.core.response_synthesizers import CompactAndRefine, Refine
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from steerable_llm.adapters.llama_index import SteerableLlamaIndexLLM, steer_step
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.demo.embedding import llama_index_embedding
from steerable_llm.errors import InvalidInputError, PromptTooLongError, UnknownStepError
from steerable_llm.policy.policy import Policy


class City(BaseModel):
    name: str


@pytest.fixture
def engine(tiny_llm: SteerableHFLLM) -> RecordingLLM:
    """The tiny model under a policy whose steps have the names of prompt types, and others."""
    vectors = {name: random_vector(tiny_llm, name, i) for i, name in enumerate("ab")}
    a = {"vectors": [{"name": "a", "strength": 0.8}]}
    b = {"vectors": [{"name": "b", "strength": -0.8, "layers": [1]}]}
    steps = {"plain": {}, "text_qa": a, "refine": b, "summary": b, "condense": b}
    return RecordingLLM(
        tiny_llm, Policy.from_dict({"default_step": "plain", "steps": steps}, vectors)
    )


@pytest.fixture
def llm(engine: RecordingLLM) -> SteerableLlamaIndexLLM:
    """The LLM without a step of its own."""
    return SteerableLlamaIndexLLM(llm=engine, max_tokens=TOKENS)


def steered_by(response: Any) -> list[str]:
    return [applied["name"] for applied in response.raw["steering"]]


async def test_every_way_in_gives_the_same_answer_and_the_same_record(
    llm: SteerableLlamaIndexLLM,
) -> None:
    model = llm.for_step("text_qa")
    message = [ChatMessage(QUESTION)]
    expected = model.complete(QUESTION)
    completions = [
        list(model.stream_complete(QUESTION))[-1],
        await model.acomplete(QUESTION),
        await last(await model.astream_complete(QUESTION)),
    ]
    chats = [
        model.chat(message),
        list(model.stream_chat(message))[-1],
        await model.achat(message),
        await last(await model.astream_chat(message)),
    ]
    assert steered_by(expected) == ["a"]
    assert [r.text for r in completions] == [expected.text] * 3
    assert [r.message.content for r in chats] == [expected.text] * 4
    assert {r.message.role for r in chats} == {MessageRole.ASSISTANT}
    for response in [*completions, *chats]:
        assert response.raw == expected.raw
        assert response.additional_kwargs == expected.additional_kwargs


def test_the_deltas_of_a_stream_make_its_text(llm: SteerableLlamaIndexLLM) -> None:
    pieces = list(llm.stream_complete(QUESTION))
    assert "".join(piece.delta or "" for piece in pieces) == pieces[-1].text
    assert [piece.text for piece in pieces] == sorted((p.text for p in pieces), key=len)
    chats = list(llm.stream_chat([ChatMessage(QUESTION)]))
    assert "".join(piece.delta or "" for piece in chats) == pieces[-1].text


def test_the_response_says_what_it_cost_and_what_was_applied(llm: SteerableLlamaIndexLLM) -> None:
    response = llm.complete(QUESTION, step="text_qa")
    direct = llm.llm.generate(QUESTION, step="text_qa", max_new_tokens=TOKENS)
    assert response.text == direct.text
    assert response.raw["usage"]["prompt_tokens"] == len(
        llm.llm.encode([{"role": "user", "content": QUESTION}])
    )
    assert response.raw["usage"]["completion_tokens"] == len(direct.token_ids)
    assert response.raw["steering"] == [applied.to_dict() for applied in direct.steered]
    assert response.raw["finish_reason"] == direct.finish_reason
    assert (response.raw["step"], response.raw["model_name"]) == ("text_qa", "tiny")


def test_the_engine_makes_llms_that_share_its_weights(engine: RecordingLLM) -> None:
    llm = engine.as_llama_index(step="refine", max_tokens=3)
    assert isinstance(llm, SteerableLlamaIndexLLM)
    assert llm.llm is llm.for_step("summary").llm is engine
    assert (llm.step, llm.for_step("summary").step, llm.max_tokens) == ("refine", "summary", 3)
    assert "Tensor" not in repr(llm)
    steering = random_vector(engine, "c", 3).steer(0.8)
    own = engine.as_llama_index(step="refine", steering=steering, max_tokens=TOKENS)
    assert steered_by(own.complete(QUESTION)) == ["c"]


def test_a_copy_shares_the_weights_however_it_is_made(llm: SteerableLlamaIndexLLM) -> None:
    structured = copy.deepcopy(llm.as_structured_llm(City))
    for made in (copy.copy(llm), copy.deepcopy(llm), llm.model_copy(deep=True), structured.llm):
        assert made.llm is llm.llm
        assert made is not llm


def test_pickling_leaves_the_model_in_use_as_it_is(llm: SteerableLlamaIndexLLM) -> None:
    """LlamaIndex pickles what an ingestion pipeline holds once it has several workers."""
    before = llm.complete(QUESTION)
    extractor = TitleExtractor(llm=llm)
    sent = pickle.loads(pickle.dumps(extractor))
    assert extractor.llm is llm
    assert llm.complete(QUESTION) == before
    with pytest.raises(InvalidInputError, match="weights do not travel to another process"):
        sent.llm.complete(QUESTION)


def test_its_metadata_is_the_models(llm: SteerableLlamaIndexLLM) -> None:
    assert llm.metadata.context_window == llm.llm.context_window
    assert (llm.metadata.num_output, llm.metadata.model_name) == (TOKENS, "tiny")
    assert llm.metadata.is_chat_model
    assert not llm.metadata.is_function_calling_model
    assert llm.llm.tokenizer.decode(llm.tokens(QUESTION)) == QUESTION


async def test_the_event_loop_keeps_turning(llm: SteerableLlamaIndexLLM) -> None:
    ticks = 0

    async def beat() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    heart = asyncio.create_task(beat())
    message = [ChatMessage(QUESTION)]
    for work in [llm.acomplete(QUESTION), llm.achat(message)]:
        ticks = 0
        await work
        # A loop that were blocked would give the heart a handful of beats, one for each await.
        assert ticks > 10 * TOKENS
    for stream in [await llm.astream_complete(QUESTION), await llm.astream_chat(message)]:
        ticks = 0
        await last(stream)
        assert ticks > 10 * TOKENS
    heart.cancel()


async def test_a_cancelled_task_stops_the_generation(engine: RecordingLLM) -> None:
    llm = SteerableLlamaIndexLLM(llm=engine, max_tokens=200)
    task = asyncio.ensure_future(llm.acomplete("Hi"))
    while engine.made < 2:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(engine.closed.wait, 10)
    assert engine.made < 100
    assert engine.steps == []


async def test_an_error_while_answering_reaches_the_caller_on_every_path(
    llm: SteerableLlamaIndexLLM,
) -> None:
    long = "word " * 400
    with pytest.raises(PromptTooLongError):
        llm.complete(long)
    with pytest.raises(PromptTooLongError):
        list(llm.stream_complete(long))
    with pytest.raises(PromptTooLongError):
        await llm.acomplete(long)
    with pytest.raises(PromptTooLongError):
        await last(await llm.astream_complete(long))


def test_call_arguments_win_over_fields(llm: SteerableLlamaIndexLLM) -> None:
    text = llm.complete(QUESTION).text
    stop = text[4:6]
    assert llm.complete(QUESTION, stop=[stop]).text == text[: text.index(stop)]
    assert llm.complete(QUESTION, max_tokens=3).raw["usage"]["completion_tokens"] <= 3
    drawn = {"temperature": 2.0, "seed": 7}
    assert llm.complete(QUESTION, **drawn).text == llm.complete(QUESTION, **drawn).text != text


def test_none_is_the_default_and_one_text_a_list_of_one(llm: SteerableLlamaIndexLLM) -> None:
    none = dict.fromkeys(("temperature", "max_tokens", "top_p", "top_k", "seed", "stop"))
    made = llm.llm.as_llama_index(**none)
    assert (made.temperature, made.max_tokens, made.stop) == (0.0, None, None)
    text = llm.complete(QUESTION, **none).text
    assert text == llm.complete(QUESTION).text
    cut = text[: text.index(text[4:6])]
    stopping = SteerableLlamaIndexLLM(llm=llm.llm, max_tokens=TOKENS, stop=text[4:6])
    assert stopping.complete(QUESTION).text == llm.complete(QUESTION, stop=text[4:6]).text == cut
    assert stopping.complete(QUESTION, stop=None).text == cut


def test_a_formatted_prompt_is_not_wrapped_again(llm: SteerableLlamaIndexLLM) -> None:
    formatted = llm.llm.render([{"role": "user", "content": QUESTION}])
    plain = llm.complete(QUESTION)
    assert llm.complete(formatted, formatted=True).raw == plain.raw
    assert llm.complete(formatted, formatted=True).text == plain.text
    wrapped_twice = llm.complete(formatted).raw["usage"]["prompt_tokens"]
    assert wrapped_twice > plain.raw["usage"]["prompt_tokens"]


def test_its_system_prompt_goes_before_a_prompt(llm: SteerableLlamaIndexLLM) -> None:
    brief = llm.model_copy(update={"system_prompt": "Be brief."})
    expected = llm.llm.generate(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": QUESTION},
        ],
        max_new_tokens=TOKENS,
    )
    assert brief.predict(PromptTemplate("{q}"), q=QUESTION) == expected.text


def test_callbacks_see_each_call_and_its_tokens(llm: SteerableLlamaIndexLLM) -> None:
    counter = TokenCountingHandler(tokenizer=llm.tokens)
    watched = llm.model_copy(update={"callback_manager": CallbackManager([counter])})
    response = watched.chat([ChatMessage(QUESTION)])
    list(watched.stream_complete(QUESTION))
    assert len(counter.llm_token_counts) == 2
    usage = response.raw["usage"]
    assert counter.llm_token_counts[0].prompt_token_count == usage["prompt_tokens"]
    assert counter.llm_token_counts[0].completion_token_count == usage["completion_tokens"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda e: SteerableLlamaIndexLLM(llm=e, temprature=1), "did you mean 'temperature'"),
        (lambda e: SteerableLlamaIndexLLM(llm=e, temperature="hot"), "temperature"),
        (
            lambda e: SteerableLlamaIndexLLM(llm=e, messages_to_prompt=str),
            "'messages_to_prompt' would have no effect",
        ),
        (
            lambda e: SteerableLlamaIndexLLM(llm=e, query_wrapper_prompt=PromptTemplate("x")),
            "leave it out",
        ),
        (lambda e: SteerableLlamaIndexLLM(llm=e).complete("x", max_token=3), "'max_tokens'"),
        (
            lambda e: SteerableLlamaIndexLLM(llm=e).complete("x", tools=[{}]),
            "cannot bring tool calls back",
        ),
        (
            lambda e: SteerableLlamaIndexLLM(llm=e).chat([ChatMessage("x", role="tool")]),
            "no place for tools",
        ),
        (
            lambda e: SteerableLlamaIndexLLM(llm=e).chat(
                [ChatMessage([ImageBlock(url="http://x/y.png")])]
            ),
            "reads text only",
        ),
        (
            lambda e: SteerableLlamaIndexLLM(llm=e).chat_with_tools(
                [FunctionTool.from_defaults(lambda x: x, name="f")], "x"
            ),
            "does not call tools",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    engine: RecordingLLM, make: Any, said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said) as caught:
        make(engine)
    assert "\n" not in str(caught.value)


# The step of a LlamaIndex call is told from its prompt, or from what is around the call.


# Short, since the tiny model's context window holds 256 tokens and its tokenizer is coarse.
ANSWER_PROMPT = PromptTemplate("{context_str}\nQ: {query_str}", PromptType.QUESTION_ANSWER)
REFINE_PROMPT = PromptTemplate("{existing_answer}|{context_msg}|{query_str}", PromptType.REFINE)
SUMMARY_PROMPT = PromptTemplate("{context_str}|{query_str}", PromptType.SUMMARY)


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
        return model.llm.steps[-1]  # type: ignore[attr-defined]

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
    assert llm.llm.steps == ["summary"] * 4  # type: ignore[attr-defined]


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
    assert llm.llm.steps == expected  # type: ignore[attr-defined]


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
    direct = llm.llm.generate(f"{texts[0]}\nQ: {QUESTION}", step="text_qa", max_new_tokens=TOKENS)
    assert str(response) == direct.text
    assert str(await engine.aquery(QUESTION)) == direct.text
    streaming = query_engine(llm, index, "compact", 1, streaming=True)
    assert "".join(streaming.query(QUESTION).response_gen) == direct.text


def test_an_unknown_step_that_was_named_is_an_error(llm: SteerableLlamaIndexLLM) -> None:
    with steer_step("condence"), pytest.raises(UnknownStepError, match="'condense'"):
        llm.complete("Hello")
    # A prompt type that the policy does not name is none.
    assert llm.predict(PromptTemplate("{q}", PromptType.KEYWORD_EXTRACT), q="Hello")
    assert llm.llm.steps == [None]  # type: ignore[attr-defined]
