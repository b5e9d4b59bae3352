"""Answers as objects: `with_structured_output`."""

from collections.abc import AsyncIterator, Iterator, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, get_args

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import (
    Runnable,
    RunnableGenerator,
    RunnableMap,
    RunnablePassthrough,
)
from langchain_core.utils.pydantic import is_basemodel_subclass

from steerable_llm.adapters.arguments import refuse_unknown
from steerable_llm.adapters.langchain.messages import as_function, one_line, to_tools
from steerable_llm.errors import InvalidInputError

if TYPE_CHECKING:
    from steerable_llm.adapters.langchain.chat_model import SteerableChatModel, SteeredBinding


Method = Literal["json_schema", "function_calling", "json_mode"]


def structured_output(
    model: "SteerableChatModel | SteeredBinding",
    schema: Any,
    method: Method = "json_schema",
    include_raw: bool = False,
    strict: bool | None = None,
    **kwargs: Any,
) -> Runnable[LanguageModelInput, Any]:
    """Return the model with a parser behind it; see `SteerableChatModel.with_structured_output`."""
    refuse_unknown("argument", kwargs, ("schema", "method", "include_raw", "strict"))
    if method not in get_args(Method):
        raise InvalidInputError(f"method is {method!r}: give one of {', '.join(get_args(Method))}")
    if schema is None and method != "json_mode":
        raise InvalidInputError(f"method {method!r} needs a schema: give one, or use 'json_mode'")
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    shown: dict[str, Any] = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
    traced = {"ls_structured_output_format": shown} if schema is not None else {}
    parser: Any
    if method == "function_calling":
        (tool,) = to_tools([schema], strict)
        name = tool["function"]["name"]
        bound = model.bind_tools([schema], tool_choice=name, strict=strict, **traced)
        parser = (
            PydanticToolsParser(tools=[schema], first_tool_only=True)
            if is_class
            else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        )
    else:
        form: dict[str, Any] = {"type": "json_object"}
        if method == "json_schema":
            told = _as_json_schema(schema)
            form = {
                "type": "json_schema",
                "json_schema": {
                    "name": told.get("title", "answer"), "schema": told, "strict": bool(strict),
                },
            }  # fmt: skip
        bound = model.bind(response_format=form, **traced)
        parser = PydanticOutputParser(pydantic_object=schema) if is_class else JsonOutputParser()
    parser = RunnableGenerator(_refuse_cut, _arefuse_cut) | parser
    if not include_raw:
        answered: Runnable[LanguageModelInput, Any] = bound | parser
        return answered
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error")


# What makes a dict a schema of an answer, and what one of a tool that holds such a schema.
_OF_SCHEMAS = {"type", "properties", "$ref", "enum", "const", "anyOf", "oneOf", "allOf"}
_OF_TOOLS = {"function", "parameters", "input_schema", "toolSpec"}


def _as_json_schema(schema: Any) -> dict[str, Any]:
    # LangChain insists on a title, which names the tool where there is one; here is none.
    if isinstance(schema, Mapping) and _OF_SCHEMAS & set(schema) and not _OF_TOOLS & set(schema):
        return dict(schema)
    try:
        function = as_function(schema)["function"]
        told = {"description": function["description"]} if "description" in function else {}
        return {"title": function["name"], **told, **function["parameters"]}
    except (TypeError, ValueError, RecursionError, KeyError) as error:
        raise InvalidInputError(
            f"the schema cannot be read ({one_line(schema)}): give a pydantic class, a TypedDict "
            "(not a recursive one), a JSON schema or an OpenAI function dict"
        ) from error


def _check(message: AIMessage) -> AIMessage:
    # LangChain's parsers mend JSON that is cut off, and nobody would know.
    if message.response_metadata.get("finish_reason") == "length":
        used = message.usage_metadata["output_tokens"] if message.usage_metadata else "its"
        raise OutputParserException(
            f"the answer was cut off after {used} tokens, so it is not whole: raise max_tokens, "
            "or bound the schema's texts and lists (maxLength, maxItems)",
            llm_output=message.text,
        )
    return message


def _refuse_cut(messages: Iterator[AIMessage]) -> Iterator[AIMessage]:
    for message in messages:
        yield _check(message)


async def _arefuse_cut(messages: AsyncIterator[AIMessage]) -> AsyncIterator[AIMessage]:
    async for message in messages:
        yield _check(message)
