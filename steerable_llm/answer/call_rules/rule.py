"""What the rules of all families are made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from steerable_llm.chat.tools import Tool

Mark: TypeAlias = Callable[[str], str]
"""From the text of a mark to how a grammar writes it."""

Rules: TypeAlias = tuple[str, list[str]]
"""The body of a rule, and the further rules that it needs."""


@dataclass(frozen=True)
class Family:
    """How one family's calls look to a grammar.

    Attributes:
        calls: Makes the rules of one call or more.
        mark: Opens a call. Empty where free text is full of marks, so that calls among it cannot
            be held to a grammar.
        opened: From the tools to a regular expression for what has opened a call; by default the
            mark.
        after_text: Whether text may stand before a call.
    """

    calls: Callable[[Sequence[Tool], bool, Mark], Rules]
    mark: str
    opened: Callable[[Sequence[Tool]], str] | None = None
    after_text: bool = True

    def opening(self, tools: Sequence[Tool]) -> str:
        """Return a regular expression for what has opened a call."""
        return re.escape(self.mark) if self.opened is None else self.opened(tools)


def parameters_of(tool: Tool) -> dict[str, Any]:
    """Return the schema of a tool's arguments."""
    given = tool["function"].get("parameters") or {"properties": {}}
    return {"type": "object", **given}


def one_of(tools: Sequence[Tool]) -> str:
    """Return a choice of the rules `call_0` and so on, one per tool."""
    return " | ".join(f"call_{number}" for number in range(len(tools)))
