"""The step of a LangChain call is told from wherever it is named, on every path."""

from typing import Any

import pytest
from adapter_models import QUESTION, TOKENS, steered_by, under_three_steps, whole
from langchain_core.runnables import ConfigurableField, RunnableLambda

from steerable_llm.adapters.langchain import SteerableChatModel, steer_step
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import UnknownStepError


@pytest.fixture(scope="module")
def engine(tiny_llm: SteerableHFLLM) -> SteerableHFLLM:
    """The tiny model under a policy whose three steps steer in three ways."""
    return under_three_steps(tiny_llm)


@pytest.fixture
def chat(engine: SteerableHFLLM) -> SteerableChatModel:
    """The chat model without a step of its own."""
    return SteerableChatModel(engine=engine, max_tokens=TOKENS)


# Where a step can be named, the strongest first.
PLACES = ["call", "field", "metadata", "langgraph_node", "tag"]


def named_in(places: dict[str, str], chat: SteerableChatModel) -> tuple[Any, dict[str, Any], Any]:
    model = chat.for_step(places["field"]) if "field" in places else chat
    metadata = {
        key: places[place]
        for place, key in [("metadata", "steer_step"), ("langgraph_node", "langgraph_node")]
        if place in places
    }
    tags = [f"steer:{places['tag']}"] if "tag" in places else []
    arguments = {"step": places["call"]} if "call" in places else {}
    return model, arguments, {"metadata": metadata, "tags": tags}


@pytest.mark.parametrize("place", PLACES)
async def test_a_step_is_told_from_each_place_on_each_path(
    chat: SteerableChatModel, place: str
) -> None:
    model, arguments, config = named_in({place: "reply"}, chat)
    answers = [
        model.invoke(QUESTION, config, **arguments),
        await model.ainvoke(QUESTION, config, **arguments),
        whole(list(model.stream(QUESTION, config, **arguments))),
        whole([c async for c in model.astream(QUESTION, config, **arguments)]),
        *model.batch([QUESTION, "Hi"], config, **arguments),
        *await model.abatch([QUESTION, "Hi"], config, **arguments),
    ]
    assert [steered_by(message) for message in answers] == [["b"]] * len(answers)


@pytest.mark.parametrize("winner", range(len(PLACES)))
def test_the_nearer_place_wins(chat: SteerableChatModel, winner: int) -> None:
    places = {place: "reply" for place in PLACES[winner + 1 :]}
    model, arguments, config = named_in({PLACES[winner]: "answer", **places}, chat)
    assert steered_by(model.invoke(QUESTION, config, **arguments)) == ["a"]


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
async def test_the_step_reaches_the_third_event_protocol(chat: SteerableChatModel) -> None:
    config: Any = {"tags": ["steer:reply"]}
    stream = chat.stream_events(QUESTION, config, version="v3")
    for _ in stream:
        pass
    assert steered_by(stream.output) == ["b"]
    astream = await chat.astream_events(QUESTION, config, version="v3")
    async for _ in astream:
        pass
    assert steered_by(await astream.output) == ["b"]


def test_the_step_reaches_through_wrappers_and_the_chain_around(chat: SteerableChatModel) -> None:
    tagged: Any = {"tags": ["steer:reply"]}
    wrapped = [
        chat.bind(step="reply"),
        chat.with_config(tagged),
        chat.with_config(metadata={"steer_step": "reply"}),
        chat.configurable_fields(step=ConfigurableField("step")).with_config(
            configurable={"step": "reply"}
        ),
        RunnableLambda(lambda _: 1 / 0).with_fallbacks([chat.for_step("reply")]),
        # Called by plain code inside a chain, with no config handed on.
        RunnableLambda(lambda text: chat.invoke(text)).with_config(tagged),
        SteerableChatModel(engine=chat.engine, max_tokens=TOKENS, tags=["steer:reply"]),
    ]
    assert [steered_by(model.invoke(QUESTION)) for model in wrapped] == [["b"]] * len(wrapped)
    streamed = [whole(list(model.stream(QUESTION))) for model in wrapped]
    assert [steered_by(message) for message in streamed] == [["b"]] * len(streamed)


def test_a_block_names_the_step_of_calls_in_it(chat: SteerableChatModel) -> None:
    # Weaker than what the call itself says, stronger than what a framework says of it.
    node: Any = {"metadata": {"langgraph_node": "answer"}}
    with steer_step("reply"):
        assert steered_by(chat.invoke(QUESTION)) == ["b"]
        assert steered_by(chat.batch([QUESTION, "Hi"])[1]) == ["b"]
        assert steered_by(chat.invoke(QUESTION, node)) == ["b"]
        assert steered_by(chat.invoke(QUESTION, {"metadata": {"steer_step": "answer"}})) == ["a"]
        stream = chat.stream(QUESTION)
    assert steered_by(whole(list(stream))) == ["b"]
    assert steered_by(chat.invoke(QUESTION)) == []


def test_an_unknown_step_that_was_named_is_an_error(chat: SteerableChatModel) -> None:
    with pytest.raises(UnknownStepError, match="did you mean 'answer'"):
        chat.invoke(QUESTION, step="anwser")
    with pytest.raises(UnknownStepError):
        chat.invoke(QUESTION, {"tags": ["steer:anwser"]})
