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
from scripted import byte_level, scripted_around
from test_tool_calling import MULTIPLY, WEATHER

from steerable_llm.answer.llm import SteerableHFLLM

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
}  # fmt: skip


def llm_of(name: str) -> SteerableHFLLM:
    family = FAMILIES[name]
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    special = list(family.special)
    begin, end = (special[0], special[2]) if name == "qwen2_5" else special[1:3]
    tokenizer = byte_level(template, special, list(family.added), begin, end)

    def say(prompt: str) -> str:
        after = prompt.rpartition(QUESTION)[2]
        return "It is twelve." if "12" in after else family.call

    return scripted_around(tokenizer, say)


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
    assert '"get_weather"' in rendered
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
    assert len(streamed) > 2
