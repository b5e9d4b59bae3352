"""Tools and structured answers through LangChain, against a model that follows a script."""

import json
from typing import Any, Literal

import pytest
from adapter_models import steered_by, under_three_steps, whole
from langchain_core.caches import InMemoryCache
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import StructuredTool, tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, Field
from scripted import calling, scripted_llm
from test_tool_calling import UNGUIDED
from typing_extensions import TypedDict

from steerable_llm.adapters.langchain import SteerableChatModel
from steerable_llm.adapters.langchain.messages import to_tools
from steerable_llm.adapters.schemas import leads_back
from steerable_llm.answer.constraint import Constraint
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError
from steerable_llm.vector.steering import Steering


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


class Reply(BaseModel):
    """How to reply."""

    tone: str = Field(max_length=8)
    sure: bool


class ReplyDict(TypedDict):
    """How to reply."""

    tone: str
    sure: bool


class Endless(TypedDict):
    """A reply to a reply."""

    to: list["Endless"]


REPLY = {"tone": "kind", "sure": True}
SECOND = calling("multiply", {"a": 2, "b": 3})
SAID = {
    "3 times 4": calling("multiply", {"a": 3, "b": 4}),
    "twice": "Two calls.\n" + calling("multiply", {"a": 1, "b": 1}) + "\n" + SECOND,
    "broken": "<tool_call>\n{oops\n</tool_call>" + calling("multiply", {"a": 2, "b": 2}),
    "nameless": '<tool_call>\n{"nme": "multiply"}\n</tool_call>',
    "wrong": '<tool_call>\n{"name": "multiply", "arguments": 3}\n</tool_call>',
    "Reply": json.dumps(REPLY),
    "by tool": calling("Reply", REPLY),
    "by a dict": calling("ReplyDict", REPLY),
    "no json": "I would rather not.",
    "12": "It is twelve.",
}


@pytest.fixture(scope="module")
def engine() -> SteerableHFLLM:
    return under_three_steps(scripted_llm(SAID))


@pytest.fixture
def chat(engine: SteerableHFLLM) -> SteerableChatModel:
    return SteerableChatModel(llm=engine, max_tokens=200)


@pytest.mark.parametrize(
    ("bound", "question"),
    [
        *((multiply, question) for question in ("3 times 4", "twice", "12")),
        *((UNGUIDED, question) for question in ("twice", "broken", "nameless", "wrong")),
    ],
)
async def test_every_way_in_gives_the_same_calls(
    chat: SteerableChatModel, bound: Any, question: str
) -> None:
    model = chat.bind_tools([bound])
    message = model.invoke(question)
    others = [
        whole(list(model.stream(question))),
        await model.ainvoke(question),
        whole([chunk async for chunk in model.astream(question)]),
        model.batch([question, "12"])[0],
        (await model.abatch(["12", question]))[1],
    ]
    for other in others:
        assert other.content == message.content
        assert other.tool_calls == message.tool_calls
        assert other.usage_metadata == message.usage_metadata
        assert len(other.invalid_tool_calls) == len(message.invalid_tool_calls)
        for mine, theirs in zip(message.invalid_tool_calls, other.invalid_tool_calls, strict=True):
            assert (mine["name"], mine["args"]) == (theirs["name"] or None, theirs["args"])


def test_what_can_and_what_cannot_be_read_stand_apart(chat: SteerableChatModel) -> None:
    model = chat.bind_tools([UNGUIDED])
    both = model.invoke("broken")
    assert [call["args"] for call in both.tool_calls] == [{"a": 2, "b": 2}]
    (invalid,) = both.invalid_tool_calls
    assert "{oops" in str(invalid["args"])
    assert "not valid JSON" in str(invalid["error"])
    (wrong,) = model.invoke("wrong").invalid_tool_calls
    assert (wrong["name"], wrong["args"]) == ("multiply", "3")


def test_a_streamed_call_comes_as_chunks_of_calls_as_it_is_written(
    chat: SteerableChatModel,
) -> None:
    chunks = list(chat.bind_tools([multiply]).stream("twice"))
    made = [piece for chunk in chunks for piece in chunk.tool_call_chunks]  # type: ignore[attr-defined]
    named = [piece for piece in made if piece["name"]]
    assert [(piece["name"], piece["index"]) for piece in named] == [
        ("multiply", 0),
        ("multiply", 1),
    ]
    assert all(piece["id"] for piece in named)
    assert len(made) > 6
    first = "".join(piece["args"] or "" for piece in made if piece["index"] == 0)
    assert json.loads(first) == {"a": 1, "b": 1}
    assert "".join(str(chunk.content) for chunk in chunks) == "Two calls."
    assert isinstance(whole(chunks), AIMessageChunk)


def test_a_streamed_call_that_is_cut_off_is_not_mended_into_one(chat: SteerableChatModel) -> None:
    model = chat.bind_tools([multiply])
    tokens = len(chat.llm.tokenizer(SAID["3 times 4"]).input_ids)
    found = []
    for most in range(1, tokens + 1):
        direct = model.invoke("3 times 4", max_tokens=most)
        streamed = whole(list(model.stream("3 times 4", max_tokens=most)))
        assert streamed.tool_calls == direct.tool_calls
        assert len(streamed.invalid_tool_calls) == len(direct.invalid_tool_calls)
        found.append([call["args"] for call in direct.tool_calls])
    # It is whole with its two brackets; a line break and a mark are still to come then.
    assert [args for args in found if args] == [[{"a": 3, "b": 4}]] * 3


def test_calls_may_be_kept_to_one(chat: SteerableChatModel) -> None:
    for choice in (None, "any"):
        model = chat.bind_tools([multiply], tool_choice=choice, parallel_tool_calls=False)
        assert [call["args"]["a"] for call in model.invoke("twice").tool_calls][1:] == []
        streamed = whole(list(model.stream("twice")))
        assert streamed.tool_calls == model.invoke("twice").tool_calls
    assert len(chat.bind_tools([multiply]).invoke("twice").tool_calls) == 2


def test_the_result_of_a_call_goes_back(chat: SteerableChatModel) -> None:
    model = chat.bind_tools([multiply])
    asked = HumanMessage("What is 3 times 4?")
    called = model.invoke([asked])
    result = multiply.invoke(called.tool_calls[0])
    assert isinstance(result, ToolMessage)
    assert model.invoke([asked, called, result]).content == "It is twelve."


def test_a_call_that_could_not_be_read_stays_in_the_history(chat: SteerableChatModel) -> None:
    called = chat.bind_tools([UNGUIDED]).invoke("broken")
    counted = chat.get_num_tokens_from_messages
    assert counted([called]) > counted([called.model_copy(update={"invalid_tool_calls": []})])


@pytest.mark.parametrize(
    "choice",
    ["any", "required", True, "multiply", {"type": "function", "function": {"name": "multiply"}}],
)
def test_a_sure_choice_calls_whatever_the_model_would_rather_do(
    chat: SteerableChatModel, choice: Any
) -> None:
    message = chat.bind_tools([multiply], tool_choice=choice).invoke("no json")
    assert [call["name"] for call in message.tool_calls] == ["multiply"]
    assert set(message.tool_calls[0]["args"]) == {"a", "b"}


@pytest.mark.parametrize("choice", ["auto", None, False, "none"])
def test_an_open_choice_leaves_the_model_its_way(chat: SteerableChatModel, choice: Any) -> None:
    message = chat.bind_tools([multiply], tool_choice=choice).invoke("no json")
    assert message.content == "I would rather not."


@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
@pytest.mark.parametrize("schema", [Reply, ReplyDict, Reply.model_json_schema()])
async def test_an_answer_becomes_an_object(
    chat: SteerableChatModel, method: Any, schema: Any
) -> None:
    by_tool = "by a dict" if schema is ReplyDict else "by tool"
    question = by_tool if method == "function_calling" else "Reply"
    model = chat.with_structured_output(schema, method=method)
    expected = Reply(**REPLY) if schema is Reply else REPLY  # type: ignore[arg-type]
    assert model.invoke(question) == expected
    assert await model.ainvoke(question) == expected
    assert list(model.stream(question))[-1] == expected
    assert [made async for made in model.astream(question)][-1] == expected
    assert model.batch([question] * 2) == [expected] * 2


def test_a_json_schema_needs_no_title_where_no_tool_is_named_by_it(
    chat: SteerableChatModel,
) -> None:
    schema = {key: value for key, value in Reply.model_json_schema().items() if key != "title"}
    assert chat.with_structured_output(schema).invoke("Reply") == REPLY


class Branch(BaseModel):
    """A branch with its own branches."""

    name: Literal["oak"]
    branches: list["Branch"] = Field(default=[], max_length=1)


def follow(branch: Branch) -> str:
    """Follow a branch."""
    return branch.name


BRANCHES = Branch.model_json_schema()


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize(
    "schema", [Branch, BRANCHES, {"title": "Tree", **BRANCHES}], ids=["class", "schema", "titled"]
)
def test_an_answer_in_a_form_that_holds_itself_is_held_to_it(method: Any, schema: Any) -> None:
    name = schema.get("title", "Branch") if isinstance(schema, dict) else "Branch"
    loose = {"name": "oak", "branches": [30.7]}
    said = calling(name, loose) if method == "function_calling" else json.dumps(loose)
    chat = scripted_llm({"": said}).as_langchain(max_tokens=120)
    made = chat.with_structured_output(schema, method=method, strict=True).invoke("Tree")
    assert Branch.model_validate(made).name == "oak"


@pytest.mark.parametrize(
    "bound",
    [
        Branch,
        follow,
        tool(follow),
        StructuredTool(name="grow", description="Grow.", args_schema=Branch, func=follow),
        StructuredTool(name="grow", description="Grow.", args_schema=BRANCHES, func=follow),
    ],
    ids=["class", "function", "tool", "tool of a class", "tool of a schema"],
)
def test_a_tool_whose_arguments_hold_themselves_is_called_with_such(
    chat: SteerableChatModel, bound: Any
) -> None:
    model = chat.bind_tools([bound], tool_choice="any", strict=True)
    assert "properties" in model.kwargs["tools"][0]["function"]["parameters"]
    (call,) = model.invoke("no json").tool_calls
    assert Branch.model_validate(call["args"].get("branch", call["args"])).name == "oak"


def test_a_tool_that_does_not_hold_itself_is_shown_as_langchain_shows_it() -> None:
    class Pair(BaseModel):
        """Two replies."""

        first: Reply
        second: Reply

    told = to_tools([Pair, follow, multiply])
    assert [told[0], told[2]] == [convert_to_openai_tool(Pair), convert_to_openai_tool(multiply)]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"enum": ["a"]}, "a"),
        ({"anyOf": [{"const": 1}]}, 1),
        (
            {"title": "Row", "type": "array", "items": {"const": 1}, "minItems": 1, "maxItems": 1},
            [1],
        ),
        ({"type": "function", "function": {"name": "f", "parameters": {"const": 1}}}, 1),
    ],
)
def test_any_json_schema_holds_the_answer(
    chat: SteerableChatModel, schema: Any, expected: Any
) -> None:
    assert chat.with_structured_output(schema).invoke("no json") == expected


def test_the_raw_message_comes_along_when_asked_for(chat: SteerableChatModel) -> None:
    made = chat.with_structured_output(Reply, include_raw=True).invoke("Reply")
    assert made["parsed"] == Reply(**REPLY)  # type: ignore[arg-type]
    assert isinstance(made["raw"], AIMessage)
    assert made["parsing_error"] is None
    short = chat.model_copy(update={"max_tokens": 5})
    cut = short.with_structured_output(Reply, include_raw=True).invoke("Reply")
    assert cut["parsed"] is None
    assert "cut off after 5 tokens" in str(cut["parsing_error"])


@pytest.mark.parametrize("schema", [Reply, ReplyDict])
@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
async def test_an_answer_that_is_cut_off_is_an_error_and_never_mended(
    chat: SteerableChatModel, schema: Any, method: Any
) -> None:
    short = chat.model_copy(update={"max_tokens": 5})
    model = short.with_structured_output(schema, method=method)
    with pytest.raises(OutputParserException, match="cut off after 5 tokens"):
        model.invoke("Reply")
    with pytest.raises(OutputParserException, match="cut off"):
        await model.ainvoke("Reply")


def test_strictness_refuses_what_cannot_be_guaranteed(chat: SteerableChatModel) -> None:
    class Distinct(BaseModel):
        """Distinct words."""

        words: set[str] = Field(max_length=2)

    with pytest.raises(InvalidInputError, match="uniqueItems"):
        chat.with_structured_output(Distinct, strict=True).invoke("Reply")
    loose = chat.with_structured_output(Distinct, include_raw=True).invoke("Reply")
    assert loose["raw"].content.startswith('{"words": [')


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda m: m.bind_tools([multiply], tool_choice="divide"), "auto, none, any"),
        (lambda m: m.with_structured_output(Reply, method="yaml"), "json_schema"),
        (lambda m: m.with_structured_output(None), "needs a schema"),
        (lambda m: m.with_structured_output({}), "schema cannot be read .* pydantic class"),
        (lambda m: m.with_structured_output("Reply"), "schema cannot be read \\('Reply'\\)"),
        (lambda m: m.with_structured_output({}, method="function_calling"), "tool 0 cannot be"),
        (lambda m: m.bind_tools([multiply, 5]), "tool 1 cannot be read \\(5\\)"),
        (lambda m: m.bind_tools([{"type": "web_search"}]), "tool 0 .*'web_search'.* servers of"),
        (lambda m: m.bind_tools([{"type": "bash_20250124", "name": "bash"}]), "'bash_20250124'"),
        (lambda m: m.bind_tools([{"type": "function"}]), "tool 0 cannot be read"),
        (lambda m: m.bind_tools([Endless]), "tool 0 cannot be .*not a recursive one"),
        (lambda m: m.with_structured_output(Endless), "schema cannot be .*not a recursive one"),
        (lambda m: m.with_structured_output({"name": "f", "schema": {}}), "schema cannot be read"),
        (lambda m: m.with_structured_output(Reply, stric=True), "did you mean 'strict'"),
        (lambda m: m.invoke("Hi", response_format={"type": "xml"}), "response_format"),
        (lambda m: m.invoke("Hi", model="gpt"), "cannot answer as 'gpt'"),
    ],
)
def test_wrong_wishes_are_refused_in_one_line(
    chat: SteerableChatModel, ask: Any, said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said) as error:
        ask(chat)
    assert "\n" not in str(error.value)


def test_a_model_without_a_place_for_tools_says_so_when_they_are_bound(
    tiny_llm: SteerableHFLLM,
) -> None:
    plain = SteerableChatModel(llm=tiny_llm)
    assert plain.profile is not None
    assert plain.profile["tool_calling"] is False
    with pytest.raises(InvalidInputError, match="with_structured_output"):
        plain.bind_tools([multiply])
    assert plain.bind_tools([multiply], tool_choice="none").invoke("Hi").content
    made = plain.with_structured_output(Reply).invoke("Hi")
    assert isinstance(made, Reply)


def test_a_constraint_of_any_kind_may_be_bound(chat: SteerableChatModel) -> None:
    either = chat.bind(response_format=Constraint.choice(["yes", "no"]))
    assert either.invoke("Reply").content in ("yes", "no")
    assert json.loads(
        str(
            chat.invoke(
                "no json",
                response_format={
                    "type": "json_schema",
                    "json_schema": {"schema": {"enum": [1, 2]}},
                },
            ).content
        )
    ) in (1, 2)
    assert chat.invoke("no json", response_format={"type": "text"}).content == "I would rather not."


def test_tokens_of_tools_and_results_are_counted(chat: SteerableChatModel) -> None:
    messages = [
        HumanMessage("3 times 4"),
        AIMessage("", tool_calls=[{"name": "multiply", "args": {"a": 3, "b": 4}, "id": "1"}]),
        ToolMessage("12", tool_call_id="1"),
    ]
    read = chat.bind_tools([multiply]).invoke(messages).usage_metadata
    assert read is not None
    assert chat.get_num_tokens_from_messages(messages, [multiply]) == read["input_tokens"]


def test_a_structured_answer_may_be_steered_and_says_so(engine: SteerableHFLLM) -> None:
    assert engine.policy is not None
    steering = engine.policy.steering_for("answer")
    chat = engine.as_langchain(steering=steering, max_tokens=200)
    made = chat.with_structured_output(Reply, include_raw=True).invoke("Reply")
    assert steered_by(made["raw"]) == ["a"]
    assert isinstance(made["parsed"], Reply)
    assert steered_by(chat.bind_tools([multiply], tool_choice="any").invoke("Hi")) == ["a"]
    quiet = engine.as_langchain(step="answer", steering=Steering.none())
    assert steered_by(quiet.bind_tools([multiply]).invoke("Hi")) == []


def test_cached_answers_never_cross_tools_choices_forms_or_models(engine: SteerableHFLLM) -> None:
    cache = InMemoryCache()
    other = SteerableHFLLM(engine.model, engine.tokenizer, model_id="other")
    chat = SteerableChatModel(llm=engine, max_tokens=60, cache=cache, models={"other": other})

    @tool
    def divide(a: int, b: int) -> int:
        """Divide two numbers."""
        return a // b

    asks = [
        chat,
        chat.bind_tools([multiply]),
        chat.bind_tools([divide]),
        chat.bind_tools([multiply], tool_choice="any"),
        chat.bind(response_format={"type": "json_object"}),
        chat.bind(response_format=Constraint.choice(["yes", "no"])),
        chat.bind(response_format=Constraint.choice(["yes", "maybe"])),
        chat.bind(model="other"),
    ]
    first = [ask.invoke("3 times 4") for ask in asks]
    assert len(cache._cache) == len(asks)
    again = [ask.invoke("3 times 4") for ask in asks]
    assert len(cache._cache) == len(asks)
    assert [(m.content, m.tool_calls) for m in again] == [(m.content, m.tool_calls) for m in first]
    assert first[-1].response_metadata["model_name"] == "other"


def test_a_schema_that_uses_the_same_parts_again_and_again_is_read_once():
    depth = 60
    parts = {
        f"P{i}": {
            "type": "object",
            "properties": {side: {"$ref": f"#/$defs/P{i + 1}"} for side in ("left", "right")},
        }
        for i in range(depth)
    }
    leaf = {"type": "string"}
    schema = {"$ref": "#/$defs/P0", "$defs": {**parts, f"P{depth}": leaf}}
    assert not leads_back(schema)
    assert leads_back({**schema, "$defs": {**parts, f"P{depth}": {"$ref": "#/$defs/P1"}}})
