"""Reading what each family writes: whole, in a row, cut anywhere, whatever its arguments hold."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerable_llm.chat.tool_formats.table import FORMATS, tool_format_of
from steerable_llm.chat.tool_place import ToolPlace
from steerable_llm.chat.tools import ToolFormat, ToolText

NAMES = sorted(FORMATS)
# What closes or opens calls in one family or another, and what JSON escapes.
HOSTILE = [
    "</tool_call>", "<tool_call>", "[TOOL_CALLS]", "]", "}", '"', "\\", "```", "<|call|>", "日本",
    "<|END_ACTION|>", "<｜tool▁call▁end｜>", "<|/tool_call|>", "\n", "{'a': 1}", "<b>", "&amp;",
    "null", "3", "👋",
]  # fmt: skip
texts = st.lists(st.sampled_from([*HOSTILE, "a b", " "]), min_size=1, max_size=4).map("".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.just(1.5) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array",
         dict: "object", type(None): "null"}  # fmt: skip


def tool_for(name: str, arguments: dict[str, object]) -> dict[str, object]:
    properties = {key: {"type": KINDS[type(value)]} for key, value in arguments.items()}
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


calls = st.tuples(
    st.sampled_from(["f", "get_weather", "a-b.c"]),
    st.dictionaries(st.sampled_from(["x", "y_1", "größe"]), values, max_size=3),
)


@given(st.sampled_from(NAMES), calls, st.sampled_from(["", "I look."]))
@settings(max_examples=300)
def test_whatever_a_family_writes_is_read_as_it_was_meant(name, call, before):
    tools = [tool_for(*call)]
    before = "" if name in ("llama3", "harmony") else before
    written = f"{before}{FORMATS[name].write([call])}"
    parsed = FORMATS[name].parse(written, tools)
    assert parsed.invalid == ()
    assert parsed.calls == (call,)
    assert parsed.content == before


@pytest.mark.parametrize("name", NAMES)
def test_two_calls_are_two(name):
    two = (("f", {"a": 1, "b": {"c": ["x"]}}), ("g", {}))
    tools = [tool_for(*call) for call in two]
    parsed = FORMATS[name].parse(FORMATS[name].write(two), tools)
    assert (parsed.content, parsed.calls, parsed.invalid) == ("", two, ())


@pytest.mark.parametrize("name", NAMES)
def test_a_call_that_is_cut_anywhere_is_text_a_broken_call_or_whole_and_never_lost(name):
    tool_format = FORMATS[name]
    call = ("f", {"a": 1, "b": "x y"})
    tools = [tool_for(*call)]
    written = tool_format.write([call, call])
    for end in range(1, len(written)):
        parsed = tool_format.parse(written[:end], tools)
        assert all(one == call for one in parsed.calls)
        opened = tool_format.opening.search(written[:end])
        if name == "llama3" and '"parameters": {' not in written[:end]:
            continue  # nothing tells yet that a call was meant
        assert parsed.calls or parsed.invalid or not opened
        assert all(len(one.error.splitlines()) == 1 for one in parsed.invalid)


#: Formats in which one list holds all calls of an answer.
LISTS = {"llama3", "mistral", "phi4", "phi4-functools", "granite", "command-r", "command-r7b"}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LISTS])
def test_a_broken_call_takes_no_other_with_it(name):
    good = ("g", {"a": 1})
    tool_format, tools = FORMATS[name], [tool_for(*good)]
    broken = tool_format.write([("f", {"b": "x"})]).replace("x", "").replace("}", "").replace(
        "</parameter>", "").replace("</arg_value>", "")  # fmt: skip
    parsed = tool_format.parse(f"{broken}\n{tool_format.write([good])}", tools)
    assert parsed.calls == (good,)
    assert [call.name for call in parsed.invalid] == ["f"]


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=15)
def test_the_text_for_the_reader_only_grows_and_ends_as_the_content(name, data):
    tool_format: ToolFormat = FORMATS[name]
    pieces = data.draw(
        st.lists(
            st.sampled_from(
                ["Hi ", "<", "tool", "[", "Action:", "\n", tool_format.write([("f", {"a": 1})]),
                 "<|channel|>final<|message|>", "<|end|>", "functools", *tool_format.marks]
            ),
            max_size=6,
        )
    )  # fmt: skip
    reader = ToolText(tool_format, [tool_for("f", {"a": 1})])
    told = "".join(reader.push(piece) for piece in pieces)
    rest, parsed = reader.finish()
    assert told + rest == reader.text
    assert parsed.content.startswith(told) or told == reader.text


# The texts that show a family, as its own template has them.
@pytest.mark.parametrize(
    ("mark", "name"),
    [
        ("<tool_call>\\n<function=example>\\n<parameter=p>\\n", "qwen3-coder"),
        ("<tool_call>{name}\n<arg_key>{k}</arg_key>", "glm"),
        ("<|channel|>commentary <|call|> to=functions.", "harmony"),
        ("<|tool_call|>[...]<|/tool_call|>", "phi4"),
        ("'<|tool|>' + message['tools'] + '<|/tool|>'", "phi4"),
        ("formatted as functools[{...}]", "phi4-functools"),
        ("respond with <|tool_call|> followed by a JSON list", "granite"),
        ("<｜tool▁calls▁begin｜>...\\n```json\\n", "deepseek-v3"),
        ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>name<｜tool▁sep｜>", "deepseek-v3.1"),
        ("Write 'Action:' and \"tool_name\"", "command-r"),
        ('<|START_ACTION|> "tool_name" ```json', "command-r7b"),
        ('within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": ...}', "hermes"),
        ("<tool_call>\n<invoke name=f>", None),
        ("<TOOLCALL>[]</TOOLCALL>", None),
        ("<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0", None),
    ],
)
def test_a_template_shows_its_family_by_its_own_marks(mark, name):
    class Tokenizer:
        chat_template = f"{{% if tools %}}{mark}{{% endif %}}"

    found = tool_format_of(Tokenizer())
    assert (found and found.name) == name


def read_glm(text: str, schema: dict[str, object], defs: object = None) -> object:
    parameters = {"type": "object", "properties": {"a": schema}, "$defs": defs or {}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    said = f"<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>{text}</arg_value>\n</tool_call>"
    parsed = FORMATS["glm"].parse(said, [tool])
    assert parsed.invalid == ()
    return parsed.calls[0][1]["a"]


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("3", {"type": "integer"}, 3),
        ("3.0", {"type": "integer"}, 3),
        ("3", {"type": "number"}, 3),
        ("-1.5e3", {"type": "number"}, -1500.0),
        ("3", {"type": "string"}, "3"),
        ("true", {"type": "string"}, "true"),
        (" x \n y ", {"type": "string"}, " x \n y "),
        ("true", {"type": "boolean"}, True),
        ("False", {"type": "boolean"}, False),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ('{"k": "</b>"}', {"type": "object"}, {"k": "</b>"}),
        ("{'k': None}", {"type": "object"}, {"k": None}),
        ("null", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, None),
        ("5", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, 5),
        ("5", {"type": ["integer", "string"]}, 5),
        ("five", {"type": ["integer", "string"]}, "five"),
        ("2", {"enum": [1, 2]}, 2),
        ("2", {"enum": ["1", "2"]}, "2"),
        ("2", {}, "2"),
        ("[1]", {"$ref": "#/$defs/L"}, [1]),
        # What does not fit is left for the tool itself to refuse.
        ("many", {"type": "integer"}, "many"),
        ("NaN", {"type": "number"}, "NaN"),
        ("9" * 5000, {"type": "integer"}, "9" * 5000),
        ("[" * 3000, {"type": "array"}, "[" * 3000),
        ('{"k": ', {"type": "object"}, '{"k": '),
        ("\\d", {"type": "integer"}, "\\d"),
        ("", {"type": "integer"}, ""),
    ],
)
def test_an_argument_written_as_text_has_the_type_of_its_schema(text, schema, value):
    read = read_glm(text, schema, {"L": {"type": "array"}})
    assert read == value
    assert type(read) is type(value)


def test_a_schema_that_refers_to_itself_is_no_endless_way():
    assert read_glm("1", {"$ref": "#/$defs/A"}, {"A": {"$ref": "#/$defs/A"}}) == "1"
    both = {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "integer"}]}
    assert read_glm("1", {"$ref": "#/$defs/A"}, {"A": both}) == 1


ONE = "<parameter=a>\n3\n</parameter>"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        # Qwen3-Coder leaves out the outer mark now and then.
        ("qwen3-coder", f"<function=f>\n{ONE}\n</function>\n</tool_call>"),
        ("qwen3-coder", f"<tool_call>\n<function=f>\n{ONE}\n</function>"),
        ("qwen3-coder", "<tool_call><function=f><parameter=a>3</parameter></function></tool_call>"),
        ("glm", "<tool_call>f<arg_key>a</arg_key><arg_value>3</arg_value></tool_call>"),
        ("harmony", ' to=functions.f<|channel|>commentary json<|message|>{"a": 3}'),
        ("harmony", '<|channel|>commentary to=functions.f json<|message|>{"a": 3}<|call|>'),
        ("harmony", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>"
         'commentary to=functions.f <|constrain|>json<|message|>{"a": 3}'),
        ("deepseek-v3.1", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n"
         '```json\n{"a": 3}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'),
        ("granite", '<tool_call>[{"name": "f", "arguments": {"a": 3}}]'),
        ("phi4", '<|tool_call|>{"name": "f", "arguments": {"a": 3}}<|/tool_call|>'),
        ("phi4-functools", 'functools [{"name": "f", "arguments": {"a": 3}}]'),
        ("command-r", 'Action:\n```json\n[\n {\n"tool_name": "f",\n "parameters": {"a": 3}}]\n```'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 3}}}</tool_call>'),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"a": 3}'),
    ],
)  # fmt: skip
def test_other_ways_of_writing_a_call_are_read_too(name, said):
    parsed = FORMATS[name].parse(said, [tool_for("f", {"a": 3})])
    assert (parsed.content, parsed.calls, parsed.invalid) == ("", (("f", {"a": 3}),), ())


def test_a_call_that_an_argument_quotes_is_no_call():
    for name in ("qwen3-coder", "hermes", "deepseek-v3.1"):
        quoted = FORMATS[name].write([("g", {"b": "1"})])
        call = ("write_file", {"text": f"Docs:\n{quoted}\nEnd"})
        tools = [tool_for(*call)]
        parsed = FORMATS[name].parse(FORMATS[name].write([call]), tools)
        assert (parsed.calls, parsed.invalid) == ((call,), ()), name
    assert json.loads(json.dumps(call[1])) == call[1]


def test_calls_that_are_spelled_stand_behind_the_parts_of_a_message() -> None:
    place = ToolPlace("{{ messages }}", FORMATS["hermes"], lambda told, tools: f"{told}{tools}")
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    parts = [{"type": "image"}, {"type": "text", "text": "I look."}]
    for content, before in ((parts, parts), ([], []), (None, None), ("I look.", "I look.")):
        message = {"role": "assistant", "content": content, "tool_calls": [call]}
        [told], _ = place.put([message], [])
        written = FORMATS["hermes"].write([("f", {"a": 1})])
        if isinstance(before, list):
            text = f"\n{written}" if before else written
            assert told["content"] == [*before, {"type": "text", "text": text}]
        else:
            assert told["content"] == (f"{before}\n{written}" if before else written)
