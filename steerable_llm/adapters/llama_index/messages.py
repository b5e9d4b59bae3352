"""LlamaIndex's messages and responses, to and from what the model reads and answers."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CitationBlock,
    CompletionResponse,
    ContentBlock,
    ImageBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.schema import BaseNode, ImageNode, MetadataMode, NodeWithScore
from llama_index.core.tools.types import BaseTool, ToolMetadata

from steerable_llm.adapters.history import tell_left_out
from steerable_llm.adapters.schemas import opened
from steerable_llm.answer.record import what_steered
from steerable_llm.answer.request import Generation
from steerable_llm.chat.images import ImagePart, image_of
from steerable_llm.chat.message import Message, as_messages
from steerable_llm.errors import InvalidInputError
from steerable_llm.files import is_file

_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}
# A thought is not part of what was said, and is told beside it.
_PASSED_OVER = (ThinkingBlock,)
# Only other models read these.
_LEFT_OUT = (CachePoint, CitationBlock)


def read_messages(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Return the messages as the model reads them; text blocks are joined by line breaks.

    Images stay parts of their message. What a history of other models holds for them alone (cache
    points, citations) is left out, and one warning says so.

    Raises:
        InvalidInputError: What is no message, or a content block or a call that cannot be read.
    """
    for position, message in enumerate(messages):
        if not isinstance(message, ChatMessage):
            raise InvalidInputError(
                f"message {position} is a {type(message).__name__}: give a list of ChatMessages, "
                "such as [ChatMessage('Hello', role='user')]"
            )
    blocks = [block for message in messages for block in message.blocks]
    tell_left_out([block.block_type for block in blocks if isinstance(block, _LEFT_OUT)])
    return as_messages([_plain(message, position) for position, message in enumerate(messages)])


def _plain(message: ChatMessage, position: int) -> dict[str, Any]:
    more = message.additional_kwargs
    made: dict[str, Any] = {"role": _ROLES[message.role], "content": _content(message, position)}
    if more.get("name"):
        made["name"] = str(more["name"])
    if made["role"] == "assistant":
        made["tool_calls"] = _calls(message)
        made["reasoning_content"] = thoughts_of(message)
    if made["role"] == "tool":
        made["tool_call_id"] = str(more.get("tool_call_id") or "")
    return made


def thoughts_of(message: ChatMessage) -> str | None:
    """Return what was thought before an answer; None for nothing."""
    blocks = [block for block in message.blocks if isinstance(block, ThinkingBlock)]
    return "\n".join(block.content for block in blocks if block.content) or None


def _content(message: ChatMessage, position: int) -> str | list[dict[str, Any]]:
    """The text of a message; text and images, as parts, where it holds an image."""
    blocks = [inside for block in message.blocks for inside in _opened(block)]
    for block in blocks:
        if not isinstance(block, (TextBlock, ImageBlock, ToolCallBlock, *_PASSED_OVER)):
            raise InvalidInputError(
                f"message {position} holds a {type(block).__name__} that cannot be read: give "
                "text blocks, image blocks or a string"
            )
    if not any(isinstance(block, ImageBlock) for block in blocks):
        return "\n".join(block.text for block in blocks if isinstance(block, TextBlock))
    made: list[dict[str, Any]] = []
    for block in blocks:
        if isinstance(block, ImageBlock):
            made.append({"type": "image", "image": _image(block)})
        elif isinstance(block, TextBlock):
            after_text = bool(made) and made[-1]["type"] == "text"
            made.append({"type": "text", "text": f"\n{block.text}" if after_text else block.text})
    return made


def _opened(block: Any) -> Sequence[Any]:
    """What is read of a block: those that it holds, none if it is not for this model, or itself."""
    if isinstance(block, _LEFT_OUT):
        return ()
    return block.content if isinstance(block, CitableBlock) else (block,)


def _image(block: ImageBlock) -> Any:
    """Where an image is, or its bytes; it is fetched when the prompt is made ready, not here."""
    if block.image is not None:
        return block.resolve_image().read()
    return block.path or str(block.url or "")


def base64_of(block: ImageBlock) -> str | None:
    """Return an image's bytes in base64; None for one of the web, which is not fetched here."""
    if block.image is None and block.path is None:
        return str(block.url or "").partition(";base64,")[2] or None
    return str(block.resolve_image(as_base64=True).read(), "ascii")


def image_of_node(node: BaseNode) -> ImagePart | None:
    """Return the image that a retrieved node holds; one of the web is not fetched."""
    if isinstance(node, ImageNode):
        data, path, url = node.image, node.image_path, node.image_url
    else:
        held = getattr(node, "image_resource", None)
        data, path, url = (getattr(held, name, None) for name in ("data", "path", "url"))
    if data:
        coded = data.decode() if isinstance(data, bytes) else data
        return image_of(f"data:image/png;base64,{coded}")
    if path and is_file(path):  # as the prompt will bring it
        return image_of(Path(path).read_bytes())
    return image_of(str(path or url)) if path or url else None


def to_tools(tools: Sequence[BaseTool]) -> list[dict[str, Any]]:
    """Return tools as OpenAI function dicts.

    Raises:
        InvalidInputError: Something that is no tool of LlamaIndex.
    """
    return [_tool(tool, position) for position, tool in enumerate(tools)]


def _tool(tool: BaseTool, position: int) -> dict[str, Any]:
    told = getattr(tool, "metadata", None)
    if not isinstance(told, ToolMetadata):
        raise InvalidInputError(
            f"tool {position} is a {type(tool).__name__}: give a tool of LlamaIndex, such as "
            "FunctionTool.from_defaults(function)"
        )
    # The limit on a description's length that LlamaIndex checks is OpenAI's own.
    made = told.to_openai_tool(skip_length_check=True)
    schema = {} if told.fn_schema is None else told.fn_schema.model_json_schema()
    if "$ref" in schema:  # of a recursive class, which LlamaIndex leaves out
        made["function"]["parameters"] = opened(schema)
    return made


def to_context(context: Any) -> Any:
    """Return a call's `context` with what nodes hold in their place, an image by its address."""
    if isinstance(context, str) or not isinstance(context, Sequence):
        return context
    return [_held_by(item) for item in context]


def _held_by(item: Any) -> Any:
    node = item.node if isinstance(item, NodeWithScore) else item
    if not isinstance(node, BaseNode):
        return item
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    image = None if text.strip() else image_of_node(node)
    return text if image is None else image.url


def _calls(message: ChatMessage) -> Any:
    """Return the tool calls of an assistant's message, from its blocks or in OpenAI's form."""
    found = [
        {"id": b.tool_call_id, "function": {"name": b.tool_name, "arguments": b.tool_kwargs}}
        for b in message.blocks
        if isinstance(b, ToolCallBlock)
    ]
    return found or message.additional_kwargs.get("tool_calls")


def to_chat(
    model_name: str,
    answer: Generation | str,
    delta: str | None = None,
    reasoning: str | None = None,
    thought: str = "",
) -> ChatResponse:
    """Return an answer, or so much text and reasoning of it as there is yet, as a chat response.

    What is new of the reasoning stands where LlamaIndex's agents look for it.
    """
    if isinstance(answer, str):
        so_far = [*_thinking(reasoning), TextBlock(text=answer)]
        message = ChatMessage(role=MessageRole.ASSISTANT, blocks=so_far)
        new = {"thinking_delta": thought} if thought else {}
        return ChatResponse(message=message, delta=delta, raw={}, additional_kwargs=new)
    calls = [
        ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=call.arguments)
        for call in answer.tool_calls
    ]
    # An answer of calls alone has no text block, and then no text; others have one, empty or not.
    blocks: list[ContentBlock] = [TextBlock(text=answer.text)] if answer.text or not calls else []
    # LlamaIndex's own programs look for calls here, in OpenAI's form, and not in the blocks.
    kwargs: dict[str, Any] = {}
    if calls:
        kwargs["tool_calls"] = [call.to_message_part() for call in answer.tool_calls]
    if answer.invalid_tool_calls:
        kwargs["invalid_tool_calls"] = [asdict(call) for call in answer.invalid_tool_calls]
    message = ChatMessage(
        role=MessageRole.ASSISTANT,
        blocks=[*_thinking(answer.reasoning), *blocks, *calls],
        additional_kwargs=kwargs,
    )
    told = record_of(answer, model_name)
    return ChatResponse(message=message, delta=delta, logprobs=_logprobs(answer), **told)


def _thinking(reasoning: str | None) -> list[ContentBlock]:
    return [ThinkingBlock(content=reasoning)] if reasoning else []


def to_completion(
    model_name: str,
    answer: Generation | str,
    delta: str | None = None,
    *_: str,
) -> CompletionResponse:
    """Return an answer, or so much text of it as there is yet, as a completion."""
    if isinstance(answer, str):
        return CompletionResponse(text=answer, delta=delta, raw={})
    told = record_of(answer, model_name)
    return CompletionResponse(text=answer.text, delta=delta, logprobs=_logprobs(answer), **told)


def _logprobs(answer: Generation) -> list[list[LogProb]] | None:
    """Per token that token and then the likeliest ones."""
    return [
        [LogProb(token=x.text, logprob=x.logprob, bytes=list(x.utf8)) for x in place]
        for place in answer.logprobs
    ] or None


def record_of(answer: Generation, model_name: str) -> dict[str, dict[str, Any]]:
    """Say what an answer cost, what steered it and why, as a response's two dictionaries."""
    used = answer.usage
    usage = {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.total_tokens,
    }
    told = what_steered(answer)
    raw = {
        "model_name": model_name,
        "finish_reason": answer.finish_reason,
        "usage": usage,
        **({"reasoning": answer.reasoning} if answer.reasoning else {}),
        **told,
    }
    return {"raw": raw, "additional_kwargs": {**usage, **told}}
