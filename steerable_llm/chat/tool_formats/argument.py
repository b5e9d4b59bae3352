"""An argument that a model writes as plain text: its type is what the tool's schema says."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

Schema: TypeAlias = Mapping[str, Any]

_TYPES: tuple[tuple[type, tuple[str, ...]], ...] = (
    (bool, ("boolean",)),  # first, since a bool is an int to Python
    (int, ("integer", "number")),
    (float, ("number",)),
    (list, ("array",)),
    (dict, ("object",)),
    (str, ("string",)),
    (type(None), ("null",)),
)
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_DEEPEST = 16


def resolved(schema: Any, root: Schema) -> Schema:
    """Return a schema, or what its `$ref` points to."""
    for _ in range(_DEEPEST):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            break
        target: Any = root
        for step in str(schema["$ref"]).removeprefix("#").strip("/").split("/"):
            target = target.get(step) if isinstance(target, Mapping) and step else target
        schema = target
    return schema if isinstance(schema, Mapping) else {}


def alternatives(schema: Any, root: Schema, depth: int = 0) -> Iterator[Schema]:
    """Yield a schema, and those that it is put together from."""
    schema = resolved(schema, root)
    yield schema
    if depth < _DEEPEST:
        for key in ("anyOf", "oneOf", "allOf"):
            for part in schema.get(key) or ():
                yield from alternatives(part, root, depth + 1)


def properties_of(parameters: Schema) -> dict[str, Any]:
    """Return the schemas of a tool's arguments, by name."""
    found: dict[str, Any] = {}
    for part in alternatives(parameters, parameters):
        found.update(part.get("properties") or {})
    return found


def types_of(schema: Any, root: Schema) -> set[str]:
    """Return the names of the types that a schema allows; none where it does not say."""
    found: set[str] = set()
    for part in alternatives(schema, root):
        told = part.get("type") or ()
        found.update([told] if isinstance(told, str) else told)
        values = [*(part.get("enum") or ()), *([part["const"]] if "const" in part else ())]
        if not told:
            found.update(name for value in values for name in _names(value)[:1])
    return found


def typed(text: str, schema: Any, root: Schema) -> Any:
    """Return an argument's value by its schema; the text itself where that does not fit."""
    types = types_of(schema, root)
    if types <= {"string"}:
        return text
    value = _read(text.strip())
    if isinstance(value, float) and value.is_integer() and "number" not in types:
        value = int(value)
    return value if types.intersection(_names(value)) and not isinstance(value, str) else text


def _names(value: Any) -> tuple[str, ...]:
    return next((names for kind, names in _TYPES if isinstance(value, kind)), ())


def _read(text: str) -> Any:
    """Read JSON, or the way that Python writes the same."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    # An escape that Python does not know would make it warn.
    for reader in (json.loads,) if "\\" in text else (json.loads, ast.literal_eval):
        try:
            value = reader(text)
            json.dumps(value, allow_nan=False)  # what no JSON can hold is text
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        return value
    return text
