"""LlamaIndex's messages and responses, to and from the plain form of the model."""

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    TextBlock,
)

from steerable_llm.errors import InvalidInputError
from steerable_llm.generation import Generation

_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}


def to_plain_messages(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    """Return `{"role", "content"}` for each message; text blocks are joined by line breaks.

    Raises:
        InvalidInputError: a role or a content block that a text model cannot read.
    """
    plain = []
    for position, message in enumerate(messages):
        if message.role not in _ROLES:
            raise InvalidInputError(
                f"message {position} has the role {message.role.value!r}: "
                f"expected one of {', '.join(role.value for role in _ROLES)}"
            )
        for block in message.blocks:
            if not isinstance(block, TextBlock):
                raise InvalidInputError(
                    f"message {position} holds a {type(block).__name__}: "
                    "this model reads text only, so give text blocks or a string"
                )
        plain.append({"role": _ROLES[message.role], "content": message.content or ""})
    return plain


def to_chat(answer: Generation | str, model_name: str, delta: str | None = None) -> ChatResponse:
    """Return an answer, or so much text of it as there is yet, as a chat response."""
    message = ChatMessage(role=MessageRole.ASSISTANT, content=_text(answer))
    return ChatResponse(message=message, delta=delta, **_record(answer, model_name))


def to_completion(
    answer: Generation | str, model_name: str, delta: str | None = None
) -> CompletionResponse:
    """Return an answer, or so much text of it as there is yet, as a completion."""
    return CompletionResponse(text=_text(answer), delta=delta, **_record(answer, model_name))


def _text(answer: Generation | str) -> str:
    return answer if isinstance(answer, str) else answer.text


def _record(answer: Generation | str, model_name: str) -> dict[str, dict[str, Any]]:
    """Say what is known of an answer: nothing before it is whole."""
    if isinstance(answer, str):
        return {"raw": {}, "additional_kwargs": {}}
    used = answer.usage
    usage = {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }
    steered = [applied.to_dict() for applied in answer.steered]
    raw = {
        "model_name": model_name,
        "finish_reason": answer.finish_reason,
        "usage": usage,
        "step": answer.step,
        "steering": steered,
        "decision": answer.decision.to_dict() if answer.decision else None,
    }
    return {"raw": raw, "additional_kwargs": {**usage, "step": answer.step, "steering": steered}}
