"""The grammar of an answer that may hold tool calls, in the way of writing of each family."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from steerable_llm.answer.call_rules import FAMILIES, Family, Mark, parameters_of
from steerable_llm.answer.constraint import Constraint, text_rule
from steerable_llm.answer.schema import check_schema
from steerable_llm.chat.tools import Tool, ToolFormat
from steerable_llm.errors import InvalidInputError


@dataclass(frozen=True)
class AnswerGrammar:
    """What an answer must follow.

    Attributes:
        text: The grammar (Lark, in llguidance's dialect).
        free: Whether any text is an answer, too, so that it only helps to write calls: stop texts
            count, and an answer may do without it where it cannot be followed.
    """

    text: str
    free: bool = False


def grammar_for(
    constraint: Constraint | None,
    tools: Sequence[Tool],
    tool_choice: str | None,
    tool_format: ToolFormat | None,
    added_id: Callable[[str], int | None],
    special_ids: Collection[int] = (),
    parallel: bool = True,
) -> AnswerGrammar | None:
    """Return the grammar of a request's answer; None leaves the answer free.

    Args:
        constraint: What an answer that calls no tool must look like.
        tools: What may be called.
        tool_choice: `required` or a tool's name makes calls sure; `auto` lets the model choose
            between calls and text, or calls and an answer under the constraint.
        tool_format: How this model writes calls.
        added_id: The one token that was added to the vocabulary for a text, if there is one.
        special_ids: Tokens that no grammar spells (`ChatFormat.whole_ids`); a free text may hold
            them.
        parallel: Whether an answer may have several calls.

    Raises:
        InvalidInputError: A schema is none, or this model's calls cannot be written.
    """
    if tool_choice != "none":
        for tool in tools:
            function = tool["function"]
            check_schema(parameters_of(tool), f"the schema of the tool {function['name']!r}")
    if not tools or tool_format is None or tool_choice == "none":
        return None if constraint is None else AnswerGrammar(f"start: {constraint.grammar}")
    forced = tool_choice not in (None, "auto")
    family = FAMILIES.get(tool_format.name)
    if family is None:
        if forced or constraint is not None:
            raise InvalidInputError(
                "how this model writes tool calls is not known here, only how they are read: leave "
                'the choice to the model (tool_choice="auto") and give no constraint beside tools, '
                "or name the format where the model is loaded (tool_format=)"
            )
        return None
    if constraint is None and not forced:
        if not family.mark:
            return None
        return AnswerGrammar(
            _among_text(family, tools, parallel, tool_format.marks, added_id, special_ids),
            free=True,
        )
    named = [tool for tool in tools if tool["function"]["name"] == tool_choice]
    calls, rules = family.calls(named or tools, parallel and not named, _marker(added_id))
    # A choice that is sure is sure: the constraint is for answers, not for calls.
    if constraint is None or forced:
        return AnswerGrammar("\n".join([f"start: {calls}", *rules]))
    lines = [f"start: {calls} | answer", *rules, f"answer: {constraint.grammar}"]
    return AnswerGrammar("\n".join(lines))


def _marker(added_id: Callable[[str], int | None], spelt: bool = False) -> Mark:
    """How a grammar writes marks: by their one token, where they have one.

    Args:
        added_id: From a text to its token.
        spelt: Whether such a mark may also be spelt, letter by letter.
    """

    def mark(text: str) -> str:
        number = added_id(text)
        if number is None:
            return text_rule(text)
        return f"(<[{number}]> | {text_rule(text)})" if spelt else f"<[{number}]>"

    return mark


def _among_text(
    family: Family,
    tools: Sequence[Tool],
    many: bool,
    marks: Sequence[str],
    added_id: Callable[[str], int | None],
    special_ids: Collection[int],
) -> str:
    """Text that may end in calls."""
    spelt = _marker(added_id, spelt=True)
    opening = family.opening(tools)

    def mark(text: str) -> str:
        if text != family.mark:
            return spelt(text)
        # Where it is spelt, it ends a text: it is only told from one when it is whole.
        number = added_id(text)
        return "opened" if number is None else f"(<[{number}]> | opened)"

    calls, rules = family.calls(tools, many, mark if family.after_text else spelt)
    if family.after_text:
        start = f"text ({calls})?"
        rules = [*rules, f"opened[suffix=/{opening}/]: /(.|\\n)*/"]
    else:
        start = f"text | {spelt(family.mark)}? {calls}"
    others = _ranges(sorted(set(special_ids) - set(map(added_id, marks))))
    # Not `(TEXT | special)*`: two texts in a row could spell together what each must not.
    more = f" (<[{others}]> TEXT?)*" if others else ""
    anywhere = r"(.|\n)*" if family.after_text else ""
    return "\n".join(
        [
            f"start: {start}",
            *rules,
            f"text: TEXT?{more}",
            rf"TEXT: /(.|\n)+/ & ~/{anywhere}{opening}(.|\n)*/",
        ]
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as `1,3-7`."""
    starts = [b for a, b in pairwise([-2, *numbers]) if b != a + 1]
    ends = [a for a, b in pairwise([*numbers, -2]) if b != a + 1]
    both = zip(starts, ends, strict=True)
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in both)
