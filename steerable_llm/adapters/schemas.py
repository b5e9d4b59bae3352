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


def leads_back(schema: Schema) -> bool:
    """Tell whether a part of a schema refers to what it is itself a part of."""
    walked: set[str] = set()  # references that lead back to none: each is followed once

    def leads(part: Any, inside: frozenset[str]) -> bool:
        if isinstance(part, list):
            return any(leads(item, inside) for item in part)
        if not isinstance(part, Mapping):
            return False
        reference = part.get("$ref")
        if isinstance(reference, str) and reference not in walked:
            if reference in inside or leads(resolved(part, schema), inside | {reference}):
                return True
            walked.add(reference)
        return any(
            leads(value, inside)
            for key, value in part.items()
            if key not in ("$defs", "definitions")
        )

    return leads(schema, frozenset())
