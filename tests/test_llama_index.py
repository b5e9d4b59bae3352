"""The LLM in LlamaIndex: every way in answers alike, and prompt types choose the steering."""

import asyncio
import copy
import pickle
from typing import Any

import pytest
from adapter_models import QUESTION, TOKENS, RecordingEngine, last, random_vector
from llama_index.core import PromptTemplate
from llama_index.core.base.llms.types import ImageBlock, MessageRole
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.extractors import TitleExtractor
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from steerable_llm.adapters.llama_index import SteerableLlamaIndexLLM
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError, PromptTooLongError
from steerable_llm.policy.policy import Policy


class City(BaseModel):
    name: str


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
    direct = llm.engine.generate(QUESTION, step="text_qa", max_new_tokens=TOKENS)
    assert response.text == direct.text
    assert response.raw["usage"]["prompt_tokens"] == len(
        llm.engine.encode([{"role": "user", "content": QUESTION}])
    )
    assert response.raw["usage"]["completion_tokens"] == len(direct.token_ids)
    assert response.raw["steering"] == [applied.to_dict() for applied in direct.steered]
    assert response.raw["finish_reason"] == direct.finish_reason
    assert (response.raw["step"], response.raw["model_name"]) == ("text_qa", "tiny")


def test_the_engine_makes_llms_that_share_its_weights(engine: RecordingEngine) -> None:
    llm = engine.as_llama_index(step="refine", max_tokens=3)
    assert isinstance(llm, SteerableLlamaIndexLLM)
    assert llm.engine is llm.for_step("summary").engine is engine
    assert (llm.step, llm.for_step("summary").step, llm.max_tokens) == ("refine", "summary", 3)
    assert "Tensor" not in repr(llm)
    steering = random_vector(engine, "c", 3).steer(0.8)
    own = engine.as_llama_index(step="refine", steering=steering, max_tokens=TOKENS)
    assert steered_by(own.complete(QUESTION)) == ["c"]


def test_a_copy_shares_the_weights_however_it_is_made(llm: SteerableLlamaIndexLLM) -> None:
    structured = copy.deepcopy(llm.as_structured_llm(City))
    for made in (copy.copy(llm), copy.deepcopy(llm), llm.model_copy(deep=True), structured.llm):
        assert made.engine is llm.engine
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
    assert llm.metadata.context_window == llm.engine.context_window
    assert (llm.metadata.num_output, llm.metadata.model_name) == (TOKENS, "tiny")
    assert llm.metadata.is_chat_model
    assert not llm.metadata.is_function_calling_model
    assert llm.engine.tokenizer.decode(llm.tokens(QUESTION)) == QUESTION


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


async def test_a_cancelled_task_stops_the_generation(engine: RecordingEngine) -> None:
    llm = SteerableLlamaIndexLLM(engine=engine, max_tokens=200)
    task = asyncio.ensure_future(llm.acomplete("Hi"))
    while engine.made < 2:
        await asyncio.sleep(0)
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


def test_a_formatted_prompt_is_not_wrapped_again(llm: SteerableLlamaIndexLLM) -> None:
    formatted = llm.engine.render([{"role": "user", "content": QUESTION}])
    plain = llm.complete(QUESTION)
    assert llm.complete(formatted, formatted=True).raw == plain.raw
    assert llm.complete(formatted, formatted=True).text == plain.text
    wrapped_twice = llm.complete(formatted).raw["usage"]["prompt_tokens"]
    assert wrapped_twice > plain.raw["usage"]["prompt_tokens"]


def test_its_system_prompt_goes_before_a_prompt(llm: SteerableLlamaIndexLLM) -> None:
    brief = llm.model_copy(update={"system_prompt": "Be brief."})
    expected = llm.engine.generate(
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
        (lambda e: SteerableLlamaIndexLLM(engine=e, temprature=1), "did you mean 'temperature'"),
        (lambda e: SteerableLlamaIndexLLM(engine=e, temperature="hot"), "temperature"),
        (
            lambda e: SteerableLlamaIndexLLM(engine=e, messages_to_prompt=str),
            "'messages_to_prompt' would have no effect",
        ),
        (
            lambda e: SteerableLlamaIndexLLM(engine=e, query_wrapper_prompt=PromptTemplate("x")),
            "leave it out",
        ),
        (lambda e: SteerableLlamaIndexLLM(engine=e).complete("x", max_token=3), "'max_tokens'"),
        (
            lambda e: SteerableLlamaIndexLLM(engine=e).complete("x", tools=[{}]),
            "cannot bring tool calls back",
        ),
        (
            lambda e: SteerableLlamaIndexLLM(engine=e).chat([ChatMessage("x", role="tool")]),
            "no place for tools",
        ),
        (
            lambda e: SteerableLlamaIndexLLM(engine=e).chat(
                [ChatMessage([ImageBlock(url="http://x/y.png")])]
            ),
            "reads text only",
        ),
        (
            lambda e: SteerableLlamaIndexLLM(engine=e).chat_with_tools(
                [FunctionTool.from_defaults(lambda x: x, name="f")], "x"
            ),
            "does not call tools",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    engine: RecordingEngine, make: Any, said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said) as caught:
        make(engine)
    assert "\n" not in str(caught.value)
