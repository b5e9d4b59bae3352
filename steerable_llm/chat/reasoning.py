"""What a thinking model writes before it answers, told from its answer.

Which tags a model thinks between is told from what comes with it: the response template of its
tokenizer, else tags that its vocabulary has a token for or that its chat template writes. A model
that has none of these does not think, and `<think>` in its answer is text. So is, in any model,
what stands behind the first words of an answer: reasoning comes first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex
from transformers import PreTrainedTokenizerBase

from steerable_llm.chat.answer_text import AnswerText
from steerable_llm.chat.message import Message
from steerable_llm.errors import InvalidInputError

_TAGS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("Here is my thought process:", "Here is my response:"),
)
_HARMONY = ("<|channel|>analysis<|message|>", "<|end|>")
_FIELDS = ("reasoning_content", "thinking", "reasoning")
# An opening at the end of a prompt is looked for in so many tokens.
_TAIL = 32


@dataclass(frozen=True)
class ReasoningFormat:
    """How a model marks its reasoning; the patterns are of the module `regex`.

    Attributes:
        opening: Matches what opens it, blanks before it included.
        closing: Matches what closes it.
        direct: Matches what opens the answer itself, where something does.
        marks: The tokens that these patterns need to see, special or not.
    """

    opening: Any
    closing: Any
    direct: Any = None
    marks: tuple[str, ...] = ()

    def opened_by(self, prompt: str) -> bool:
        """Whether a prompt's text ends inside reasoning."""
        return any(not prompt[x.end() :].strip() for x in self.opening.finditer(prompt))


def reasoning_format_of(
    tokenizer: PreTrainedTokenizerBase, tags: Sequence[str] | None = None
) -> ReasoningFormat | None:
    """Return how a model marks its reasoning; None for one that does not think.

    Args:
        tokenizer: With its templates.
        tags: The opening and the closing one, where they cannot be told; empty for none.

    Raises:
        InvalidInputError: `tags` are not two texts, or a response template that cannot be used.
    """
    if tags is not None:
        named = [x for x in tags if isinstance(x, str) and x.strip()]
        if isinstance(tags, str) or len(named) != len(tags) or len(set(named)) not in (0, 2):
            raise InvalidInputError(
                f"reasoning_tags is {tags!r}: give the opening and the closing one, such as "
                '("<think>", "</think>"), or () for a model that does not think'
            )
        return _format(tokenizer, *map(regex.escape, named)) if named else None
    template = tokenizer.chat_template or ""
    text = "\n".join(template.values()) if isinstance(template, dict) else template
    if _HARMONY[0] in text:
        between = regex.escape("<|start|>assistant")
        opening, closing = map(regex.escape, _HARMONY)
        direct = regex.escape("<|channel|>final<|message|>")
        return _format(tokenizer, opening, closing, direct, between)
    fields = (getattr(tokenizer, "response_template", None) or {}).get("fields", {})
    patterns = [
        found
        for name in _FIELDS
        if all(found := [_pattern(fields.get(name), way) for way in ("open", "close")])
    ]
    try:
        if patterns:
            opening, closing = patterns[0]
            return _format(tokenizer, opening, closing, _pattern(fields.get("content"), "open"))
    except regex.error as error:
        raise InvalidInputError(
            f"the tokenizer's response template has a pattern that cannot be read: {error}"
        ) from error
    tokens = tokenizer.get_added_vocab()
    for opening, closing in _TAGS:
        if (opening in tokens and closing in tokens) or closing in text:
            return _format(tokenizer, regex.escape(opening), regex.escape(closing))
    return None


def _pattern(field: Any, name: str) -> str:
    """Return how a field of a response template opens or closes; empty where it does not say."""
    if not isinstance(field, Mapping):
        return ""
    literals = field.get(name) or ()
    literals = [literals] if isinstance(literals, str) else literals
    return str(field.get(f"{name}_pattern") or "|".join(map(regex.escape, literals)))


def _format(
    tokenizer: PreTrainedTokenizerBase,
    opening: str,
    closing: str,
    direct: str = "",
    between: str = "",
) -> ReasoningFormat:
    every = f"{between} {opening} {closing} {direct}"
    # A pattern may spell a token as it is or escaped.
    marks = [x for x in tokenizer.get_added_vocab() if x in every or regex.escape(x) in every]
    before = rf"\s*(?:{between}\s*)?" if between else r"\s*"
    return ReasoningFormat(
        regex.compile(f"{before}(?:{opening})", regex.DOTALL),
        regex.compile(closing, regex.DOTALL),
        regex.compile(f"{before}(?:{direct})", regex.DOTALL) if direct else None,
        tuple(marks),
    )


class ReasonedText:
    """One answer as its tokens arrive, its reasoning apart from its text.

    Blanks around both are left out. Stop texts end the answer and not the thinking.

    Attributes:
        reasoning: All reasoning released so far.
        thinking: Whether the answer is inside its reasoning.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stops: Sequence[str] = (),
        hidden: Collection[int] | None = None,
        form: ReasoningFormat | None = None,
        unseen: Collection[int] = (),
        opened: bool = False,
    ) -> None:
        """Start an empty answer.

        Args:
            tokenizer: Turns the tokens into text.
            stops: Texts that end the answer.
            hidden: Tokens that are left out of the text; None stands for all special ones.
            form: How reasoning is marked; None for an answer without.
            unseen: Tokens that are left out while the model may think.
            opened: Whether the prompt has opened the reasoning.
        """
        self.reasoning = ""
        self.thinking = form is not None and opened
        self._form = form
        self._stops, self._hidden = stops, hidden
        self._answer = AnswerText(tokenizer, stops, hidden)
        # What is read of the tokens until the answer itself begins.
        self._read = None if form is None else AnswerText(tokenizer, (), unseen)
        self._pending = ""  # read, and not told yet
        self._blank = ""  # between two words of the reasoning, or at its end
        # Since the beginning, or the end of the last reasoning: text of the token that ended it,
        # and tokens.
        self._rest, self._since = "", list[int]()

    @property
    def text(self) -> str:
        """All text released so far."""
        return self._answer.text

    @property
    def stopped(self) -> bool:
        """Whether a stop text has been met; the answer ends before it."""
        return self._answer.stopped

    def push(self, token: int) -> tuple[str, str]:
        """Take one more token and return the reasoning and the text that it releases."""
        if self._read is None:
            return "", self._answer.push(token)
        self._since.append(token)
        self._pending += self._read.push(token)
        return self._told()

    def finish(self) -> tuple[str, str]:
        """End the answer and return what was still held back."""
        if self._read is None:
            return "", self._answer.finish()
        self._pending += self._read.finish()
        reasoning, text = self._told()
        if self.thinking:
            return reasoning + self._thought(self._pending), text
        if self._read is not None:  # what might have opened reasoning, and was cut off
            text += self._begin()
        return reasoning, text + self._answer.finish()

    def _told(self) -> tuple[str, str]:
        reasoning = ""
        while self._read is not None:
            if not self.thinking:
                if (text := self._before()) is not None:
                    return reasoning, text
                continue
            assert self._form is not None, "only who has a form thinks"
            closed = self._form.closing.search(self._pending, partial=True)
            upto = closed.start() if closed else len(self._pending)
            reasoning += self._thought(self._pending[:upto])
            if closed is None or closed.partial:
                self._pending = self._pending[upto:]
                return reasoning, ""
            self.thinking, self._blank = False, "\n" if self.reasoning else ""
            self._rest = self._pending = self._pending[closed.end() :]
            self._since = []
            self._answer = self._read.going_on(self._stops, self._hidden)
        return reasoning, ""

    def _before(self) -> str | None:
        """Look whether reasoning opens; return text where it does not, or not yet.

        None says that it has opened.
        """
        assert self._form is not None, "only who has a form thinks"
        assert self._read is not None, "the answer has not begun"
        opened = self._form.opening.match(self._pending, partial=True)
        if opened and not opened.partial:
            self.thinking, self._pending = True, self._pending[opened.end() :]
            return None
        direct = self._form.direct and self._form.direct.match(self._pending, partial=True)
        if direct and not direct.partial:
            self._answer = self._read.going_on(self._stops, self._hidden)
            self._rest, self._since = self._pending[direct.end() :], []
        elif opened or direct:
            return ""
        return self._begin()

    def _begin(self) -> str:
        """Tell from here on text: the answer itself has begun."""
        self._read = None
        return self._answer.take(self._rest) + "".join(map(self._answer.push, self._since))

    def _thought(self, new: str) -> str:
        """Release reasoning, but for blanks that may be its last."""
        if not self.reasoning:
            new = new.lstrip()
        whole = self._blank + new
        released = whole.rstrip()
        self._blank = whole[len(released) :]
        self.reasoning += released
        return released


def opened_by(
    form: ReasoningFormat | None, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]
) -> bool:
    """Whether a prompt ends inside reasoning, as templates of models that always think have it."""
    tail = list(prompt[-_TAIL:])
    return form is not None and form.opened_by(
        str(tokenizer.decode(tail, clean_up_tokenization_spaces=False))
    )


def apart(message: Message, form: ReasoningFormat | None, keep: bool) -> Message:
    """Return a message of a conversation, an earlier answer's reasoning left out or apart.

    Args:
        message: Reasoning may stand in its text, between the model's tags.
        form: How the model marks it.
        keep: Whether it stays, beside the text.
    """
    if message.role != "assistant":
        return message
    reasoning, marked = message.reasoning, message.marked
    opened = form and form.opening.match(marked)
    if form and opened and (closed := form.closing.search(marked, opened.end())):
        told = marked[opened.end() : closed.start()].strip()
        message = message.with_text(marked[closed.end() :].lstrip())
        reasoning = reasoning or told or None
    if reasoning and not keep:
        reasoning = None
    same = reasoning == message.reasoning
    return message if same else message.model_copy(update={"reasoning": reasoning})
