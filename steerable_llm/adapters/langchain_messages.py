"""LangChain's messages in the plain form that the model reads."""

from collections.abc import Sequence

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
)

from steerable_llm.errors import InvalidInputError

_ROLES: dict[type[BaseMessage], str] = {
    HumanMessage: "user",
    AIMessage: "assistant",
    SystemMessage: "system",
}


def to_plain_messages(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    """Return `{"role", "content"}` for each message; text blocks are joined.

    Raises:
        InvalidInputError: a kind of message or of content block that a text model cannot read.
    """
    return [{"role": _role(m, i), "content": _text(m, i)} for i, m in enumerate(messages)]


def _role(message: BaseMessage, position: int) -> str:
    if isinstance(message, ChatMessage) and message.role in _ROLES.values():
        return message.role
    if isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls):
        raise InvalidInputError(
            f"message {position} calls tools, which this model does not support yet: "
            "leave tool calls out of the history"
        )
    for kind, role in _ROLES.items():
        if isinstance(message, kind):
            return role
    raise InvalidInputError(
        f"message {position} is a {type(message).__name__} ({message.type!r}): "
        "expected system, human (user) or ai (assistant) messages"
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
        else:
            raise InvalidInputError(
                f"message {position} holds a content block of type {block.get('type')!r}: "
                "this model reads text only, so give text blocks or a string"
            )
    return "".join(texts)
