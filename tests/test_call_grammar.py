"""Calls among free text: what opens a call must end as one, and all other text is left alone."""

import json
from copy import deepcopy

import pytest
from scripted import calling, scripted_around, scripted_llm, scripted_tokenizer
from test_tool_calling import MULTIPLY, WEATHER, WRITTEN
from transformers import AddedToken

from steerable_llm.answer.call_grammar import _ranges, grammar_for
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.chat.tool_formats.table import FORMATS

# What a model writes that has begun a call and then loses its way.
LOST = {
    "hermes": ['<tool_call>\n{"name": "wether"', "<tool_call>\n{oops", "So: <tool_call>\nno idea"],
    "llama3": ['{"name": "get_weather", "parameters": {"town": 1}}', "<|python_tag|>print(3)"],
    "mistral": ['[TOOL_CALLS] [{"nme": 1}]', "Well. [TOOL_CALLS] I look it up"],
    "mistral-args": ["[TOOL_CALLS]wether[ARGS]{}", '[TOOL_CALLS]get_weather[ARGS]{"town": 1}'],
}


@pytest.mark.parametrize("family", list(LOST))
def test_a_call_that_was_begun_ends_as_one_that_can_be_read(family):
    for said in LOST[family]:
        llm = scripted_llm({"Hi": said}, family)
        answer = llm.generate("Hi", tools=[WEATHER], max_new_tokens=200, parallel_tool_calls=False)
        assert answer.finish_reason == "stop"
        assert answer.invalid_tool_calls == ()
        (call,) = answer.tool_calls
        assert call.name == "get_weather"
        assert list(call.arguments) == ["city"]
        assert isinstance(call.arguments["city"], str)
        before = said.partition(FORMATS[family].marks[0])[0] if family != "llama3" else ""
        assert answer.text == before.rstrip()


@pytest.mark.parametrize("family", list(LOST))
@pytest.mark.parametrize(
    "said",
    [
        "Plain words, and no call.",
        "a < b, <tool_ca, [TOOL_CAL, {x}, python_tag",
        '{"a": 1, "name": "get_weather"}',
        '{"name": "get_weather"} is how one would ask.',
        "Grüße 👋\n\n\n",
    ],
)
def test_free_text_is_what_it_would_be_without_tools(family, said):
    llm = scripted_llm({"Hi": said}, family)
    with_tools = llm.generate("Hi", tools=[WEATHER])
    assert (with_tools.text, with_tools.tool_calls) == (said, ())
    assert with_tools.token_ids == llm.generate("Hi").token_ids


@pytest.mark.parametrize("family", ["hermes", "llama3", "mistral-args"])
def test_special_tokens_that_are_no_marks_stay_possible(family):
    llm = scripted_llm({"Hi": "<|tool|>Let me think.<|tool|>Done."}, family)
    answer = llm.generate("Hi", tools=[WEATHER])
    assert answer.text == "Let me think.Done."
    assert answer.token_ids == llm.generate("Hi").token_ids


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("family", ["hermes", "llama3", "mistral-args"])
def test_tags_of_thinking_stay_possible_where_tools_are_offered(family, special):
    tokenizer = deepcopy(scripted_tokenizer(family))
    tags = [AddedToken(tag, special=special) for tag in ("<think>", "</think>")]
    tokenizer.add_tokens(tags, special_tokens=special)
    said = "<think>\nhm\n</think>\n\nParis."
    llm = scripted_around(tokenizer, {"Hi": said})
    answer = llm.generate("Hi", tools=[WEATHER])
    assert answer.token_ids == llm.generate("Hi").token_ids
    assert (answer.reasoning, answer.text) == ("hm", "Paris.")
    told = scripted_around(tokenizer, {"Hi": said}, reasoning_tags=())
    plain = told.generate("Hi", tools=[WEATHER])
    assert (plain.token_ids, plain.reasoning) == (answer.token_ids, None)


@pytest.mark.parametrize("family", list(WRITTEN))
def test_the_mark_of_a_call_may_be_spelt(family):
    llm = scripted_llm({}, family)
    mark = FORMATS[family].marks[0]
    grammar = llm.grammars.start(
        grammar_for(
            None, [MULTIPLY], None, FORMATS[family], llm.chat_format.added_id,
            llm.chat_format.whole_ids - llm.end_ids,
        ).text
    )  # fmt: skip
    letters = [number for letter in mark for number in llm.tokenizer(letter).input_ids]
    assert len(letters) > 1
    for token in letters:
        assert grammar.allowed(len(llm.tokenizer))[token]
        grammar.take(token)


def test_a_stop_text_counts_in_free_text_and_ends_a_call_that_cannot_be_read():
    llm = scripted_llm({"Hi": "One. Two. Three.", "Call": calling("get_weather", {"city": "Rom"})})
    assert llm.generate("Hi", tools=[WEATHER], stop="Two").text == "One. "
    cut = llm.generate("Call", tools=[WEATHER], stop="Rom")
    assert (cut.tool_calls, len(cut.invalid_tool_calls), cut.finish_reason) == ((), 1, "stop")


def test_a_schema_that_cannot_be_followed_leaves_calls_as_they_come():
    ahead = {"type": "string", "pattern": "(?=x)y"}
    parameters = {"type": "object", "properties": {"at": ahead}}
    odd = {"type": "function", "function": {"name": "look", "parameters": parameters}}
    llm = scripted_llm({"Hi": calling("look", {"at": 3}), "Bad": "<tool_call>\n{oops"})
    assert llm.generate("Hi", tools=[odd]).tool_calls[0].arguments == {"at": 3}
    assert len(llm.generate("Bad", tools=[odd]).invalid_tool_calls) == 1


def test_a_grammar_that_breaks_down_leaves_the_answer_to_the_model(monkeypatch):
    llm = scripted_llm({"Hi": "One two three."})
    started = llm.grammars.start

    class Lost:
        """Follows nothing, as when a grammar has grown too complex."""

        def __getattr__(self, name):
            return {"consume_token": lambda _: False, "compute_bitmask": lambda: b"\0" * 99}.get(
                name, lambda: True
            )

        def is_stopped(self):
            return False

    def start(grammar, free=False):
        state = started(grammar, free)
        state._matcher = Lost()
        return state

    monkeypatch.setattr(llm.grammars, "start", start)
    assert llm.generate("Hi", tools=[WEATHER]).text == "One two three."


def test_rows_with_tools_and_without_share_a_batch():
    llm = scripted_llm({"Call": WRITTEN["hermes"], "Hi": "Hello."})
    asks = [
        GenerationRequest("Call", tools=[MULTIPLY]),
        GenerationRequest("Hi"),
        GenerationRequest("Hi", tools=[MULTIPLY]),
    ]
    assert llm.generate_batch(asks) == [llm.generate_batch([ask])[0] for ask in asks]


def test_a_sure_call_of_llama_may_be_several_or_one():
    two = '{"name": "multiply", "parameters": {"a": 1, "b": 2}}; '
    two += '{"name": "get_weather", "parameters": {"city": "Rom"}}'
    llm = scripted_llm({"Hi": two}, "llama3")
    for choice in (None, "required"):
        settings = {"tools": [MULTIPLY, WEATHER], "tool_choice": choice}
        assert [c.name for c in llm.generate("Hi", **settings).tool_calls] == [
            "multiply", "get_weather"
        ]  # fmt: skip
        (one,) = llm.generate("Hi", parallel_tool_calls=False, **settings).tool_calls
        assert one.name == "multiply"


@pytest.mark.parametrize(
    ("numbers", "written"),
    [([], ""), ([3], "3"), ([0, 1, 2], "0-2"), ([0, 2, 3, 9], "0,2-3,9")],
)
def test_ranges_are_written_shortly(numbers, written):
    assert _ranges(numbers) == written


def test_the_arguments_of_a_call_among_text_follow_the_schema_whatever_is_drawn():
    llm = scripted_llm({"Hi": "<tool_call>\n"})
    for seed in range(3):
        answer = llm.generate(
            "Hi", tools=[WEATHER], temperature=5.0, seed=seed, max_new_tokens=120,
            parallel_tool_calls=False,
        )  # fmt: skip
        (call,) = answer.tool_calls
        assert len(call.arguments["city"]) <= 12
        json.dumps(call.arguments)
