"""The step reaches the model on every path through LangChain and LangGraph: one test for each.

Each path ends in an answer, and the answer says which vectors were really applied.
"""

from collections.abc import Callable
from typing import Any

import pytest
from adapter_models import steered_by, under_three_steps, whole
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel
from scripted import calling, scripted_llm

from steerable_llm.adapters.langchain import SteerableChatModel
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import UnknownStepError
from steerable_llm.vector.steering import Steering

# LangChain calls its third event protocol beta and its first one old, and says so on each use.
pytestmark = [
    pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning"),
    pytest.mark.filterwarnings("ignore:astream_events version='v1' is deprecated"),
]
TAGGED: Any = {"tags": ["steer:reply"]}
QUESTION = "Where is it?"


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word} is in Lyon"


@pytest.fixture(scope="module")
def engine() -> SteerableHFLLM:
    said = {"Find": calling("look_up", {"word": "shop"}), "in Lyon": "In Lyon.", QUESTION: "Here."}
    return under_three_steps(scripted_llm(said))


@pytest.fixture
def chat(engine: SteerableHFLLM) -> SteerableChatModel:
    return SteerableChatModel(llm=engine, max_tokens=100)


@pytest.fixture
def reply(chat: SteerableChatModel) -> SteerableChatModel:
    """The same model for the step that vector b steers."""
    return chat.for_step("reply")


def test_invoke(reply: SteerableChatModel) -> None:
    assert steered_by(reply.invoke(QUESTION)) == ["b"]


async def test_ainvoke(reply: SteerableChatModel) -> None:
    assert steered_by(await reply.ainvoke(QUESTION)) == ["b"]


def test_stream(reply: SteerableChatModel) -> None:
    assert steered_by(whole(list(reply.stream(QUESTION)))) == ["b"]


async def test_astream(reply: SteerableChatModel) -> None:
    assert steered_by(whole([c async for c in reply.astream(QUESTION)])) == ["b"]


def test_batch(chat: SteerableChatModel) -> None:
    configs: Any = [TAGGED, {"tags": ["steer:answer"]}, {}]
    answers = chat.batch([QUESTION] * 3, configs)
    assert [steered_by(message) for message in answers] == [["b"], ["a"], []]


async def test_abatch(chat: SteerableChatModel) -> None:
    configs: Any = [TAGGED, {"tags": ["steer:answer"]}, {}]
    answers = await chat.abatch([QUESTION] * 3, configs)
    assert [steered_by(message) for message in answers] == [["b"], ["a"], []]


def test_batch_as_completed(reply: SteerableChatModel) -> None:
    done = dict(reply.batch_as_completed([QUESTION, "Hi"]))
    assert [steered_by(done[i]) for i in (0, 1)] == [["b"], ["b"]]


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_astream_events(chat: SteerableChatModel, version: Any) -> None:
    ends = [
        event["data"]["output"]
        async for event in chat.astream_events(QUESTION, TAGGED, version=version)
        if event["event"] == "on_chat_model_end"
    ]
    messages = [e if isinstance(e, AIMessage) else e["generations"][0][0]["message"] for e in ends]
    assert [steered_by(message) for message in messages] == [["b"]]


def test_stream_events_v3(chat: SteerableChatModel) -> None:
    stream = chat.stream_events(QUESTION, TAGGED, version="v3")
    list(stream)
    assert steered_by(stream.output) == ["b"]


async def test_astream_events_v3(chat: SteerableChatModel) -> None:
    stream = await chat.astream_events(QUESTION, TAGGED, version="v3")
    async for _ in stream:
        pass
    assert steered_by(await stream.output) == ["b"]


async def test_events_of_a_chain_around_it(reply: SteerableChatModel) -> None:
    chain = RunnableLambda(lambda text: [HumanMessage(text)]) | reply
    ends = [
        event["data"]["output"]
        async for event in chain.astream_events(QUESTION, version="v2")
        if event["event"] == "on_chat_model_end"
    ]
    assert [steered_by(message) for message in ends] == [["b"]]


def test_with_config(chat: SteerableChatModel) -> None:
    for config in (TAGGED, {"metadata": {"steer_step": "reply"}}):
        model = chat.with_config(config)
        assert steered_by(model.invoke(QUESTION)) == ["b"]
        assert steered_by(whole(list(model.stream(QUESTION)))) == ["b"]


def test_bind(chat: SteerableChatModel) -> None:
    model = chat.bind(step="reply")
    assert steered_by(model.invoke(QUESTION)) == ["b"]
    assert steered_by(whole(list(model.stream(QUESTION)))) == ["b"]
    assert steered_by(model.batch([QUESTION, "Hi"])[1]) == ["b"]


BOUND: dict[str, Callable[[SteerableChatModel], Any]] = {
    "tags": lambda chat: chat.with_config(tags=["steer:reply"]),
    "metadata": lambda chat: chat.with_config({"metadata": {"steer_step": "reply"}}),
    "an argument": lambda chat: chat.bind(step="reply"),
    "an argument, then tags of another kind": lambda chat: chat.bind(step="reply").with_config(
        tags=["mine"]
    ),
    "tags, then an argument": lambda chat: chat.with_config(tags=["steer:reply"]).bind(seed=1),
    "tags, then others": lambda chat: chat.with_config(tags=["steer:reply"]).with_config(
        tags=["mine"]
    ),
    "a step of what is bound": lambda chat: chat.bind(seed=1).for_step("reply"),
    "listeners": lambda chat: chat.bind(step="reply").with_listeners(on_start=lambda _: None),
    "a configured field": lambda chat: chat.configurable_fields(
        step=ConfigurableField("step")
    ).with_config(configurable={"step": "reply"}),
}


@pytest.mark.parametrize("how", BOUND)
async def test_what_is_bound_stays_when_tools_and_forms_are_bound(
    engine: SteerableHFLLM, how: str
) -> None:
    class Place(BaseModel):
        """A place."""

        known: bool

    model = BOUND[how](engine.as_langchain(max_tokens=100))
    agent, asked = create_agent(model, [look_up]), {"messages": [HumanMessage("Find the shop")]}
    messages = [
        *agent.invoke(asked)["messages"],
        *[state async for state in agent.astream(asked, stream_mode="values")][-1]["messages"],
        model.bind_tools([look_up]).invoke("Find it"),
        model.bind_tools([look_up], tool_choice="any").bind_tools([look_up]).invoke("Find it"),
        *(
            model.with_structured_output(Place, method=method, include_raw=True).invoke("?")["raw"]
            for method in ("json_schema", "function_calling", "json_mode")
        ),
        # As LangGraph's older agents do, which take the model out of what is bound around it.
        getattr(model, "bound", model).invoke("Find it"),
    ]
    steps = [m.response_metadata["step"] for m in messages if isinstance(m, AIMessage)]
    assert steps == ["reply"] * len(steps)
    assert len(steps) == 10


def test_every_bound_argument_stays_and_the_call_itself_wins(chat: SteerableChatModel) -> None:
    model = chat.bind(max_tokens=3, step="answer").bind_tools([])
    answer = model.invoke(QUESTION)
    assert (answer.usage_metadata["output_tokens"], steered_by(answer)) == (3, ["a"])
    assert steered_by(model.invoke(QUESTION, step="reply")) == ["b"]
    near: Any = {"metadata": {"steer_step": "reply"}}
    assert steered_by(chat.with_config(metadata={"steer_step": "answer"}).invoke("?", near)) == [
        "b"
    ]


def test_a_bound_step_that_is_unknown_is_an_error_in_an_agent_too(engine: SteerableHFLLM) -> None:
    model = engine.as_langchain(max_tokens=100).with_config(tags=["steer:replly"])
    with pytest.raises(UnknownStepError, match="'reply'"):
        create_agent(model, [look_up]).invoke({"messages": [HumanMessage("Find the shop")]})


def test_configurable_fields(chat: SteerableChatModel) -> None:
    model = chat.configurable_fields(step=ConfigurableField("step"))
    for step, vectors in [("reply", ["b"]), ("answer", ["a"])]:
        chosen = model.with_config(configurable={"step": step})
        assert steered_by(chosen.invoke(QUESTION)) == vectors
        assert steered_by(whole(list(chosen.stream(QUESTION)))) == vectors
        assert steered_by(chosen.batch([QUESTION, "Hi"])[0]) == vectors


def test_configurable_alternatives(chat: SteerableChatModel) -> None:
    model = chat.configurable_alternatives(
        ConfigurableField("which"), default_key="plain", kind=chat.for_step("reply")
    )
    assert steered_by(model.with_config(configurable={"which": "kind"}).invoke(QUESTION)) == ["b"]


def test_with_fallbacks(reply: SteerableChatModel) -> None:
    model: Any = RunnableLambda(lambda _: 1 / 0).with_fallbacks([reply])
    assert steered_by(model.invoke(QUESTION)) == ["b"]
    assert steered_by(whole(list(model.stream(QUESTION)))) == ["b"]


def test_with_retry(reply: SteerableChatModel) -> None:
    assert steered_by(reply.with_retry().invoke(QUESTION)) == ["b"]


def test_bind_tools_and_structured_output_of_one_step(
    engine: SteerableHFLLM, reply: SteerableChatModel
) -> None:
    class Place(BaseModel):
        """A place."""

        known: bool

    assert engine.policy is not None
    own = reply.model_copy(update={"steering": engine.policy.steering_for("reply")})
    called = own.bind_tools([look_up]).invoke("Find it")
    assert called.tool_calls
    assert (called.response_metadata["step"], steered_by(called)) == ("reply", ["b"])
    made = own.with_structured_output(Place, include_raw=True).invoke(QUESTION)
    assert (made["raw"].response_metadata["step"], steered_by(made["raw"])) == ("reply", ["b"])


MODES: Any = ["values", "updates", "messages", "custom", "checkpoints", "tasks", "debug"]


def three_nodes(chat: SteerableChatModel, seen: dict[str, list[str]]) -> Any:
    def node(name: str) -> Any:
        def call(state: MessagesState) -> dict[str, Any]:
            message = chat.invoke(state["messages"][:1])
            seen[name] = steered_by(message)
            return {"messages": [message]}

        return call

    graph = StateGraph(MessagesState)
    for name, before in [("answer", START), ("reply", "answer"), ("unheard_of", "reply")]:
        graph.add_node(name, node(name))
        graph.add_edge(before, name)
    graph.add_edge("unheard_of", END)
    return graph.compile()


@pytest.mark.parametrize("mode", [*MODES, MODES])
def test_langgraph_nodes_in_each_stream_mode(chat: SteerableChatModel, mode: Any) -> None:
    seen: dict[str, list[str]] = {}
    list(three_nodes(chat, seen).stream({"messages": [HumanMessage(QUESTION)]}, stream_mode=mode))
    assert seen == {"answer": ["a"], "reply": ["b"], "unheard_of": []}


async def test_langgraph_nodes_streamed_in_a_loop(chat: SteerableChatModel) -> None:
    seen: dict[str, list[str]] = {}
    asked = {"messages": [HumanMessage(QUESTION)]}
    async for _ in three_nodes(chat, seen).astream(asked, stream_mode="messages"):
        pass
    assert seen == {"answer": ["a"], "reply": ["b"], "unheard_of": []}


@pytest.mark.parametrize("how", ["invoke", "stream", "astream"])
async def test_create_agent(engine: SteerableHFLLM, how: str) -> None:
    assert engine.policy is not None
    model = engine.as_langchain(
        step="reply", steering=engine.policy.steering_for("reply"), max_tokens=100
    )
    agent = create_agent(model, [look_up], system_prompt="Look things up.")
    asked: Any = {"messages": [HumanMessage("Find the shop")]}
    if how == "invoke":
        states = [agent.invoke(asked)]
    elif how == "stream":
        states = list(agent.stream(asked, stream_mode="values"))
    else:
        states = [state async for state in agent.astream(asked, stream_mode="values")]
    _, call, result, answer = states[-1]["messages"]
    assert (call.tool_calls[0]["name"], result.content) == ("look_up", "shop is in Lyon")
    assert answer.content == "In Lyon."
    assert [steered_by(message) for message in (call, answer)] == [["b"], ["b"]]
    assert [m.response_metadata["step"] for m in (call, answer)] == ["reply", "reply"]


def test_create_agent_with_a_form_for_the_answer(engine: SteerableHFLLM) -> None:
    class Place(BaseModel):
        """A place."""

        known: bool

    model = engine.as_langchain(steering=Steering.none(), max_tokens=100)
    agent: Any = create_agent(model, [look_up], response_format=Place)
    made = agent.invoke({"messages": [HumanMessage("Find the shop")]})
    assert isinstance(made["structured_response"], Place)
    assert any(getattr(m, "tool_calls", None) for m in made["messages"])
