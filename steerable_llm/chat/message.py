"""One message of a chat, for whatever is asked, logged, paired, evaluated or exported.

Its content is text and images in their order; an assistant's message may call tools, and one of the
role `tool` brings what a call gave. It is read from OpenAI's form or that of transformers' chat
templates, and written to files in OpenAI's form; a message of text alone is
`{"role": ..., "content": ...}` in both.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ValidationError,
    model_serializer,
    model_validator,
)

from steerable_llm.chat.images import PLACE, ImagePart, Part, joined, parts_of
from steerable_llm.errors import InvalidInputError, told_to_pydantic

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)

# What a message may have beside role and content, by role; `name` says who speaks.
_MORE = {
    "system": {"name"},
    "user": {"name"},
    "assistant": {"name", "tool_calls", "reasoning_content", "reasoning", "thinking"},
    "tool": {"name", "tool_call_id"},
}
# Blocks in the content of an answer that are told elsewhere in it, or are not for the model.
TOLD_ELSEWHERE = frozenset(
    {
        "tool_use",
        "tool_call",
        "tool_call_chunk",
        "invalid_tool_call",
        "function_call",
        "reasoning",
        "thinking",
        "redacted_thinking",
    }
)
_CALL = (
    'a tool call is {"id": ..., "type": "function", "function": {"name": ..., "arguments": {...}}}'
)


def whole_characters(text: str) -> str:
    """Return a text that can be encoded, as tokenizers and files need it.

    Raises:
        InvalidInputError: It holds half a character (a lone surrogate): a text that was cut
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


Text: TypeAlias = Annotated[str, AfterValidator(told_to_pydantic()(whole_characters))]


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for.

    Attributes:
        id: Names the call in the message that brings its result.
        name: Of the tool.
        arguments: By parameter name.
    """

    id: str
    name: str
    arguments: dict[str, Any]

    def __hash__(self) -> int:
        """Hash by content."""
        return hash((self.id, self.name, json.dumps(self.arguments, sort_keys=True, default=str)))

    @classmethod
    def of(cls, call: Any) -> ToolCall:
        """Read an entry of a message's `tool_calls`; the arguments may be JSON.

        Raises:
            ValueError: It is no call.
        """
        if isinstance(call, ToolCall):
            return call
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ValueError(_CALL)
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"the arguments of a call to {function['name']!r} are not valid JSON "
                    f"({error}): give a dict, or the JSON of one"
                ) from error
        if not isinstance(arguments, Mapping):
            raise ValueError(f"{_CALL}, its arguments a dict")
        return cls(str(call.get("id") or ""), function["name"], dict(arguments))

    def to_message_part(self) -> dict[str, Any]:
        """Return the call as chat templates read it among an assistant's `tool_calls`."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}

    def to_wire(self) -> dict[str, Any]:
        """Return the call in OpenAI's form, its arguments as JSON."""
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        function = {"name": self.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}


class Message(BaseModel, frozen=True, extra="forbid", arbitrary_types_allowed=True):
    """One message of a chat.

    It can stand for a dict as chat templates read it: `message["role"]`, `{**message}`.

    Attributes:
        role: Who speaks.
        parts: Text and images, in their order.
        tool_calls: What an assistant asks to be called.
        tool_call_id: The call whose result a message of the role `tool` brings.
        name: Of the speaker, or of the tool.
        reasoning: What an assistant thought before it spoke; no part of what it said.
    """

    role: Role
    parts: tuple[Text | ImagePart, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            role: str,
            content: str | Sequence[Any] | None = None,
            tool_calls: Iterable[ToolCall | Mapping[str, Any]] = (),
            tool_call_id: str | None = None,
            name: str | None = None,
            reasoning_content: str | None = None,
        ) -> None: ...

    @model_validator(mode="before")
    @classmethod
    @told_to_pydantic()
    def _read(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            raise ValueError('a message is {"role": ..., "content": ...}')
        role, content = given.get("role"), given.get("content")
        if len(given) == 2 and role in ("system", "user", "assistant") and type(content) is str:
            return {"role": role, "parts": (content,) if content else ()}  # nearly all of a log
        # Clients write out every field that a message may have, empty ones too.
        told = {
            key: value
            for key, value in given.items()
            if value is not None and (value not in ([], (), {}) or key == "content")
        }
        if role not in ROLES:
            raise ValueError(f"its role is {role!r}: give one of {', '.join(ROLES)}")
        unknown = sorted(map(str, told.keys() - {"role", "content"} - _MORE[role]))
        if unknown:
            allowed = ", ".join(["role", "content", *sorted(_MORE[role])])
            raise ValueError(f"{role} messages have no {unknown[0]!r}: they have {allowed}")
        if role == "tool" and not isinstance(told.get("tool_call_id"), str):
            raise ValueError("a tool message needs the tool_call_id of the call it answers")
        calls = tuple(map(ToolCall.of, told.pop("tool_calls", ())))
        content = told.get("content")
        reasoning = _reasoning(told, content)
        # Parts are checked by their type; what stands beside them is read and written as well.
        beside = [
            reasoning,
            told.get("name"),
            told.get("tool_call_id"),
            *(vars(call) for call in calls),
        ]
        whole_characters(json.dumps(beside, ensure_ascii=False, default=str))
        may_be_silent = calls or reasoning or role == "tool"
        content = told.pop("content", "" if may_be_silent else None)
        if not isinstance(content, str | list | tuple):
            raise ValueError(f"its content is {content!r}: give a text")
        if isinstance(content, str):
            content = [content]
        elif role == "assistant":
            content = [_said(part) for part in content if not _told_elsewhere(part)]
        parts = parts_of(content)
        if any(isinstance(part, ImagePart) for part in parts):
            if role not in ("user", "tool"):
                raise ValueError(
                    f"{role} messages hold no images: give them in a message of the user or the "
                    "result of a tool"
                )
            parts = joined([_without_places(part) for part in parts])
        return {**told, "parts": parts, "tool_calls": calls, "reasoning": reasoning}

    @property
    def content(self) -> str:
        """The text."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images."""
        return tuple(part for part in self.parts if isinstance(part, ImagePart))

    @property
    def key(self) -> Any:
        """What tells messages apart, as JSON: role and text, or all where there is more."""
        plain = self.name is None and not self.tool_calls and self.tool_call_id is None
        if plain and not self.images and not self.reasoning:
            return [self.role, self.content]
        return self.to_wire(lambda image: image.name, boxes=False)

    @property
    def in_words(self) -> str:
        """What a person is shown: the text, images by their names, calls as they are read aloud."""
        text = "".join(part if isinstance(part, str) else part.in_words for part in self.parts)
        calls = (
            f"[{call.name} {json.dumps(call.arguments, ensure_ascii=False)}]"
            for call in self.tool_calls
        )
        return "\n".join([text, *calls] if text else calls)

    @property
    def marked(self) -> str:
        """The text, with `PLACE` where an image stands."""
        return "".join(part if isinstance(part, str) else PLACE for part in self.parts)

    def with_text(self, marked: str) -> Message:
        """Return the message with another text, the images where `PLACE` stands in it.

        Where some places were cut away with words, all images come first.
        """
        images = self.images
        if not images:
            return self.model_copy(update={"parts": joined([marked])})
        if marked.count(PLACE) != len(images):
            marked = PLACE * len(images) + marked.replace(PLACE, "")
        first, *texts = marked.split(PLACE)
        parts: list[Part] = [first]
        for image, text in zip(images, texts, strict=True):
            parts += [image, text]
        return self.model_copy(update={"parts": joined(parts)})

    def with_images(self, change: Callable[[ImagePart], ImagePart]) -> Message:
        """Return the message with its images changed."""
        parts = tuple(change(x) if isinstance(x, ImagePart) else x for x in self.parts)
        return self.model_copy(update={"parts": parts})

    def rewritten(self, change: Callable[[str], str]) -> Message:
        """Return the message with all its texts changed: content, names, arguments of calls."""
        calls = tuple(
            replace(call, arguments=rewritten(call.arguments, change)) for call in self.tool_calls
        )
        name, reasoning = (x and change(x) for x in (self.name, self.reasoning))
        return self.with_text(change(self.marked)).model_copy(
            update={"tool_calls": calls, "name": name, "reasoning": reasoning}
        )

    @model_serializer
    def _written(self) -> dict[str, Any]:
        return self.to_wire()

    def to_wire(
        self, image: Callable[[ImagePart], str] | None = None, boxes: bool = True
    ) -> dict[str, Any]:
        """Return the message in OpenAI's form, for JSON.

        Args:
            image: Says how an image is written; by default as an address that holds everywhere.
            boxes: Write the boxes of images beside them, which OpenAI's form does not have.
        """
        content: str | list[dict[str, Any]] = self.content
        if self.images:
            spell = image or (lambda one: one.url)
            content = [
                {"type": "text", "text": part}
                if isinstance(part, str)
                else {
                    "type": "image_url",
                    "image_url": {"url": spell(part)},
                    **({"boxes": part.boxes} if boxes and part.boxes else {}),
                }
                for part in self.parts
            ]
        return self._with_more(content, ToolCall.to_wire)

    @property
    def _template(self) -> dict[str, Any]:
        content: str | list[dict[str, Any]] = self.content
        if self.images:
            content = [
                {"type": "text", "text": part}
                if isinstance(part, str)
                else {"type": "image", "image": part.where}
                for part in self.parts
            ]
        return self._with_more(content, ToolCall.to_message_part)

    def _with_more(self, content: Any, call: Callable[[ToolCall], Any]) -> dict[str, Any]:
        more = {
            "name": self.name,
            "tool_calls": [call(one) for one in self.tool_calls] or None,
            "tool_call_id": self.tool_call_id,
            "reasoning_content": self.reasoning,
        }
        told = {key: value for key, value in more.items() if value is not None}
        return {"role": self.role, "content": content, **told}

    def keys(self) -> Iterable[str]:
        """Return the names a chat template reads."""
        return self._template.keys()

    def __getitem__(self, key: str) -> Any:
        """Return what a chat template reads under a name."""
        return self._template[key]


MessagesLike: TypeAlias = str | Sequence[Mapping[str, Any] | Message]
"""A question, or messages in OpenAI's form or that of chat templates."""


def as_messages(messages: MessagesLike) -> tuple[Message, ...]:
    """Return messages in one form; a plain string is one user message.

    Results get the name of the tool that was called, which some templates insist on.

    Raises:
        InvalidInputError: The messages are empty, or one of them is malformed.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or not messages:
        raise InvalidInputError(
            "the prompt has no messages: give a string or a non-empty list of "
            '{"role": "user", "content": "..."}'
        )
    made = []
    names: dict[str, str] = {}
    for position, given in enumerate(messages):
        try:
            message = given if isinstance(given, Message) else Message.model_validate(given)
        except ValidationError as error:
            why = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise InvalidInputError(
                f"message {position} of the prompt is not valid: {why}"
            ) from error
        names.update({call.id: call.name for call in message.tool_calls})
        if message.name is None and (name := names.get(message.tool_call_id or "")):
            message = message.model_copy(update={"name": name})
        made.append(message)
    return tuple(made)


def merged_runs(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return messages with those of one speaker in a row made one, a line break between them.

    Results of tools, and messages that call some, each stay as they are.
    """
    made: list[Message] = []
    for message in messages:
        last = made[-1] if made else None
        alike = last is not None and (last.role, last.name) == (message.role, message.name)
        if last is None or not alike or message.role == "tool":
            made.append(message)
        elif last.tool_calls or message.tool_calls or message.reasoning:
            made.append(message)
        else:
            made[-1] = last.model_copy(
                update={"parts": joined([*last.parts, "\n", *message.parts])}
            )
    return tuple(made)


def kept_in(folder: Path, messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return messages for a file in a folder, after putting the bytes of their images there."""
    return [message.to_wire(lambda image: image.kept_in(folder)) for message in messages]


def by_name(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return messages as a file would have them, without writing one; for digests."""
    return [message.to_wire(lambda image: image.name) for message in messages]


def read_from(folder: Path, messages: Iterable[Message]) -> tuple[Message, ...]:
    """Return messages as read from a file in a folder, where the paths of their images start."""
    return tuple(
        message.with_images(lambda one: replace(one, folder=folder)) for message in messages
    )


def instructed(messages: Iterable[Message], instruction: str | None) -> tuple[Message, ...]:
    """Return messages with another system message in place of their own; None gives them none."""
    rest = tuple(message for message in messages if message.role != "system")
    return rest if instruction is None else (Message(role="system", content=instruction), *rest)


# Files of records that hold messages: their images stand beside them.

Holder = TypeVar("Holder", bound=BaseModel)
"""A model with a field `messages`."""


def written_beside(
    path: str | os.PathLike[str], holders: Iterable[BaseModel], **options: Any
) -> Iterator[dict[str, Any]]:
    """Yield records for a file of JSON lines, putting their images' bytes into its folder.

    Args:
        path: The file.
        holders: Models with a field `messages`.
        **options: For their dump.
    """
    folder = Path(path).parent
    for holder in holders:
        messages: tuple[Message, ...] = holder.messages  # type: ignore[attr-defined]
        if any(message.images for message in messages):
            record = holder.model_dump(exclude={"messages"}, **options)
            yield {**record, "messages": kept_in(folder, messages)}
        else:
            yield holder.model_dump(**options)


def read_beside(
    path: str | os.PathLike[str], parse: Callable[[dict[str, Any]], Holder]
) -> Callable[[dict[str, Any]], Holder]:
    """Return what reads a record of a file whose images' paths start in its folder.

    Args:
        path: The file.
        parse: Makes a model with a field `messages` from a record.
    """
    folder = Path(path).parent

    def parsed(record: dict[str, Any]) -> Holder:
        holder = parse(record)
        messages: tuple[Message, ...] = holder.messages  # type: ignore[attr-defined]
        if not any(message.images for message in messages):
            return holder
        return holder.model_copy(update={"messages": read_from(folder, messages)})

    return parsed


def rewritten(value: Any, change: Callable[[str], str]) -> Any:
    """Return a value as JSON has it with all texts in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: rewritten(inside, change) for name, inside in value.items()}
    if isinstance(value, list | tuple):
        return [rewritten(inside, change) for inside in value]
    return value


def _reasoning(told: dict[str, Any], content: Any) -> str | None:
    """Take an answer's reasoning out of what is told of it; it stands beside or among the parts."""
    beside = [
        told.pop(name) for name in ("reasoning_content", "reasoning", "thinking") if name in told
    ]
    among = map(thought_in, content) if isinstance(content, list | tuple) else ()
    found = beside[:1] or [thought for thought in among if thought]
    if not all(isinstance(thought, str) for thought in found):
        raise ValueError(f"its reasoning is {found[0]!r}: give a text")
    return "\n".join(found) or None


def thought_in(part: Any) -> str | None:
    """Return the reasoning that a part of an answer holds, in any maker's form; None for none."""
    if not isinstance(part, Mapping) or part.get("type") not in ("reasoning", "thinking"):
        return None
    thought = part.get("reasoning") or part.get("thinking")
    if isinstance(thought, str):
        return thought
    summary = part.get("summary")
    told = (
        [x.get("text") for x in summary if isinstance(x, Mapping)]
        if isinstance(summary, list)
        else []
    )
    return "\n".join(text for text in told if isinstance(text, str)) or None


def _told_elsewhere(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in TOLD_ELSEWHERE


def _said(part: Any) -> Any:
    """A part of an answer; a refusal is what was said in place of one."""
    if isinstance(part, Mapping) and part.get("type") == "refusal":
        return part.get("refusal") or ""
    return part


def _without_places(part: Part) -> Part:
    return part.replace(PLACE, "") if isinstance(part, str) else part
