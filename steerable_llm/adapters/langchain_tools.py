"""Tools, choices and forms of answers as LangChain names them, in the engine's words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from steerable_llm.errors import InvalidInputError
from steerable_llm.structured.constraint import Constraint

ToolLike = Mapping[str, Any] | type | Callable[..., Any] | BaseTool


def to_tools(tools: Sequence[ToolLike], strict: bool | None = None) -> list[dict[str, Any]]:
    """Return tools as OpenAI function dicts.

    Args:
        tools: functions, pydantic classes, TypedDicts, LangChain tools, or dicts.
        strict: noted in each tool, as OpenAI does; calls that are sure follow the schema anyway.

    Raises:
        InvalidInputError: something that is no tool, or a JSON schema without a name.
    """
    return [_tool(tool, position, strict) for position, tool in enumerate(tools)]


def _tool(tool: ToolLike, position: int, strict: bool | None) -> dict[str, Any]:
    try:
        return convert_to_openai_tool(tool, strict=strict)
    except (TypeError, ValueError) as error:  # LangChain's runs over several lines
        raise InvalidInputError(
            f"tool {position} cannot be read ({one_line(tool)}): give a function with types and a "
            "docstring, a pydantic class, a TypedDict, a LangChain tool, an OpenAI function dict, "
            "or a JSON schema with a title"
        ) from error


def one_line(value: Any) -> str:
    """What was given, short enough for an error."""
    shown = repr(value)
    return shown if len(shown) <= 100 else f"{shown[:100]}..."


def to_choice(choice: Any, tools: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a choice of tools as the engine names it.

    Args:
        choice: None, a truth value, "any", "required", "auto", "none", a tool's name, or an OpenAI
            choice dict.
        tools: the bound tools.

    Raises:
        InvalidInputError: no such tool, or another kind of choice.
    """
    if isinstance(choice, Mapping):
        choice = (choice.get("function") or {}).get("name") or choice.get("type")
    if choice is None or choice is False:
        return None
    if choice is True or choice == "any":
        return "required"
    names = [tool["function"]["name"] for tool in tools]
    if choice in ("auto", "none", "required", *names):
        return str(choice)
    raise InvalidInputError(
        f"tool_choice is {choice!r}: give auto, none, any, required or one of the tools "
        f"({', '.join(names) or 'none are bound'})"
    )


def to_constraint(response_format: Any) -> Constraint | None:
    """Return OpenAI's `response_format` as a constraint.

    Raises:
        InvalidInputError: a format of another kind.
    """
    if response_format is None or isinstance(response_format, Constraint):
        return response_format
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return Constraint.json_object()
    if kind == "json_schema":
        told = response_format.get("json_schema") or {}
        return Constraint.json_schema(told.get("schema"), strict=bool(told.get("strict")))  # type: ignore[arg-type]
    raise InvalidInputError(
        f"response_format is {response_format!r}: give a Constraint, or a dict whose type is "
        "text, json_object or json_schema"
    )
