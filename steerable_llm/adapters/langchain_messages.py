"""LangChain's messages in the plain form that the model reads."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from steerable_llm.errors import InvalidInputError

_ROLES: dict[type[BaseMessage], str] = {
    HumanMessage: "user",
    AIMessage: "assistant",
    SystemMessage: "system",
    ToolMessage: "tool",
}
# What stands in the content of an answer and is told elsewhere in it, or is not for the model.
_TOLD_ELSEWHERE = {
    "tool_use",
    "tool_call",
    "tool_call_chunk",
    "invalid_tool_call",
    "function_call",
    "reasoning",
    "thinking",
    "redacted_thinking",
}


def to_plain_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return the messages as chat templates read them; text blocks are joined.

    Raises:
        InvalidInputError: a kind of message or of content block that a text model cannot read.
    """
    return [_plain(message, position) for position, message in enumerate(messages)]


def _plain(message: BaseMessage, position: int) -> dict[str, Any]:
    made: dict[str, Any] = {"role": _role(message, position), "content": _text(message, position)}
    if message.name:
        made["name"] = message.name
    if isinstance(message, ToolMessage):
        made["tool_call_id"] = message.tool_call_id
    if isinstance(message, AIMessage):
        # A call that could not be read goes back as it was written, so that the model sees it.
        made["content"] += "".join(call["args"] or "" for call in message.invalid_tool_calls)
        if message.tool_calls:
            made["tool_calls"] = [
                {
                    "id": call["id"] or "",
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["args"]},
                }
                for call in message.tool_calls
            ]
    return made


def _role(message: BaseMessage, position: int) -> str:
    if isinstance(message, ChatMessage) and message.role in _ROLES.values():
        return message.role
    for kind, role in _ROLES.items():
        if isinstance(message, kind):
            return role
    raise InvalidInputError(
        f"message {position} is a {type(message).__name__} ({message.type!r}): "
        "expected system, human (user), ai (assistant) or tool messages"
    )


def _text(message: BaseMessage, position: int) -> str:
    if isinstance(message.content, str):
        return message.content
    texts: list[str] = []
    for block in message.content:
        if isinstance(block, str):
            texts.append(block)
        elif block.get("type") == "text":
            texts.append(str(block.get("text", "")))
        elif not (isinstance(message, AIMessage) and block.get("type") in _TOLD_ELSEWHERE):
            raise InvalidInputError(
                f"message {position} holds a content block of type {block.get('type')!r}: "
                "this model reads text only, so give text blocks or a string"
            )
    return "".join(texts)
