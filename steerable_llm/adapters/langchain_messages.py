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

    Images stay parts of their message's content. Of those that a message names by an address, only
    data and the web's are taken: whoever writes to a chain must not read its files.

    Raises:
        InvalidInputError: a kind of message or of content block that cannot be read.
    """
    return [_plain(message, position) for position, message in enumerate(messages)]


def _plain(message: BaseMessage, position: int) -> dict[str, Any]:
    made: dict[str, Any] = {
        "role": _role(message, position),
        "content": _content(message, position),
    }
    if message.name:
        made["name"] = message.name
    if isinstance(message, ToolMessage):
        made["tool_call_id"] = message.tool_call_id
    if isinstance(message, AIMessage):
        # A call that could not be read goes back as it was written, so that the model sees it.
        unread = "".join(call["args"] or "" for call in message.invalid_tool_calls)
        if unread:
            made["content"] = f"{_text(message, position)}{unread}"
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


def _content(message: BaseMessage, position: int) -> str | list[dict[str, Any]]:
    """The text of a message; text and images, as parts, where it holds an image."""
    if isinstance(message.content, str) or isinstance(message, AIMessage):
        return _text(message, position)
    blocks: list[Any] = list(message.content_blocks)  # every provider's form in LangChain's own
    if not any(block["type"] == "image" for block in blocks):
        return _text(message, position)
    made: list[dict[str, Any]] = []
    for block in blocks:
        if block["type"] == "image" and (image := _image(block)):
            made.append(image)
        elif block["type"] == "text":
            made.append({"type": "text", "text": block["text"]})
        else:
            raise _unread(message, block["type"], position)
    return made


def _image(block: dict[str, Any]) -> dict[str, Any] | None:
    """What an image block tells of its image, and nothing else, since the model reads files too."""
    if isinstance(block.get("base64"), str) and block["base64"]:
        kind = block.get("mime_type") or "image/png"
        return {"type": "image", "base64": block["base64"], "mime_type": kind}
    url = block.get("url")
    if isinstance(url, str) and url.startswith(("https://", "http://", "data:image/")):
        return {"type": "image", "url": url}
    return None


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
            raise _unread(message, block.get("type"), position)
    return "".join(texts)


def _unread(message: BaseMessage, kind: str | None, position: int) -> InvalidInputError:
    if isinstance(message, AIMessage) and kind in ("image", "image_url"):
        return InvalidInputError(
            f"message {position} is an answer with an image, and models write text: give images "
            "in messages of the user or in tool results"
        )
    return InvalidInputError(
        f"message {position} holds a content block of type {kind!r} that cannot be read: give "
        "text, or images as base64 or by a data: or http(s) URL"
    )
