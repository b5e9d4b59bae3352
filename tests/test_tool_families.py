"""Tool calling in the formats that the families document, with templates written as theirs are.

No checkpoint that was trained for tools is at hand offline. So the model follows a script; what is
real is the way through: template, special tokens, prompt, grammar, parser, history.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
from adapter_models import random_vector, steered_by
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from scripted import SPECIAL, Script, byte_level, scripted_around
from test_tool_calling import MULTIPLY, WEATHER

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.chat.message import ToolCall
from steerable_llm.errors import InvalidInputError

TEMPLATES = Path(__file__).resolve().parent / "templates"
QUESTION = "What is 3 times 4?"


@dataclass(frozen=True)
class Family:
    """What a family documents.

    Attributes:
        format: Which of our formats it is.
        special: Its special tokens, padding first, then what begins a text and ends a turn.
        call: How its models ask for `multiply(a=3, b=4)`.
        history: What stands in the prompt for that call and its result.
        added: Its marks that are tokens, and not special ones.
    """

    format: str
    special: tuple[str, ...]
    call: str
    history: str
    added: tuple[str, ...] = ()


FAMILIES = {
    "qwen2_5": Family(
        "hermes",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        '<tool_call>\n{"name": "multiply", "arguments": {"a": 3, "b": 4}}\n</tool_call>',
        '<|im_start|>assistant\n<tool_call>\n{"name": "multiply", "arguments": {"a": 3, "b": 4}}\n'
        "</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n12\n</tool_response><|im_end|>\n",
        ("<tool_call>", "</tool_call>"),
    ),
    "llama3_1": Family(
        "llama3",
        ("<|finetune_right_pad_id|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>",
         "<|end_header_id|>", "<|eom_id|>", "<|python_tag|>"),
        '{"name": "multiply", "parameters": {"a": 3, "b": 4}}',
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        '{"name": "multiply", "parameters": {"a": 3, "b": 4}}<|eot_id|>'
        "<|start_header_id|>ipython<|end_header_id|>\n\n12<|eot_id|>",
    ),
    "mistral_v3": Family(
        "mistral",
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]",
         "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        '[TOOL_CALLS] [{"name": "multiply", "arguments": {"a": 3, "b": 4}}]',
        '[TOOL_CALLS] [{"name": "multiply", "arguments": {"a": 3, "b": 4}, "id": "ID"}]</s>'
        '[TOOL_RESULTS] {"content": "12", "call_id": "ID"}[/TOOL_RESULTS]',
    ),
    "mistral_v13": Family(
        "mistral-args",
        ("<pad>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]",
         "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[TOOL_CONTENT]",
         "[/TOOL_RESULTS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        '[TOOL_CALLS]multiply[ARGS]{"a": 3, "b": 4}',
        '[TOOL_CALLS]multiply[ARGS]{"a": 3, "b": 4}</s>[TOOL_RESULTS]ID[TOOL_CONTENT]12'
        "[/TOOL_RESULTS]",
    ),
    "qwen3_coder": Family(
        "qwen3-coder",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<tool_call>\n<function=multiply>\n<parameter=a>\n3\n</parameter>\n<parameter=b>\n4\n"
        "</parameter>\n</function>\n</tool_call>",
        "<|im_start|>assistant\n<tool_call>\n<function=multiply>\n<parameter=a>\n3\n</parameter>\n"
        "<parameter=b>\n4\n</parameter>\n</function>\n</tool_call><|im_end|>\n<|im_start|>user\n"
        "<tool_response>\n12\n</tool_response>\n<|im_end|>\n",
        ("<tool_call>", "</tool_call>"),
    ),
    "glm4_5": Family(
        "glm",
        ("<|endoftext|>", "[gMASK]", "<|user|>", "<sop>", "<|system|>", "<|assistant|>",
         "<|observation|>"),
        "<tool_call>multiply\n<arg_key>a</arg_key>\n<arg_value>3</arg_value>\n<arg_key>b</arg_key>\n"
        "<arg_value>4</arg_value>\n</tool_call>",
        "<|assistant|>\n<think></think>\n<tool_call>multiply\n<arg_key>a</arg_key>\n"
        "<arg_value>3</arg_value>\n<arg_key>b</arg_key>\n<arg_value>4</arg_value>\n</tool_call>"
        "<|observation|>\n<tool_response>\n12\n</tool_response>",
        ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>",
         "<think>", "</think>"),
    ),
    "gpt_oss": Family(
        "harmony",
        ("<|endoftext|>", "<|startoftext|>", "<|return|>", "<|start|>", "<|end|>", "<|message|>",
         "<|channel|>", "<|constrain|>", "<|call|>"),
        '<|channel|>commentary to=functions.multiply <|constrain|>json<|message|>{"a": 3, "b": 4}',
        '<|start|>assistant to=functions.multiply<|channel|>commentary json<|message|>'
        '{"a": 3, "b": 4}<|call|><|start|>functions.multiply to=assistant<|channel|>commentary'
        '<|message|>"12"<|end|>',
    ),
    "phi4_mini": Family(
        "phi4",
        ("<|pad|>", "<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>",
         "<|tool_call|>", "<|/tool_call|>", "<|tool|>", "<|/tool|>"),
        '<|tool_call|>[{"name": "multiply", "arguments": {"a": 3, "b": 4}}]<|/tool_call|>',
        '<|assistant|><|tool_call|>[{"name": "multiply", "arguments": {"a": 3, "b": 4}}]'
        "<|/tool_call|><|end|><|tool|>12<|end|>",
    ),
    "phi4_functools": Family(
        "phi4-functools",
        ("<|pad|>", "<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
        'functools[{"name": "multiply", "arguments": {"a": 3, "b": 4}}]',
        '<|assistant|>\n{"name": "multiply", "arguments": {"a": 3, "b": 4}}<|end|>'
        "<|tool|>\n12<|end|>",
    ),
    "granite3_3": Family(
        "granite",
        ("<|pad|>", "<|start_of_role|>", "<|end_of_text|>", "<|end_of_role|>", "<|tool_call|>"),
        '<|tool_call|>[{"name": "multiply", "arguments": {"a": 3, "b": 4}}]',
        '<|start_of_role|>assistant<|end_of_role|><|tool_call|>[{"name": "multiply", "arguments": '
        '{"a": 3, "b": 4}}]<|end_of_text|>\n<|start_of_role|>tool_response<|end_of_role|>12'
        "<|end_of_text|>\n",
    ),
    "deepseek_v3": Family(
        "deepseek-v3",
        ("<｜▁pad▁｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>multiply\n```json\n"
        '{"a": 3, "b": 4}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>multiply\n```json\n"
        '{"a": 3, "b": 4}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>'
        "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>12<｜tool▁output▁end｜>",
        ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
         "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜User｜>", "<｜Assistant｜>"),
    ),
    "deepseek_v3_1": Family(
        "deepseek-v3.1",
        ("<｜▁pad▁｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>multiply<｜tool▁sep｜>"
        '{"a": 3, "b": 4}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        "<｜Assistant｜></think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>multiply<｜tool▁sep｜>"
        '{"a": 3, "b": 4}<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>'
        "<｜tool▁output▁begin｜>12<｜tool▁output▁end｜>",
        ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
         "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜User｜>", "<｜Assistant｜>"),
    ),
    "command_r": Family(
        "command-r",
        ("<PAD>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>",
         "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
        'Action: ```json\n[\n    {\n        "tool_name": "multiply",\n        "parameters": '
        '{"a": 3, "b": 4}\n    }\n]```',
        '\nAction:\n```json\n[\n    {\n        "tool_name": "multiply",\n        "parameters": '
        '{"a": 3, "b": 4}\n    }\n]```\n<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><results>\n12'
        "</results><|END_OF_TURN_TOKEN|>",
    ),
    "command_r7b": Family(
        "command-r7b",
        ("<PAD>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>",
         "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|START_ACTION|>",
         "<|END_ACTION|>", "<|START_TOOL_RESULT|>", "<|END_TOOL_RESULT|>"),
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "multiply", "parameters": '
        '{"a": 3, "b": 4}}\n]<|END_ACTION|>',
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "multiply", "parameters": '
        '{"a": 3, "b": 4}}\n]<|END_ACTION|><|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|>'
        '<|SYSTEM_TOKEN|><|START_TOOL_RESULT|>[{"results": "12"}]<|END_TOOL_RESULT|>',
    ),
}  # fmt: skip


def llm_of(name: str, script: Script | None = None) -> SteerableHFLLM:
    family = FAMILIES[name]
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    special = list(family.special)
    begin, end = (special[0], special[2]) if name.startswith("qwen") else special[1:3]
    tokenizer = byte_level(template, special, list(family.added), begin, end)

    def say(prompt: str) -> str:
        after = prompt.rpartition(QUESTION)[2]
        return "It is twelve." if "12" in after else family.call

    return scripted_around(tokenizer, script or say)


@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.parametrize("choice", [None, "required", "multiply"])
def test_a_call_goes_out_and_its_result_comes_back_as_documented(
    name: str, choice: str | None
) -> None:
    llm = llm_of(name)
    found = llm.chat_format.tool_format
    assert found is not None
    assert found.name == FAMILIES[name].format
    ask = [{"role": "user", "content": QUESTION}]
    answer = llm.generate(ask, tools=[MULTIPLY, WEATHER], tool_choice=choice)
    (call,) = answer.tool_calls
    assert (call.name, call.arguments, answer.text) == ("multiply", {"a": 3, "b": 4}, "")
    assert answer.finish_reason == "stop"
    history = [
        *ask,
        {"role": "assistant", "content": "", "tool_calls": [call.to_message_part()]},
        {"role": "tool", "tool_call_id": call.id, "name": "multiply", "content": "12"},
    ]
    rendered = llm.render(history, tools=[MULTIPLY, WEATHER])
    assert FAMILIES[name].history.replace("ID", call.id) in rendered
    assert "get_weather" in rendered
    assert llm.generate(history, tools=[MULTIPLY, WEATHER]).text == "It is twelve."


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_loop_of_an_agent_closes_and_is_steered(name: str) -> None:
    @tool
    def multiply(a: int, b: int) -> int:
        """Multiply two numbers."""
        return a * b

    llm = llm_of(name)
    chat = llm.as_langchain(steering=random_vector(llm, "a", 1).steer(0.5))
    bound = chat.bind_tools([multiply])
    called = bound.invoke([HumanMessage(QUESTION)])
    assert steered_by(called) == ["a"]
    result = multiply.invoke(called.tool_calls[0])
    closed = bound.invoke([HumanMessage(QUESTION), called, result])
    assert (closed.content, steered_by(closed)) == ("It is twelve.", ["a"])
    streamed = [chunk for chunk in bound.stream([HumanMessage(QUESTION)]) if chunk.tool_call_chunks]
    told_as_it_comes = llm.chat_format.tool_format.head is not None
    assert len(streamed) > 2 if told_as_it_comes else streamed


def history_with(*calls: ToolCall) -> list[dict[str, object]]:
    """A question, calls in one turn, and their results."""
    results = [
        {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": f"of {call.id}"}
        for call in calls
    ]
    made = [call.to_message_part() for call in calls]
    return [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "", "tool_calls": made},
        *results,
    ]


@pytest.mark.parametrize("name", list(FAMILIES))
def test_several_calls_of_one_turn_and_their_results_are_all_in_the_prompt(name: str) -> None:
    first = ToolCall("abcdefgh1", "multiply", {"a": 31, "b": 41})
    second = ToolCall("abcdefgh2", "get_weather", {"city": "Köln"})
    prompt = llm_of(name).render(history_with(first, second), tools=[MULTIPLY, WEATHER])
    after = prompt.rpartition(QUESTION)[2]
    places = [after.index(text) for text in ("multiply", "31", "get_weather", "Köln")]
    assert places == sorted(places)
    assert after.index("of abcdefgh1") < after.index("of abcdefgh2")
    assert "{'" not in after


# (Calls of Llama 3.1 are whole answers.)
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "llama3_1"])
def test_what_is_said_before_a_call_is_content_however_the_mark_is_cut_into_tokens(
    name: str,
) -> None:
    said = FAMILIES[name].call
    before = (
        "<|channel|>final<|message|>I ask.<|end|><|start|>assistant" if name == "gpt_oss" else ""
    )
    llm = llm_of(name, lambda _: (before or "I ask.\n") + said)
    answer = llm.generate("?", tools=[MULTIPLY, WEATHER], max_new_tokens=300)
    assert answer.text == "I ask."
    assert [call.arguments for call in answer.tool_calls] == [{"a": 3, "b": 4}]
    assert (
        "".join(
            chunk.text for chunk in llm.stream("?", tools=[MULTIPLY, WEATHER], max_new_tokens=300)
        )
        == answer.text
    )


SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "maxLength": 9},
                "kind": {"enum": ["web", "image"]},
                "limit": {"type": "integer", "minimum": 1, "maximum": 99},
                "exact": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
                "where": {"$ref": "#/$defs/Where"},
            },
            "required": ["query", "kind", "limit", "exact", "where"],
            "$defs": {
                "Where": {
                    "type": "object",
                    "properties": {
                        "sites": {
                            "type": "array",
                            "items": {"type": "string", "maxLength": 5},
                            "maxItems": 2,
                        }
                    },
                    "required": ["sites"],
                }
            },
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_sure_call_follows_the_schema_whatever_the_model_would_rather_say(name: str) -> None:
    llm = llm_of(name, lambda _: "I would rather talk.")
    for seed in (1, 2):
        answer = llm.generate(
            "?", tools=[SEARCH], tool_choice="search", max_new_tokens=300, temperature=1.5,
            seed=seed,
        )  # fmt: skip
        (call,) = answer.tool_calls
        given = call.arguments
        assert list(given) == ["query", "kind", "limit", "exact", "where"]
        assert len(given["query"]) <= 9
        assert given["kind"] in ("web", "image")
        assert given["limit"] in range(1, 100)
        assert given["exact"] in (True, False, None)
        assert all(isinstance(site, str) for site in given["where"]["sites"])


@pytest.mark.parametrize("name", ["qwen3_coder", "glm4_5"])
@pytest.mark.parametrize(
    ("schema", "allowed"),
    [
        ({"type": ["string", "null"], "enum": ["red", "blue", None]}, ("red", "blue", None)),
        ({"anyOf": [{"enum": ["red", "blue"]}, {"type": "null"}]}, ("red", "blue", None)),
        ({"anyOf": [{"const": "auto"}, {"type": "string", "enum": ["red", "blue"]}]},
         ("auto", "red", "blue")),
        ({"anyOf": [{"anyOf": [{"const": "auto"}, {"enum": [7, 8]}]}, {"const": "red"}]},
         ("auto", 7, 8, "red")),
        ({"allOf": [{"type": "string"}, {"enum": ["red", "blue"]}]}, ("red", "blue")),
        ({"type": "string", "oneOf": [{"const": "red"}, {"const": "blue"}]}, ("red", "blue")),
        ({"$ref": "#/$defs/Color"}, ("red", "blue", None)),
    ],
)  # fmt: skip
def test_texts_among_alternatives_are_held_to_their_own_rules(
    name: str, schema: dict[str, object], allowed: tuple[object, ...]
) -> None:
    llm = llm_of(name, lambda _: "I would rather talk.")
    for seed in range(3):
        assert sure_argument(llm, schema, seed) in allowed


@pytest.mark.parametrize("name", ["qwen3_coder", "glm4_5"])
@pytest.mark.parametrize(
    ("schema", "most"),
    [
        ({"type": ["string", "null"], "maxLength": 4}, 4),
        ({"anyOf": [{"type": ["string", "null"], "maxLength": 4}, {"type": "integer"}]}, 4),
        ({"anyOf": [{"type": "string", "maxLength": 3}, {"type": "string", "maxLength": 4}]}, 4),
        ({"allOf": [{"type": "string", "maxLength": 4}, {"minLength": 2}]}, 4),
        ({"maxLength": 4, "anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}]}, 4),
    ],
)
def test_texts_among_alternatives_keep_their_length(
    name: str, schema: dict[str, object], most: int
) -> None:
    llm = llm_of(name, lambda _: "I would rather talk.")
    found = [sure_argument(llm, schema, seed) for seed in range(3)]
    assert all(len(given) <= most for given in found if isinstance(given, str))


@pytest.mark.parametrize("name", ["qwen3_coder", "glm4_5"])
def test_an_argument_that_refers_to_another_one_is_held_to_it(name: str) -> None:
    leaf = {"type": "object", "properties": {"of": {"const": "oak"}}, "required": ["of"]}
    parameters = {
        "type": "object",
        "properties": {"first": leaf, "more": {"type": "array", "minItems": 1, "maxItems": 1}},
        "required": ["first", "more"],
    }
    parameters["properties"]["more"]["items"] = {"$ref": "#/properties/first"}  # type: ignore[index]
    tool = {"type": "function", "function": {"name": "gather", "parameters": parameters}}
    llm = llm_of(name, lambda _: "I would rather talk.")
    (call,) = llm.generate("?", tools=[tool], tool_choice="gather").tool_calls
    assert call.arguments == {"first": {"of": "oak"}, "more": [{"of": "oak"}]}


def sure_argument(llm: SteerableHFLLM, schema: dict[str, object], seed: int) -> object:
    """The one argument of a call that a model is made to write."""
    colors = {"Color": {"anyOf": [{"const": "red"}, {"const": "blue"}, {"type": "null"}]}}
    function = {
        "name": "paint",
        "parameters": {
            "type": "object",
            "properties": {"color": schema},
            "required": ["color"],
            "$defs": colors,
        },
    }
    answer = llm.generate(
        "?",
        tools=[{"type": "function", "function": function}],
        tool_choice="paint",
        max_new_tokens=300,
        temperature=1.5,
        seed=seed,
    )
    (call,) = answer.tool_calls
    return call.arguments["color"]


def test_channels_of_gpt_oss_are_told_apart_while_tools_are_bound() -> None:
    said = (
        "<|channel|>analysis<|message|>The user asks.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>It is twelve."
    )
    llm = llm_of("gpt_oss", lambda _: said)
    chunks = list(llm.stream("?", tools=[MULTIPLY], max_new_tokens=200))
    assert "".join(chunk.text for chunk in chunks) == "It is twelve."
    assert chunks[-1].final is not None
    assert (chunks[-1].final.text, chunks[-1].final.tool_calls) == ("It is twelve.", ())


@pytest.mark.parametrize(
    "call",
    [
        "<tool_call>\n<invoke name={{ c.function.name }}/>\n</tool_call>",
        '<tool_call>{"tool": "{{ c.function.name }}", "args": {{ c.function.arguments | tojson }}}'
        "</tool_call>",
        "<tool_call>{{ c.function.name }}: {{ c.function.arguments | tojson }}</tool_call>",
        "<TOOLCALL>[{{ c.function | tojson }}]</TOOLCALL>",
        "<seed:tool_call><function={{ c.function.name }}><parameter=a>1</parameter></function>",
    ],
)
def test_a_way_of_calling_that_is_not_known_is_said_to_be_unknown(call: str) -> None:
    template = (
        "{{ tools | tojson }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
        f"{{% for c in m.tool_calls or [] %}}{call}{{% endfor %}}<|end|>{{% endfor %}}<|assistant|>"
    )
    llm = scripted_around(byte_level(template, SPECIAL, []), {})
    assert not llm.supports_tools
    for ask in (
        lambda: llm.generate("Hi", tools=[MULTIPLY]),
        lambda: llm.as_langchain().bind_tools([MULTIPLY]).invoke("Hi"),
    ):
        with pytest.raises(InvalidInputError, match="is not known here: give tool_format=") as told:
            ask()
        assert "\n" not in str(told.value)
    assert llm.generate("Hi").text == "I do not know."


def test_a_format_can_be_named_where_the_template_does_not_show_it() -> None:
    template = (
        "{{ tools | tojson }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>"
        "{% endfor %}<|assistant|>"
    )
    said = FAMILIES["glm4_5"].call
    llm = scripted_around(byte_level(template, SPECIAL, []), {"Hi": said}, tool_format="glm")
    (call,) = llm.generate("Hi", tools=[MULTIPLY], max_new_tokens=200).tool_calls
    assert call.arguments == {"a": 3, "b": 4}
    history = [
        {"role": "assistant", "content": "", "tool_calls": [call.to_message_part()]},
        {"role": "tool", "tool_call_id": call.id, "content": "12"},
    ]
    assert said in llm.render(history, tools=[MULTIPLY])
    with pytest.raises(InvalidInputError, match="did you mean 'hermes'"):
        scripted_around(byte_level(template, SPECIAL, []), {}, tool_format="hermess")


def test_a_template_that_drops_the_tools_it_is_given_has_no_place_for_them() -> None:
    template = "{# tools <tool_call> #}{% for m in messages %}{{ m.content }}{% endfor %}"
    llm = scripted_around(byte_level(template, SPECIAL, []), {})
    with pytest.raises(InvalidInputError, match="no place for tools"):
        llm.generate("Hi", tools=[MULTIPLY])
