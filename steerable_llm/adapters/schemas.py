"""JSON schemas that refer to themselves, of which the frameworks write only a part."""

from collections.abc import Mapping
from typing import Any

from steerable_llm.chat.tool_formats.argument import Schema, resolved


def opened(schema: Schema) -> dict[str, Any]:
    """Return a schema with what its root refers to in place of the reference.

    Pydantic writes the root of a recursive class as a reference, and whoever shows a tool looks for
    its properties there.
    """
    target = resolved(schema, schema)
    if not target:  # a reference to nothing is told by whoever reads the schema
        return dict(schema)
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}


def leads_back(part: Any, root: Schema, inside: frozenset[str] = frozenset()) -> bool:
    """Tell whether a part of a schema refers to what it is itself a part of.

    Args:
        part: A schema, or whatever stands in one.
        root: Where its references point into.
        inside: References that led here.
    """
    if isinstance(part, list):
        return any(leads_back(item, root, inside) for item in part)
    if not isinstance(part, Mapping):
        return False
    reference = part.get("$ref")
    if isinstance(reference, str):
        if reference in inside:
            return True
        if leads_back(resolved(part, root), root, inside | {reference}):
            return True
    return any(
        leads_back(value, root, inside)
        for key, value in part.items()
        if key not in ("$defs", "definitions")
    )
