"""What is wrong with a JSON schema, told by its place before an answer is to follow it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from steerable_llm.errors import InvalidInputError, brief

TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
#: Keywords with schemas by name.
BY_NAME = {"properties", "patternProperties", "$defs", "definitions"}
#: Keywords with a schema, or several.
NESTED = {"items", "prefixItems", "additionalProperties", "anyOf", "oneOf"}


def check_schema(schema: Any, what: str = "the JSON schema") -> None:
    """Make sure that a schema is one, as far as its types and what holds its parts go.

    A reader that does not know a type takes it for any, and the answer would go on until it is cut
    off, or the schema would be refused without a word on where it is wrong.

    Args:
        schema: A JSON schema.
        what: What it is called in the error.

    Raises:
        InvalidInputError: A type is none of JSON schema's, or a part has another shape.
    """
    problem = next(_problems(schema, ()), None)
    if problem:
        place, why = problem
        where = f" at {'.'.join(place)}" if place else ""
        raise InvalidInputError(f"{what} is wrong{where}: {why}")


def _problems(schema: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(schema, bool):  # anything, or nothing
        return
    if not isinstance(schema, Mapping):
        yield place, f"there is {brief(schema)} where a schema, an object, belongs"
        return
    types = schema.get("type")
    if "type" in schema and not (isinstance(types, str) or (types and isinstance(types, list))):
        yield place, f"its type is {brief(types)}: give one of {', '.join(TYPES)}"
    for one in types if isinstance(types, list) else [types] if isinstance(types, str) else []:
        if one not in TYPES:
            near = get_close_matches(one.lower(), TYPES, n=1) if isinstance(one, str) else []
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield place, f"there is no type {brief(one)}, only {', '.join(TYPES)}{hint}"
    for key in sorted((BY_NAME | NESTED | {"allOf"}) & set(schema)):
        inside = schema[key]
        parts: list[tuple[tuple[str, ...], Any]]
        if key in BY_NAME:
            if not isinstance(inside, Mapping):
                yield (*place, key), f"there is {brief(inside)} where schemas by name belong"
                continue
            parts = [((str(name),), part) for name, part in inside.items()]
        elif isinstance(inside, list):
            parts = [((str(number),), part) for number, part in enumerate(inside)]
        else:
            parts = [((), inside)]
        for more, part in parts:
            yield from _problems(part, (*place, key, *more))
