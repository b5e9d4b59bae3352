"""Chat messages in the form that chat templates read, tool calls and tool results included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from steerable_llm.chat.images import keep_places, text_and_images
from steerable_llm.errors import InvalidInputError, PairError

# Chat messages: a role and a text.

ROLES = ("system", "user", "assistant")


def whole_characters(text: str) -> str:
    """Return a text that can be encoded, as tokenizers and files need it.

    Raises:
        InvalidInputError: it holds half a character (a lone surrogate): a text that was cut
            between the two halves of an emoji, say, and written as JSON.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"the text has half a character at place {error.start} "
            f"(\\u{ord(text[error.start]):x}, of a text that was cut): take it out"
        ) from None
    return text


Text: TypeAlias = Annotated[str, AfterValidator(whole_characters)]


class Message(BaseModel):
    """One chat message. `message["role"]` and `{**message}` work, so it can stand for a dict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: Text

    def keys(self) -> tuple[str, str]:
        """Return the names a chat template reads."""
        return ("role", "content")

    def __getitem__(self, key: str) -> str:
        """Return the role or the content."""
        if key not in self.keys():
            raise KeyError(key)
        value: str = getattr(self, key)
        return value


MessagesLike: TypeAlias = str | Sequence[Mapping[str, Any] | Message]


def as_messages(messages: MessagesLike) -> tuple[Message, ...]:
    """Return messages in one form; a plain string is one user message.

    Raises:
        PairError: the messages are empty, or one of them has no valid role and content.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or not messages:
        raise PairError(
            "the prompt has no messages: give a string or a non-empty list of "
            '{"role": "user", "content": "..."}'
        )
    result = []
    for position, message in enumerate(messages):
        try:
            result.append(
                message if isinstance(message, Message) else Message.model_validate(message)
            )
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"]) or "the message"
            raise PairError(
                f"message {position} of the prompt is not valid ({place}: {problem['msg']}): "
                f"every message needs a role out of {', '.join(ROLES)} and a text content"
            ) from error
    return tuple(result)


Conversation = list[dict[str, Any]]
"""Each message with `role` and `content`, and what its role adds: `tool_calls`, `tool_call_id`.

A message with images has a list of them as `images`, and in its content a place for each."""

_PLAIN = {"role", "content"}
# What a message may have beside role and content, by role; `name` says who speaks.
_MORE = {
    "system": {"name"},
    "user": {"name", "images"},
    "assistant": {"name", "tool_calls"},
    "tool": {"name", "tool_call_id", "images"},
}


def as_conversation(messages: MessagesLike) -> Conversation:
    """Return messages as fresh dicts; a plain string is one user message.

    Raises:
        InvalidInputError: the messages are empty, or one of them is malformed.
    """
    if (
        isinstance(messages, Sequence)
        and not isinstance(messages, str)
        and any(map(_says_more, messages))
    ):
        made = [_message(message, position) for position, message in enumerate(messages)]
        _name_results(made)
        return made
    return [message.model_dump() for message in as_messages(messages)]


def mentions_tools(conversation: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a tool is called or answers somewhere in a conversation."""
    return any(message["role"] == "tool" or message.get("tool_calls") for message in conversation)


def images_of(conversation: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The images of a conversation, in the order in which they stand in it."""
    return [image for message in conversation for image in message.get("images", ())]


def _name_results(conversation: Conversation) -> None:
    """Give results the name of the tool that was called, which some templates insist on."""
    names: dict[str, str] = {}
    for message in conversation:
        for call in message.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        if message["role"] == "tool" and message["tool_call_id"] in names:
            message.setdefault("name", names[message["tool_call_id"]])


def _says_more(message: Any) -> bool:
    """Whether a message is more than one of the three roles and a content."""
    return isinstance(message, Mapping) and (
        message.get("role") == "tool"
        or not set(message) <= _PLAIN
        or isinstance(message.get("content"), list | tuple)
    )


def _message(message: Mapping[str, Any] | Message, position: int) -> dict[str, Any]:
    if isinstance(message, Message):
        return message.model_dump()
    role = message.get("role") if isinstance(message, Mapping) else None
    if role not in _MORE:
        raise _refuse(position, f"its role is {role!r}: give one of {', '.join(_MORE)}")
    made = _with_images({"content": "", **message}, position)
    if not isinstance(made["content"], str):
        raise _refuse(position, f"its content is {made['content']!r}: give a text")
    if made.get("images") and "images" not in _MORE[role]:
        raise _refuse(
            position,
            f"{role} messages hold no images: give them in a message of the user or the result "
            "of a tool",
        )
    unknown = sorted(set(made) - _PLAIN - _MORE[role])
    if unknown:
        allowed = ", ".join(sorted(_PLAIN | _MORE[role]))
        raise _refuse(position, f"{role} messages have no {unknown[0]!r}: they have {allowed}")
    if role == "tool" and not isinstance(made.get("tool_call_id"), str):
        raise _refuse(position, "a tool message needs the tool_call_id of the call it answers")
    if made.get("tool_calls"):
        made["tool_calls"] = [_call(call, position) for call in made["tool_calls"]]
    else:
        made.pop("tool_calls", None)
    if made.get("name") is None:
        made.pop("name", None)
    return made


def _with_images(message: dict[str, Any], position: int) -> dict[str, Any]:
    """A message whose content may be parts, with its text as content and its images beside it."""
    if isinstance(message["content"], list | tuple):
        try:
            message["content"], images = text_and_images(message["content"])
        except ValueError as error:
            raise _refuse(position, str(error)) from error
        message = {**message, "images": images}
    if not message.get("images"):
        message.pop("images", None)
    elif isinstance(message["content"], str):
        message["content"] = keep_places(message["content"], len(message["images"]))
    return message


def _call(call: Any, position: int) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not (
        isinstance(function, Mapping)
        and isinstance(function.get("name"), str)
        and isinstance(function.get("arguments"), Mapping)
    ):
        raise _refuse(
            position,
            'a tool call is {"id": ..., "type": "function", "function": {"name": ..., '
            '"arguments": {...}}}, its arguments a dict',
        )
    return {
        "id": str(call.get("id") or ""),
        "type": "function",
        "function": {"name": function["name"], "arguments": dict(function["arguments"])},
    }


def _refuse(position: int, why: str) -> InvalidInputError:
    return InvalidInputError(f"message {position} of the prompt is not valid: {why}")
