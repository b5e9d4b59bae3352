"""Tools in LlamaIndex: a model whose template has them calls them, others say that they do not."""

from typing import Any, Literal

import pytest
from adapter_models import RecordingLLM, last, random_vector
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import TextBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field
from scripted import calling, scripted_llm

from steerable_llm.adapters.llama_index import SteerableLlamaIndexLLM, record_steering, steer_step
from steerable_llm.adapters.llama_index.messages import read_messages
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.policy import Policy

QUESTION = "When does Lyon open?"
CALL = calling("opening", {"shop": "Lyon"})
# LlamaIndex's agents still go about pydantic and about their own workflows in an old way.
OLD_WAYS = pytest.mark.filterwarnings(
    "ignore::pydantic.warnings.PydanticDeprecationWarning",
    "ignore:is_running called from within a step",
)


def opening(shop: str) -> str:
    """When a shop opens."""
    return f"{shop} opens at nine"


def closing(shop: str) -> str:
    """When a shop closes."""
    return f"{shop} closes at six"


TOOLS = [FunctionTool.from_defaults(opening), FunctionTool.from_defaults(closing)]


def script(prompt: str) -> str:
    """Call the tool, then answer with its result; an Ü to see that nothing is escaped."""
    last_turn = (
        prompt.removesuffix("<|assistant|>").removesuffix("<|end|>").rpartition("<|end|>")[2]
    )
    if "<|tool|>" in last_turn:
        return "It opens at nine."
    if "both" in last_turn:
        return CALL + "\n" + calling("closing", {"shop": "Lyon"})
    if "Zürich" in last_turn:
        return "One moment." + calling("opening", {"shop": "Zürich"})
    return CALL if "open" in last_turn else "Hello."


@pytest.fixture(scope="module")
def scripted() -> SteerableHFLLM:
    return scripted_llm(script)


@pytest.fixture
def llm(scripted: SteerableHFLLM) -> SteerableLlamaIndexLLM:
    vectors = {"a": random_vector(scripted, "a", 1)}
    a = {"vectors": [{"name": "a", "strength": 0.8}]}
    policy = Policy.from_dict(
        {"default_step": "plain", "steps": {"plain": {}, "agent": a}}, vectors
    )
    engine = RecordingLLM(scripted, policy, context_window=8192)
    return SteerableLlamaIndexLLM(llm=engine, max_tokens=96)


def calls_of(llm: SteerableLlamaIndexLLM, response: Any) -> list[tuple[str, dict[str, Any]]]:
    selections = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
    return [(one.tool_name, one.tool_kwargs) for one in selections]


def test_the_metadata_says_whether_the_template_has_tools(llm: SteerableLlamaIndexLLM) -> None:
    assert llm.metadata.is_function_calling_model
    without = scripted_llm({}, "none").as_llama_index()
    assert not without.metadata.is_function_calling_model
    with pytest.raises(InvalidInputError, match="use a ReActAgent"):
        without.chat_with_tools(TOOLS, QUESTION)


async def test_every_way_in_brings_the_same_call(llm: SteerableLlamaIndexLLM) -> None:
    responses = [
        llm.chat_with_tools(TOOLS, QUESTION),
        await llm.achat_with_tools(TOOLS, QUESTION),
        list(llm.stream_chat_with_tools(TOOLS, QUESTION))[-1],
        await last(await llm.astream_chat_with_tools(TOOLS, QUESTION)),
    ]
    for response in responses:
        assert calls_of(llm, response) == [("opening", {"shop": "Lyon"})]
        assert response.message == responses[0].message
        assert not response.message.content
        assert response.raw["usage"]["completion_tokens"] > 0


def test_what_is_no_tool_is_refused_in_one_line(llm: SteerableLlamaIndexLLM) -> None:
    with pytest.raises(InvalidInputError, match="tool 1 is a function: give a tool of LlamaIndex"):
        llm.chat_with_tools([TOOLS[0], opening], QUESTION)  # type: ignore[list-item]


class Branch(BaseModel):
    """A branch with its own branches."""

    name: Literal["oak"]
    branches: list["Branch"] = Field(default=[], max_length=1)


def test_a_tool_whose_arguments_hold_themselves_is_called_with_such(
    llm: SteerableLlamaIndexLLM,
) -> None:
    grow = FunctionTool.from_defaults(opening, name="grow", fn_schema=Branch)
    response = llm.chat_with_tools([grow], "Grow", tool_required=True)
    ((_, made),) = calls_of(llm, response)
    assert Branch.model_validate(made).name == "oak"


def test_text_before_a_call_is_kept_and_streamed_and_the_call_is_not(
    llm: SteerableLlamaIndexLLM,
) -> None:
    pieces = list(llm.stream_chat_with_tools(TOOLS, "When does Zürich open?"))
    assert "".join(piece.delta or "" for piece in pieces) == "One moment."
    assert pieces[-1].message.content == "One moment."
    assert calls_of(llm, pieces[-1]) == [("opening", {"shop": "Zürich"})]


def test_no_call_is_an_error_only_where_one_is_needed(llm: SteerableLlamaIndexLLM) -> None:
    response = llm.chat_with_tools(TOOLS, "Good morning")
    assert response.message.content == "Hello."
    assert calls_of(llm, response) == []
    with pytest.raises(InvalidInputError, match="called no tool"):
        llm.get_tool_calls_from_response(response)


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"tool_required": True}, {"opening", "closing"}),
        ({"tool_choice": "any"}, {"opening", "closing"}),
        ({"tool_choice": "closing"}, {"closing"}),
        ({"tool_choice": {"type": "function", "function": {"name": "closing"}}}, {"closing"}),
        ({"tool_choice": "none"}, set()),
    ],
)
def test_which_tools_may_be_called_is_honoured(
    llm: SteerableLlamaIndexLLM, asked: dict[str, Any], names: set[str]
) -> None:
    # Left alone, it would greet and call nothing.
    found = calls_of(llm, llm.chat_with_tools(TOOLS, "Good morning", **asked))
    assert {name for name, _ in found} <= names
    assert bool(found) == bool(names)


def test_parallel_calls_are_for_who_allows_them(llm: SteerableLlamaIndexLLM) -> None:
    both = llm.chat_with_tools(TOOLS, "Tell me both", allow_parallel_tool_calls=True)
    assert [name for name, _ in calls_of(llm, both)] == ["opening", "closing"]
    one = llm.chat_with_tools(TOOLS, "Tell me both")
    assert [name for name, _ in calls_of(llm, one)] == ["opening"]
    streamed = list(llm.stream_chat_with_tools(TOOLS, "Tell me both"))[-1]
    assert streamed.message == one.message
    assert len(one.message.additional_kwargs["tool_calls"]) == 1


async def test_predicting_and_calling_runs_the_tool(llm: SteerableLlamaIndexLLM) -> None:
    assert llm.predict_and_call(TOOLS, QUESTION).response == "Lyon opens at nine"
    assert (await llm.apredict_and_call(TOOLS, QUESTION)).response == "Lyon opens at nine"
    both = llm.predict_and_call(TOOLS, "Tell me both", allow_parallel_tool_calls=True)
    assert [source.content for source in both.sources] == [
        "Lyon opens at nine",
        "Lyon closes at six",
    ]


def test_calls_and_results_in_a_history_reach_the_template(llm: SteerableLlamaIndexLLM) -> None:
    response = llm.chat_with_tools(TOOLS, QUESTION)
    (selection,) = llm.get_tool_calls_from_response(response)
    result = ChatMessage(
        "Lyon opens at nine", role="tool", additional_kwargs={"tool_call_id": selection.tool_id}
    )
    history = [ChatMessage(QUESTION), response.message, result]
    answer = llm.chat_with_tools(TOOLS, chat_history=history)
    assert answer.message.content == "It opens at nine."
    plain = read_messages(history)
    assert plain[1]["tool_calls"][0]["function"] == {
        "name": "opening",
        "arguments": {"shop": "Lyon"},
    }
    assert {**plain[2]} == {
        "role": "tool",
        "content": "Lyon opens at nine",
        "tool_call_id": selection.tool_id,
        "name": "opening",
    }


def test_calls_in_openais_form_and_thoughts_are_read_as_they_are_meant() -> None:
    function = {"name": "opening", "arguments": '{"shop": "Köln"}'}
    foreign = ChatMessage(
        role="assistant",
        blocks=[ThinkingBlock(content="Let me look."), TextBlock(text="One moment.")],
        additional_kwargs={"tool_calls": [{"id": "x", "type": "function", "function": function}]},
    )
    own = ChatMessage(
        role="assistant",
        blocks=[
            TextBlock(text="One moment."),
            ToolCallBlock(tool_call_id="x", tool_name="opening", tool_kwargs='{"shop": "Köln"}'),
        ],
    )
    [read] = read_messages([foreign])
    assert read.reasoning == "Let me look."
    assert (read.model_copy(update={"reasoning": None}),) == read_messages([own])
    (plain,) = read_messages([own])
    assert plain["content"] == "One moment."
    assert plain["tool_calls"][0]["function"]["arguments"] == {"shop": "Köln"}


def test_arguments_in_a_history_that_are_no_json_are_refused_in_one_line() -> None:
    call = ToolCallBlock(tool_call_id="x", tool_name="opening", tool_kwargs='{"shop": ')
    with pytest.raises(InvalidInputError, match="call to 'opening'") as caught:
        read_messages([ChatMessage(role="assistant", blocks=[call])])
    assert "\n" not in str(caught.value)


def test_what_was_to_be_a_call_and_is_none_is_told(llm: SteerableLlamaIndexLLM) -> None:
    tokens = len(llm.tokens(CALL.partition("Lyon")[0]))
    for response in (
        llm.chat_with_tools(TOOLS, QUESTION, max_tokens=tokens),
        list(llm.stream_chat_with_tools(TOOLS, QUESTION, max_tokens=tokens))[-1],
    ):
        with pytest.raises(InvalidInputError, match=r"no call of the answer .*cut off"):
            calls_of(llm, response)
        (invalid,) = response.message.additional_kwargs["invalid_tool_calls"]
        assert (invalid["name"], invalid["text"]) == ("opening", '{"shop": "')
        assert "JSON" in invalid["error"]


def test_a_policy_leaves_calls_with_tools_alone_and_says_why(llm: SteerableLlamaIndexLLM) -> None:
    free = llm.chat([ChatMessage("Good morning")], step="agent")
    bound = llm.chat_with_tools(TOOLS, "Good morning", step="agent")
    assert [applied["name"] for applied in free.raw["steering"]] == ["a"]
    assert bound.raw["steering"] == bound.additional_kwargs["steering"] == []
    assert any("structured" in reason for reason in bound.raw["decision"]["reasons"])
    own = llm.model_copy(update={"steering": random_vector(llm.llm, "c", 2).steer(0.8)})
    always = own.chat_with_tools(TOOLS, "Good morning", step="agent")
    assert [applied["name"] for applied in always.raw["steering"]] == ["c"]


@OLD_WAYS
@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_with_the_models_own_tools(
    llm: SteerableLlamaIndexLLM, streaming: bool
) -> None:
    agent = FunctionAgent(llm=llm, tools=TOOLS, streaming=streaming)
    with steer_step("agent"), record_steering() as record:
        handler = agent.run(QUESTION, memory=ChatMemoryBuffer.from_defaults())
        results = [e async for e in handler.stream_events() if isinstance(e, ToolCallResult)]
        answer = await handler
    assert str(answer) == "It opens at nine."
    assert [result.tool_output.content for result in results] == ["Lyon opens at nine"]
    assert llm.llm.steps == list(record.steps) == ["agent", "agent"]  # type: ignore[attr-defined]


@OLD_WAYS
@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_whose_call_is_cut_off_says_so_and_gives_no_empty_answer(
    llm: SteerableLlamaIndexLLM, streaming: bool
) -> None:
    short = llm.model_copy(update={"max_tokens": len(llm.tokens(CALL.partition("Lyon")[0]))})
    agent = FunctionAgent(llm=short, tools=TOOLS, streaming=streaming)
    with pytest.raises(InvalidInputError, match="larger max_tokens") as caught:
        await agent.run(QUESTION, memory=ChatMemoryBuffer.from_defaults())
    assert "\n" not in str(caught.value)


@OLD_WAYS
async def test_agents_that_share_the_weights_may_be_steered_apart(
    llm: SteerableLlamaIndexLLM,
) -> None:
    clerk = FunctionAgent(name="clerk", llm=llm.for_step("agent"), tools=TOOLS)
    desk = AgentWorkflow(agents=[clerk], root_agent="clerk")
    await desk.run(user_msg=QUESTION, memory=ChatMemoryBuffer.from_defaults())
    assert llm.llm.steps == ["agent", "agent"]  # type: ignore[attr-defined]
