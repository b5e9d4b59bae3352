"""The families whose way of calling tools is known, and how a tokenizer's template shows one."""

from __future__ import annotations

import re

from transformers import PreTrainedTokenizerBase

from steerable_llm.chat.tool_formats.json_calls import JSON_CALLS
from steerable_llm.chat.tool_formats.named_calls import NAMED_CALLS
from steerable_llm.chat.tool_formats.response_template import by_response_template
from steerable_llm.chat.tool_formats.xml_calls import XML_CALLS
from steerable_llm.chat.tools import ToolFormat

FORMATS: dict[str, ToolFormat] = {
    made.name: made for made in (*JSON_CALLS, *NAMED_CALLS, *XML_CALLS)
}
"""Name -> format."""

# What a template holds that shows a family, the most telling first.
_SHOWN_BY = (
    ("qwen3-coder", ("<tool_call>", "<function=", "<parameter=")),
    ("glm", ("<tool_call>", "<arg_key>")),
    ("deepseek-v3", ("<｜tool▁calls▁begin｜>", "```json")),
    ("deepseek-v3.1", ("<｜tool▁calls▁begin｜>",)),
    ("harmony", ("<|channel|>", "<|call|>")),
    ("command-r7b", ("<|START_ACTION|>",)),
    ("mistral-args", ("[TOOL_CALLS]", "[ARGS]")),
    ("mistral", ("[TOOL_CALLS]",)),
    ("hermes", ("<tool_call>",)),
    ("phi4-functools", ("functools[",)),
    ("phi4", ("<|/tool_call|>",)),
    ("phi4", ("<|/tool|>",)),
    ("granite", ("<|tool_call|>",)),
    ("llama3", ("<|python_tag|>",)),
    ("llama3", ('"parameters": dictionary',)),
    ("command-r", ("Action:", "tool_name")),
)
# A tag inside of a call: whoever writes so does not write JSON.
_TAGGED = re.compile(r"<tool_call>(?:\\n|\s)*<(?!/?tool_call)")


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the chat template that a tokenizer uses where there are tools; empty without one."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default")
    return template or ""


def tool_format_of(tokenizer: PreTrainedTokenizerBase) -> ToolFormat | None:
    """Return the format that a tokenizer's templates show; None if they show none that is known.

    Raises:
        InvalidInputError: It brings a response template that cannot be used.
    """
    template = template_of(tokenizer)
    if not speaks_of_tools(template):
        return None
    shown = (name for name, texts in _SHOWN_BY if all(text in template for text in texts))
    ours = FORMATS.get(next(shown, ""))
    if ours is FORMATS["hermes"] and _TAGGED.search(template):
        ours = None
    return by_response_template(tokenizer, ours)


def speaks_of_tools(template: str) -> bool:
    """Tell whether a chat template names the tools that it is given."""
    return bool(re.search(r"\btools\b", template))
