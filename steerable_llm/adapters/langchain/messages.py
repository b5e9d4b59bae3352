"""LangChain's messages, tools and forms of answers, to and from the model's words."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import BaseTool, create_schema_from_function
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from steerable_llm.adapters.arguments import to_tool_choice
from steerable_llm.adapters.history import CACHE_POINTS, CARRYING, tell_left_out
from steerable_llm.adapters.schemas import leads_back, opened
from steerable_llm.answer.constraint import Constraint
from steerable_llm.answer.record import told_logprobs, what_steered
from steerable_llm.answer.request import Generation, GenerationChunk
from steerable_llm.answer.schema import TYPES
from steerable_llm.chat.message import (
    TOLD_ELSEWHERE,
    Message,
    ToolCall,
    as_messages,
    thought_in,
)
from steerable_llm.errors import InvalidInputError

_ROLES: dict[type[BaseMessage], str] = {
    HumanMessage: "user",
    AIMessage: "assistant",
    SystemMessage: "system",
    ToolMessage: "tool",
}
# What of an answer's blocks is read, told elsewhere in it, or refused.
_READ = frozenset({"text", *TOLD_ELSEWHERE, *CARRYING})


def read_messages(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """Return the messages as the model reads them; text blocks are joined.

    Images stay parts of their message. Of those that a message names by an address, only
    data and the web's are taken: whoever writes to a chain must not read its files.

    What a history of other models holds for them alone (cache points, calls of tools on their
    servers, citations) is left out, and one warning says so.

    Raises:
        InvalidInputError: A kind of message or of content block that cannot be read.
    """
    left_out: list[str] = []
    told = [_for_this_model(message, left_out) for message in messages]
    tell_left_out(left_out)
    return as_messages([_plain(message, position) for position, message in enumerate(told)])


def _for_this_model(message: BaseMessage, left_out: list[str]) -> BaseMessage:
    """Return a message without blocks that only other models read; note what is left out."""
    said = message.additional_kwargs.get("refusal") if isinstance(message, AIMessage) else None
    if isinstance(message.content, str):
        refused = not message.content and isinstance(said, str)
        return message.model_copy(update={"content": said}) if refused else message
    kept: list[Any] = []
    for block in message.content:
        kind = _kind(block)
        if kind == "refusal" and isinstance(message, AIMessage):
            kept.append({"type": "text", "text": str(block.get("refusal") or "")})  # type: ignore[union-attr]
        elif kind in CACHE_POINTS or (isinstance(message, AIMessage) and kind not in _READ):
            left_out.append(kind)
        else:
            kept.append(block)
    return message.model_copy(update={"content": kept}) if kept != message.content else message


def _kind(block: Any) -> str:
    """What a block is; some providers name it by the one key of the block."""
    if isinstance(block, str):
        return "text"
    return str(block.get("type") or next(iter(block), "empty"))


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
        made.update(_beside(reasoning_of(message)))
        # A call that could not be read goes back as it was written, so that the model sees it.
        unread = "".join(call["args"] or "" for call in message.invalid_tool_calls)
        if unread:
            made["content"] = f"{_text(message, position)}{unread}"
        if message.tool_calls:
            made["tool_calls"] = [
                ToolCall(call["id"] or "", call["name"], call["args"])
                for call in message.tool_calls
            ]
    return made


def reasoning_of(message: AIMessage) -> str | None:
    """Return what was thought before an answer, beside its content or in it; None for nothing."""
    beside = message.additional_kwargs.get("reasoning_content")
    if isinstance(beside, str):
        return beside
    blocks = message.content if isinstance(message.content, list) else []
    return "\n".join(thought for block in blocks if (thought := thought_in(block))) or None


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
        elif not (isinstance(message, AIMessage) and block.get("type") in TOLD_ELSEWHERE):
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


def to_context(context: Any) -> Any:
    """Return a call's `context` with the texts of documents in their place."""
    if isinstance(context, str) or not isinstance(context, Sequence):
        return context
    return [item.page_content if isinstance(item, Document) else item for item in context]


PROVIDER = "steerable-llm"


def to_result(answers: Sequence[Generation], model_name: str) -> ChatResult:
    """Return whole answers to one prompt."""
    return ChatResult(generations=[_generation(answer, model_name) for answer in answers])


def _generation(answer: Generation, model_name: str) -> ChatGeneration:
    message = AIMessage(
        content=answer.text,
        additional_kwargs=_beside(answer.reasoning),
        tool_calls=[
            tool_call(name=call.name, args=call.arguments, id=call.id) for call in answer.tool_calls
        ],
        invalid_tool_calls=[
            invalid_tool_call(name=call.name, args=call.text, error=call.error)
            for call in answer.invalid_tool_calls
        ],
        usage_metadata=_usage(answer),
        response_metadata=_metadata(answer, model_name),
    )
    return ChatGeneration(message=message)


def to_chunks(made: GenerationChunk, model_name: str) -> Iterator[ChatGenerationChunk]:
    """Yield a piece of an answer; the last one tells what the whole was.

    There is none of a piece that tells nothing yet, because half a character or what may become a
    stop text or a tool call is held back. Reasoning comes by itself, since LangChain counts the
    blocks of each chunk.
    """
    if made.reasoning:
        message = AIMessageChunk(content="", additional_kwargs=_beside(made.reasoning))
        yield ChatGenerationChunk(message=message)
    if made.final is None:
        if not made.text and not made.calls:
            return
        calls = [
            tool_call_chunk(name=call.name, args=call.arguments, id=call.id, index=call.index)
            for call in made.calls
        ]
        message = AIMessageChunk(content=made.text, tool_call_chunks=calls)
    else:
        # Only the last chunk has metadata, since LangChain joins the strings of all chunks.
        message = AIMessageChunk(
            content=made.text,
            usage_metadata=_usage(made.final),
            response_metadata=_metadata(made.final, model_name),
            chunk_position="last",
        )
    yield ChatGenerationChunk(message=message)


def _beside(reasoning: str | None) -> dict[str, Any]:
    """Reasoning where LangChain's `content_blocks` looks for it."""
    return {"reasoning_content": reasoning} if reasoning else {}


def _metadata(answer: Generation, model_name: str) -> dict[str, Any]:
    return {
        "model_name": model_name,
        "model_provider": PROVIDER,
        "finish_reason": answer.finish_reason,
        **what_steered(answer),
        **({"logprobs": {"content": told_logprobs(answer)}} if answer.logprobs else {}),
    }


def _usage(answer: Generation) -> UsageMetadata:
    used = answer.usage
    return UsageMetadata(
        input_tokens=used.prompt_tokens,
        output_tokens=used.completion_tokens,
        total_tokens=used.prompt_tokens + used.completion_tokens,
    )


ToolLike = Mapping[str, Any] | type | Callable[..., Any] | BaseTool


def to_tools(tools: Sequence[ToolLike], strict: bool | None = None) -> list[dict[str, Any]]:
    """Return tools as OpenAI function dicts.

    Args:
        tools: Functions, pydantic classes, TypedDicts, LangChain tools, or dicts.
        strict: Noted in each tool, as OpenAI does; calls that are sure follow the schema anyway.

    Raises:
        InvalidInputError: Something that is no tool, a tool of another provider's servers, or a
            JSON schema without a name.
    """
    if isinstance(tools, str | Mapping) or not isinstance(tools, Iterable):
        raise InvalidInputError(f"the tools are {one_line(tools)}: give a list of them")
    return [_tool(tool, position, strict) for position, tool in enumerate(tools)]


_GIVE = (
    "give a function with types and a docstring, a pydantic class, a TypedDict (not a recursive "
    "one), a LangChain tool, an OpenAI function dict, or a JSON schema with a title"
)


def _tool(tool: ToolLike, position: int, strict: bool | None) -> dict[str, Any]:
    kind = _foreign_type(tool) if isinstance(tool, Mapping) else None
    if kind is not None:
        raise InvalidInputError(
            f"tool {position} is of type {kind!r}, which runs on the servers of another provider, "
            f"and no server is asked here: {_GIVE}"
        )
    try:
        return as_function(tool, strict)
    except (TypeError, ValueError, RecursionError) as error:  # LangChain's runs over several lines
        raise InvalidInputError(
            f"tool {position} cannot be read ({one_line(tool)}): {_GIVE}"
        ) from error


def _foreign_type(tool: Mapping[str, Any]) -> str | None:
    """Return the type of a tool that only servers of other providers know; None for others.

    LangChain leaves some as they are, and makes functions without arguments of those with a name.
    """
    kind = tool.get("type")
    known = {"function", *TYPES}
    if not isinstance(kind, str) or kind in known or {"parameters", "input_schema"} & set(tool):
        return None
    return kind


def as_function(tool: ToolLike, strict: bool | None = None) -> dict[str, Any]:
    """Return a tool as an OpenAI function dict.

    LangChain writes definitions out where they are used, and what refers to itself as anything at
    all. Such a schema keeps its definitions here.

    Raises:
        TypeError, ValueError, RecursionError: LangChain cannot read the tool.
    """
    if isinstance(tool, Mapping) and "$ref" in tool:
        tool = opened(tool)
    made = convert_to_openai_tool(tool, strict=strict)
    if "name" not in made.get("function", ()):
        raise ValueError("it names no function")
    schema = _arguments_of(tool)
    if not leads_back(schema):
        return made
    told = {key: x for key, x in opened(schema).items() if key not in ("title", "description")}
    return convert_to_openai_tool({**made["function"], "parameters": told}, strict=strict)


def _arguments_of(tool: ToolLike) -> Mapping[str, Any]:
    """Return the whole schema of a tool's arguments; nothing where LangChain leaves it whole."""
    if isinstance(tool, Mapping):
        return {}
    told = tool.tool_call_schema if isinstance(tool, BaseTool) else tool
    if isinstance(told, Mapping):
        return told
    if not isinstance(told, type):  # as LangChain reads a function
        told = create_schema_from_function(
            told.__name__, told, parse_docstring=True, error_on_invalid_docstring=False,
            filter_args=(), include_injected=False,
        )  # fmt: skip
    if not is_basemodel_subclass(told):
        return {}
    if issubclass(told, BaseModel):
        return told.model_json_schema()
    return told.schema()  # type: ignore[attr-defined,no-any-return]  # a class of pydantic 1


def one_line(value: Any) -> str:
    """What was given, short enough for an error."""
    shown = repr(value)
    return shown if len(shown) <= 100 else f"{shown[:100]}..."


def to_choice(choice: Any, tools: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a choice of tools as the model names it.

    Raises:
        InvalidInputError: No such tool, or another kind of choice.
    """
    names = [tool["function"]["name"] for tool in tools]
    made = to_tool_choice(choice)
    if made in (None, "auto", "none", "required", *names):
        return made
    raise InvalidInputError(
        f"tool_choice is {choice!r}: give auto, none, any, required or one of the tools "
        f"({', '.join(names) or 'none are bound'})"
    )


def to_constraint(response_format: Any) -> Constraint | None:
    """Return OpenAI's `response_format` as a constraint.

    Raises:
        InvalidInputError: A format of another kind.
    """
    if response_format is None or isinstance(response_format, Constraint):
        return response_format
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return Constraint.json_object()
    if kind == "json_schema":
        told = response_format.get("json_schema")
        if not isinstance(told, Mapping):
            raise InvalidInputError(
                f"json_schema of response_format is {one_line(told)}: give a dict with the schema "
                'in it, {"name": ..., "schema": {...}}'
            )
        return Constraint.json_schema(told.get("schema"), strict=bool(told.get("strict")))  # type: ignore[arg-type]
    raise InvalidInputError(
        f"response_format is {response_format!r}: give a Constraint, or a dict whose type is "
        "text, json_object or json_schema"
    )
