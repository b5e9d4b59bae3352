"""The rules of each family, by the name of its tool format."""

from __future__ import annotations

from steerable_llm.answer.call_rules.json_rules import (
    command,
    deepseek,
    harmony,
    hermes,
    listed,
    llama3,
    llama3_opened,
    mistral_args,
)
from steerable_llm.answer.call_rules.rule import Family
from steerable_llm.answer.call_rules.xml_rules import glm, qwen3_coder

_DEEPSEEK = "<｜tool▁calls▁begin｜>"
FAMILIES = {
    "hermes": Family(hermes, "<tool_call>"),
    # Its calls need no mark: an answer is one if it begins as one.
    "llama3": Family(llama3, "<|python_tag|>", llama3_opened, after_text=False),
    "mistral": Family(listed("[TOOL_CALLS]"), "[TOOL_CALLS]"),
    "mistral-args": Family(mistral_args, "[TOOL_CALLS]"),
    "phi4": Family(listed("<|tool_call|>", "<|/tool_call|>"), "<|tool_call|>"),
    "phi4-functools": Family(listed("functools[", opened=True), "functools["),
    "granite": Family(listed("<|tool_call|>"), "<|tool_call|>"),
    "deepseek-v3": Family(
        deepseek("function{sep}", "\n```json\n", "\n```{call▁end}", "\n"), _DEEPSEEK
    ),
    "deepseek-v3.1": Family(deepseek("", "{sep}", "{call▁end}", ""), _DEEPSEEK),
    "harmony": Family(harmony, ""),
    "command-r": Family(
        command(numbered=False), "Action: ```json", lambda _: r"Action:[ \n]```json"
    ),
    "command-r7b": Family(command(numbered=True), "<|START_ACTION|>"),
    "qwen3-coder": Family(qwen3_coder, "<tool_call>"),
    "glm": Family(glm, "<tool_call>"),
}
"""Name of a tool format -> rules."""
