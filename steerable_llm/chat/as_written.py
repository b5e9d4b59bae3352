"""Prompts that are taken as they are, without a chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from steerable_llm.chat.message import Message
from steerable_llm.chat.template import ChatFormat
from steerable_llm.chat.tools import Tool


class AsWritten(ChatFormat):
    """No template: the text of the one message is the prompt, special tokens included."""

    takes_instructions = False
    reads_special_tokens = True

    def __init__(self, chat: ChatFormat) -> None:
        """Read answers as a model's own format does."""
        super().__init__(chat.tokenizer, reasoning_tags=())
        self.reasoning_format = chat.reasoning_format

    def given(self, arguments: Mapping[str, Any] | None) -> Self:  # noqa: ARG002
        """Return the same: there is no template to give anything to."""
        return self

    def _render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool,  # noqa: ARG002
        tools: Sequence[Tool] = (),  # noqa: ARG002
    ) -> str:
        return "".join(message.content for message in messages)
