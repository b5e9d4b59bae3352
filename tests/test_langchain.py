"""The chat model in LangChain: every way in answers alike, and says what steered it."""

from typing import Any

import pytest
from adapter_models import (
    QUESTION,
    TOKENS,
    drain,
    random_vector,
    steered_by,
    under_three_steps,
    whole,
)
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda

from steerable_llm.adapters.langchain import SteerableChatModel, steer_step
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError, PromptTooLongError, UnknownStepError
from steerable_llm.policy.policy import Policy


@pytest.fixture(scope="module")
def engine(tiny_llm: SteerableHFLLM) -> SteerableHFLLM:
    """The tiny model under a policy whose three steps steer in three ways."""
    return under_three_steps(tiny_llm)


@pytest.fixture
def chat(engine: SteerableHFLLM) -> SteerableChatModel:
    """The chat model without a step of its own."""
    return SteerableChatModel(llm=engine, max_tokens=TOKENS)


def test_a_chain_gives_the_text_that_the_engine_gives(chat: SteerableChatModel) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{question}")])
    chain = prompt | chat.for_step("answer") | StrOutputParser()
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": QUESTION},
    ]
    direct = chat.llm.generate(messages, step="answer", max_new_tokens=TOKENS)
    assert chain.invoke({"question": QUESTION}) == direct.text
    assert "".join(chain.stream({"question": QUESTION})) == direct.text
    assert chain.batch([{"question": QUESTION}] * 3) == [direct.text] * 3
    unsteered = chat.llm.generate(messages, max_new_tokens=TOKENS)
    assert direct.text != unsteered.text


async def test_every_way_in_gives_the_same_answer_and_the_same_record(
    chat: SteerableChatModel,
) -> None:
    model = chat.for_step("answer")
    expected = model.invoke(QUESTION)
    others = [
        await model.ainvoke(QUESTION),
        whole(list(model.stream(QUESTION))),
        whole([chunk async for chunk in model.astream(QUESTION)]),
        model.batch([QUESTION, "Hello"])[0],
        (await model.abatch([QUESTION, "Hello"]))[0],
        model.generate([[HumanMessage(QUESTION)]]).generations[0][0].message,  # type: ignore[union-attr]
        SteerableChatModel(llm=chat.llm, max_tokens=TOKENS, step="answer", streaming=True).invoke(
            QUESTION
        ),
    ]
    assert steered_by(expected) == ["a"]
    for message in others:
        assert message.content == expected.content
        assert message.usage_metadata == expected.usage_metadata
        assert message.response_metadata == expected.response_metadata


def test_the_answer_says_what_it_cost_and_how_it_ended(chat: SteerableChatModel) -> None:
    message = chat.for_step("answer").invoke(QUESTION)
    direct = chat.llm.generate(QUESTION, step="answer", max_new_tokens=TOKENS)
    assert message.usage_metadata == {
        "input_tokens": len(chat.llm.encode([{"role": "user", "content": QUESTION}])),
        "output_tokens": len(direct.token_ids),
        "total_tokens": direct.usage.prompt_tokens + len(direct.token_ids),
    }
    record = message.response_metadata
    assert record["finish_reason"] == direct.finish_reason
    assert (record["step"], record["model_name"]) == ("answer", "tiny")
    assert record["steering"] == [applied.to_dict() for applied in direct.steered]
    assert record["steering"][0]["steered_tokens"] > 0


def test_the_engine_makes_chat_models_that_share_its_weights(engine: SteerableHFLLM) -> None:
    model = engine.as_langchain(step="reply", max_tokens=3)
    assert isinstance(model, SteerableChatModel)
    assert model.llm is model.for_step("answer").llm is engine
    assert (model.step, model.for_step("answer").step, model.max_tokens) == ("reply", "answer", 3)
    assert "Tensor" not in repr(model)


def test_a_steering_of_its_own_wins_over_the_policy(engine: SteerableHFLLM) -> None:
    steering = random_vector(engine, "c", 3).steer(0.8)
    model = engine.as_langchain(step="answer", steering=steering, max_tokens=TOKENS)
    assert steered_by(model.invoke(QUESTION)) == ["c"]
    assert steered_by(whole(list(model.stream(QUESTION)))) == ["c"]
    assert [steered_by(message) for message in model.batch([QUESTION, "Hi"])] == [["c"], ["c"]]


def test_without_a_step_the_default_one_holds(chat: SteerableChatModel) -> None:
    assert steered_by(chat.invoke(QUESTION)) == []


def test_a_cached_answer_never_crosses_steps_policies_or_sampling(
    engine: SteerableHFLLM, chat: SteerableChatModel
) -> None:
    cache = InMemoryCache()
    other_policy = Policy.from_dict(
        {
            "default_step": "plain",
            "steps": {"plain": {}, "answer": {"vectors": [{"name": "a", "strength": -0.8}]}},
        },
        {"a": random_vector(engine, "a", 0)},
    )
    other = SteerableHFLLM(engine.model, engine.tokenizer, policy=other_policy, model_id="tiny")
    steering = random_vector(engine, "c", 3).steer(0.8)
    categories = [
        SteerableChatModel(llm=engine, max_tokens=TOKENS),
        SteerableChatModel(llm=engine, max_tokens=TOKENS, step="answer"),
        SteerableChatModel(llm=other, max_tokens=TOKENS, step="answer"),
        SteerableChatModel(llm=engine, max_tokens=TOKENS, steering=steering),
        SteerableChatModel(llm=engine, max_tokens=TOKENS - 1),
    ]
    for model in categories:
        model.cache = cache
    first = [model.invoke(QUESTION).content for model in categories]
    tagged = categories[0].invoke(QUESTION, {"tags": ["steer:reply"]}).content
    assert len(cache._cache) == len(categories) + 1
    assert first == [
        m.model_copy(update={"cache": False}).invoke(QUESTION).content for m in categories
    ]
    assert tagged == chat.for_step("reply").invoke(QUESTION).content
    # And the same question is served from the cache, marked as such by LangChain.
    again = categories[1].invoke(QUESTION)
    assert again.content == first[1]
    assert steered_by(again) == ["a"]
    assert len(cache._cache) == len(categories) + 1


async def test_an_error_while_answering_reaches_the_caller_on_every_path(
    chat: SteerableChatModel,
) -> None:
    long = "word " * 400
    with pytest.raises(PromptTooLongError):
        chat.invoke(long)
    with pytest.raises(PromptTooLongError):
        list(chat.stream(long))
    with pytest.raises(PromptTooLongError):
        await chat.ainvoke(long)
    with pytest.raises(PromptTooLongError):
        await drain(chat.astream(long))


def test_call_arguments_win_over_fields(chat: SteerableChatModel) -> None:
    assert chat.invoke(QUESTION, max_tokens=3).usage_metadata["output_tokens"] <= 3  # type: ignore[index]
    text = str(chat.invoke(QUESTION).content)
    stop = text[4:6]
    assert chat.invoke(QUESTION, stop=[stop]).content == text[: text.index(stop)]
    fixed = SteerableChatModel(llm=chat.llm, max_tokens=TOKENS, stop=[stop])
    assert fixed.invoke(QUESTION).content == text[: text.index(stop)]
    drawn = chat.bind(temperature=2.0, seed=7)
    assert drawn.invoke(QUESTION).content == drawn.invoke(QUESTION).content
    assert drawn.invoke(QUESTION).content != chat.invoke(QUESTION).content


def test_none_is_the_default_and_one_text_a_list_of_one(engine: SteerableHFLLM) -> None:
    plain = engine.as_langchain()
    none = dict.fromkeys(("temperature", "max_tokens", "top_p", "top_k", "seed", "stop"))
    made = engine.as_langchain(**none)
    assert (made.temperature, made.max_tokens, made.stop) == (0.0, plain.max_tokens, None)
    short = engine.as_langchain(max_tokens=TOKENS)
    text = str(short.invoke(QUESTION, **none).content)
    assert text == short.invoke(QUESTION).content
    stop = text[4:6]
    cut = text[: text.index(stop)]
    assert engine.as_langchain(max_tokens=TOKENS, stop=stop).invoke(QUESTION).content == cut
    assert short.invoke(QUESTION, stop=stop).content == cut
    assert short._get_ls_params(stop=stop)["ls_stop"] == [stop]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda e: SteerableChatModel(llm=e, temprature=1), "did you mean 'temperature'"),
        (lambda e: SteerableChatModel(llm=e, temperature="hot"), "temperature"),
        (lambda e: SteerableChatModel(llm=e).invoke("x", max_token=3), "'max_tokens'"),
        (lambda e: SteerableChatModel(llm=e).invoke("x", model="gpt"), "cannot answer as"),
        (lambda e: SteerableChatModel(llm=e).invoke("x", max_tokens=0), "max_tokens is 0"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    engine: SteerableHFLLM, make: Any, said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said) as caught:
        make(engine)
    assert "\n" not in str(caught.value)


def test_messages_of_every_readable_kind_become_plain_ones(chat: SteerableChatModel) -> None:
    conversation = [
        SystemMessage("Be brief."),
        HumanMessage([{"type": "text", "text": "Where "}, {"type": "text", "text": "is it?"}]),
        AIMessage("In Lyon."),
        ChatMessage(role="user", content="When?"),
    ]
    plain = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "content": "In Lyon."},
        {"role": "user", "content": "When?"},
    ]
    expected = chat.llm.generate(plain, max_new_tokens=TOKENS).text
    assert chat.invoke(conversation).content == expected
    assert chat.get_num_tokens_from_messages(conversation) == len(chat.llm.encode(plain))


@pytest.mark.parametrize(
    "message",
    [
        ToolMessage("42", tool_call_id="1"),
        AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}]),
        HumanMessage([{"type": "image_url", "image_url": {"url": "data:"}}]),
        ChatMessage(role="critic", content="No."),
    ],
)
def test_messages_it_cannot_read_are_refused(chat: SteerableChatModel, message: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"message 1|no place for tools"):
        chat.invoke([HumanMessage("Hello"), message])


def test_tokens_are_counted_by_the_models_own_tokenizer(chat: SteerableChatModel) -> None:
    ids = chat.get_token_ids(QUESTION)
    assert chat.llm.tokenizer.decode(ids) == QUESTION
    assert chat.get_num_tokens(QUESTION) == len(ids)
    assert chat.profile is not None
    assert chat.profile["max_input_tokens"] == chat.llm.context_window


class Trace(BaseCallbackHandler):
    """Writes down what LangChain's tracers are shown."""

    def __init__(self) -> None:
        self.parameters: list[dict[str, Any]] = []
        self.ends = 0
        self.tokens: list[str] = []

    def on_chat_model_start(self, *_: Any, **kwargs: Any) -> None:
        self.parameters.append(kwargs["invocation_params"])

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.tokens.append(token)

    def on_llm_end(self, *_: Any, **__: Any) -> None:
        self.ends += 1


def test_tokens_are_counted_by_what_the_caller_gives_for_it(engine: SteerableHFLLM) -> None:
    chat = engine.as_langchain(
        custom_get_token_ids=lambda text: [len(word) for word in text.split()]
    )
    assert chat.get_token_ids("two words") == [3, 5]
    assert chat.get_num_tokens("two words") == 2
    assert chat.get_num_tokens_from_messages([HumanMessage("two words")]) == 3  # "Human: two words"


def test_a_trace_shows_the_step_and_the_policy_for_each_input(chat: SteerableChatModel) -> None:
    trace = Trace()
    chat.batch([QUESTION, "Hi"], {"callbacks": [trace], "tags": ["steer:reply"]})
    text = "".join(str(c.content) for c in chat.stream(QUESTION, {"callbacks": [trace]}))
    assert [p.get("step") for p in trace.parameters] == ["reply", "reply", None]
    policy = chat.llm.policy
    assert policy is not None
    assert {p["policy"] for p in trace.parameters} == {policy.digest}
    assert trace.ends == 3
    assert "".join(trace.tokens) == text


# The step of a LangChain call is told from wherever it is named, on every path.


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
        SteerableChatModel(llm=chat.llm, max_tokens=TOKENS, tags=["steer:reply"]),
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
