"""How messages become the text and the tokens that a model really sees."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import datetime
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any, Self, TypeAlias

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from steerable_llm.chat.arguments import check_arguments, check_read
from steerable_llm.chat.context import Segment, parts_of
from steerable_llm.chat.images import PLACE, ImagePart, Part
from steerable_llm.chat.lower_bound import tokens_at_least
from steerable_llm.chat.message import (
    Message,
    MessagesLike,
    as_messages,
    merged_runs,
    whole_characters,
)
from steerable_llm.chat.pieces import Pieces, pieces_of
from steerable_llm.chat.reasoning import ReasonedText, apart, opened_by, reasoning_format_of
from steerable_llm.chat.spelled import Encoded, Hidden, Spelled
from steerable_llm.chat.tool_formats.table import (
    FORMATS,
    speaks_of_tools,
    template_of,
    tool_format_of,
)
from steerable_llm.chat.tool_place import ToolPlace
from steerable_llm.chat.tools import Tool, ToolFormat, short_id
from steerable_llm.chat.vision import ReadPrompt, Vision
from steerable_llm.chat.web_images import WebImages
from steerable_llm.errors import InvalidInputError, unknown

# Stands for a message's content while the template around it is looked at. The private-use
# characters occur in no template and hardly in any text.
_MARK = "\ue000{}\ue001"
# How a template asks what day it is.
_DAYS = re.compile(r"strftime_now\(\s*['\"]([^'\"]+)['\"]")
_MARKS = re.compile("\ue000(\\d+)\ue001")

_NO_PLACE = (
    "the model's chat template has no place for tools: leave tools and tool messages out, or take "
    "a model that was trained for them, such as Qwen2.5-Instruct"
)
_UNKNOWN = (
    "the model's chat template has a place for tools, but how the model writes calls is not known "
    "here: give tool_format= where the model is loaded, if it is one of "
    f"({', '.join(FORMATS)}), or a tokenizer with a response template that reads its calls"
)

_Tools: TypeAlias = tuple[ToolFormat | None, ToolPlace | None, str]
#: Sets of arguments for which it is known where a template takes tools.
_MOST_KNOWN = 32

# The plain form for tokenizers without a chat template. It ends in a line break and not in a
# blank, which many tokenizers would join to the answer's first word.
_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True)
class PromptTokens:
    """A prompt in tokens, each with its text and its part.

    Attributes:
        ids: Token ids, T of them.
        texts: The pieces of the prompt's text; joined they are the text again.
        segments: The part that each token belongs to.
        vision: What the model takes beside the tokens of a prompt with images.
        pieces: Where the pieces of its images lie, as far as that can be told.
    """

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    segments: tuple[Segment, ...]
    vision: Mapping[str, Tensor] = field(default_factory=dict, compare=False)
    pieces: tuple[Pieces, ...] = ()

    @property
    def is_template(self) -> tuple[bool, ...]:
        """Whether each token is special or written by the template."""
        return tuple(segment == "template" for segment in self.segments)


class ChatFormat:
    """The chat template of one tokenizer.

    A tokenizer without a template gets a plain form: ``System:``, ``User:`` and ``Assistant:`` on
    lines of their own, the text below, a blank line between messages, and ``Assistant:`` at the
    end. Base models continue that sensibly, and nothing has to be configured.

    Attributes:
        tokenizer: The tokenizer, with the template.
        vision: Reads images; None where the model does not.
        takes_instructions: Whether an instruction can join a prompt.
        reads_special_tokens: Whether special tokens that a message spells count as such. They are
            read as text unless it is set: a retrieved page could else open a turn of its own.
        keeps_reasoning: Whether the reasoning of earlier answers goes to the template, which may
            still leave it out.
        arguments: What the template is given beside the messages, such as `enable_thinking`.
    """

    takes_instructions = True
    reads_special_tokens = False
    keeps_reasoning = False

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        processor: Any = None,
        tool_format: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        reasoning_tags: Sequence[str] | None = None,
        patch_id: int | None = None,
        web: WebImages | None = None,
    ) -> None:
        """Remember the tokenizer, and what reads images; nothing is rendered yet.

        Args:
            tokenizer: Without a chat template it is given the processor's.
            processor: Of a vision-language model.
            tool_format: How the model writes tool calls; default is what its template shows.
            arguments: What the template is given with every prompt.
            reasoning_tags: What the model's reasoning stands between, where that cannot be told;
                empty for none.
            patch_id: The token that stands for one piece of an image in that model.
            web: Which images of the web are fetched; default is none.

        Raises:
            InvalidInputError: Arguments that the template does not read, tags that are none, or no
                such tool format.
        """
        if tool_format is not None and tool_format not in FORMATS:
            raise InvalidInputError(unknown("tool format", tool_format, FORMATS))
        self._given_format = tool_format
        self.tokenizer = tokenizer
        self.vision = None if processor is None else Vision(processor, patch_id, web)
        if processor is not None and not tokenizer.chat_template:
            tokenizer.chat_template = processor.chat_template
        if getattr(tokenizer, "response_template", None) is None:
            tokenizer.response_template = getattr(processor, "response_template", None)
        self.reasoning_format = reasoning_format_of(tokenizer, reasoning_tags)
        self.arguments: dict[str, Any] = {}
        # What is found out once, for this template and its copies with other arguments.
        self._known: dict[Any, Any] = {}
        self._add(arguments)

    def given(self, arguments: Mapping[str, Any] | None) -> Self:
        """Return this template with more arguments; those of one name take the place of its own.

        Raises:
            InvalidInputError: The template does not read one of them, or it cannot be given.
        """
        if not arguments:
            return self
        made = copy(self)
        made._add(arguments)
        return made

    @property
    def settings(self) -> dict[str, Any]:
        """What decides prompt and answer beside template and messages, as JSON values."""
        form = self.reasoning_format
        return {
            "chat_template_kwargs": self.arguments,
            "reasoning": form and [form.opening.pattern, form.closing.pattern],
            "keep_reasoning": self.keeps_reasoning,
            "reads_special_tokens": self.reads_special_tokens,
        }

    def _add(self, arguments: Mapping[str, Any] | None) -> None:
        check_arguments(arguments)
        if arguments:
            check_read(self.tokenizer, arguments)
            self.arguments = {**self.arguments, **arguments}

    @property
    def has_template(self) -> bool:
        """Whether the tokenizer brings a chat template."""
        return bool(self.tokenizer.chat_template)

    @property
    def tool_format(self) -> ToolFormat | None:
        """How the model was trained to call tools; None if its template shows none we know."""
        return self._tools[0]

    @property
    def no_tools(self) -> str:
        """Why the model cannot be given tools, and what to do; empty if it can."""
        return self._tools[2]

    @property
    def _tools(self) -> _Tools:
        """How the model calls tools, where its template takes them, or why there is neither."""
        # The arguments may decide whether and where tools are shown.
        given = json.dumps(self.arguments, sort_keys=True, default=repr)
        if given not in self._known:
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            self._known[given] = self._find_tools()
        found: _Tools = self._known[given]
        return found

    def _find_tools(self) -> _Tools:
        template = template_of(self.tokenizer)
        given = self._given_format
        found = tool_format_of(self.tokenizer) if given is None else FORMATS[given]
        place = ToolPlace(template, found or FORMATS["hermes"], self._rendered)
        if not speaks_of_tools(template) or not place.takes_tools:
            return None, None, _NO_PLACE
        if found is None or (
            found is FORMATS.get(found.name) and given is None and not place.reads_back
        ):
            return None, None, _UNKNOWN
        return found, place, ""

    def render(
        self,
        messages: MessagesLike,
        add_generation_prompt: bool = True,
        tools: Sequence[Tool] = (),
    ) -> str:
        """Return the prompt as text, special tokens spelt out.

        Args:
            messages: A question as a string, or messages with role and content; the assistant's
                may have ``tool_calls``, and those of the role ``tool`` bring results.
            add_generation_prompt: End with what opens the assistant's turn.
            tools: What the model may call.

        Raises:
            InvalidInputError: Empty or malformed messages, a role order that the template
                refuses, or tools where the template has no place for them.
        """
        return self._render(self._history(messages), add_generation_prompt, tools)

    def _history(self, messages: MessagesLike) -> tuple[Message, ...]:
        """Return messages in one form, earlier answers without their reasoning or with it apart."""
        form, keep = self.reasoning_format, self.keeps_reasoning
        return tuple(apart(message, form, keep) for message in as_messages(messages))

    def instructed(self, messages: MessagesLike, instruction: str | None) -> MessagesLike:
        """Return messages with an instruction beside them; nothing of their own is lost.

        It stands behind the text of the system message that they open with, which may hold
        documents or say what the application is. Without one it is the system message; where the
        template has no place for that, it stands before the text of the first user message.
        """
        if instruction is None:
            return messages
        prompt = list(as_messages(messages))
        users = [place for place, message in enumerate(prompt) if message.role == "user"]
        if prompt[0].role == "system":
            own = prompt[0].content.rstrip()
            prompt[0] = prompt[0].with_text(f"{own}\n\n{instruction}" if own else instruction)
        elif users and not self.has_system_role:
            message = prompt[users[0]]
            prompt[users[0]] = message.with_text(f"{instruction}\n\n{message.marked}")
        else:
            prompt.insert(0, Message(role="system", content=instruction))
        return tuple(prompt)

    @cached_property
    def has_system_role(self) -> bool:
        """Whether the template writes system messages, neither refusing nor dropping them."""
        mark = _MARK.format(0)
        turn = [Message(role="system", content=mark), Message(role="user", content="?")]
        try:
            return mark in self._render(turn, add_generation_prompt=True)
        except InvalidInputError:
            return False

    def undated(self, messages: MessagesLike) -> str:
        """Return the prompt as text, without the day that some templates tell the model.

        Raises:
            InvalidInputError: As for :meth:`render`.
        """
        text = self.render(messages)
        for form in _DAYS.findall(str(self.tokenizer.chat_template)):
            text = text.replace(datetime.now().strftime(form), "", 1)
        return text

    def encode(
        self,
        messages: MessagesLike,
        add_generation_prompt: bool = True,
        tools: Sequence[Tool] = (),
    ) -> list[int]:
        """Return the token ids of the rendered prompt, with one beginning-of-text token."""
        return self.read(messages, add_generation_prompt, tools).tokens

    def read(
        self,
        messages: MessagesLike,
        add_generation_prompt: bool = True,
        tools: Sequence[Tool] = (),
    ) -> ReadPrompt:
        """Return the prompt as the model takes it, images and all.

        Raises:
            InvalidInputError: As for :meth:`render`, and for an image that cannot be read.
        """
        prompt = self._history(messages)
        text = self._render(prompt, add_generation_prompt, tools)
        images = [image for message in prompt for image in message.images]
        if self.vision is None or not images:
            if (hidden := self._hidden(prompt)) is None:
                return ReadPrompt(self._tokenize(text).input_ids)
            encoded = self._encoded(hidden, add_generation_prompt, tools)
            return ReadPrompt([token.id for token in encoded])
        _check_marks(prompt, self.vision.marks)
        if self._hidden(prompt) is not None:
            raise InvalidInputError(
                "a text of this prompt spells a special token of the model, and with images these "
                "cannot be kept apart: take it out, or put a blank into it"
            )
        return self.vision.read(
            whole_characters(text), images, add_special_tokens=not self.has_template
        )

    def tokens_at_least(
        self, messages: MessagesLike, tools: Sequence[Tool] = (), most: int = 0
    ) -> int:
        """Return a number of tokens that a prompt surely has, see `chat/lower_bound.py`.

        Raises:
            InvalidInputError: As for :meth:`render`.
        """
        text = self.render(messages, tools=tools)
        return tokens_at_least(lambda part: len(self._tokenize(part).input_ids), text, most)

    def encode_answer(self, answer: str) -> list[int]:
        """Return the token ids of an answer that follows the prompt, end of turn included."""
        ids: list[int] = self.tokenizer(
            whole_characters(answer), add_special_tokens=False, verbose=False
        ).input_ids
        return ids if self.end_of_turn_id is None else [*ids, self.end_of_turn_id]

    def opens_reasoning(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt, in tokens, ends inside the model's reasoning."""
        return opened_by(self.reasoning_format, self.tokenizer, prompt)

    def reading(
        self,
        prompt: Sequence[int] = (),
        stops: Sequence[str] = (),
        shown: Collection[str] = (),
        may_think: bool = True,
    ) -> ReasonedText:
        """Return what reads the answer to a prompt as its tokens come.

        Args:
            prompt: In tokens; it may have opened the reasoning.
            stops: Texts that end the answer.
            shown: Special tokens that count as text.
            may_think: Whether the answer may open reasoning where the prompt has not.
        """
        opened = self.opens_reasoning(prompt)
        form = self.reasoning_format if opened or may_think else None
        if form and set(form.marks) <= set(shown):  # who reads calls reads all channels
            form = replace(form, direct=None)
        if form and form.direct is None:  # tags that stand in the answer are words of it
            shown = [*shown, *form.marks]
        unseen = self._unseen(form.marks) if form else ()
        hidden = self._unseen(shown) if shown else None
        return ReasonedText(self.tokenizer, stops, hidden, form, unseen, opened)

    def _unseen(self, shown: Collection[str]) -> frozenset[int]:
        """Special tokens but for those that are shown."""
        return self.special_ids - {self.special_id(mark) for mark in shown}

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Every token that stands for no text of its own.

        More than the tokenizer's named ones: chat markers are often only marked special in its
        list of added tokens.
        """
        added = self.tokenizer.added_tokens_decoder.items()
        marked = {number for number, token in added if token.special}
        return frozenset(marked | set(self.tokenizer.all_special_ids))

    @cached_property
    def whole_ids(self) -> frozenset[int]:
        """Every token that is written as a whole and never spelt, special or not.

        To a grammar all of these are special, `<think>` too, whatever the tokenizer calls it.
        """
        return self.special_ids | frozenset(self.tokenizer.get_added_vocab().values())

    @cached_property
    def _special_names(self) -> dict[str, int]:
        # (To ask the vocabulary builds the whole of it, every time.)
        return {str(self.tokenizer.convert_ids_to_tokens(x)): x for x in self.special_ids}

    def special_id(self, text: str) -> int | None:
        """Return the special token that is spelt like this text, if there is one."""
        return self._special_names.get(text)

    def added_id(self, text: str) -> int | None:
        """Return the one token, special or not, that the vocabulary has for this text."""
        number: int | None = self.tokenizer.get_added_vocab().get(text)
        return number

    @cached_property
    def end_of_turn_id(self) -> int | None:
        """The token that closes an assistant's turn; the end-of-text token without a template."""
        if self.has_template:
            turn = [
                Message(role="user", content=_MARK.format(0)),
                Message(role="assistant", content=_MARK.format(1)),
            ]
            after = self._render(turn, add_generation_prompt=False).rpartition(_MARK.format(1))[2]
            for token in self.tokenizer(after, add_special_tokens=False).input_ids:
                if token in self.special_ids:
                    return int(token)
        end = self.tokenizer.eos_token_id
        return None if end is None else int(end)

    def tokens(self, messages: MessagesLike) -> PromptTokens:
        """Encode a prompt, with the generation prompt, and tell what each token is for.

        An image has as many tokens as pieces, and their part is "image".

        Raises:
            InvalidInputError: As for :meth:`read`.
        """
        prompt = self._history(messages)
        told = self._tokens_of_text(prompt)
        images = [image for message in prompt for image in message.images]
        return self._with_pieces(told, self.read(prompt), images) if images else told

    def _tokens_of_text(self, prompt: Sequence[Message]) -> PromptTokens:
        """Tell what the tokens are for that the rendered text has, one mark per image."""
        text = self._render(prompt, add_generation_prompt=True)
        special = self.special_ids
        if not self.tokenizer.is_fast:  # no offsets to be had: the content stays in one piece
            ids = [token.id for token in self._placed(prompt, text)]
            texts = [str(self.tokenizer.decode([token])) for token in ids]
            parts: list[Segment] = ["template" if x in special else "question" for x in ids]
            return PromptTokens(tuple(ids), tuple(texts), tuple(parts))
        part = self._parts(prompt, text)
        encoded = self._placed(prompt, text)
        made: list[tuple[str, Segment]] = []
        furthest = 0  # the tokens of one character all say where the whole of it stands
        for token in encoded:
            content = [x for x in part[token.start : token.end] if x != "template"]
            segment = content[-1] if content and token.id not in special else "template"
            made.append((text[furthest : token.end], segment))
            furthest = max(furthest, token.end)
        return PromptTokens(
            tuple(token.id for token in encoded),
            tuple(x for x, _ in made),
            tuple(x for _, x in made),
        )

    def _with_pieces(
        self, told: PromptTokens, read: ReadPrompt, images: Sequence[ImagePart]
    ) -> PromptTokens:
        """Carry the parts of a rendered prompt over to the tokens that its processor made of it.

        A processor puts pieces where a mark was, with tokens around them of which some are text.
        """
        assert self.vision is not None
        texts = [str(self.tokenizer.decode([token])) for token in read.tokens]
        parts: list[Segment] = ["template"] * len(texts)
        same = SequenceMatcher(None, told.ids, read.tokens, autojunk=False)
        for tag, start, end, first, last in same.get_opcodes():
            if tag == "equal":
                texts[first:last] = told.texts[start:end]
                parts[first:last] = told.segments[start:end]
                continue
            # Text beside a mark may have been cut into other tokens.
            content = [part for part in told.segments[start:end] if part != "template"]
            for place in range(first, last):
                if content and read.tokens[place] not in self.special_ids:
                    parts[place] = content[-1]
        for place, token in enumerate(read.tokens):
            if token == self.vision.patch_id:
                parts[place] = "image"
        pieces = pieces_of(read, images, self.vision)
        return PromptTokens(tuple(read.tokens), tuple(texts), tuple(parts), read.vision, pieces)

    def special_token_mask(self, prompt: MessagesLike | Sequence[int]) -> list[bool]:
        """Tell which prompt tokens are not message content.

        Args:
            prompt: Messages, rendered with the generation prompt; or token ids, of which only the
                special tokens can be told (the template's plain words cannot).

        Returns:
            One flag per token of ``encode(messages)``: true for special tokens and for everything
            that the template wrote, role names and default system texts included.
        """
        if not isinstance(prompt, str) and prompt and isinstance(prompt[0], int):
            return [token in self.special_ids for token in prompt]
        return list(self.tokens(prompt).is_template)  # type: ignore[arg-type]

    def _render(
        self, messages: Sequence[Message], add_generation_prompt: bool, tools: Sequence[Tool] = ()
    ) -> str:
        of_tools = any(m.role == "tool" or m.tool_calls for m in messages)
        if (tools or of_tools) and self.tool_format is None:
            raise InvalidInputError(self.no_tools)
        self._check_images(messages)
        if not self.has_template:
            return _plain(messages, add_generation_prompt)
        try:
            return self._applied(messages, add_generation_prompt, tools)
        except Exception as error:  # templates raise their own errors through jinja
            together = merged_runs(messages)
            if len(together) < len(messages):
                with suppress(Exception):
                    return self._applied(together, add_generation_prompt, tools)
            roles = ", ".join(message.role for message in messages)
            raise InvalidInputError(
                f"the model's chat template refuses messages with roles ({roles}): {error}; "
                "change their order, or put the system text into the user message"
            ) from error

    def _applied(
        self, messages: Sequence[Message], add_generation_prompt: bool, tools: Sequence[Tool]
    ) -> str:
        told: list[dict[str, Any]] = [self._for_template(message) for message in messages]
        if tools or any(message.tool_calls for message in messages):
            place = self._tools[1]
            told, tools = place.put(told, tools) if place else (told, tools)
        return self._rendered(told, tools, add_generation_prompt)

    def _rendered(
        self,
        told: Sequence[dict[str, Any]],
        tools: Sequence[Tool] = (),
        add_generation_prompt: bool = False,
    ) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                list(told),
                tools=[dict(tool) for tool in tools] or None,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.arguments,
            )
        )

    def merges(self, messages: MessagesLike, tools: Sequence[Tool] = ()) -> int:
        """Return how many messages are joined to the one before, for a template that insists.

        Templates that want turns to alternate refuse two messages of one speaker in a row; these
        are then rendered as one, a line break between them.
        """
        prompt = self._history(messages)
        more = len(prompt) - len(merged_runs(prompt))
        if not (more and self.has_template):
            return 0
        try:
            self._applied(prompt, True, tools)
        except Exception:  # the template's own errors, whatever jinja makes of them
            return more
        return 0

    def _check_images(self, messages: Sequence[Message]) -> None:
        place = next((i for i, message in enumerate(messages) if message.images), None)
        if place is None or (self.vision and self.has_template):
            return
        why = "it has no chat template, which says where an image stands"
        if self.vision is None:
            why = "this model reads text only"
        raise InvalidInputError(
            f"message {place} holds an image: {why}, so give text, or take a vision-language "
            "model with its processor"
        )

    def _for_template(self, message: Message) -> dict[str, Any]:
        """Return the message as this template reads it.

        Its content is parts where it has images, or where only parts are read, and its calls have
        ids that Mistral's templates take.
        """
        made = {**message}
        if message.reasoning:  # by the names that templates read it
            made["thinking"] = message.reasoning
        if message.images or (self.vision and self._lists_only):
            made["content"] = [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                for part in message.parts
            ]
        calls = message.tool_call_id is not None or message.tool_calls
        if calls and self.tool_format is not None and "mistral" in self.tool_format.name:
            if message.tool_call_id is not None:
                made["tool_call_id"] = _fitting_id(message.tool_call_id)
            for call in made.get("tool_calls", ()):
                call["id"] = _fitting_id(call["id"])
        return made

    @cached_property
    def _lists_only(self) -> bool:
        """Whether the template passes over a content that is a text, as LLaVA's does."""
        mark = _MARK.format(0)
        try:
            text = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": mark}], tokenize=False
            )
        except Exception:  # the template's own errors, whatever jinja makes of them
            return True
        return mark not in str(text)

    def _tokenize(self, text: str, **options: Any) -> Any:
        # A template writes the beginning-of-text token itself; the tokenizer would add a second.
        # `verbose` would warn of a long text that is refused before it runs through the model.
        return self.tokenizer(
            whole_characters(text),
            add_special_tokens=not self.has_template,
            verbose=False,
            **options,
        )

    @property
    def _spelled(self) -> Spelled:
        if Spelled not in self._known:
            self._known[Spelled] = Spelled(self.tokenizer, self.special_ids)
        found: Spelled = self._known[Spelled]
        return found

    def _hidden(self, messages: Sequence[Message]) -> Hidden | None:
        """Take out what is spelled like special tokens; None where there is nothing to take out."""
        if self.reads_special_tokens:
            return None
        return self._spelled.hide(messages, self.arguments)

    def _encoded(
        self, hidden: Hidden, add_generation_prompt: bool = True, tools: Sequence[Tool] = ()
    ) -> list[Encoded]:
        """Encode a prompt whose messages spell special tokens, which are text in it."""
        given = copy(self)
        given.arguments = hidden.arguments
        rendered = whole_characters(given._render(hidden.messages, add_generation_prompt, tools))
        return self._spelled.encode(rendered, hidden.spellings, first=not self.has_template)

    def _placed(self, messages: Sequence[Message], text: str) -> list[Encoded]:
        """Encode a rendered prompt, each token with its place in the text (0 if not known)."""
        if (hidden := self._hidden(messages)) is not None:
            return self._encoded(hidden)
        fast = self.tokenizer.is_fast
        found = self._tokenize(text, return_offsets_mapping=fast)
        offsets = found.offset_mapping if fast else [(0, 0)] * len(found.input_ids)
        return [
            Encoded(int(number), start, end)
            for number, (start, end) in zip(found.input_ids, offsets, strict=True)
        ]

    def _parts(self, messages: Sequence[Message], text: str) -> list[Segment]:
        """Tell what each character of the rendered prompt is for."""
        part: list[Segment] = ["template"] * len(text)
        told = parts_of(messages)
        for start, number, offset, length in self._content_spans(messages, text):
            for begin, segment in told[number]:
                first = max(begin - offset, 0)
                part[start + first : start + length] = [segment] * (length - first)
        return part

    def _content_spans(
        self, messages: Sequence[Message], text: str
    ) -> Iterator[tuple[int, int, int, int]]:
        """Tell where the contents stand in the rendered text, by the template's own doing.

        Every text is put into the template as a mark; what stands between the marks is the
        template's, and the texts stand where the marks were.

        Yields:
            Place in the text, the message's number, place in its content, and length. A content
            that the template rewrote is left out.
        """
        contents: list[tuple[int, int, str]] = []
        marked = []
        for place, message in enumerate(messages):
            parts: list[Part] = []
            offset = 0
            for part in message.parts:
                if isinstance(part, str):
                    parts.append(_MARK.format(len(contents)))
                    contents.append((place, offset, part))
                    offset += len(part)
                else:
                    parts.append(part)
                    offset += len(PLACE)
            marked.append(message.model_copy(update={"parts": tuple(parts)}))
        pieces = _MARKS.split(self._render(marked, add_generation_prompt=True))
        # re.split alternates template text and numbers of contents: t0, number, t1, number, t2 ...
        template, order = pieces[::2], [int(number) for number in pieces[1::2]]
        if not text.startswith(template[0]):
            return
        position = len(template[0])
        for number, after in zip(order, template[1:], strict=True):
            place, offset, content = contents[number]
            written = _as_written(content, after, text, position)
            if written is not None:
                shift = content.index(written)
                yield position, place, offset + shift, len(written)
                position += len(written) + len(after)
                continue
            found = text.find(after, position)
            if found < 0:
                return
            position = found + len(after)


def _as_written(content: str, after: str, text: str, position: int) -> str | None:
    """Return the content as it stands at a place in the text, which many templates trim."""
    forms = (content, content.strip(), content.rstrip(), content.lstrip(), content.strip("\n"))
    for form in forms:
        if text.startswith(form + after, position):
            return form
    return None


def _check_marks(messages: Sequence[Message], marks: Collection[str]) -> None:
    """Refuse words that the model would take for one more image, of which there are no pixels."""
    for position, message in enumerate(messages):
        for mark in marks:
            if mark in message.content:
                raise InvalidInputError(
                    f"message {position} spells {mark!r} in its text, which is this model's mark "
                    "for an image: take it out where a prompt has images, or put a blank into it"
                )


def _fitting_id(made: str) -> str:
    """Return another maker's id for a call as nine letters and digits."""
    return made if re.fullmatch("[a-zA-Z0-9]{9}", made) else short_id(made)


def _plain(messages: Sequence[Message], add_generation_prompt: bool) -> str:
    turns = [f"{_NAMES[message.role]}:\n{message.content}" for message in messages]
    opening = [f"{_NAMES['assistant']}:\n"] if add_generation_prompt else []
    return "\n\n".join([*turns, *opening])
