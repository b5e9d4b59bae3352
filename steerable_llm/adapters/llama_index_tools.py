"""Tools and tool calls, between LlamaIndex's form and OpenAI's, which the model reads."""

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools.types import BaseTool

from steerable_llm.errors import InvalidInputError

# What other integrations call "any of the tools, but one of them".
_SAME = {"any": "required"}


def to_openai_tools(tools: Sequence[BaseTool]) -> list[dict[str, Any]]:
    """Return LlamaIndex's tools as OpenAI's function dicts."""
    # The limit on a description's length that LlamaIndex checks is OpenAI's own.
    return [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools]


def to_tool_choice(choice: str | Mapping[str, Any] | None, required: bool) -> str | None:
    """Return which tools may be called: auto, none, required, or the name of one.

    Raises:
        InvalidInputError: a choice in a form that is not known.
    """
    if choice is None:
        return "required" if required else None
    if isinstance(choice, str):
        return _SAME.get(choice, choice)
    name = (choice.get("function") or {}).get("name")
    if not isinstance(name, str):
        raise InvalidInputError(
            f"tool_choice is {choice!r}: give auto, none, required or a tool's name"
        )
    return name


def to_messages(
    user_msg: str | ChatMessage | None, chat_history: Sequence[ChatMessage] | None
) -> list[ChatMessage]:
    """Return a history with the user's latest message at its end."""
    latest = ChatMessage(user_msg, role="user") if isinstance(user_msg, str) else user_msg
    return [*(chat_history or []), *([] if latest is None else [latest])]


def to_selections(response: ChatResponse, error_on_no_tool_call: bool) -> list[ToolSelection]:
    """Return the tools that a response asks for.

    Raises:
        InvalidInputError: it asks for none, and must.
    """
    calls = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
    if not calls and error_on_no_tool_call:
        raise InvalidInputError(
            "the model called no tool: pass tool_required=True so that it must, "
            "or error_on_no_tool_call=False to take its text"
        )
    return [
        ToolSelection(
            tool_id=call.tool_call_id or "", tool_name=call.tool_name, tool_kwargs=call.tool_kwargs
        )
        for call in calls
    ]
