"""Asking for tool calls and for answers in a form, against a model that follows a script."""

import pytest
from scripted import SPECIAL, TEMPLATES, byte_level, calling, scripted_around, scripted_llm

from steerable_llm.answer.constraint import Constraint
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.chat.message import as_messages
from steerable_llm.chat.tool_formats.table import FORMATS, tool_format_of
from steerable_llm.errors import InvalidInputError

MULTIPLY = {
    "type": "function",
    "function": {
        "name": "multiply",
        "description": "Multiplies.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
        },
    },
}
# With a schema that decoding cannot follow, so that calls come as the model writes them.
UNGUIDED = {
    "type": "function",
    "function": {
        "name": "multiply",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "string", "pattern": "(?=x)y"}},
        },
    },
}
WRITTEN = {
    "hermes": calling("multiply", {"a": 3, "b": 4}),
    "llama3": '{"name": "multiply", "parameters": {"a": 3, "b": 4}}',
    "mistral": '[TOOL_CALLS][{"name": "multiply", "arguments": {"a": 3, "b": 4}}]',
    "mistral-args": '[TOOL_CALLS]multiply[ARGS]{"a": 3, "b": 4}',
}


@pytest.mark.parametrize("family", list(WRITTEN))
@pytest.mark.parametrize("choice", [None, "required", "multiply"])
def test_a_call_is_read_in_every_family_and_its_result_goes_back(family, choice):
    llm = scripted_llm({"3 times 4": WRITTEN[family], "12": "It is twelve."}, family)
    assert llm.supports_tools
    ask = [{"role": "user", "content": "What is 3 times 4?"}]
    answer = llm.generate(ask, tools=[MULTIPLY, WEATHER], tool_choice=choice)
    (call,) = answer.tool_calls
    assert (call.name, call.arguments) == ("multiply", {"a": 3, "b": 4})
    assert (answer.text, answer.finish_reason) == ("", "stop")
    assert len(call.id) == 9
    assert call.id.isalnum()
    history = [
        *ask,
        {"role": "assistant", "content": "", "tool_calls": [call.to_message_part()]},
        {"role": "tool", "tool_call_id": call.id, "name": "multiply", "content": "12"},
    ]
    assert WRITTEN[family] in llm.render(history, tools=[MULTIPLY])
    assert llm.generate(history, tools=[MULTIPLY, WEATHER]).text == "It is twelve."


def test_only_the_choice_of_none_hides_the_tools():
    llm = scripted_llm({"3 times 4": WRITTEN["hermes"]})
    shown = llm.generate("3 times 4?", tools=[MULTIPLY])
    hidden = llm.generate("3 times 4?", tools=[MULTIPLY], tool_choice="none", max_new_tokens=200)
    assert shown.tool_calls
    assert (hidden.tool_calls, hidden.text) == ((), WRITTEN["hermes"])
    assert hidden.usage.prompt_tokens == llm.generate("3 times 4?").usage.prompt_tokens
    assert "multiply" in llm.render("3 times 4?", tools=[MULTIPLY])


def test_a_sure_choice_makes_a_model_call_that_would_rather_talk():
    llm = scripted_llm({}, "hermes")
    settings = {"tools": [MULTIPLY, WEATHER], "max_new_tokens": 200}
    assert llm.generate("Hi", **settings).text == "I do not know."
    for choice, names in [
        ("get_weather", {"get_weather"}),
        ("required", {"multiply", "get_weather"}),
    ]:
        answer = llm.generate("Hi", tool_choice=choice, **settings)
        assert answer.finish_reason == "stop"
        assert {call.name for call in answer.tool_calls} <= names
        assert (answer.text, answer.invalid_tool_calls) == ("", ())


def test_several_calls_and_the_text_before_them():
    said = "I look it up.\n" + calling("get_weather", {"city": "Köln 👋"})
    said += "\n" + calling("multiply", {"a": 1, "b": -2})
    llm = scripted_llm({"Hi": said})
    answer = llm.generate("Hi", tools=[MULTIPLY, WEATHER], max_new_tokens=300)
    assert answer.text == "I look it up."
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [
        ("get_weather", {"city": "Köln 👋"}),
        ("multiply", {"a": 1, "b": -2}),
    ]
    first, second = answer.tool_calls
    assert first.id != second.id
    again = llm.generate("Hi", tools=[MULTIPLY, WEATHER], max_new_tokens=300)
    assert again.tool_calls == answer.tool_calls
    later = [{"role": "user", "content": "Say Hi"}]
    assert llm.generate(later, tools=[MULTIPLY, WEATHER], max_new_tokens=300).tool_calls != first


@pytest.mark.parametrize(
    ("said", "why", "name"),
    [
        ("<tool_call>\n{oops\n</tool_call>", "not valid JSON", None),
        ('<tool_call>\n["multiply"]\n</tool_call>', '"name"', None),
        ('<tool_call>\n{"name": "multiply", "arguments": 3}\n</tool_call>', "object", "multiply"),
    ],
)
def test_a_call_that_cannot_be_read_is_told_and_not_raised(said, why, name):
    answer = scripted_llm({"Hi": said}).generate("Hi", tools=[UNGUIDED])
    (invalid,) = answer.invalid_tool_calls
    assert why in invalid.error
    assert invalid.name == name
    assert (answer.text, answer.tool_calls) == ("", ())


def test_a_call_that_is_cut_off_is_invalid_and_says_length():
    llm = scripted_llm({"Hi": WRITTEN["hermes"]})
    answer = llm.generate("Hi", tools=[MULTIPLY], tool_choice="required", max_new_tokens=5)
    assert answer.finish_reason == "length"
    assert len(answer.invalid_tool_calls) == 1


@pytest.mark.parametrize("family", list(WRITTEN))
def test_of_a_call_that_is_cut_off_in_its_arguments_the_name_is_known(family):
    whole = WRITTEN[family]
    parsed = FORMATS[family].parse(whole[: whole.index('"b"')])
    (invalid,) = parsed.invalid
    assert (parsed.content, parsed.calls) == ("", ())
    assert (invalid.name, invalid.text.strip()) == ("multiply", '{"a": 3,')


@pytest.mark.parametrize("family", list(WRITTEN))
@pytest.mark.parametrize("said", ["call", "A < b, {x}", '{"a": 1}', "It is [TOOL] <tool_ca", "  "])
def test_the_streamed_text_is_the_whole_text_and_never_shows_a_call(family, said):
    said = f"So: {WRITTEN[family]}" if said == "call" and family != "llama3" else said
    said = WRITTEN[family] if said == "call" else said
    llm = scripted_llm({"Hi": said}, family)
    chunks = list(llm.stream("Hi", tools=[MULTIPLY]))
    final = chunks[-1].final
    assert final == llm.generate("Hi", tools=[MULTIPLY])
    assert "".join(chunk.text for chunk in chunks) == final.text
    if WRITTEN[family] in said:
        assert final.text == said.replace(WRITTEN[family], "").rstrip()
        assert len(final.tool_calls) == 1
    else:
        assert (final.text, final.tool_calls) == (said, ())


def test_text_is_streamed_as_it_comes_while_tools_are_offered():
    llm = scripted_llm({"Hi": "One two three four five six seven."})
    pieces = [chunk.text for chunk in llm.stream("Hi", tools=[MULTIPLY]) if chunk.text]
    assert len(pieces) > 6


@pytest.mark.parametrize("family", ["hermes", "mistral"])
def test_a_constraint_leaves_the_choice_between_calls_and_an_answer_in_its_form(family):
    yes = Constraint.choice(["yes", "no"])
    llm = scripted_llm({"Call": WRITTEN[family], "Else": "yes", "Talk": "Well."}, family)
    settings = {"tools": [MULTIPLY], "constraint": yes}
    assert llm.generate("Call", **settings).tool_calls
    assert llm.generate("Else", **settings).text == "yes"
    answer = llm.generate("Talk", **settings)
    assert answer.tool_calls or answer.text in ("yes", "no") or answer.finish_reason == "length"


def test_tools_need_a_template_that_has_a_place_for_them(tiny_llm):
    assert not tiny_llm.supports_tools
    history = [{"role": "user", "content": "Hi"}, {"role": "tool", "tool_call_id": "1"}]
    for ask in (
        lambda: tiny_llm.generate("Hi", tools=[MULTIPLY]),
        lambda: tiny_llm.stream("Hi", tools=[MULTIPLY]),
        lambda: tiny_llm.generate(history),
    ):
        with pytest.raises(InvalidInputError, match="no place for tools") as error:
            ask()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tools": [{"name": "f"}]}, "tool 0 is not a function"),
        ({"tools": [MULTIPLY, MULTIPLY]}, "same name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "letters"),
        ({"tools": [MULTIPLY], "tool_choice": "divide"}, "auto, none, required or one of"),
        ({"tool_choice": "required"}, "there are no tools"),
    ],
)
def test_tools_and_choices_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(InvalidInputError, match=said):
        GenerationRequest("Hi", **settings)


@pytest.mark.parametrize("tool_choice", ["auto", "required", "look"])
@pytest.mark.parametrize("family", ["hermes", "xml"])
def test_a_tool_with_a_type_that_there_is_not_is_told_and_no_answer_cut_off(
    family, tool_choice, xml_llm
):
    llm = xml_llm if family == "xml" else scripted_llm({"Hi": "Hi."})
    schema = {"type": "object", "properties": {"day": {"type": "strng"}}}
    tool = {"type": "function", "function": {"name": "look", "parameters": schema}}
    said = "the schema of the tool 'look' is wrong at properties.day: .*'string'?"
    with pytest.raises(InvalidInputError, match=said):
        llm.generate("Hi", tools=[tool], tool_choice=tool_choice, max_new_tokens=4)


def test_a_request_says_whether_its_answer_is_for_a_program():
    assert GenerationRequest("Hi", tools=[MULTIPLY]).structured
    assert GenerationRequest("Hi", constraint=Constraint.json_object()).structured
    assert not GenerationRequest("Hi", tools=[MULTIPLY], tool_choice="none").structured
    assert not GenerationRequest("Hi", tools=[]).structured


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "12"},
        {"role": "assistant", "tool_calls": [{"name": "multiply"}]},
        {"role": "user", "content": "Hi", "nmae": "Ann"},
        {"role": "user", "content": 3, "name": "Ann"},
        {"role": "wizard", "content": "Hi", "name": "Ann"},
    ],
)
def test_malformed_messages_are_refused_with_their_place(message):
    ask = [{"role": "user", "content": "Hi"}, message]
    with pytest.raises(InvalidInputError, match="message 1") as error:
        scripted_llm({}).render(ask)
    assert "\n" not in str(error.value)


def test_a_name_reaches_a_template_that_reads_names():
    named = [{"role": "user", "content": "Hi", "name": "Ann"}]
    assert "(Ann) Hi" in scripted_llm({}).render(named)


def test_ids_of_another_maker_fit_mistral_s_template_and_stay_in_pairs():
    template_llm = scripted_llm({}, "mistral")
    call = {"id": "call_abc", "type": "function", "function": {"name": "f", "arguments": {}}}
    history = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_abc", "content": "1"},
    ]
    seen = []
    tokenizer = template_llm.tokenizer
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = (
            "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.id }}{% endfor %}"
            "{{ m.tool_call_id }} {% endfor %}{{ (tools or '') | string }}{# [TOOL_CALLS] #}"
        )
        seen = template_llm.render(history).split()
    finally:
        tokenizer.chat_template = template
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert len(seen[0]) == 9


def test_a_result_gets_the_name_of_the_tool_that_was_called():
    call = {"id": "1", "type": "function", "function": {"name": "multiply", "arguments": {}}}
    history = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "12"},
        {"role": "tool", "tool_call_id": "2", "content": "13"},
        {"role": "tool", "tool_call_id": "1", "content": "14", "name": "other"},
    ]
    assert [message.name for message in as_messages(history)] == [
        None, "multiply", None, "other"
    ]  # fmt: skip
    assert "name" not in history[1]


# Ways of writing calls that occur in the wild, beside the ones of the templates above.
@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("hermes", '<tool_call>{"arguments": {"a": 3, "b": 4}, "name": "multiply"}</tool_call>'),
        ("hermes", '<tool_call>\n{"name": "multiply", "arguments": "{\\"a\\": 3, \\"b\\": 4}"}'),
        ("llama3", '<|python_tag|>{"name": "multiply", "parameters": {"a": 3, "b": 4}}'),
        ("llama3", '{"type": "function", "name": "multiply", "parameters": {"a": 3, "b": 4}}'),
        (
            "mistral",
            '[TOOL_CALLS] [{"name": "multiply", "arguments": {"a": 3, "b": 4}, "id": "x"}]',
        ),
        ("mistral-args", '[TOOL_CALLS]multiply[CALL_ID]abc123def[ARGS]{"a": 3, "b": 4}'),
    ],
)
def test_other_ways_of_writing_a_call_are_read(family, said):
    parsed = FORMATS[family].parse(said)
    assert parsed.calls == (("multiply", {"a": 3, "b": 4}),)
    assert (parsed.content, parsed.invalid) == ("", ())


def test_several_calls_of_the_families_that_write_them_in_a_row():
    two = (("f", {"a": 1}), ("g", {}))
    llama = '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}'
    args = '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}'
    assert FORMATS["llama3"].parse(llama).calls == two
    assert FORMATS["mistral-args"].parse(args).calls == two


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("llama3", "<|python_tag|>print(3)"),
        ("mistral", "[TOOL_CALLS] [{"),
        ("mistral", '[TOOL_CALLS] [{"nme": 1}]'),
        ("mistral-args", '[TOOL_CALLS]f[ARGS]{"a": '),
        ("mistral-args", "[TOOL_CALLS]f[ARGS][1]"),
    ],
)
def test_what_was_to_be_a_call_and_is_none_is_kept_apart(family, said):
    parsed = FORMATS[family].parse(said)
    assert (parsed.content, parsed.calls) == ("", ())
    assert len(parsed.invalid) == 1


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{% if tools %}<tool_call>{% endif %}", "hermes"),
        ("{% if tools %}<tool_call><function=f>{% endif %}", None),
        ('{% if tools %}{"name": function name, "parameters": dictionary}{% endif %}', "llama3"),
        ("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]", "mistral"),
        ("{% if tools %}{% endif %}[TOOL_CALLS]f[ARGS]", "mistral-args"),
        ("{{ messages[0].content }}", None),
        ({"default": "{{ messages }}", "tool_use": "{{ tools }}<tool_call>"}, "hermes"),
        (None, None),
    ],
)
def test_a_template_shows_how_its_model_writes_calls(template, name):
    class Tokenizer:
        chat_template = template

    found = tool_format_of(Tokenizer())
    assert (found and found.name) == name


# What transformers calls a response template, in the manner of Qwen3-Coder's: arguments as XML.
XML_CALLS = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "content": {},
        "tool_calls": {
            "open_pattern": r"<tool_call>\s*<function=(?P<name>\w+)>",
            "close_pattern": r"</function>\s*</tool_call>",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {
                "tag_pattern": r"<parameter=(?P<key>\w+)>\s*(?P<value>.*?)\s*</parameter>"
            },
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": "{content}"},
            },
        },
    },
}
XML_TEMPLATE = "{{ tools | tojson }}" + TEMPLATES["none"] + "{# <function= #}"


def xml_call(name, **arguments):
    inside = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
    return f"<tool_call>\n<function={name}>\n{inside}</function>\n</tool_call>"


@pytest.fixture(scope="module")
def xml_llm():
    tokenizer = byte_level(XML_TEMPLATE, SPECIAL, [])
    tokenizer.response_template = XML_CALLS
    two = f"{xml_call('multiply', a=3, b=4)}\n{xml_call('get_weather', city='Köln')}"
    return scripted_around(
        tokenizer,
        {"Two": f"I look. {two}", "Cut": "So: " + two[: two.index("4")], "Talk": "A < b, <tool"},
    )


def test_calls_are_read_by_the_response_template_that_a_tokenizer_brings(xml_llm):
    chunks = list(xml_llm.stream("Two", tools=[MULTIPLY, WEATHER], max_new_tokens=400))
    answer = chunks[-1].final
    assert answer.text == "I look."
    assert "".join(chunk.text for chunk in chunks) == answer.text
    # The tools' schemas tell that these numbers are none of text.
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [
        ("multiply", {"a": 3, "b": 4}),
        ("get_weather", {"city": "Köln"}),
    ]
    assert answer == xml_llm.generate("Two", tools=[MULTIPLY, WEATHER], max_new_tokens=400)


def test_by_a_response_template_text_stays_text_and_a_cut_call_is_none(xml_llm):
    assert xml_llm.generate("Talk", tools=[MULTIPLY]).text == "A < b, <tool"
    cut = xml_llm.generate("Cut", tools=[MULTIPLY], max_new_tokens=400)
    assert cut.text == "So:"
    assert cut.tool_calls == ()
    [invalid] = cut.invalid_tool_calls
    assert (invalid.name, invalid.error) == ("multiply", "the call is cut off")


def test_calls_whose_writing_is_not_known_cannot_be_made_sure(xml_llm):
    with pytest.raises(InvalidInputError, match="only how they are read") as told:
        xml_llm.generate("Two", tools=[MULTIPLY], tool_choice="required")
    assert "\n" not in str(told.value)


def test_a_response_template_reads_what_a_family_that_is_known_writes():
    tokenizer = byte_level(TEMPLATES["hermes"], SPECIAL, [])
    tokenizer.response_template = {
        "start_anchor": "<|assistant|>",
        "fields": {
            "content": {},
            "tool_calls": {
                "open": "<tool_call>",
                "close": "</tool_call>",
                "repeats": True,
                "content": "json",
                "transform": {"type": "function", "function": "{content}"},
            },
        },
    }
    llm = scripted_around(tokenizer, {"Call": WRITTEN["hermes"], "Cut": WRITTEN["hermes"][:55]})
    answer = llm.generate("Call", tools=[MULTIPLY], tool_choice="required", max_new_tokens=200)
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [
        ("multiply", {"a": 3, "b": 4})
    ]
    cut = llm.generate("Cut", tools=[UNGUIDED])
    assert [call.name for call in cut.invalid_tool_calls] == ["multiply"]


def test_a_response_template_that_does_not_say_how_calls_open_is_refused_in_one_line():
    tokenizer = byte_level(XML_TEMPLATE, SPECIAL, [])
    tokenizer.response_template = {"fields": {"tool_calls": {"close": "x"}}}
    with pytest.raises(InvalidInputError, match="how a tool call opens") as told:
        tool_format_of(tokenizer)
    assert "\n" not in str(told.value)
