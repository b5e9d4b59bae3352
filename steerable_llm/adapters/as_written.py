"""Answering a prompt that is already in the model's own format."""

import copy
from collections.abc import Sequence

from steerable_llm.model.chat_format import ChatFormat
from steerable_llm.model.hooked_model import SteerableHFLLM
from steerable_llm.pairs import MessagesLike, as_messages
from steerable_llm.structured.tools import Tool


class _AsWritten(ChatFormat):
    """No template: the text of the one message is the prompt, special tokens included."""

    def render(
        self,
        messages: MessagesLike,
        add_generation_prompt: bool = True,  # noqa: ARG002
        tools: Sequence[Tool] = (),  # noqa: ARG002
    ) -> str:
        return "".join(message.content for message in as_messages(messages))


def as_written(engine: SteerableHFLLM) -> SteerableHFLLM:
    """Return the same model, weights and policy shared, which takes prompts as they are."""
    twin = copy.copy(engine)
    twin.chat_format = _AsWritten(engine.tokenizer)
    return twin
