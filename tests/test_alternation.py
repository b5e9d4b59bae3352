"""Turns of one speaker in a row, on templates that want speakers to alternate and on others."""

import pytest
from langchain_core.messages import HumanMessage
from llama_index.core.llms import ChatMessage
from scripted import byte_level, scripted_around, scripted_llm

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.chat.message import as_messages, merged_runs
from steerable_llm.errors import InvalidInputError

STRICT = """<|bos|>{% for message in messages %}
{%- if (message.role == "user") != (loop.index0 % 2 == 0) %}
{{- raise_exception("Conversation roles must alternate") }}{% endif %}
{{- "<|" + message.role + "|>" + message.content + "<|end|>" }}
{%- endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
MARKS = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
SUMMARY = [HumanMessage("So far: shops."), HumanMessage("When?")]


@pytest.fixture(scope="module")
def strict() -> SteerableHFLLM:
    return scripted_around(byte_level(STRICT, MARKS, []), {"When?": "At nine."})


def test_two_turns_of_one_speaker_are_joined_and_the_record_says_so(
    strict: SteerableHFLLM,
) -> None:
    chat = strict.as_langchain(max_tokens=20)
    message, joined = chat.invoke(SUMMARY), chat.invoke("So far: shops.\nWhen?")
    assert message.content == joined.content == "At nine."
    assert message.usage_metadata == joined.usage_metadata
    decision = message.response_metadata["decision"]
    [reason] = set(decision["reasons"]) - set(joined.response_metadata["decision"]["reasons"])
    assert "1 message(s) joined" in reason
    assert list(chat.stream(SUMMARY))[-1].response_metadata["decision"] == decision
    talk = [ChatMessage("So far: shops."), ChatMessage("When?")]
    assert strict.as_llama_index(max_tokens=20).chat(talk).raw["decision"] == decision


def test_runs_of_both_speakers_are_joined_by_line_breaks(strict: SteerableHFLLM) -> None:
    said = [("user", "Hello"), ("user", "you"), ("assistant", "Hi"), ("assistant", "there")]
    talk = [{"role": role, "content": text} for role, text in [*said, ("user", "When?")]]
    assert strict.chat_format.merges(talk) == 2
    assert strict.chat_format.render(talk) == (
        "<|bos|><|user|>Hello\nyou<|end|><|assistant|>Hi\nthere<|end|>"
        "<|user|>When?<|end|><|assistant|>"
    )


def test_a_template_that_takes_runs_gets_them_as_they_are() -> None:
    easy = scripted_llm({"When?": "At nine."})
    talk = [{"role": "user", "content": str(message.content)} for message in SUMMARY]
    assert "<|user|>So far: shops.<|end|><|user|>When?<|end|>" in easy.chat_format.render(talk)
    assert easy.chat_format.merges(talk) == 0
    reasons = easy.generate(talk).decision.reasons  # type: ignore[union-attr]
    assert reasons == easy.generate("When?").decision.reasons  # type: ignore[union-attr]


def test_what_joining_does_not_mend_is_refused_as_before(strict: SteerableHFLLM) -> None:
    talk = [{"role": "assistant", "content": "Hi"}, *[{"role": "user", "content": "?"}] * 2]
    with pytest.raises(InvalidInputError, match="must alternate"):
        strict.generate(talk)


def test_results_and_calls_of_tools_are_never_joined() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": {}}}
    talk = as_messages([
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "a", "tool_call_id": "1"},
        {"role": "tool", "content": "b", "tool_call_id": "1"},
    ])  # fmt: skip
    assert merged_runs(talk) == talk
    assert merged_runs([]) == ()
